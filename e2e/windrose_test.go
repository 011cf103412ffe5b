package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the windrose under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "windrose-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// long tells whether the tests may take their time.
func long() bool { return os.Getenv("WINDROSE_E2E_LONG") == "1" }

func build(dir string) error {
	// The data plane runs as another user, who must reach the program.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	binary = filepath.Join(dir, "windrose")
	return compile(binary, "../cmd/windrose")
}

func compile(to, dir string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", to, dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", dir, err, out)
	}
	return nil
}

// demo is the backend of the demo, built when a test first wants it.
var demo struct {
	once sync.Once
	err  error
	path string
}

func demoBackend(t *testing.T) string {
	t.Helper()
	demo.once.Do(func() {
		demo.path = filepath.Join(filepath.Dir(binary), "pingdo-backend")
		demo.err = compile(demo.path, "../examples/pingdo/backend")
	})
	if demo.err != nil {
		t.Fatal(demo.err)
	}
	return demo.path
}

// windrose is a running `windrose up` with its folders.
type windrose struct {
	t      *testing.T
	config string // folder of manifests
	state  string
	admin  string
	health string
	stats  string // address of the data plane's metrics

	program string              // what is run; "" for the binary under test
	more    []string            // further arguments of up
	log     string              // file for what it writes to stdout, the access log; "" for one beside the config
	dir     string              // working directory; "" for that of the test
	stderr  *os.File            // where it says what it has to say; nil for a file beside the config, which talk reads
	user    *syscall.Credential // who runs it; nil for whoever runs the test

	cmd  *exec.Cmd
	done chan struct{}
}

// newWindrose makes the folders of a windrose with manifests by file name; it
// does not start it.
func newWindrose(t *testing.T, files map[string]string) *windrose {
	t.Helper()
	dir := t.TempDir()
	w := &windrose{t: t, config: filepath.Join(dir, "config"), state: filepath.Join(dir, "state")}
	for name, text := range files {
		w.write(name, text)
	}
	w.admin, w.health, w.stats = freeAddr(t), freeAddr(t), freeAddr(t)
	t.Cleanup(func() {
		if w.cmd != nil {
			w.stop()
		}
		if t.Failed() {
			t.Logf("stderr of windrose:\n%s", tail(w.talk(), 60))
		}
	})
	return w
}

// up starts windrose and waits until it serves.
func up(t *testing.T, files map[string]string) *windrose {
	t.Helper()
	w := newWindrose(t, files)
	w.start()
	w.ready()
	return w
}

func (w *windrose) start() {
	w.t.Helper()
	w.cmd = exec.Command(cmp.Or(w.program, binary), append([]string{
		"up", "--config", w.config, "--state", w.state,
		"--admin", w.admin, "--health", w.health, "--metrics", w.stats,
	}, w.more...)...)
	w.cmd.Dir = w.dir
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.user}
	out, err := os.OpenFile(cmp.Or(w.log, filepath.Join(w.config, "..", "stdout")), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		w.t.Fatal(err)
	}
	defer out.Close()
	errs, err := os.OpenFile(filepath.Join(w.config, "..", "stderr"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		w.t.Fatal(err)
	}
	defer errs.Close()
	w.cmd.Stdout, w.cmd.Stderr = out, errs
	if w.stderr != nil {
		w.cmd.Stderr = w.stderr
	}
	if err := w.cmd.Start(); err != nil {
		w.cmd = nil
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	w.done = done
	cmd := w.cmd
	go func() { _ = cmd.Wait(); close(done) }()
}

// talk is all that windrose said.
func (w *windrose) talk() string { return w.read("../stderr") }

// accessLog is the access log so far, a line each.
func (w *windrose) accessLog() []string {
	return strings.Split(strings.TrimSpace(w.read("../stdout")), "\n")
}

func (w *windrose) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(w.config, name))
	return string(b)
}

// stop ends windrose as a user does, and waits.
func (w *windrose) stop() {
	w.t.Helper()
	w.signal(syscall.SIGTERM)
	w.wait()
}

// signal sends a signal to windrose, unless it has ended.
func (w *windrose) signal(sig syscall.Signal) {
	w.t.Helper()
	select {
	case <-w.done:
	default:
		_ = w.cmd.Process.Signal(sig)
	}
}

// wait gives the exit code of windrose once it has ended.
func (w *windrose) wait() int {
	w.t.Helper()
	select {
	case <-w.done:
	case <-time.After(60 * time.Second):
		_ = w.cmd.Process.Kill()
		<-w.done
		w.t.Error("windrose did not end within 60 s")
	}
	return w.cmd.ProcessState.ExitCode()
}

func (w *windrose) ready() {
	w.t.Helper()
	w.eventually("windrose is ready", func() error {
		select {
		case <-w.done:
			w.t.Fatalf("windrose ended:\n%s", tail(w.talk(), 60))
		default:
		}
		return get200("http://" + w.health + "/healthz/ready")
	})
}

// write puts a manifest into place as an editor or kubectl-like tool does.
func (w *windrose) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.config, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(temp, path); err != nil {
		w.t.Fatal(err)
	}
}

