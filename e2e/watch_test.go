package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// marked is a route to a whose answers bear a mark.
func marked(name, prefix, mark string) string {
	return routeOf(name, fmt.Sprintf(
		`{matches: [{path: {type: PathPrefix, value: %q}}], filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Mark, value: %q}]}}], backendRefs: [{name: a, port: 80}]}`,
		prefix, mark))
}

// markAt waits until the answer of a URL bears a mark; "" is for a 404.
func (w *windrose) markAt(url, mark string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s is marked %q", url, mark), func() error {
		code, body, h := fetch(url)
		if h.Get("X-Mark") != mark || (code == 404) != (mark == "") {
			return fmt.Errorf("got mark %q, %d %s", h.Get("X-Mark"), code, body)
		}
		return nil
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes a file in place, in pieces as a slow writer does.
func put(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	for piece := range slices.Chunk([]byte(text), 50) {
		_, err := f.Write(piece)
		must(t, err)
	}
	must(t, f.Close())
}

// watching is a windrose with one route that a test changes in many ways.
type watching struct {
	*windrose
	url string
}

func newWatching(t *testing.T) *watching {
	t.Helper()
	port := freePort(t)
	w := up(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", backend(t, "a"))})
	return &watching{w, fmt.Sprintf("http://127.0.0.1:%d/", port)}
}

func TestEveryWayToSaveIsSeen(t *testing.T) {
	t.Parallel()
	w := newWatching(t)
	path := filepath.Join(w.config, "route.yaml")
	must(t, os.WriteFile(filepath.Join(w.config, "notes.txt"), []byte("not a manifest: {"), 0o644))
	for name, save := range map[string]func(text string){
		"atomic rename": func(text string) { w.write("route.yaml", text) },
		"in place":      func(text string) { put(t, path, text) },
		"vim": func(text string) {
			// backupcopy=no: the old file becomes a backup, the new one is written
			// under its name, the backup goes.
			must(t, os.WriteFile(filepath.Join(w.config, ".route.yaml.swp"), []byte("b0VIM 9.0\x00{"), 0o600))
			must(t, os.WriteFile(filepath.Join(w.config, "4913"), nil, 0o644))
			must(t, os.Remove(filepath.Join(w.config, "4913")))
			if _, err := os.Stat(path); err == nil {
				must(t, os.Rename(path, path+"~"))
			}
			put(t, path, text)
			_ = os.Remove(path + "~")
			must(t, os.Remove(filepath.Join(w.config, ".route.yaml.swp")))
		},
		"emacs": func(text string) {
			lock := filepath.Join(w.config, ".#route.yaml")
			must(t, os.Symlink("user@host.123:456", lock))
			must(t, os.WriteFile(filepath.Join(w.config, "#route.yaml#"), []byte("half: {"), 0o644))
			if b, err := os.ReadFile(path); err == nil {
				must(t, os.WriteFile(path+"~", b, 0o644))
			}
			put(t, path, text)
			must(t, os.Remove(filepath.Join(w.config, "#route.yaml#")))
			must(t, os.Remove(lock))
			_ = os.Remove(path + "~")
		},
		"shell, emptied first": func(text string) {
			must(t, os.WriteFile(path, nil, 0o644))
			must(t, os.WriteFile(path, []byte(text), 0o644))
		},
		"moved in from elsewhere": func(text string) {
			from := filepath.Join(t.TempDir(), "x.yaml")
			must(t, os.WriteFile(from, []byte(text), 0o644))
			must(t, os.Rename(from, path))
		},
	} {
		for i := range 2 {
			mark := fmt.Sprintf("%s %d", name, i)
			save(marked("r", "/", mark))
			w.markAt(w.url, mark)
		}
		w.remove("route.yaml")
		w.markAt(w.url, "")
	}
	if r := w.cli("get", "findings", "-A", "-o", "json"); strings.Contains(r.out, "route.yaml") {
		t.Errorf("findings are left: %s", r.out)
	}
}

// TestFilesOfKubelet: a mounted ConfigMap is links to ..data, which is a link to
// a folder that is exchanged.
func TestFilesOfKubelet(t *testing.T) {
	t.Parallel()
	w := newWatching(t)
	mount := filepath.Join(w.config, "mounted")
	must(t, os.Mkdir(mount, 0o755))
	for i, mark := range []string{"one", "two", "three"} {
		now := fmt.Sprintf("..2026_11_24_10_00_0%d.123", i)
		must(t, os.Mkdir(filepath.Join(mount, now), 0o755))
		must(t, os.WriteFile(filepath.Join(mount, now, "route.yaml"), []byte(marked("r", "/", mark)), 0o644))
		must(t, os.Symlink(now, filepath.Join(mount, "..data_tmp")))
		before, _ := os.Readlink(filepath.Join(mount, "..data"))
		must(t, os.Rename(filepath.Join(mount, "..data_tmp"), filepath.Join(mount, "..data")))
		if i == 0 {
			must(t, os.Symlink("..data/route.yaml", filepath.Join(mount, "route.yaml")))
		} else {
			must(t, os.RemoveAll(filepath.Join(mount, before)))
		}
		w.markAt(w.url, mark)
	}
	if r := w.cli("get", "findings", "-A"); !strings.Contains(r.out+r.err, "No findings") {
		t.Errorf("findings: %+v", r)
	}
}

func TestFoldersComeAndGo(t *testing.T) {
	t.Parallel()
	w := newWatching(t)
	deep := filepath.Join(w.config, "a", "b", "c")
	for _, mark := range []string{"one", "two"} {
		must(t, os.MkdirAll(deep, 0o755))
		put(t, filepath.Join(deep, "route.yml"), marked("r", "/", mark))
		w.markAt(w.url, mark)
		put(t, filepath.Join(deep, "route.yml"), marked("r", "/", mark+" again"))
		w.markAt(w.url, mark+" again")
		must(t, os.RemoveAll(filepath.Join(w.config, "a")))
		w.markAt(w.url, "")
	}
	// A folder that is moved in whole.
	outside := filepath.Join(t.TempDir(), "team")
	must(t, os.Mkdir(outside, 0o755))
	put(t, filepath.Join(outside, "route.yaml"), marked("r", "/", "moved"))
	must(t, os.Rename(outside, filepath.Join(w.config, "team")))
	w.markAt(w.url, "moved")
	must(t, os.Rename(filepath.Join(w.config, "team"), outside))
	w.markAt(w.url, "")
}

// TestConfigFolderThatComesLater: windrose may be started before its folder
// exists.
func TestConfigFolderThatComesLater(t *testing.T) {
	t.Parallel()
	w := newWatching(t)
	w.stop()
	later := filepath.Join(w.config, "..", "later")
	w.more = []string{"--config", later}
	w.start()
	w.ready()
	must(t, os.Mkdir(later, 0o755))
	put(t, filepath.Join(later, "route.yaml"), marked("r", "/", "later"))
	w.markAt(w.url, "later")
}

// TestChangeAmongThousands: one changed file of 5,000 is live at once. The
// figures are for the reader of the log; what is asserted is far above them.
func TestChangeAmongThousands(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := newWindrose(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", backend(t, "a"))})
	for i := range 5000 {
		path := filepath.Join(w.config, fmt.Sprintf("team-%02d", i%50), fmt.Sprintf("route-%d.yaml", i))
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(marked(fmt.Sprintf("route-%d", i), fmt.Sprintf("/%d/", i), "first")), 0o644))
	}
	start := time.Now()
	w.start()
	w.ready()
	url := func(i int) string { return fmt.Sprintf("http://127.0.0.1:%d/%d/", port, i) }
	w.markAt(url(4999), "first")
	t.Logf("ready after %v; control %d MiB, data plane %d MiB", time.Since(start).Round(time.Millisecond),
		memory(t, w.cmd.Process.Pid, "VmRSS")>>10, memory(t, w.dataplane(), "VmRSS")>>10)
	var took []time.Duration
	for n := range 30 {
		i := n * 163 % 5000
		name := fmt.Sprintf("team-%02d/route-%d.yaml", i%50, i)
		text := marked(fmt.Sprintf("route-%d", i), fmt.Sprintf("/%d/", i), fmt.Sprint("change ", n))
		start := time.Now()
		w.write(name, text)
		w.markAt(url(i), fmt.Sprint("change ", n))
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("a change is live after p50 %v, p99 %v", took[len(took)/2], took[len(took)-1])
	if took[len(took)-1] > 5*time.Second {
		t.Errorf("a change took %v", took[len(took)-1])
	}
}
