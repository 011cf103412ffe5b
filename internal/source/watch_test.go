package source

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"windrose.dev/windrose/internal/object"
)

// follower is a running Folder and all Sets that it emitted.
type follower struct {
	tb     testing.TB
	stop   func()
	mu     sync.Mutex
	sets   []*object.Set
	notify chan struct{}
}

// follow runs a Folder until the test ends, or stop is called.
func follow(tb testing.TB, state string, paths ...string) *follower {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{tb: tb, notify: make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() {
		done <- New(Config{Paths: paths, StateDir: state}).Run(ctx, func(s *object.Set) {
			f.mu.Lock()
			f.sets = append(f.sets, s)
			f.mu.Unlock()
			select {
			case f.notify <- struct{}{}:
			default:
			}
		})
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			tb.Error("Run does not end")
		}
	})
	tb.Cleanup(f.stop)
	return f
}

func (f *follower) all() []*object.Set {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sets)
}

// until waits for a Set.
func (f *follower) until(what string, ok func(*object.Set) bool) *object.Set {
	f.tb.Helper()
	deadline := time.After(10 * time.Second)
	for {
		all := f.all()
		if n := len(all); n > 0 && ok(all[n-1]) {
			return all[n-1]
		}
		select {
		case <-f.notify:
		case <-deadline:
			if n := len(all); n > 0 {
				f.tb.Fatalf("no Set with %s; the last has %q\n%s", what, names(all[n-1]), render(all[n-1].Findings))
			}
			f.tb.Fatalf("no Set with %s", what)
		}
	}
}

// port waits for a port of a Service; 0 waits until there is no such Service.
func (f *follower) port(name string, want int32) *object.Set {
	f.tb.Helper()
	return f.until(fmt.Sprintf("port %d of %s", want, name), func(s *object.Set) bool { return portOf(s, name) == want })
}

func portOf(s *object.Set, name string) int32 {
	svc, ok := s.Services.Get("default", name)
	if !ok {
		return 0
	}
	return svc.Spec.Ports[0].Port
}

// always checks that no Set after the first that had it lacked an object.
func (f *follower) always(name string) {
	f.tb.Helper()
	had := false
	for i, s := range f.all() {
		has := portOf(s, name) != 0
		if had && !has {
			f.tb.Errorf("Set %d of %d lacks %s", i, len(f.sets), name)
		}
		had = had || has
	}
}

func rename(tb testing.TB, dir, from, to string) {
	tb.Helper()
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		tb.Fatal(err)
	}
}

func remove(tb testing.TB, dir, name string) {
	tb.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		tb.Fatal(err)
	}
}

func symlink(tb testing.TB, target, dir, name string) {
	tb.Helper()
	if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
		tb.Fatal(err)
	}
}

func TestWaysToChangeAFile(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir, text string){
		"in place": func(t *testing.T, dir, text string) { write(t, dir, "a.yaml", text) },
		"renamed over": func(t *testing.T, dir, text string) {
			write(t, dir, ".a.yaml.123", text)
			rename(t, dir, ".a.yaml.123", "a.yaml")
		},
		"vim": func(t *testing.T, dir, text string) {
			write(t, dir, ".a.yaml.swp", "b0VIM", "4913", "")
			remove(t, dir, "4913")
			rename(t, dir, "a.yaml", "a.yaml~")
			write(t, dir, "a.yaml", text)
			remove(t, dir, "a.yaml~")
			remove(t, dir, ".a.yaml.swp")
		},
		"emacs": func(t *testing.T, dir, text string) {
			symlink(t, "me@host.1", dir, ".#a.yaml")
			write(t, dir, "#a.yaml#", text)
			rename(t, dir, "a.yaml", "a.yaml~")
			write(t, dir, "a.yaml", text)
			remove(t, dir, ".#a.yaml")
			remove(t, dir, "#a.yaml#")
		},
		"emptied first": func(t *testing.T, dir, text string) {
			write(t, dir, "a.yaml", "")
			write(t, dir, "a.yaml", text)
		},
		"removed first": func(t *testing.T, dir, text string) {
			remove(t, dir, "a.yaml")
			write(t, dir, "a.yaml", text)
		},
		"moved to another file": func(t *testing.T, dir, text string) {
			remove(t, dir, "a.yaml")
			write(t, dir, "z.yaml", text)
		},
		"piece by piece": func(t *testing.T, dir, text string) {
			f, err := os.Create(filepath.Join(dir, "a.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range []byte(text) {
				if _, err := f.Write([]byte{b}); err != nil {
					t.Fatal(err)
				}
			}
			f.Close()
		},
		"linked": func(t *testing.T, dir, text string) {
			write(t, dir, "a.new", text)
			remove(t, dir, "a.yaml")
			if err := os.Link(filepath.Join(dir, "a.new"), filepath.Join(dir, "a.yaml")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "a.yaml", service("a", 1), "b.yaml", service("b", 1))
			f := follow(t, t.TempDir(), dir)
			before := f.port("a", 1)
			change(t, dir, service("a", 2))
			after := f.port("a", 2)
			f.always("a")
			if len(after.Findings) > 0 {
				t.Errorf("findings:\n%s", render(after.Findings))
			}
			b1, _ := before.Services.Get("default", "b")
			if b2, _ := after.Services.Get("default", "b"); b1 != b2 {
				t.Error("an object that did not change has another pointer")
			}
			a1, _ := before.Services.Get("default", "a")
			a2, _ := after.Services.Get("default", "a")
			if a1.Generation != 1 || a2.Generation != 2 || a1.UID != a2.UID || !a1.CreationTimestamp.Equal(&a2.CreationTimestamp) {
				t.Errorf("got %+v after %+v", a2.ObjectMeta, a1.ObjectMeta)
			}
		})
	}
}

