// Size prints what is longer than the project's budgets: functions, files and
// packages, and the sizes of binaries. The budgets are alarms, not laws:
// whatever is printed needs a reason, in its comment or in its package's.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The budgets, in lines.
const (
	maxFunction = 100
	maxFile     = 800
	maxPackage  = 8000
)

// maxBinary in MiB; 25.8 on 2026-11-24. Kubernetes' types and CEL, which checks
// their rules, make up nearly all of it.
const maxBinary = 32

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(binaries []string) error {
	t := tree{packages: map[string]int{}}
	if err := filepath.WalkDir(".", t.visit); err != nil {
		return err
	}
	slices.Sort(t.functions)
	fmt.Printf("%d functions: half have at most %d lines, nine of ten %d, 99 of 100 %d\n",
		len(t.functions), t.percentile(50), t.percentile(90), t.percentile(99))
	for name, lines := range t.packages {
		if lines > maxPackage {
			t.long = append(t.long, long{"package " + name, lines})
		}
	}
	slices.SortFunc(t.long, func(a, b long) int { return cmp.Compare(b.lines, a.lines) })
	for _, l := range t.long {
		fmt.Printf("%6d lines  %s\n", l.lines, l.what)
	}
	return sizes(binaries)
}

func sizes(binaries []string) error {
	var over error
	for _, name := range binaries {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		mib := float64(info.Size()) / (1 << 20)
		fmt.Printf("%6.1f MiB    %s\n", mib, name)
		if mib > maxBinary {
			over = errors.Join(over, fmt.Errorf("%s is larger than %d MiB", name, maxBinary))
		}
	}
	return over
}

type long struct {
	what  string
	lines int
}

// tree is what was counted so far.
type tree struct {
	functions []int
	packages  map[string]int
	long      []long
}

func (t *tree) percentile(p int) int {
	if len(t.functions) == 0 {
		return 0
	}
	return t.functions[(len(t.functions)-1)*p/100]
}

func (t *tree) visit(path string, d fs.DirEntry, err error) error {
	switch {
	case err != nil:
		return err
	case d.IsDir() && (d.Name() == "testdata" || path != "." && strings.HasPrefix(d.Name(), ".")):
		return filepath.SkipDir
	case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(d.Name(), "zz_generated"):
		return nil
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	lines := fset.File(file.Pos()).LineCount()
	t.packages[filepath.Dir(path)] += lines
	if lines > maxFile {
		t.long = append(t.long, long{"file " + path, lines})
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1
		t.functions = append(t.functions, n)
		if n > maxFunction {
			t.long = append(t.long, long{fmt.Sprintf("function %s in %s", f.Name.Name, path), n})
		}
	}
	return nil
}
