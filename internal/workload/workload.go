// Package workload is the one-machine engine: it runs what stands behind a
// Service on a machine without Kubernetes.
//
// A Workload with a command becomes a process: started, its output logged,
// probed, started again with growing pauses when it ends, and stopped with
// SIGTERM and then SIGKILL. A Workload with only an address is somebody else's
// process; the engine at most probes it. What the engine finds out is a
// WorkloadStatus for each object; whoever translates objects into endpoints
// uses those that are Ready.
//
// Promises:
//   - A process never outlives windrose: it leads a session of its own and is
//     killed by the kernel when windrose dies, and what it left behind is found
//     at the next start by a mark in its environment and a file in the state
//     folder, never by its name.
//   - A stopped process leaves the endpoints first, then gets a short grace for
//     requests in flight, then SIGTERM, then, after stopTimeoutSeconds,
//     SIGKILL. Signals go to the whole process group.
//   - A changed command, environment, port or working directory stops the old
//     process and then starts the new one, because both may want the same
//     port. Other changes (labels, probes, timeouts) do not touch the process.
//   - Output, memory and goroutines are bounded, whatever a process does.
//
// A command runs as the user who runs windrose and inherits windrose's
// environment, plus WINDROSE_WORKLOAD, WINDROSE_NAMESPACE, PORT (the first
// port), PORT_NAME for each port, and what spec.env says, which wins. It starts
// in spec.workingDirectory, or else in the folder of its manifest. Processes
// that a command detaches into a session of their own are not followed while
// windrose runs.
package workload

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/wait"
)

// ConditionReady is the type of the condition that says whether a workload
// takes requests.
const ConditionReady = "Ready"

// The reasons of the Ready condition.
const (
	ReasonRunning     = "Running"
	ReasonStarting    = "Starting"
	ReasonProbeFailed = "ProbeFailed"
	ReasonBackOff     = "BackOff"
	ReasonStopped     = "Stopped"
	ReasonStartFailed = "StartFailed"
)

// Config says how an Engine works. Zero fields have the defaults given.
type Config struct {
	// State is the folder in which the engine remembers its processes, so that
	// the next start can end what a killed windrose left. Empty: not remembered.
	State string
	// Log takes the engine's words and the processes' output. Nil: neither.
	Log *slog.Logger
	// Grace is the time between leaving the endpoints and SIGTERM. Default 1s.
	Grace time.Duration
	// BackoffMin and BackoffMax bound the pause before a process is started
	// again. Defaults 1s and 30s.
	BackoffMin, BackoffMax time.Duration
	// Healthy is how long a process must have run for its next pause to be
	// BackoffMin again. Default 60s.
	Healthy time.Duration
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.Grace, time.Second}, {&c.BackoffMin, time.Second}, {&c.BackoffMax, 30 * time.Second}, {&c.Healthy, time.Minute}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return c
}

// Engine runs workloads. Use and Statuses may be called from any goroutine,
// before and while Run runs.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	wake    chan struct{} // Use has been called
	changes chan struct{}
	ended   chan *unit    // a unit whose workload is gone has finished
	kill    chan struct{} // closed: no more patience with processes
	killed  sync.Once
	starter starter
	ledger  *ledger

	mu       sync.Mutex // guards what follows
	targets  map[object.Name]*target
	statuses map[object.Name]v1alpha1.WorkloadStatus
	outputs  map[object.Name]*output
}

// New makes an engine; nothing runs before Run.
func New(cfg Config) *Engine {
	cfg = cfg.withDefaults()
	return &Engine{
		cfg:      cfg,
		log:      cfg.Log,
		wake:     make(chan struct{}, 1),
		changes:  make(chan struct{}, 1),
		ended:    make(chan *unit),
		kill:     make(chan struct{}),
		starter:  make(starter),
		targets:  map[object.Name]*target{},
		statuses: map[object.Name]v1alpha1.WorkloadStatus{},
		outputs:  map[object.Name]*output{},
	}
}

// target is one Workload as it should be.
type target struct {
	obj *v1alpha1.Workload
	dir string // working directory of the command
}

func newTarget(w *v1alpha1.Workload, place object.Place) *target {
	dir := w.Spec.WorkingDirectory
	if !filepath.IsAbs(dir) && place.File != "" {
		dir = filepath.Join(filepath.Dir(place.File), dir)
	}
	if dir == "" {
		dir = "."
	}
	return &target{obj: w, dir: dir}
}

// managed says whether the workload needs a goroutine: a process to run or an
// address to probe.
func (t *target) managed() bool { return len(t.obj.Spec.Command) > 0 || t.obj.Spec.Readiness != nil }

func (t *target) address() string {
	if t.obj.Spec.Address == "" && len(t.obj.Spec.Command) > 0 {
		return "127.0.0.1"
	}
	return t.obj.Spec.Address
}

// sameProcess says whether the running process serves o as well.
func (t *target) sameProcess(o *target) bool {
	a, b := &t.obj.Spec, &o.obj.Spec
	return t.dir == o.dir && slices.Equal(a.Command, b.Command) && slices.Equal(a.Env, b.Env) && slices.Equal(a.Ports, b.Ports)
}