func TestFilesComeAndGo(t *testing.T) {
	dir := t.TempDir()
	f := follow(t, "", dir)
	f.until("nothing", func(s *object.Set) bool { return len(names(s)) == 0 })
	write(t, dir, "a.yaml", service("a", 1))
	f.port("a", 1)
	remove(t, dir, "a.yaml")
	f.port("a", 0)

	write(t, dir, "x/y/b.yaml", service("b", 1))
	f.port("b", 1)
	write(t, dir, "x/y/b.yaml", service("b", 2))
	f.port("b", 2)
	rename(t, dir, "x", "z")
	f.until("b at its new place", func(s *object.Set) bool {
		return portOf(s, "b") == 2 && strings.Contains(s.Places[object.Key{Kind: "Service", Namespace: "default", Name: "b"}].File, "/z/y/")
	})
	f.always("b")
	write(t, dir, "z/y/b.yaml", service("b", 3))
	f.port("b", 3)
	remove(t, dir, "z")
	f.port("b", 0)

	other := t.TempDir()
	write(t, other, "in/c.yaml", service("c", 1))
	if err := os.Rename(filepath.Join(other, "in"), filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	f.port("c", 1)
}

func TestAFolderThatComesLater(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "etc", "windrose.d")
	f := follow(t, "", dir)
	f.until("a finding", func(s *object.Set) bool { return len(s.Findings) == 1 && s.Findings[0].Severity == object.Warning })
	write(t, base, "etc/windrose.d/a.yaml", service("a", 1))
	set := f.port("a", 1)
	if len(set.Findings) > 0 {
		t.Errorf("findings:\n%s", render(set.Findings))
	}
	remove(t, base, "etc")
	f.port("a", 0)
	write(t, base, "etc/windrose.d/a.yaml", service("a", 2))
	f.port("a", 2)
}

func TestASingleFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.conf", service("a", 1), "b.yaml", service("b", 1))
	f := follow(t, "", filepath.Join(dir, "a.conf"))
	f.port("a", 1)
	write(t, dir, "new", service("a", 2))
	rename(t, dir, "new", "a.conf")
	if set := f.port("a", 2); portOf(set, "b") != 0 {
		t.Error("a file beside the one that was named is read")
	}
	write(t, dir, "a.conf", service("a", 3))
	f.port("a", 3)
}

// kubelet publishes a ConfigMap as links through ..data, which it swaps.
func publish(t *testing.T, dir string, version int, text string) {
	t.Helper()
	name := fmt.Sprintf("..v%d", version)
	write(t, dir, name+"/a.yaml", text)
	symlink(t, name, dir, "..data_tmp")
	rename(t, dir, "..data_tmp", "..data")
	if version == 1 {
		symlink(t, "..data/a.yaml", dir, "a.yaml")
	} else {
		remove(t, dir, fmt.Sprintf("..v%d", version-1))
	}
}

func TestLinksAsKubeletMakesThem(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir, 1, service("a", 1))
	f := follow(t, "", dir)
	f.port("a", 1)
	for v := 2; v < 5; v++ {
		publish(t, dir, v, service("a", v))
		f.port("a", int32(v))
	}
	f.always("a")
}

