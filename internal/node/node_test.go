package node_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/admin"

	"windrose.dev/windrose/internal/dataplane"
	"windrose.dev/windrose/internal/node"
)

// The test binary is also the data plane that nodes start, a workload, and a
// node that is killed.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "dataplane":
		runDataPlane(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "listen":
		fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
	case os.Getenv("NODE_STATE") != "":
		cfg := config(os.Getenv("NODE_CONFIG"), os.Getenv("NODE_STATE"))
		cfg.Metrics, cfg.Health = os.Getenv("NODE_METRICS"), os.Getenv("NODE_HEALTH")
		if err := node.Run(context.Background(), cfg); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	default:
		os.Exit(m.Run())
	}
}

// broken is the address for metrics of a data plane that ends at once.
const broken = "broken"

func runDataPlane(args []string) {
	cfg := dataplane.Config{Node: node.DataPlaneName(os.Getpid()), Version: "test", Log: os.Stdout, Say: slog.New(slog.NewTextHandler(os.Stderr, nil)).Info}
	flags := flag.NewFlagSet("dataplane", flag.ExitOnError)
	flags.StringVar(&cfg.Feed, "feed", "", "")
	flags.StringVar(&cfg.Store, "store", "", "")
	flags.StringVar(&cfg.Metrics, "metrics", "", "")
	flags.StringVar(&cfg.Health, "health", "", "")
	flags.Func("take-over", "", func(pid string) error {
		n, err := strconv.Atoi(pid)
		cfg.TakeOver = append(cfg.TakeOver, n)
		return err
	})
	flags.Parse(args)
	if cfg.Metrics == broken {
		fmt.Fprintln(os.Stderr, "it cannot run")
		return
	}
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := dataplane.Run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func config(folder, state string) node.Config {
	return node.Config{
		Paths: []string{folder}, State: state, Admin: "127.0.0.1:0",
		Stdout: os.Stdout, Stderr: os.Stderr, Version: admin.Version{Version: "test"},
	}
}

// talk is what a node writes; the data plane writes to a file, which it may
// outlive.
type talk struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *talk) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func (w *talk) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// running is a node in this process.
type running struct {
	talk  *talk
	stop  context.CancelFunc
	abort chan struct{}
	done  chan error
}

func start(t *testing.T, w *world) *running {
	t.Helper()
	r := &running{talk: &talk{}, abort: make(chan struct{}), done: make(chan error, 1)}
	cfg := config(w.folder, w.state)
	cfg.Metrics = w.metrics
	cfg.Stdout, cfg.Stderr, cfg.Abort = r.talk, r.talk, r.abort
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- node.Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("the node said:\n%s", r.talk)
		}
	})
	return r
}

// end stops the node and waits.
func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the node does not end")
	}
}

// client finds the admin API in what the node said.
func (r *running) client(t *testing.T) *admin.Client {
	t.Helper()
	var addr string
	until(t, "the account is written", func() bool {
		_, rest, ok := strings.Cut(r.talk.String(), "  admin     http://")
		addr, _, _ = strings.Cut(rest, "\n")
		return ok && addr != ""
	})
	return admin.NewClient(addr)
}

func (r *running) planePID(t *testing.T) (pid int) {
	t.Helper()
	c := r.client(t)
	until(t, "a data plane is ready", func() bool {
		sum, err := c.Plan(t.Context())
		pid = sum.PID
		return err == nil && sum.Ready && pid != 0
	})
	return pid
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(data), ") Z ")
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// world is a folder of manifests with one gateway, and a backend.
type world struct {
	folder, state, url string
	metrics            string // address
}