func (w *windrose) remove(name string) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.config, name)); err != nil {
		w.t.Fatal(err)
	}
}

// result is what a command gave.
type result struct {
	out, err string
	code     int
}

// cli runs a command of windrose against w.
func (w *windrose) cli(args ...string) result {
	w.t.Helper()
	return run(w.t, binary, append([]string{"--admin", w.admin}, args...)...)
}

// list gives the objects of a kind in all namespaces, as JSON.
func (w *windrose) list(kind string) []thing {
	w.t.Helper()
	r := w.cli("get", kind, "-A", "-o", "json")
	var list struct{ Items []thing }
	if err := json.Unmarshal([]byte(r.out), &list); r.code != 0 || err != nil {
		w.t.Fatalf("get %s: %v %+v", kind, err, r)
	}
	return list.Items
}

// thing is what tests look at in an object.
type thing struct {
	Metadata struct{ Namespace, Name string }
	Status   struct {
		PID        int `json:"pid"`
		Restarts   int
		Conditions []condition
		Listeners  []struct {
			Name           string
			AttachedRoutes int
			Conditions     []condition
		}
		Parents []struct {
			ParentRef  struct{ Name, SectionName string }
			Conditions []condition
		}
	}
}

type condition struct{ Type, Status, Reason, Message string }

// find gives a condition, as "Status Reason: message".
func find(all []condition, kind string) string {
	for _, c := range all {
		if c.Type == kind {
			return c.Status + " " + c.Reason + ": " + c.Message
		}
	}
	return "no condition " + kind
}

// get gives one object.
func (w *windrose) get(kind, name string) thing {
	w.t.Helper()
	for _, o := range w.list(kind) {
		if o.Metadata.Name == name {
			return o
		}
	}
	w.t.Fatalf("there is no %s %s", kind, name)
	return thing{}
}

func run(t *testing.T, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := result{out: out.String(), err: errs.String()}
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", name, err)
	}
	r.code = cmd.ProcessState.ExitCode()
	return r
}

// curl runs the real curl. -s -S and a time limit are added.
func curl(t *testing.T, args ...string) result {
	t.Helper()
	return run(t, "curl", append([]string{"-s", "-S", "--max-time", "20"}, args...)...)
}

// answered says whether the first answer that curl -i shows has a status code,
// in whatever version of HTTP the two agreed on.
func (r result) answered(code int) bool {
	version, rest, _ := strings.Cut(r.out, " ")
	return strings.HasPrefix(version, "HTTP/") && strings.HasPrefix(rest, strconv.Itoa(code))
}

// eventually polls until check is content.
func (w *windrose) eventually(what string, check func() error) {
	w.t.Helper()
	eventually(w.t, what, check)
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s: %v", what, err)
		}
		<-tick.C
	}
}

func get200(url string) error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, b)
	}
	return nil
}

// freePorts gives each port once. They lie below those that the kernel gives to
// outgoing connections, so that a port that a test leaves free for a while stays
// free.
var freePorts struct {
	sync.Mutex
	next int
}

const firstPort, lastPort = 20000, 32000

func freePort(t *testing.T) int {
	t.Helper()
	freePorts.Lock()
	defer freePorts.Unlock()
	if freePorts.next == 0 {
		freePorts.next = firstPort + os.Getpid()*101%(lastPort-firstPort)
	}
	for range lastPort - firstPort {
		port := freePorts.next
		freePorts.next = firstPort + (port+1-firstPort)%(lastPort-firstPort)
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func freeAddr(t *testing.T) string {
	t.Helper()
	return "127.0.0.1:" + strconv.Itoa(freePort(t))
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func portOf(addr string) string {
	_, port, _ := strings.Cut(addr, ":")
	return port
}

func tail(text string, n int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// procStatus is a field of /proc/PID/status.
func procStatus(t *testing.T, pid int, field string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && name == field {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s of process %d", field, pid)
	return ""
}

// memory is VmRSS or VmHWM of a process in KiB.
func memory(t *testing.T, pid int, field string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSuffix(procStatus(t, pid, field), " kB"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// gone tells whether a process has ended. One that waits to be reaped has.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z")
}

// applied waits until the data plane has all that control decided.
func (w *windrose) applied() {
	w.t.Helper()
	w.eventually("the data plane has the newest plan", func() error {
		_, page, _ := fetch("http://" + w.admin + "/metrics")
		made, applied := sample(page, "windrose_control_plan_version"), sample(page, "windrose_control_plan_applied_version")
		if made == "" || made != applied {
			return fmt.Errorf("version %s, applied %s", made, applied)
		}
		return nil
	})
}

// sample is the value of a series on a page of metrics, "" if it is not there.
func sample(page, series string) string {
	for line := range strings.Lines(page) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// dataplane is the pid of the data plane of w.
func (w *windrose) dataplane() int {
	w.t.Helper()
	var id struct {
		PID int `json:"pid"`
	}
	b, err := os.ReadFile(filepath.Join(w.state, "dataplane.json"))
	if err == nil {
		err = json.Unmarshal(b, &id)
	}
	if err != nil || id.PID == 0 {
		w.t.Fatalf("which process is the data plane: %v %s", err, b)
	}
	return id.PID
}