func TestALinkToAFileElsewhere(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	write(t, other, "x.yaml", service("a", 1), "y/b.yaml", service("b", 1))
	f := follow(t, "", dir)
	symlink(t, filepath.Join(other, "x.yaml"), dir, "a.yaml")
	symlink(t, filepath.Join(other, "y"), dir, "sub")
	f.port("a", 1)
	f.port("b", 1)
	write(t, other, "x.yaml", service("a", 2))
	f.port("a", 2)
	write(t, other, "new", service("a", 3))
	rename(t, other, "new", "x.yaml")
	f.port("a", 3)
	write(t, other, "y/b.yaml", service("b", 2))
	f.port("b", 2)
}

// snapshot is all that later steps can see of a Set.
func snapshot(tb testing.TB, s *object.Set) string {
	tb.Helper()
	var b strings.Builder
	for o := range s.All {
		text, err := json.Marshal(o)
		if err != nil {
			tb.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s\n", s.Places[object.KeyOf(o)], text)
	}
	return b.String() + render(s.Findings)
}

func TestARestartGivesWhatTheReloadGave(t *testing.T) {
	const secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: %s}\n"
	for name, files := range map[string][]string{
		"a wrong field":            {"a.yaml", strings.Replace(service("a", 1), "ports", "prots", 1)},
		"a wrong value of many":    {"a.yaml", service("a", 70000)},
		"a broken document":        {"a.yaml", service("x", 7) + "---\n{{"},
		"a broken file":            {"a.yaml", "\x00"},
		"a name that is broken":    {"a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {nam: a}\nspec: {ports: [{port: 1}]}"},
		"a kind that is broken":    {"a.yaml", strings.Replace(service("a", 1), "Service", "Servise", 1)},
		"a wrong Secret":           {"s.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {key: '%'}"},
		"a duplicate that is good": {"0.yaml", service("a", 9)},
		"a duplicate that is bad":  {"0.yaml", service("a", 0)},
		"a change":                 {"a.yaml", service("a", 2)},
		"nothing":                  {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, state := t.TempDir(), t.TempDir()
			write(t, dir, "a.yaml", service("a", 1), "s.yaml", fmt.Sprintf(secret, "hunter2"), "n.yaml", service("never", 0))
			f := follow(t, state, dir)
			f.port("a", 1)
			write(t, dir, files...)
			write(t, dir, "z.yaml", service("z", 1)) // read with or after the others
			f.port("z", 1)
			f.until("both changes", func(s *object.Set) bool {
				return len(files) == 0 || len(s.Findings) > 2 || portOf(s, "a") == 2
			})
			f.always("a")
			f.stop()
			sets := f.all()
			want := snapshot(t, sets[len(sets)-1])

			again := follow(t, state, dir)
			if got := snapshot(t, again.port("z", 1)); got != want {
				t.Errorf("after the restart:\n%s\nbefore it:\n%s", got, want)
			}
		})
	}
}

func TestANamespaceIsDeclaredAndUndeclared(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: x}\n")
	f := follow(t, "", dir)
	label := func(want string) func(*object.Set) bool {
		return func(s *object.Set) bool {
			ns, ok := s.Namespaces.Get("", "x")
			return ok && ns.Labels["a"] == want && ns.Labels["kubernetes.io/metadata.name"] == "x"
		}
	}
	f.until("an implied namespace", label(""))
	write(t, dir, "ns.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, labels: {a: b}}\n")
	f.until("the written one", label("b"))
	remove(t, dir, "ns.yaml")
	f.until("the implied one again", label(""))
	remove(t, dir, "a.yaml")
	f.until("none", func(s *object.Set) bool { _, ok := s.Namespaces.Get("", "x"); return !ok })
}

func TestAWrongObjectThatGoesIsGone(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write(t, dir, "a.yaml", service("a", 1), "b.yaml", service("b", 1))
	f := follow(t, state, dir)
	f.port("b", 1)
	write(t, dir, "a.yaml", service("a", 0))
	f.until("a note", func(s *object.Set) bool {
		return slices.ContainsFunc(s.Findings, func(f object.Finding) bool { return f.Reason == ReasonLastGood })
	})
	remove(t, dir, "a.yaml")
	if set := f.port("a", 0); len(set.Findings) > 0 {
		t.Errorf("findings:\n%s", render(set.Findings))
	}
	f.stop()
	write(t, dir, "a.yaml", service("a", 0))
	again := follow(t, state, dir)
	if set := again.port("b", 1); portOf(set, "a") != 0 {
		t.Error("the ledger brought back what was removed")
	}
}

