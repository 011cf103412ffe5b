package windrose_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "windrose.dev/windrose"

// imports is which packages of ours a package may import. Anything not listed
// is forbidden; a new package is a new line here and in ARCHITECTURE.md.
var imports = map[string][]string{
	// Leaves: they know nothing of ours.
	"api/v1alpha1":        {},
	"internal/atomicfile": {},
	"internal/extauthz":   {},
	"internal/h1":         {},
	"internal/loop":       {},
	"internal/memory":     {},
	"internal/plan":       {},
	"internal/procfs":     {},
	"internal/record":     {},
	"internal/session":    {},
	"internal/sniff":      {},
	"internal/trace":      {},
	"internal/wait":       {},

	// Configuration.
	"internal/object":    {"api/v1alpha1"},
	"internal/schema":    {"internal/object"},
	"internal/source":    {"internal/atomicfile", "internal/memory", "internal/object", "internal/schema"},
	"internal/translate": {"api/v1alpha1", "internal/object", "internal/plan"},
	"internal/status":    {"internal/object"},
	"internal/workload":  {"api/v1alpha1", "internal/atomicfile", "internal/object", "internal/procfs", "internal/wait"},

	// Between the two processes.
	"internal/feed": {"internal/atomicfile", "internal/plan", "internal/wait"},

	// Data plane.
	"internal/h2":        {"internal/h1"},
	"internal/h3":        {},
	"internal/upstream":  {"internal/plan"},
	"internal/tap":       {"internal/record"},
	"internal/telemetry": {"internal/record", "internal/wait"},
	"internal/proxy":     {"internal/extauthz", "internal/h1", "internal/h2", "internal/h3", "internal/loop", "internal/plan", "internal/record", "internal/session", "internal/sniff", "internal/telemetry", "internal/trace", "internal/upstream"},
	"internal/dataplane": {"internal/feed", "internal/memory", "internal/plan", "internal/procfs", "internal/proxy", "internal/record", "internal/tap", "internal/telemetry", "internal/upstream", "internal/wait"},

	// Wiring and surface.
	"internal/admin": {"internal/object", "internal/plan", "internal/procfs", "internal/tap", "internal/telemetry"},
	"internal/node": {
		"api/v1alpha1", "internal/admin", "internal/atomicfile", "internal/feed", "internal/object", "internal/plan", "internal/procfs",
		"internal/source", "internal/status", "internal/tap", "internal/translate", "internal/wait", "internal/workload",
	},
	"internal/cli": {
		"api/v1alpha1", "internal/admin", "internal/dataplane", "internal/node", "internal/object", "internal/plan",
		"internal/record", "internal/source", "internal/tap", "internal/translate",
	},
	"cmd/windrose": {"internal/cli"},

	// Beside the product.
	"bench":                   {},
	"examples/pingdo/backend": {},
	"examples/pingdo/certs":   {},
	"tools/reference":         {"internal/admin", "internal/cli", "internal/record", "internal/telemetry", "internal/translate"},
	"tools/size":              {},
}

// pure packages give the same answer anywhere and at any time.
var pure = []string{"internal/plan", "internal/translate", "internal/h1", "internal/h2", "internal/sniff", "internal/extauthz", "internal/trace"}

// dataPlane packages make up the data-plane process.
var dataPlane = []string{
	"internal/atomicfile", "internal/dataplane", "internal/extauthz", "internal/feed", "internal/h1", "internal/h2", "internal/h3",
	"internal/loop", "internal/memory", "internal/plan", "internal/procfs", "internal/proxy", "internal/record", "internal/session", "internal/sniff",
	"internal/tap", "internal/telemetry", "internal/trace", "internal/upstream", "internal/wait",
}

// pkg is what `go list -json` says about a package.
type pkg struct {
	ImportPath, Dir, Name              string
	Imports, TestImports, XTestImports []string
	GoFiles                            []string
}

// list gives the packages of this module and all that they import, by path.
func list(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Dir,Name,Imports,TestImports,XTestImports,GoFiles", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all[p.ImportPath] = p
	}
}

// ours gives the packages of this module by their folder, "" for the root.
func ours(all map[string]pkg) map[string]pkg {
	own := map[string]pkg{}
	for path, p := range all {
		if dir, ok := folder(path); ok {
			own[dir] = p
		}
	}
	return own
}

