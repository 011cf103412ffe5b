package workload_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/workload"
)

// The test binary is also the program that workloads run.
func TestMain(m *testing.M) {
	switch os.Getenv("HELPER") {
	case "":
		os.Exit(m.Run())
	case "serve": // answers HTTP on PORT: 503 while the file UNREADY exists
		err := http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if _, err := os.Stat(os.Getenv("UNREADY")); err == nil {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		fmt.Println(err)
		os.Exit(1)
	case "env":
		for _, kv := range os.Environ() {
			fmt.Println(kv)
		}
		dir, _ := os.Getwd()
		fmt.Println("DIR=" + dir)
		select {}
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("deaf")
		select {}
	case "engine": // an engine that is killed in the middle of its work
		e := workload.New(workload.Config{State: os.Getenv("STATE_DIR")})
		child := `setsid sleep 1000 & echo $! > pid2; echo $$ > pid1; sleep 1000`
		e.Use(setOf("", command("orphan", "sh", "-c", child)))
		e.Run(context.Background())
	}
}

// log is a concurrency-safe buffer.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

type running struct {
	*workload.Engine
	log  *log
	stop func() // and wait
	err  error
}

// run starts an engine that is quick, and checks at the end that it left
// nothing behind.
func run(t *testing.T, cfg workload.Config) *running {
	t.Helper()
	before := openFiles(t)
	goroutines := runtime.NumGoroutine()
	r := &running{log: &log{}}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(r.log, nil))
	}
	if cfg.BackoffMin == 0 {
		cfg.BackoffMin, cfg.BackoffMax = 5*time.Millisecond, 20*time.Millisecond
	}
	if cfg.Grace == 0 {
		cfg.Grace = time.Millisecond
	}
	r.Engine = workload.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.err = r.Run(ctx)
	}()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(func() {
		r.stop()
		if r.err != nil {
			t.Errorf("Run: %v", r.err)
		}
		until(t, "files are closed", func() bool { return openFiles(t) <= before })
		until(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines })
	})
	return r
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// until polls for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// reason is the status of a workload in short.
func (r *running) reason(name string) string {
	st, ok := r.Statuses()[object.Name{Namespace: "default", Name: name}]
	if !ok {
		return ""
	}
	return st.Conditions[0].Reason
}

func (r *running) status(t *testing.T, name, reason string) v1alpha1.WorkloadStatus {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for r.reason(name) != reason {
		select {
		case <-r.Changes():
		case <-deadline:
			t.Fatalf("%s is %q, not %q; log:\n%s", name, r.reason(name), reason, r.log)
		}
	}
	return r.Statuses()[object.Name{Namespace: "default", Name: name}]
}

func (r *running) lines(name string) []string {
	var text []string
	for _, l := range r.Output(object.Name{Namespace: "default", Name: name}) {
		text = append(text, l.Text)
	}
	return text
}

func command(name string, args ...string) *v1alpha1.Workload {
	return &v1alpha1.Workload{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Generation: 1},
		Spec:       v1alpha1.WorkloadSpec{Command: args},
	}
}

func helper(t *testing.T, name, mode string, env ...v1alpha1.EnvVar) *v1alpha1.Workload {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := command(name, exe)
	w.Spec.Env = append(slices.Clip(env), v1alpha1.EnvVar{Name: "HELPER", Value: mode})
	return w
}

// setOf makes a set of workloads that are written in a file of dir.
func setOf(dir string, ws ...*v1alpha1.Workload) *object.Set {
	set := &object.Set{Workloads: object.NewTable(ws...), Places: map[object.Key]object.Place{}}
	for _, w := range ws {
		if dir != "" {
			set.Places[object.Key{Kind: "Workload", Namespace: "default", Name: w.Name}] = object.Place{File: filepath.Join(dir, "w.yaml")}
		}
	}
	return set
}

func freePort(t *testing.T) int32 {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return int32(ln.Addr().(*net.TCPAddr).Port)
}

func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(data), ") Z ")
}

