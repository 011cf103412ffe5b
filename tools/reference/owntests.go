package main

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// An ownTest is a test of windrose that says what it covers: a line "covers:
// NAME NAME..." in the comment of a test function, or at the head of a text case.
type ownTest struct {
	path   string // below the root
	name   string
	covers []string
}

// readTests gives the tests that say what they cover, in the order of their paths.
func readTests(root string) ([]ownTest, error) {
	var all []ownTest
	for _, top := range []string{"internal", "e2e"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			path, err := filepath.Rel(root, file)
			if err != nil {
				return err
			}
			var tests []ownTest
			switch {
			case strings.HasSuffix(file, "_test.go"):
				tests, err = functions(file, filepath.ToSlash(path))
			case strings.HasSuffix(file, ".txtar"):
				tests, err = textCase(file, filepath.ToSlash(path))
			}
			all = append(all, tests...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b ownTest) int {
		return cmp.Or(strings.Compare(a.path, b.path), strings.Compare(a.name, b.name))
	})
	return all, nil
}

func functions(file, path string) ([]ownTest, error) {
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), coversMark) {
		return nil, err
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var all []ownTest
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Doc == nil {
			continue
		}
		if words := covered(f.Doc.Text()); len(words) > 0 {
			all = append(all, ownTest{path: path, name: f.Name.Name, covers: words})
		}
	}
	return all, nil
}

func textCase(file, path string) ([]ownTest, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	head, _, _ := strings.Cut("\n"+string(text), "\n-- ")
	words := covered(head)
	if len(words) == 0 {
		return nil, nil
	}
	return []ownTest{{path: path, name: strings.TrimSuffix(filepath.Base(path), ".txtar"), covers: words}}, nil
}

const coversMark = "covers: "

// covered gives the words of the lines that say what a test covers.
func covered(comment string) []string {
	var words []string
	for line := range strings.Lines(comment) {
		if rest, ok := strings.CutPrefix(line, coversMark); ok {
			words = append(words, strings.Fields(rest)...)
		}
	}
	return words
}