func newWorld(t *testing.T) *world {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "behind "+r.URL.Path) }))
	t.Cleanup(backend.Close)
	port := freePort(t)
	w := &world{folder: t.TempDir(), // Longer than the name of a socket may be.
		state: filepath.Join(t.TempDir(), strings.Repeat("state", 25)), url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	_, backendPort, _ := net.SplitHostPort(backend.Listener.Addr().String())
	w.write(t, "gateway.yaml", fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: windrose}
spec: {controllerName: windrose.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: windrose
  addresses: [{type: IPAddress, value: 127.0.0.1}]
  listeners: [{name: http, protocol: HTTP, port: %d}]
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: app}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: windrose.dev/v1alpha1
kind: Workload
metadata: {name: app, labels: {app: app}}
spec: {address: 127.0.0.1, ports: [{name: http, port: %s}]}
`, port, backendPort))
	w.route(t, "/one")
	return w
}

// write puts a file into the folder at once.
func (w *world) write(t *testing.T, name, content string) {
	t.Helper()
	temp := filepath.Join(w.folder, "."+name)
	if err := os.WriteFile(temp, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, filepath.Join(w.folder, name)); err != nil {
		t.Fatal(err)
	}
}

func (w *world) route(t *testing.T, path string) {
	t.Helper()
	w.write(t, "route.yaml", fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app}
spec:
  parentRefs: [{name: web}]
  rules:
  - matches: [{path: {type: PathPrefix, value: %s}}]
    backendRefs: [{name: app, port: 80}]
`, path))
}

// get asks the gateway; 0 is no answer.
func (w *world) get(t *testing.T, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestStatusOfOthersStays: what other controllers wrote into the status of an
// object stays in the user's file, which is never written, and does not decide
// anything here.
//
// covers: GatewayPreserveForeignConditions HTTPRoutePreserveForeignStatus BackendTLSPolicyPreserveForeignStatus
func TestStatusOfOthersStays(t *testing.T) {
	w := newWorld(t)
	const foreign = `  conditions: [{type: example.com/Seen, status: "False", reason: Other, message: m, lastTransitionTime: "2026-01-01T00:00:00Z"}]`
	content := `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: second}
spec:
  gatewayClassName: windrose
  addresses: [{type: IPAddress, value: 127.0.0.1}]
  listeners: [{name: http, protocol: HTTP, port: ` + fmt.Sprint(freePort(t)) + `}]
status:
` + foreign + `
  listeners:
  - name: http
    supportedKinds: []
    attachedRoutes: 0
  ` + foreign + `
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: second}
spec:
  parentRefs: [{name: second}]
  rules: [{backendRefs: [{name: app, port: 80}]}]
status:
  parents:
  - controllerName: example.com/other
    parentRef: {name: second}
  ` + foreign + `
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: second}
spec:
  targetRefs: [{group: "", kind: Service, name: other}]
  validation: {hostname: a.example, wellKnownCACertificates: System}
status:
  ancestors:
  - controllerName: example.com/other
    ancestorRef: {name: second}
  ` + foreign + `
`
	w.write(t, "second.yaml", content)
	r := start(t, w)
	c := r.client(t)
	until(t, "the route is accepted", func() bool {
		items, err := c.Objects(t.Context(), admin.Selection{Kinds: []string{"HTTPRoute"}, Name: "second"})
		return err == nil && len(items) == 1 && strings.Contains(string(items[0].Object), `"Accepted"`) && len(items[0].Findings) == 0
	})
	r.end(t)
	if got, err := os.ReadFile(filepath.Join(w.folder, "second.yaml")); err != nil || string(got) != content {
		t.Errorf("the file was changed (%v):\n%s", err, got)
	}
}

func TestANodeServesAndFollowsItsFolder(t *testing.T) {
	w := newWorld(t)
	r := start(t, w)
	pid := r.planePID(t)
	if got := w.get(t, "/one"); got != 200 {
		t.Errorf("GET /one: %d", got)
	}
	if os.Geteuid() == 0 {
		checkRights(t, pid)
	}
	for _, want := range []string{"listens   " + w.url + "/ on 127.0.0.1:", "1 HTTPRoute", "  state     " + w.state} {
		if !strings.Contains(r.talk.String(), want) {
			t.Errorf("no %q in what it said", want)
		}
	}
	w.route(t, "/two")
	until(t, "the change is live", func() bool { return w.get(t, "/two") == 200 && w.get(t, "/one") == 404 })
	until(t, "the change is told", func() bool {
		return strings.Contains(r.talk.String(), "HTTPRoute default/app changed") && strings.Contains(r.talk.String(), "applied 1 change in ")
	})
	w.write(t, "route.yaml", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: app}\nspec: {rulez: []}\n")
	until(t, "the finding is told with its place", func() bool { return strings.Contains(r.talk.String(), "route.yaml:4:8: error: HTTPRoute default/app") })
	if got := w.get(t, "/two"); got != 200 {
		t.Errorf("a bad version took the good one away: %d", got)
	}
	r.end(t)
	if alive(pid) {
		t.Error("the data plane outlived a node that ended in order")
	}
}

// checkRights looks whether the data plane can bind low ports and no more.
func checkRights(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nUid:\t65534\t65534\t65534\t65534\n", "\nCapEff:\t0000000000000400\n", "\nNoNewPrivs:\t1\n", "\nGroups:\t \n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in its status:\n%s", want, status)
		}
	}
}

