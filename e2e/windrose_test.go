package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

func build(dir string) error {
	// The data plane runs as another user, who must reach the program.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	binary = filepath.Join(dir, "windrose")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", binary, "../cmd/windrose")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build windrose: %w\n%s", err, out)
	}
	return nil
}

// windrose is a running `windrose up` with its folders.
type windrose struct {
	t      *testing.T
	config string // folder of manifests
	state  string
	admin  string
	health string
	stats  string // address of the data plane's metrics
	cmd    *exec.Cmd
	done   chan struct{}
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
	w.cmd = exec.Command(binary, "up", "--config", w.config, "--state", w.state,
		"--admin", w.admin, "--health", w.health, "--metrics", w.stats)
	out, err := os.OpenFile(filepath.Join(w.config, "..", "stdout"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
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
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	w.done = done
	cmd := w.cmd
	go func() { _ = cmd.Wait(); close(done) }()
	w.t.Cleanup(func() {
		w.stop()
		if w.t.Failed() {
			w.t.Logf("stderr of windrose:\n%s", tail(w.talk(), 60))
		}
	})
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
	select {
	case <-w.done:
		return
	default:
	}
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-w.done:
	case <-time.After(60 * time.Second):
		_ = w.cmd.Process.Kill()
		<-w.done
		w.t.Error("windrose did not end within 60 s of SIGTERM")
	}
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

// freePorts never gives a port twice, since what gets one does not bind it at
// once.
var freePorts sync.Map

func freePort(t *testing.T) int {
	t.Helper()
	for {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		ln.Close()
		if _, taken := freePorts.LoadOrStore(port, true); !taken {
			return port
		}
	}
}

func freeAddr(t *testing.T) string { return "127.0.0.1:" + strconv.Itoa(freePort(t)) }

func tail(text string, n int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// rss is the resident memory of a process in KiB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+)`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no VmRSS of %d", pid)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
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