func folder(path string) (dir string, ok bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func TestImports(t *testing.T) {
	own := ours(list(t))
	for _, dir := range slices.Sorted(maps.Keys(own)) {
		if len(own[dir].GoFiles) == 0 || testOnly(dir) {
			continue
		}
		allowed, known := imports[dir]
		if !known {
			t.Errorf("%s is not in the import table: say what it may import", dir)
			continue
		}
		for _, path := range own[dir].Imports {
			if to, ok := folder(path); ok && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s, which the import table does not allow", dir, to)
			}
		}
	}
	// The table tells newcomers the truth: nothing in it is gone.
	for dir, allowed := range imports {
		p, ok := own[dir]
		if !ok {
			t.Errorf("%s is in the import table but not in the tree", dir)
			continue
		}
		for _, to := range allowed {
			if !slices.Contains(p.Imports, module+"/"+to) {
				t.Errorf("the import table lets %s import %s, which it does not", dir, to)
			}
		}
	}
}

// TestArchitectureShowsTheTable holds that ARCHITECTURE.md tells the imports as
// they are.
func TestArchitectureShowsTheTable(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	word := regexp.MustCompile("`([a-z0-9/]+)`")
	shown := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			continue
		}
		first := word.FindStringSubmatch(cells[1])
		if first == nil {
			continue
		}
		allowed, known := imports[first[1]]
		if !known {
			continue
		}
		shown[first[1]] = true
		var told []string
		for _, m := range word.FindAllStringSubmatch(cells[3], -1) {
			name := "internal/" + m[1]
			if m[1] == "api" {
				name = "api/v1alpha1"
			}
			told = append(told, name)
		}
		slices.Sort(told)
		if !slices.Equal(told, slices.Sorted(slices.Values(allowed))) {
			t.Errorf("ARCHITECTURE.md says that %s may import %v, the table says %v", first[1], told, allowed)
		}
	}
	for dir := range imports {
		if inside := strings.HasPrefix(dir, "internal/") || dir == "api/v1alpha1" || dir == "cmd/windrose"; inside && !shown[dir] {
			t.Errorf("ARCHITECTURE.md does not show %s", dir)
		}
	}
}

// testOnly packages hold tests and no code that the product links.
func testOnly(dir string) bool { return dir == "e2e" || strings.HasPrefix(dir, "e2e/") }

func TestWalls(t *testing.T) {
	all := list(t)
	t.Run("the data plane links no Kubernetes", func(t *testing.T) {
		for _, dir := range dataPlane {
			if path := pathTo(all, module+"/"+dir, kubernetes); path != nil {
				t.Errorf("%s", strings.Join(path, " -> "))
			}
		}
	})
	t.Run("pure packages import no socket, file, log or lock", func(t *testing.T) {
		for _, dir := range pure {
			for _, path := range all[module+"/"+dir].Imports {
				if slices.Contains([]string{"net", "net/http", "os", "os/exec", "log", "log/slog", "syscall"}, path) {
					t.Errorf("%s imports %s", dir, path)
				}
			}
		}
	})
	t.Run("pure packages read no clock", func(t *testing.T) {
		for _, dir := range pure {
			for _, place := range clocks(t, all[module+"/"+dir]) {
				t.Errorf("%s reads the clock or waits", place)
			}
		}
	})
}

func kubernetes(path string) bool {
	return strings.HasPrefix(path, "k8s.io/") || strings.HasPrefix(path, "sigs.k8s.io/")
}

// pathTo finds a chain of imports from a package to one that bad reports.
func pathTo(all map[string]pkg, from string, bad func(string) bool) []string {
	seen := map[string]bool{}
	var walk func(path string) []string
	walk = func(path string) []string {
		if bad(path) {
			return []string{path}
		}
		if seen[path] {
			return nil
		}
		seen[path] = true
		for _, next := range all[path].Imports {
			if rest := walk(next); rest != nil {
				return append([]string{path}, rest...)
			}
		}
		return nil
	}
	return walk(from)
}

// clocks gives the places where a package uses what depends on the time.
func clocks(t *testing.T, p pkg) []string {
	t.Helper()
	var places []string
	fset := token.NewFileSet()
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" &&
				slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}, sel.Sel.Name) {
				places = append(places, fmt.Sprint(fset.Position(sel.Pos())))
			}
			return true
		})
	}
	return places
}

// TestPackageDocs holds that every package says what it is, in the file named
// after it (main.go for a program).
func TestPackageDocs(t *testing.T) {
	for dir, p := range ours(list(t)) {
		if len(p.GoFiles) == 0 {
			continue
		}
		want := p.Name + ".go"
		if dir == "api/v1alpha1" {
			want = "types.go"
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, want), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Errorf("%s: the package doc belongs into %s: %v", dir, want, err)
			continue
		}
		if len(file.Doc.Text()) < 40 {
			t.Errorf("%s/%s: the package doc says too little: %q", dir, want, file.Doc.Text())
		}
	}
}