func TestAnAddressIsReadyAtOnce(t *testing.T) {
	e := workload.New(workload.Config{})
	good := &v1alpha1.Workload{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "good"}, Spec: v1alpha1.WorkloadSpec{Address: "10.0.0.7"}}
	bad := &v1alpha1.Workload{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bad"}, Spec: v1alpha1.WorkloadSpec{Address: "example"}}
	e.Use(setOf("", good, bad))
	for name, want := range map[string]metav1.ConditionStatus{"good": metav1.ConditionTrue, "bad": metav1.ConditionFalse} {
		if got := e.Statuses()[object.Name{Namespace: "default", Name: name}]; got.Conditions[0].Status != want {
			t.Errorf("%s: got %+v, want Ready %s", name, got, want)
		}
	}
	select {
	case <-e.Changes():
	default:
		t.Error("no change was told")
	}
	e.Use(setOf(""))
	if got := e.Statuses(); len(got) != 0 {
		t.Errorf("statuses of removed workloads: %v", got)
	}
}

func TestACommandIsReadyWhenItListens(t *testing.T) {
	r := run(t, workload.Config{})
	w := helper(t, "app", "serve")
	w.Spec.Ports = []v1alpha1.WorkloadPort{{Name: "http", Port: freePort(t)}}
	r.Use(setOf("", w))
	st := r.status(t, "app", workload.ReasonRunning)
	if st.Address != "127.0.0.1" || !alive(int(st.PID)) || st.Conditions[0].ObservedGeneration != 1 {
		t.Errorf("got %+v", st)
	}
	r.stop()
	if alive(int(st.PID)) {
		t.Error("the process outlived the engine")
	}
}

func TestTheEnvironmentAndFolderOfACommand(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/notify")
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := run(t, workload.Config{})
	plain := helper(t, "plain", "env", v1alpha1.EnvVar{Name: "COLOUR", Value: "blue"})
	plain.Spec.Ports = []v1alpha1.WorkloadPort{{Name: "http-alt", Port: 8081}, {Name: "admin", Port: 8082}}
	plain.Spec.Readiness = &v1alpha1.Probe{TCP: &v1alpha1.TCPProbe{Port: intstr.FromString("admin")}}
	below := helper(t, "below", "env", v1alpha1.EnvVar{Name: "PORT", Value: "mine"})
	below.Spec.WorkingDirectory = "sub"
	below.Spec.Ports = []v1alpha1.WorkloadPort{{Name: "http", Port: 8083}}
	r.Use(setOf(dir, plain, below))

	for name, want := range map[string][]string{
		"plain": {"COLOUR=blue", "PORT=8081", "PORT_HTTP_ALT=8081", "PORT_ADMIN=8082", "WINDROSE_WORKLOAD=plain", "WINDROSE_NAMESPACE=default", "DIR=" + dir},
		"below": {"PORT=mine", "PORT_HTTP=8083", "DIR=" + filepath.Join(dir, "sub")},
	} {
		until(t, name+" has written its folder", func() bool {
			return slices.ContainsFunc(r.lines(name), func(l string) bool { return strings.HasPrefix(l, "DIR=") })
		})
		lines := r.lines(name)
		for _, w := range want {
			if !slices.Contains(lines, w) {
				t.Errorf("%s: no line %q in %q", name, w, lines)
			}
		}
		if slices.Contains(lines, "NOTIFY_SOCKET=/run/notify") {
			t.Errorf("%s: inherits windrose's own supervisor", name)
		}
	}
}

func TestACrashLoopPausesAndCounts(t *testing.T) {
	r := run(t, workload.Config{})
	r.Use(setOf("", command("crash", "sh", "-c", "echo oops >&2; exit 3")))
	until(t, "three restarts", func() bool {
		st := r.Statuses()[object.Name{Namespace: "default", Name: "crash"}]
		return st.Restarts >= 3
	})
	st := r.status(t, "crash", workload.ReasonBackOff)
	if m := st.Conditions[0].Message; !strings.Contains(m, "exit status 3") || !strings.Contains(m, "starts it again in") {
		t.Errorf("message %q", m)
	}
	if st.PID != 0 || st.Conditions[0].Status != metav1.ConditionFalse {
		t.Errorf("got %+v", st)
	}
	if got := r.Output(object.Name{Namespace: "default", Name: "crash"}); len(got) == 0 || got[0].Stream != "stderr" || got[0].Text != "oops" {
		t.Errorf("output %v", got)
	}
}