func TestLedgerFile(t *testing.T) {
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "new", "state")
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: hunter2}\n"
	write(t, dir, "s.yaml", secret, "a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a, creationTimestamp: '2020-01-02T03:04:05Z'}\nspec: {ports: [{port: 1}]}\n")
	f := follow(t, state, dir)
	a, _ := f.port("a", 1).Services.Get("default", "a")
	if got := a.CreationTimestamp.UTC().Format(time.RFC3339); got != "2020-01-02T03:04:05Z" {
		t.Errorf("the time of the manifest became %s", got)
	}
	f.stop()
	path := filepath.Join(state, ledgerName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "aHVudGVyMg") || strings.Contains(string(text), "hunter2") {
		t.Error("a good Secret is in the ledger")
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
	for _, broken := range []string{"{", `{"version":9}`, ""} {
		write(t, state, ledgerName, broken)
		again := follow(t, state, dir)
		set := again.port("a", 1)
		if len(set.Findings) != 1 || set.Findings[0].Reason != ReasonLedger {
			t.Errorf("ledger %q: findings:\n%s", broken, render(set.Findings))
		}
		again.stop()
		past, err := readLedger(state)
		if err != nil || len(past) != 2 {
			t.Errorf("ledger %q became %v, %v", broken, past, err)
		}
	}
}

func TestALedgerThatCannotBeWritten(t *testing.T) {
	dir, base := t.TempDir(), t.TempDir()
	write(t, dir, "a.yaml", service("a", 1))
	write(t, base, "file", "")
	f := follow(t, filepath.Join(base, "file", "state"), dir)
	f.until("a finding", func(s *object.Set) bool { return len(s.Findings) == 1 && s.Findings[0].Reason == ReasonLedger })
	f.port("a", 1)
	remove(t, base, "file") // so that the end is clean
}

func TestTheStateFolderIsNoConfiguration(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	write(t, dir, "a.yaml", service("a", 1), "state/other.yaml", service("b", 1))
	f := follow(t, state, dir)
	f.port("a", 1)
	write(t, dir, "a.yaml", service("a", 2))
	f.port("a", 2)
	f.stop()
	if _, err := os.Stat(filepath.Join(state, ledgerName)); err != nil {
		t.Error(err)
	}
	for _, s := range f.all() {
		if portOf(s, "b") != 0 || len(s.Findings) > 0 {
			t.Errorf("got %q\n%s", names(s), render(s.Findings))
		}
	}
}

func TestParseOfNotifications(t *testing.T) {
	if got := parse([]byte("too short")); got != nil {
		t.Errorf("got %v", got)
	}
	b := make([]byte, 16)
	b[12], b[13] = 0xff, 0xff // a name longer than what follows
	if got := parse(b); got != nil {
		t.Errorf("got %v", got)
	}
}

// Without notifications a Folder looks at its files once a second.
func TestBlind(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("a", 1))
	l := newLoop(New(Config{Paths: []string{dir}}), func(*object.Set) {})
	l.blind(fmt.Errorf("none"))
	now := time.Now()
	l.look(now)
	l.commit(now, 0)
	write(t, dir, "a.yaml", service("a", 2))
	l.step(now.Add(pollEvery / 2))
	if got := portOf(l.index.set, "a"); got != 1 {
		t.Errorf("port %d too early", got)
	}
	if got := l.next(now); got > pollEvery {
		t.Errorf("sleeps for %v", got)
	}
	l.step(now.Add(pollEvery))
	if got := portOf(l.index.set, "a"); got != 2 {
		t.Errorf("port %d, want 2", got)
	}
	if len(l.index.set.Findings) != 1 || l.index.set.Findings[0].Reason != ReasonWatch {
		t.Errorf("findings:\n%s", render(l.index.set.Findings))
	}
}

func TestOpenForWriting(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "a")
	path := filepath.Join(dir, "a.yaml")
	if openForWriting(path) {
		t.Error("nobody writes the file")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !openForWriting(path) {
		t.Error("the file is open for writing")
	}
	f.Close()
	if openForWriting(path) || openForWriting(filepath.Join(dir, "absent.yaml")) {
		t.Error("nobody writes the file any more")
	}
}