// Use makes the workloads of set the wanted ones. It does not wait for
// processes, but a workload that needs neither process nor probe has its status
// when Use returns.
func (e *Engine) Use(set *object.Set) {
	e.mu.Lock()
	defer e.mu.Unlock()
	targets := make(map[object.Name]*target, set.Workloads.Len())
	for _, w := range set.Workloads.All() {
		name := object.NameOf(w)
		t := newTarget(w, set.Places[object.Key{Kind: "Workload", Namespace: name.Namespace, Name: name.Name}])
		if old, ok := e.targets[name]; ok && old.obj == w && old.dir == t.dir {
			t = old
		}
		targets[name] = t
		if !t.managed() {
			e.set(name, addressStatus(t))
		} else if _, ok := e.statuses[name]; !ok {
			e.set(name, status(t, metav1.ConditionFalse, ReasonStarting, "windrose has not started it yet"))
		}
	}
	e.targets = targets
	for name := range e.statuses {
		if _, ok := targets[name]; !ok {
			delete(e.statuses, name)
			delete(e.outputs, name)
		}
	}
	wait.Signal(e.wake)
}

func addressStatus(t *target) v1alpha1.WorkloadStatus {
	if _, err := netip.ParseAddr(t.address()); err != nil {
		return status(t, metav1.ConditionFalse, ReasonStartFailed, "spec.address is not an IP address")
	}
	return status(t, metav1.ConditionTrue, ReasonRunning, "the address is taken as ready: it has no readiness probe")
}

func status(t *target, ready metav1.ConditionStatus, reason, message string) v1alpha1.WorkloadStatus {
	return v1alpha1.WorkloadStatus{
		Address: t.address(),
		Conditions: []metav1.Condition{{
			Type: ConditionReady, Status: ready, Reason: reason, Message: message, ObservedGeneration: t.obj.Generation,
		}},
	}
}

// publish records a status, if the workload is still wanted.
func (e *Engine) publish(name object.Name, st v1alpha1.WorkloadStatus) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.targets[name]; ok {
		e.set(name, st)
	}
}

// set needs e.mu.
func (e *Engine) set(name object.Name, st v1alpha1.WorkloadStatus) {
	c := &st.Conditions[0]
	c.LastTransitionTime = metav1.NewTime(time.Now().Truncate(time.Second))
	if old, ok := e.statuses[name]; ok {
		if o := old.Conditions[0]; o.Status == c.Status {
			c.LastTransitionTime = o.LastTransitionTime
			if o == *c && old.Address == st.Address && old.PID == st.PID && old.Restarts == st.Restarts {
				return
			}
		}
	}
	e.statuses[name] = st
	wait.Signal(e.changes)
}

// Changes tells that Statuses gives something new. One signal may stand for
// many changes.
func (e *Engine) Changes() <-chan struct{} { return e.changes }

// Statuses gives the status of every workload in use. The caller may keep the
// map but must not change the statuses' conditions.
func (e *Engine) Statuses() map[object.Name]v1alpha1.WorkloadStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.statuses)
}

// Output gives the last lines that a workload's process wrote, oldest first.
func (e *Engine) Output(name object.Name) []Line {
	e.mu.Lock()
	o := e.outputs[name]
	e.mu.Unlock()
	if o == nil {
		return nil
	}
	return o.lines()
}

// outputOf makes the output of a workload or finds that of its last process.
func (e *Engine) outputOf(name object.Name) *output {
	e.mu.Lock()
	defer e.mu.Unlock()
	o := e.outputs[name]
	if o == nil {
		o = newOutput(e.log.With("workload", name.String()))
		if _, ok := e.targets[name]; ok {
			e.outputs[name] = o
		}
	}
	return o
}

// Run ends what an earlier engine left, and then runs the workloads that Use
// names until ctx ends; then it stops them, without the grace, because whoever
// ends ctx has already taken them out of traffic. It returns when all have
// ended.
func (e *Engine) Run(ctx context.Context) error {
	if e.cfg.State != "" {
		if err := os.MkdirAll(e.cfg.State, 0o700); err != nil {
			return err
		}
		l, err := openLedger(e.cfg.State)
		if err != nil {
			return err
		}
		l.endLeftovers(ctx, e.log)
		e.ledger = l
	}
	// Closed last: the kernel kills the processes when this thread ends.
	defer close(e.starter)
	go e.starter.run()

	var wg sync.WaitGroup
	defer wg.Wait()
	units := map[object.Name]*unit{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-e.ended:
			delete(units, u.name)
			e.reconcile(ctx, units, &wg)
		case <-e.wake:
			e.reconcile(ctx, units, &wg)
		}
	}
}

// Kill ends patience: every process that still runs, or is being stopped, is
// killed, and Run's context should end.
func (e *Engine) Kill() { e.killed.Do(func() { close(e.kill) }) }

// reconcile tells every unit what it should be. A unit that is going away is
// kept until it says so itself, so that a workload that comes back waits for
// its old process.
func (e *Engine) reconcile(ctx context.Context, units map[object.Name]*unit, wg *sync.WaitGroup) {
	e.mu.Lock()
	targets := e.targets
	e.mu.Unlock()
	for name, u := range units {
		t := targets[name]
		if t != nil && !t.managed() {
			t = nil
		}
		if u.sent != t {
			u.sent = t
			u.tell(t)
		}
	}
	for name, t := range targets {
		if units[name] != nil || !t.managed() {
			continue
		}
		u := newUnit(e, name)
		u.sent = t
		u.tell(t)
		units[name] = u
		wg.Go(func() { u.run(ctx) })
	}
}