func TestACommandThatCannotStart(t *testing.T) {
	r := run(t, workload.Config{})
	nowhere := command("nowhere", "sleep", "1000")
	nowhere.Spec.WorkingDirectory = "/does/not/exist"
	r.Use(setOf("", command("unknown", "no-such-program-anywhere"), command("missing", "./no-such-file"), nowhere))
	for name, want := range map[string]string{
		"unknown": `"no-such-program-anywhere" is not in windrose's PATH`,
		"missing": "no-such-file",
		"nowhere": "/does/not/exist",
	} {
		st := r.status(t, name, workload.ReasonStartFailed)
		if m := st.Conditions[0].Message; !strings.Contains(m, want) {
			t.Errorf("%s: message %q, want %q in it", name, m, want)
		}
	}
}

func TestReadinessFollowsTheProbe(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "unready")
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, workload.Config{})
	w := helper(t, "app", "serve", v1alpha1.EnvVar{Name: "UNREADY", Value: flag})
	w.Spec.Ports = []v1alpha1.WorkloadPort{{Name: "http", Port: freePort(t)}}
	w.Spec.Readiness = &v1alpha1.Probe{
		HTTP:          &v1alpha1.HTTPProbe{Path: "/ready", Port: intstr.FromString("http")},
		PeriodSeconds: 1, FailureThreshold: 1,
	}
	r.Use(setOf("", w))
	until(t, "the probe is answered 503", func() bool {
		st := r.Statuses()[object.Name{Namespace: "default", Name: "app"}]
		return strings.Contains(st.Conditions[0].Message, "answers 503")
	})
	if got := r.reason("app"); got != workload.ReasonStarting {
		t.Errorf("before the first success: reason %q", got)
	}
	if err := os.Remove(flag); err != nil {
		t.Fatal(err)
	}
	first := r.status(t, "app", workload.ReasonRunning)
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	st := r.status(t, "app", workload.ReasonProbeFailed)
	if st.PID != first.PID || st.Conditions[0].Status != metav1.ConditionFalse {
		t.Errorf("got %+v: an unready workload keeps its process", st)
	}
}

func TestOnlyWhatTheProcessSeesRestartsIt(t *testing.T) {
	r := run(t, workload.Config{})
	old := command("app", "sleep", "1000")
	r.Use(setOf("", old))
	first := r.status(t, "app", workload.ReasonRunning)

	labelled := old.DeepCopy()
	labelled.Labels = map[string]string{"version": "2"}
	labelled.Spec.StopTimeoutSeconds = new(int32(5))
	labelled.Generation = 2
	r.Use(setOf("", labelled))
	until(t, "the generation is observed", func() bool {
		st := r.Statuses()[object.Name{Namespace: "default", Name: "app"}]
		return st.Conditions[0].ObservedGeneration == 2
	})
	if st := r.status(t, "app", workload.ReasonRunning); st.PID != first.PID {
		t.Errorf("a label restarted the process: %d, then %d", first.PID, st.PID)
	}

	changed := labelled.DeepCopy()
	changed.Spec.Env = []v1alpha1.EnvVar{{Name: "A", Value: "B"}}
	r.Use(setOf("", changed))
	until(t, "another process runs", func() bool {
		st := r.Statuses()[object.Name{Namespace: "default", Name: "app"}]
		return st.PID != 0 && st.PID != first.PID
	})
	if alive(int(first.PID)) {
		t.Error("the new process was started before the old one had ended")
	}
	if st := r.status(t, "app", workload.ReasonRunning); st.Restarts != 0 {
		t.Errorf("restarts %d after a change that the user made", st.Restarts)
	}
}