func TestWorkloadsAreEndpointsWhileTheyAreReady(t *testing.T) {
	w := newWorld(t)
	gate := filepath.Join(w.folder, "gate")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.write(t, "workload.yaml", fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: run}
spec: {selector: {app: run}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: windrose.dev/v1alpha1
kind: Workload
metadata: {name: run, labels: {app: run}}
spec:
  command: [sh, -c, "while ! [ -s gate ]; do sleep 0.01; done; exec %s listen"]
  ports: [{name: http, port: %d}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: run}
spec:
  parentRefs: [{name: web}]
  hostnames: [127.0.0.1.example]
  rules: [{backendRefs: [{name: run, port: 80}]}]
`, program, freePort(t)))
	r := start(t, w)
	c := r.client(t)
	r.planePID(t)
	endpoints := func() int {
		items, err := c.Objects(t.Context(), admin.Selection{Kinds: []string{"Service"}, Name: "run", Details: true})
		if err != nil || len(items) != 1 || len(items[0].Endpoints) != 1 {
			return -1
		}
		return len(items[0].Endpoints[0].Endpoints)
	}
	if got := endpoints(); got != 0 {
		t.Errorf("%d endpoints before it listens", got)
	}
	if err := os.WriteFile(gate, []byte("open"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "it is an endpoint", func() bool { return endpoints() == 1 })
	r.end(t)
}

func TestASecondNodeOnTheSameStateIsRefused(t *testing.T) {
	w := newWorld(t)
	r := start(t, w)
	r.planePID(t)
	err := node.Run(t.Context(), config(w.folder, w.state))
	var inUse *node.InUseError
	if !errors.As(err, &inUse) || inUse.PID != fmt.Sprint(os.Getpid()) {
		t.Errorf("got %v", err)
	}
	r.end(t)
	again := start(t, w)
	again.planePID(t)
	again.end(t)
}

// The data plane, which reads what strangers send, is given nothing that it does
// not need.
func TestTheDataPlaneInheritsNothing(t *testing.T) {
	t.Setenv("TOKEN_OF_THE_OPERATOR", "hunter2")
	t.Setenv("GOGC", "77")
	pipe, _, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if _, err := unix.FcntlInt(pipe.Fd(), unix.F_SETFD, 0); err != nil { // as if from a shell
		t.Fatal(err)
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", pipe.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := node.KeepDescriptors(); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	r := start(t, w)
	proc := fmt.Sprintf("/proc/%d/", r.planePID(t))
	env, err := os.ReadFile(proc + "environ")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(env), "hunter2") || !strings.Contains(string(env), "GOGC=77") {
		t.Errorf("environment %q", env)
	}
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if got, _ := os.Readlink(proc + "fd/" + f.Name()); got == link {
			t.Errorf("descriptor %s is a file of who started windrose", f.Name())
		}
	}
	r.end(t)
}

func TestADataPlaneThatDiesIsStartedAgain(t *testing.T) {
	w := newWorld(t)
	r := start(t, w)
	first := r.planePID(t)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "another one serves", func() bool { return r.planePID(t) != first && w.get(t, "/one") == 200 })
	r.end(t)
}

// orphan runs a node in another process, kills it, and gives the pid of the
// data plane that it left.
func orphan(t *testing.T, w *world, health string) int {
	t.Helper()
	return orphanOf(t, w, health, "/one")
}

// orphanOf is orphan, where path is what is served when the node is killed.
func orphanOf(t *testing.T, w *world, health, path string) int {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "orphan.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "NODE_STATE="+w.state, "NODE_CONFIG="+w.folder, "NODE_METRICS="+w.metrics, "NODE_HEALTH="+health)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the other node serves", func() bool { return w.get(t, path) == 200 })
	cmd.Process.Kill()
	cmd.Wait()
	data, err := os.ReadFile(filepath.Join(w.state, "dataplane.json"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscanf(string(data), `{"pid":%d`, &pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && alive(pid) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return pid
}

func TestTheNextNodeGoesOnWithTheDataPlaneOfAKilledOne(t *testing.T) {
	w := newWorld(t)
	pid := orphan(t, w, "")
	if got := w.get(t, "/one"); got != 200 {
		t.Errorf("without a node: %d", got)
	}
	w.route(t, "/two")
	r := start(t, w)
	if got := r.planePID(t); got != pid {
		t.Errorf("data plane %d, want %d, which was there", got, pid)
	}
	if got := w.get(t, "/two"); got != 200 {
		t.Errorf("what changed meanwhile: %d", got)
	}
	r.end(t)
	if alive(pid) {
		t.Error("the adopted data plane was not ended")
	}
}

func TestADataPlaneWithOtherArgumentsIsReplacedWithoutAGap(t *testing.T) {
	w := newWorld(t)
	w.metrics = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	pid := orphan(t, w, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	stop := make(chan struct{})
	failures := make(chan int, 1)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				failures <- n
				return
			default:
				if w.get(t, "/one") != 200 {
					n++
				}
			}
		}
	}()
	r := start(t, w)
	next := r.planePID(t)
	if next == pid {
		t.Error("the data plane was not replaced")
	}
	until(t, "the old data plane ends", func() bool { return !alive(pid) })
	close(stop)
	if n := <-failures; n > 0 {
		t.Errorf("%d requests failed", n)
	}
	until(t, "the new data plane answers scrapes at the old one's address", func() bool {
		resp, err := http.Get("http://" + w.metrics + "/metrics")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	r.end(t)
}

// A data plane that cannot run must not cost the one that it was to replace,
// not even when the node is killed meanwhile.
func TestADataPlaneServesUntilItsReplacementDoes(t *testing.T) {
	w := newWorld(t)
	pid := orphan(t, w, "")
	w.metrics = broken
	w.route(t, "/two")
	next := orphanOf(t, w, "", "/two")
	if next == pid || !alive(pid) {
		t.Fatalf("data plane %d was to be replaced by %d, and lives: %v", pid, next, alive(pid))
	}
	r := start(t, w)
	until(t, "the new one was started three times", func() bool { return strings.Count(r.talk.String(), "data plane started") >= 3 })
	if got := w.get(t, "/two"); got != 200 || !alive(pid) {
		t.Errorf("got %d from the old data plane, which lives: %v", got, alive(pid))
	}
	r.end(t)
	if alive(pid) {
		t.Error("the old data plane was not ended with the node")
	}
}

func TestAbortEndsPatience(t *testing.T) {
	w := newWorld(t)
	w.write(t, "deaf.yaml", `apiVersion: windrose.dev/v1alpha1
kind: Workload
metadata: {name: deaf}
spec:
  command: [sh, -c, "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"]
  stopTimeoutSeconds: 3600
`)
	r := start(t, w)
	r.planePID(t)
	var pid int
	until(t, "the workload runs", func() bool {
		data, err := os.ReadFile(filepath.Join(w.folder, "pid"))
		if err != nil {
			return false
		}
		_, err = fmt.Sscan(string(data), &pid)
		return err == nil
	})
	r.stop()
	until(t, "it begins to end", func() bool { return strings.Contains(r.talk.String(), "windrose ends") })
	close(r.abort)
	r.end(t)
	if alive(pid) {
		t.Error("the workload still runs")
	}
}

func TestWhatCannotStartSaysWhy(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cfg := config(t.TempDir(), t.TempDir())
	cfg.Admin = ln.Addr().String()
	if err := node.Run(t.Context(), cfg); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("admin address in use: %v", err)
	}
	cfg = config(t.TempDir(), t.TempDir())
	broken := filepath.Join(cfg.State, "session.key")
	if err := os.WriteFile(broken, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := node.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), broken) || strings.Contains(err.Error(), "short") {
		t.Errorf("a key of sessions that is none: %v", err)
	}
	cfg = config(t.TempDir(), filepath.Join("/proc", "nowhere"))
	if err := node.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "/proc/nowhere") {
		t.Errorf("state folder that cannot be made: %v", err)
	}
}
