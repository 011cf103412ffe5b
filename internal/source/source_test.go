package source

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"windrose.dev/windrose/internal/object"
)

// write writes files of the folder dir: pairs of name and text.
func write(tb testing.TB, dir string, pairs ...string) {
	tb.Helper()
	for i := 0; i < len(pairs); i += 2 {
		path := filepath.Join(dir, pairs[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(pairs[i+1]), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

func service(name string, port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {ports: [{port: %d}]}\n", name, port)
}

func read(tb testing.TB, paths ...string) *object.Set {
	tb.Helper()
	set, err := Read(paths)
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

// names lists the objects of a Set, but for namespaces that nobody wrote.
func names(s *object.Set) []string {
	var all []string
	for o := range s.All {
		if _, written := s.Places[object.KeyOf(o)]; written {
			all = append(all, object.KeyOf(o).String())
		}
	}
	return all
}

func render(fs []object.Finding) string {
	var b strings.Builder
	for _, f := range fs {
		b.WriteString(object.Render(f))
	}
	return b.String()
}

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name, file, text string
		want             []string
	}{
		{
			"several documents", "a.yaml", service("a", 1) + "---\n# nothing\n---\n" + service("b", 1) + "--- # more\n" + service("c", 1) + "...\n",
			[]string{"Service default/a", "Service default/b", "Service default/c"},
		},
		{"a directive and a mark of the byte order", "a.yml", "\ufeff%YAML 1.1\n---\n" + service("a", 1), []string{"Service default/a"}},
		{
			"line ends of another system", "a.yaml", strings.ReplaceAll(service("a", 1)+"---\n"+service("b", 1), "\n", "\r\n"),
			[]string{"Service default/a", "Service default/b"},
		},
		{
			"JSON", "a.json", `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}` + "\n" + `{"apiVersion": "v1",` + "\n\t" + `"kind": "Namespace", "metadata": {"name": "b"}}`,
			[]string{"Namespace a", "Namespace b"},
		},
		{
			"a List", "a.yaml", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: a}}",
			[]string{"ConfigMap a/b", "Namespace a"},
		},
		{"a list of one kind", "a.yaml", "apiVersion: v1\nkind: ConfigMapList\nitems:\n- {metadata: {name: a}}", []string{"ConfigMap default/a"}},
		{"an anchor", "a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: &n a, labels: {app: *n}}\nspec: {ports: [{port: 1}]}", []string{"Service default/a"}},
		{"nothing", "a.yaml", "# nothing\n", nil},
		{"a hidden file", ".a.yaml", service("a", 1), nil},
		{"a hidden folder", ".git/a.yaml", service("a", 1), nil},
		{"another kind of file", "a.txt", service("a", 1), nil},
		{"a backup", "a.yaml~", service("a", 1), nil},
		{"a lock of an editor", "#a.yaml#", service("a", 1), nil},
		{"a folder in a folder", "x/y/a.yaml", service("a", 1), []string{"Service default/a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, tt.file, tt.text)
			set := read(t, dir)
			if got := names(set); !slices.Equal(got, tt.want) || len(set.Findings) > 0 {
				t.Errorf("got %q, want %q\n%s", got, tt.want, render(set.Findings))
			}
		})
	}
}

func TestReadOfNothing(t *testing.T) {
	if _, err := Read([]string{filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("no error for a path that does not exist")
	}
}

func TestNamespacesExistByUse(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: used}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: written, labels: {a: b}}")
	set := read(t, dir)
	var got []string
	for _, ns := range set.Namespaces.All() {
		got = append(got, fmt.Sprint(ns.Name, ns.Labels))
	}
	want := []string{
		"defaultmap[kubernetes.io/metadata.name:default]",
		"usedmap[kubernetes.io/metadata.name:used]",
		"writtenmap[a:b kubernetes.io/metadata.name:written]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheFirstOfTwoCounts(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	write(t, a, "2.yaml", service("x", 2), "1.yaml", service("x", 1)+"---\n"+service("x", 3))
	write(t, b, "0.yaml", service("x", 4))
	for _, tt := range []struct {
		paths []string
		want  int32
	}{{[]string{a, b}, 1}, {[]string{b, a}, 4}, {[]string{filepath.Join(a, "2.yaml"), a}, 2}} {
		set := read(t, tt.paths...)
		svc, ok := set.Services.Get("default", "x")
		if !ok || svc.Spec.Ports[0].Port != tt.want {
			t.Errorf("%v: got %v, want port %d", tt.paths, svc, tt.want)
		}
		dups := 0
		for _, f := range set.Findings {
			if f.Reason == ReasonDuplicateObject && strings.Contains(f.Message, set.Places[f.Object].String()) {
				dups++
			}
		}
		if want := len(tt.paths) + 1; len(tt.paths) == 2 && tt.paths[0] != filepath.Join(a, "2.yaml") && dups != want {
			t.Errorf("%v: %d findings of duplicates, want %d", tt.paths, dups, want)
		}
	}
}

func TestPlacesOfFindings(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, tt := range []struct{ name, text, want string }{
		{"an unknown field", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: shop\nspec:\n  rules:\n  - matches:\n    - path:\n        type: PathPrefix\n        value: /a\n    backendRef:\n    - name: a\n      port: 80\n", `
a.yaml:11:5: error: HTTPRoute default/shop: spec.rules[0].backendRef: unknown field "backendRef" [UnknownField]
    backendRef:
    ^
  did you mean "backendRefs"?
`},
		{"a wrong value behind a tab", "# one\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  type:\tClusterIp\n  ports: [{port: 80}]\n", `
a.yaml:7:9: error: Service default/a: spec.type: "ClusterIp": is not one of ClusterIP, NodePort, LoadBalancer, ExternalName [NotSupported]
    type:	ClusterIp
         	^
  did you mean "ClusterIP"?
`},
		{"a key written twice", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  a: b\n  a: c\n", `
a.yaml:7:3: error: ConfigMap default/a: the key "a" is written twice, first in line 6 [DuplicateKey]
    a: c
    ^
`},
		{"an item of a List", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec:\n    ports:\n    - port: 0\n      targetPort: x\n", `
a.yaml:9:13: error: Service default/a: spec.ports[0].port: "0": must be between 1 and 65535, inclusive [Invalid]
    - port: 0
            ^
`},
		{"a label with dots", "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\n    app.kubernetes.io/name: 1\nspec: {ports: [{port: 80}]}\n", `
a.yaml:6:29: error: Service default/a: metadata.labels[app.kubernetes.io/name]: must be a string, not the number 1 [WrongType]
    app.kubernetes.io/name: 1
                            ^
  put it in quotes
`},
		{"a tab for indentation", service("a", 1) + "---\na:\n\tb: c\n", `
a.yaml:7:1: error: is not YAML: the line is indented with a tab [Syntax]
    	b: ...
    ^
  YAML is indented with spaces, not with tabs
`},
		{"the value of a Secret", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n  key: hunter2!\n", `
a.yaml:5:8: error: Secret default/a: data[key]: is not base64 [Invalid]
    key: ...
         ^
  plain text goes into stringData
`},
		{"a broken Secret", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n  key: \"hunter2\n", `
a.yaml:5:3: error: is not YAML: a text in quotes is not closed [Syntax]
    key: ...
    ^
  close the quote
`},
		{"no object", "- a\n- b\n", `
a.yaml:1:1: error: a document must be an object with apiVersion, kind and metadata [Syntax]
`},
		{"any other file", "root:hunter2:1\n  more\n", `
a.yaml:1:1: error: a document must be an object with apiVersion, kind and metadata [Syntax]
    root: ...
    ^
`},
		{"a Secret whose kind is misspelt", "kind: secret\napiVersion: v1\nmetadata: {name: a}\nstringData: {a: hunter2}\nstringData: {a: hunter2}\n", `
a.yaml:5:1: error: the key "stringData" is written twice, first in line 4 [DuplicateKey]
    stringData: ...
    ^
`},
		{"JSON", "{\"apiVersion\": \"v1\", \"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"a\"},\n\t\"spec\": {\"port\": []}}\n", `
a.yaml:3:11: error: Service default/a: spec.port: unknown field "port" [UnknownField]
    "spec": {"port": []}}
             ^
  did you mean "ports"?
`},
		{"binary", "\x00\x01", "\na.yaml: error: is not a text file [Syntax]\n"},
		{"another encoding", "a: b\nc: \xe9t\xe9\n", "\na.yaml:2:4: error: is not UTF-8 text [Syntax]\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(t, ".", "a.yaml", tt.text)
			if got := "\n" + render(read(t, "a.yaml").Findings); got != tt.want {
				t.Errorf("got:%s\nwant:%s", got, tt.want)
			}
		})
	}
}

func TestLocate(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, ".", "a.yaml", service("a", 1)+"---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata:\n    name: b\n  spec:\n    ports:\n    - port: 8080\n")
	set := read(t, "a.yaml")
	b := object.Key{Kind: "Service", Namespace: "default", Name: "b"}
	ask := func(field string) object.Finding {
		return Locate(set, []object.Finding{{Object: b, Field: field, Severity: object.Error}})[0]
	}
	for field, want := range map[string]string{
		"":                           "a.yaml:9:3",
		"spec.ports[0].port":         "a.yaml:15:13",
		"spec.ports[0].targetPort.x": "a.yaml:15:7",
		"spec.selector":              "a.yaml:13:3",
	} {
		if got := ask(field).Place.String(); got != want {
			t.Errorf("%q is at %s, want %s", field, got, want)
		}
	}
	if got, want := ask("spec.ports[0].port").Excerpt, "    - port: 8080"; got != want {
		t.Errorf("excerpt %q, want %q", got, want)
	}

	set.Findings = []object.Finding{{Object: b, Reason: ReasonLastGood}}
	if got := ask("spec.ports[0].port"); got.Place.String() != "a.yaml:9:3" || got.Excerpt != "" {
		t.Errorf("of a last good version: %s %q", got.Place, got.Excerpt)
	}
	set.Findings = nil

	write(t, ".", "a.yaml", "gone: [")
	if got := ask("spec.ports[0].port").Place.String(); got != "a.yaml:9:3" {
		t.Errorf("after a change of the file: %s", got)
	}
	none := Locate(set, []object.Finding{{Object: object.Key{Kind: "Service", Name: "none"}}})[0]
	if none.Place != (object.Place{}) {
		t.Errorf("an object without place is at %s", none.Place)
	}
}

// within fails if f takes longer than a reader may.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the reader hangs")
	}
}

func TestHostileFiles(t *testing.T) {
	bomb := "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 12; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	long := "a: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.TrimSuffix(strings.Repeat("*a, ", 100_000), ", ") + "]\n"
	for name, text := range map[string]string{
		"aliases of aliases":         bomb,
		"aliases of a long text":     long,
		"an alias to itself":         "a: &a [*a]\n",
		"deep lists":                 strings.Repeat("[", 100_000),
		"deep lists of JSON":         `{"a":` + strings.Repeat("[", 200_000) + strings.Repeat("]", 200_000) + "}",
		"deep objects of JSON":       strings.Repeat(`{"a":`, 200_000) + "1" + strings.Repeat("}", 200_000),
		"many documents":             strings.Repeat("---\na: b\n", maxDocuments+1),
		"lists of lists of objects":  strings.Repeat("kind: List\nitems: [{", 1) + strings.Repeat("kind: List, items: [{", 1000),
		"a number beyond all bounds": "a: 1e999999999\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "a.yaml", text, "b.yaml", service("b", 1))
			within(t, func() {
				set := read(t, dir)
				if got := names(set); !slices.Equal(got, []string{"Service default/b"}) {
					t.Errorf("got %q", got)
				}
				if len(set.Findings) == 0 {
					t.Error("no finding")
				}
			})
		})
	}
}

func TestIrregularFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b.yaml", service("b", 1))
	if err := syscall.Mkfifo(filepath.Join(dir, "a.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	giant, err := os.Create(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := giant.Truncate(1 << 40); err != nil {
		t.Skipf("no sparse files here: %v", err)
	}
	giant.Close()
	for name, target := range map[string]string{"d.yaml": "/dev/zero", "e.yaml": "e.yaml", "f.yaml": "nowhere", "loop": "."} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	within(t, func() {
		set := read(t, dir)
		if got := names(set); !slices.Equal(got, []string{"Service default/b"}) {
			t.Errorf("got %q", got)
		}
		var got []string
		for _, f := range set.Findings {
			got = append(got, filepath.Base(f.Place.File)+" "+f.Reason)
		}
		want := []string{"a.yaml Unreadable", "c.yaml TooLarge", "d.yaml Unreadable", "e.yaml Unreadable", "f.yaml Unreadable"}
		if !slices.Equal(got, want) {
			t.Errorf("findings %q, want %q", got, want)
		}
	})
}

// FuzzRead: no text makes the reader panic or hang, and what it says is short.
func FuzzRead(f *testing.F) {
	f.Add([]byte(service("a", 80) + "---\n" + service("b", 0)))
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"kind":"Secret","data":{"a":"b"}}]}`))
	f.Add([]byte("a: &a [*a]\nb: {<<: *a}\n...\n%TAG ! x\n--- |\n x\n"))
	f.Add([]byte(fmt.Sprintf(routeText, 1, 1, 1)))
	r := newReader()
	f.Fuzz(func(t *testing.T, text []byte) {
		out := &file{path: "a.yaml"}
		r.documents(out, text, nil)
		x := newIndex(r.checker)
		x.use(out)
		set := x.commit(time.Now(), 0)
		for _, finding := range Locate(set, set.Findings) {
			if s := object.Render(finding); len(s) > 8192 {
				t.Errorf("a finding of %d bytes", len(s))
			}
		}
		again := &file{path: "a.yaml"}
		r.documents(again, text, out)
		if len(again.parts) != len(out.parts) || again.broken != out.broken {
			t.Error("the same text read twice differs")
		}
	})
}