func TestAWorkloadThatComesBackWaitsForItsOldProcess(t *testing.T) {
	dir := t.TempDir()
	r := run(t, workload.Config{})
	script := `trap 'echo $$ > stopping; while ! [ -e go ]; do sleep 0.01; done; exit' TERM; echo $$ > started; while :; do sleep 0.01; done`
	w := command("app", "sh", "-c", script)
	r.Use(setOf(dir, w))
	first := pidIn(t, filepath.Join(dir, "started"))
	r.Use(setOf(dir))
	if got := r.Statuses(); len(got) != 0 {
		t.Errorf("statuses %v", got)
	}
	pidIn(t, filepath.Join(dir, "stopping"))
	r.Use(setOf(dir, w.DeepCopy()))
	if got := r.reason("app"); got != workload.ReasonStarting {
		t.Errorf("while the old process ends: %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	st := r.status(t, "app", workload.ReasonRunning)
	if int(st.PID) == first || alive(first) {
		t.Errorf("process %d still runs beside %d", first, st.PID)
	}
	r.Use(setOf(dir))
	until(t, "the process ends", func() bool { return !alive(int(st.PID)) })
}

func TestADeafProcessIsKilled(t *testing.T) {
	r := run(t, workload.Config{})
	w := helper(t, "deaf", "stubborn")
	w.Spec.StopTimeoutSeconds = new(int32(0))
	r.Use(setOf("", w))
	until(t, "it ignores SIGTERM", func() bool { return slices.Contains(r.lines("deaf"), "deaf") })
	r.stop()
	if log := r.log.String(); !strings.Contains(log, "signal: killed") {
		t.Errorf("log:\n%s", log)
	}
}

func TestKillEndsPatience(t *testing.T) {
	r := run(t, workload.Config{})
	w := helper(t, "deaf", "stubborn")
	w.Spec.StopTimeoutSeconds = new(int32(3600))
	r.Use(setOf("", w))
	until(t, "it ignores SIGTERM", func() bool { return slices.Contains(r.lines("deaf"), "deaf") })
	time.AfterFunc(10*time.Millisecond, r.Kill)
	r.stop()
}

func TestTheWholeGroupEnds(t *testing.T) {
	dir := t.TempDir()
	r := run(t, workload.Config{})
	r.Use(setOf(dir,
		command("parent", "sh", "-c", "sleep 1000 & echo $! > child; wait"),
		command("crash", "sh", "-c", "sleep 1000 & echo $! > lost; exit 1")))
	child := pidIn(t, filepath.Join(dir, "child"))
	lost := pidIn(t, filepath.Join(dir, "lost"))
	until(t, "what a crash left behind ends", func() bool { return !alive(lost) })
	r.stop()
	if alive(child) {
		t.Error("a child outlived its group")
	}
}

func pidIn(t *testing.T, file string) (pid int) {
	t.Helper()
	until(t, file, func() bool {
		data, err := os.ReadFile(file)
		if err != nil || !strings.HasSuffix(string(data), "\n") {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil
	})
	return pid
}

func TestAFloodOfOutputIsBounded(t *testing.T) {
	r := run(t, workload.Config{})
	long := `head -c 100000 /dev/zero | tr '\0' x; echo; printf 'a\033[31mb\377\n'; yes 0123456789 | head -n 200000; echo end; exec sleep 1000`
	r.Use(setOf("", command("flood", "sh", "-c", long)))
	until(t, "the flood ends", func() bool { l := r.lines("flood"); return len(l) > 0 && l[len(l)-1] == "end" })
	if got := len(r.lines("flood")); got > 100 {
		t.Errorf("%d lines are kept", got)
	}
	r.stop()
	log := r.log.String()
	if len(log) > 1<<20 {
		t.Errorf("%d bytes were logged", len(log))
	}
	for _, want := range []string{"xxx ...", "a[31mb", "were not logged"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log", want)
		}
	}
}

func TestLeftoversOfAKilledEngineEnd(t *testing.T) {
	state, dir := t.TempDir(), t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HELPER=engine", "STATE_DIR="+state)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first, second := pidIn(t, filepath.Join(dir, "pid1")), pidIn(t, filepath.Join(dir, "pid2"))
	cmd.Process.Kill()
	cmd.Wait()
	until(t, "the kernel kills the workload with its engine", func() bool { return !alive(first) })
	if !alive(second) {
		t.Fatal("the detached process is gone: nothing is left to find")
	}
	// A process that has taken the pid of a listed one must be spared.
	bystander := exec.Command("sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { bystander.Process.Kill(); bystander.Wait() }()
	list(t, state, bystander.Process.Pid)

	r := run(t, workload.Config{State: state})
	until(t, "the leftover ends", func() bool { return !alive(second) })
	r.Use(setOf("", command("app", "sleep", "1000")))
	r.status(t, "app", workload.ReasonRunning)
	if !alive(bystander.Process.Pid) {
		t.Error("a process that only has the pid of a listed one was ended")
	}
}

// list adds a pid with a wrong start time to the file of running processes.
func list(t *testing.T, state string, pid int) {
	t.Helper()
	file := filepath.Join(state, "workloads.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var book map[string]any
	if err := json.Unmarshal(data, &book); err != nil {
		t.Fatal(err)
	}
	book["processes"].(map[string]any)[strconv.Itoa(pid)] = 1
	if data, err = json.Marshal(book); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
