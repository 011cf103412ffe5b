package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// promise is a copy of the demo as the README has a newcomer run it, on ports
// of its own.
type promise struct {
	*windrose
	https, ca string
}

// copyDemo makes a tree that has the demo at the place where the README's lines
// look for it, with what make up makes.
func copyDemo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	demoDir := filepath.Join(dir, "examples", "pingdo")
	must(t, os.CopyFS(demoDir, os.DirFS("../examples/pingdo")))
	// What make up made here stays here.
	must(t, os.RemoveAll(filepath.Join(demoDir, "local")))
	if out, err := exec.Command("go", "run", "../examples/pingdo/certs", filepath.Join(demoDir, "local")).CombinedOutput(); err != nil {
		t.Fatalf("make certificates: %v\n%s", err, out)
	}
	must(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	must(t, os.Symlink(demoBackend(t), filepath.Join(dir, "bin", "pingdo-backend")))
	must(t, os.Symlink(binary, filepath.Join(dir, "bin", "windrose")))
	return dir
}

// demoWindrose is set up as tools/up does it.
func demoWindrose(t *testing.T, dir, platform string) *windrose {
	t.Helper()
	demoDir := filepath.Join(dir, "examples", "pingdo")
	w := newWindrose(t, nil)
	w.config, w.state, w.dir = filepath.Join(demoDir, platform), filepath.Join(demoDir, "local", "state"), dir
	w.more = []string{"--config", demoDir + "/routes", "--config", demoDir + "/services", "--config", demoDir + "/local/tls"}
	return w
}

func newPromise(t *testing.T) *promise {
	t.Helper()
	dir := copyDemo(t)
	demoDir := filepath.Join(dir, "examples", "pingdo")
	p := &promise{ca: filepath.Join(demoDir, "local", "ca.crt"), https: fmt.Sprint(freePort(t))}
	p.move(t, demoDir, "platform-high-ports/gateway.yaml", "8443", p.https, "8080", fmt.Sprint(freePort(t)))
	for name, port := range map[string]string{"api": "9101", "app": "9102"} {
		p.move(t, demoDir, "services/"+name+".yaml", port, fmt.Sprint(freePort(t)))
	}
	p.windrose = demoWindrose(t, dir, "platform-high-ports")
	return p
}

func (p *promise) move(t *testing.T, dir, name string, pairs ...string) {
	t.Helper()
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.NewReplacer(pairs...).Replace(string(text))), 0o644); err != nil {
		t.Fatal(err)
	}
}

// ask is the curl line of the README. It gives who answered, and the headers.
func (p *promise) ask(path string) (string, string, error) {
	r := curl(p.t, "-i", "--resolve", "pingdo.net:"+p.https+":127.0.0.1", "--cacert", p.ca, "https://pingdo.net:"+p.https+path)
	head, body, _ := strings.Cut(r.out, "\r\n\r\n")
	var answer struct{ Backend string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return "", head, fmt.Errorf("%w: %+v", err, r)
	}
	return answer.Backend, head, nil
}

func TestPromiseOfTheREADME(t *testing.T) {
	t.Parallel()
	p := newPromise(t)
	p.start()
	p.ready()
	for path, want := range map[string]string{"/api": "api-1", "/app": "app-1"} {
		p.eventually(path+" is answered", func() error {
			if got, _, err := p.ask(path); got != want {
				return errors.Join(fmt.Errorf("got %q, want %q", got, want), err)
			}
			return nil
		})
	}

	app := "../routes/app.yaml"
	p.write(app, strings.Replace(p.read(app), "value: hello", "value: moin", 1))
	p.eventually("the edited route is live", func() error {
		if _, head, err := p.ask("/app"); err != nil || !strings.Contains(strings.ToLower(head), "x-greeting: moin") {
			return errors.Join(errors.New(head), err)
		}
		return nil
	})

	// A killed backend comes back by itself.
	old := p.get("workloads", "app-1").Status.PID
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.eventually("the killed backend is started again", func() error {
		now := p.get("workloads", "app-1").Status
		if now.PID == old || now.PID == 0 || now.Restarts != 1 || !strings.HasPrefix(find(now.Conditions, "Ready"), "True") {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	p.eventually("requests recover", func() error {
		_, _, err := p.ask("/app")
		return err
	})
	p.endsWithoutTrace()
}

// endsWithoutTrace: Ctrl-C leaves no process and no open port behind.
func (p *promise) endsWithoutTrace() {
	p.t.Helper()
	pids := []int{p.dataplane()}
	for _, name := range []string{"api-1", "app-1"} {
		pids = append(pids, p.get("workloads", name).Status.PID)
	}
	p.signal(syscall.SIGINT)
	if code := p.wait(); code != 0 {
		p.t.Errorf("exit code %d, want 0", code)
	}
	for _, pid := range pids {
		if !gone(pid) {
			p.t.Errorf("process %d of %v is left behind", pid, pids)
		}
	}
	if conn, err := net.Dial("tcp", "127.0.0.1:"+p.https); err == nil {
		conn.Close()
		p.t.Error("the port still accepts connections")
	}
}

// A windrose that is killed takes what it started with it: the next one must
// not find the ports taken.
func TestWorkloadsEndWithAKilledWindrose(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port),
		"a.yaml":       all(bareService("a"), command(t, "a-1", "a", freePort(t)), route("shop", "/", "a")),
	})
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	answered := func() error {
		if code, body, _ := fetch(url); code != 200 {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	}
	w.eventually("the workload answers", answered)
	pid := w.get("workloads", "a-1").Status.PID
	w.signal(syscall.SIGKILL)
	w.wait()
	w.start()
	w.ready()
	w.eventually("the workload of the first windrose has ended", func() error {
		if !gone(pid) {
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	})
	w.eventually("the workload answers again", answered)
}
