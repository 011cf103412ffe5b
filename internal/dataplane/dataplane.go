// Package dataplane is the process that carries traffic: it wires the plan
// stream, the plan's builder, upstreams, the proxy and telemetry, and answers
// health checks and scrapes. It imports nothing of Kubernetes and does not know
// where its plan comes from.
//
//	feed.Client --delta--> Builder --plan--> upstream.Table --view--> proxy.Use --problems--> ack
//
// It outlives the control part: without one it goes on with the plan it has,
// and a data plane that starts then serves what its store holds.
package dataplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/feed"
	"windrose.dev/windrose/internal/memory"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/procfs"
	"windrose.dev/windrose/internal/proxy"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/tap"
	"windrose.dev/windrose/internal/telemetry"
	"windrose.dev/windrose/internal/upstream"
	"windrose.dev/windrose/internal/wait"
)

// Config of a data plane.
type Config struct {
	Feed    string // path of the control part's unix socket
	Store   string // path of the stored plan; empty: none
	Node    string // name by which the control part knows this data plane
	Version string // of windrose
	Metrics string // address of /metrics; empty: none
	Health  string // address of /healthz/live and /healthz/ready; empty: none
	// TakeOver are the processes of data planes that serve the same addresses and
	// will drain as soon as this one does.
	TakeOver []int
	Log      io.Writer // access log
	// Say is told what an operator should know; it may be called from any
	// goroutine.
	Say func(message string, args ...any)
}

const (
	// patience is how long a data plane that starts waits for the control part
	// before it serves the stored plan.
	patience = time.Second
	// saveAfter gathers changes before the plan is stored again.
	saveAfter = 500 * time.Millisecond
	// saveAgain is when the plan is stored that could not be, for want of room on
	// the disk as it may be.
	saveAgain = 5 * time.Second
	// bindAgain is how often a socket that could not be bound is tried again.
	bindAgain = 2 * time.Second
	// trimAfter is how long after a change or a burst of handshakes memory is given
	// back to the system.
	trimAfter = time.Second
	// trimEvery is how often it is while handshakes do not end.
	trimEvery = 10 * time.Second
)

// Run carries traffic until ctx ends; then it drains and returns.
func Run(ctx context.Context, cfg Config) error {
	debug.SetGCPercent(gcPercent)
	memory.Trim()
	d, err := newDataPlane(ctx, cfg)
	if err != nil {
		return err
	}
	return d.run(ctx)
}

// What lives long is small (the plan) and what does not is rare, so collecting
// early costs little and keeps the process small: gcPercent. Handshakes leave so
// much that collecting early would cost a tenth of each: while there are many,
// it is busyPercent.
const (
	gcPercent   = 50
	busyPercent = 200
)

type dataPlane struct {
	cfg      Config
	logs     *telemetry.Log
	hub      *telemetry.Hub
	traces   *telemetry.Traces
	seen     *tap.Hub // of single requests
	proxy    *proxy.Proxy
	table    *upstream.Table
	store    feed.Store
	client   *feed.Client
	answerer *feed.Answerer
	refresh  chan struct{} // size 1: addresses of external names changed
	churned  chan struct{} // size 1: handshakes left garbage
	broken   chan struct{} // size 1: a socket could not be bound

	mu           sync.Mutex // guards what follows: the state of configuration
	builder      *plan.Builder
	plan         *plan.Plan
	parts        map[plan.Key]*plan.Part
	stored       []plan.Part // what the first delta is relative to, until it came
	version      uint64
	applied      bool           // a plan is in use
	problems     []plan.Problem // of the plan and of its sockets
	planProblems []plan.Problem
	draining     bool
	changed      chan struct{} // size 1: parts are to be stored
}

func newDataPlane(ctx context.Context, cfg Config) (*dataPlane, error) {
	d := &dataPlane{
		cfg:     cfg,
		logs:    telemetry.NewLog(cfg.Log, 0),
		traces:  telemetry.NewTraces(cfg.Version, cfg.Say),
		builder: plan.NewBuilder(),
		parts:   map[plan.Key]*plan.Part{},
		store:   feed.Store{Path: cfg.Store},
		broken:  make(chan struct{}, 1),
		churned: make(chan struct{}, 1),
		refresh: make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
	}
	d.seen = tap.NewHub(runtime.GOMAXPROCS(0))
	d.hub = telemetry.NewHub(telemetry.Config{
		Version: cfg.Version, Process: "dataplane", Log: d.logs, Traces: d.traces,
		Watch: func(post func(func()) error) func(*record.Record) { return d.seen.Attach(post).Emit },
		Services: func(yield func(string, telemetry.ServiceState)) {
			d.proxy.Services(func(name string, active, endpoints, out int) {
				yield(name, telemetry.ServiceState{Active: active, Endpoints: endpoints, LeftOut: out})
			})
		},
	})
	var err error
	d.proxy, err = proxy.New(proxy.Config{
		Loops: runtime.GOMAXPROCS(0), Hub: d.hub, Log: cfg.Say, Churn: func() { wait.Signal(d.churned) }, Share: predecessors(cfg.TakeOver),
	})
	if err != nil {
		return nil, err
	}
	resolver := &net.Resolver{PreferGo: true}
	d.table = upstream.NewTable(ctx, upstream.Config{
		Lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return resolver.LookupNetIP(ctx, "ip", host)
		},
		Changed: func() { wait.Signal(d.refresh) },
	})
	if cfg.Store != "" {
		d.stored, err = d.store.Load()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			cfg.Say("the stored plan is not used", "error", err)
		}
	}
	d.client = &feed.Client{Node: cfg.Node, Build: cfg.Version, Held: d.stored}
	d.answerer = &feed.Answerer{Node: cfg.Node, Build: cfg.Version, Answer: d.answer}
	return d, nil
}

// run starts every part and waits for all of them. The order of the end is:
// stop taking plans, drain, stop the loops, write the last lines of the log and
// send the last spans.
func (d *dataPlane) run(ctx context.Context) error {
	loopCtx, endLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer endLoops()
	logCtx, endLog := context.WithCancel(context.WithoutCancel(ctx))
	defer endLog()
	var loops, logs, rest sync.WaitGroup
	var loopErr, logErr error
	failed, fail := context.WithCancel(ctx)
	defer fail()
	logs.Go(func() { logErr = d.logs.Run(logCtx) })
	logs.Go(func() { d.traces.Run(logCtx) })
	loops.Go(func() { loopErr = d.proxy.Run(loopCtx); fail() })

	serveErrs := make(chan error, 2)
	rest.Go(func() { serveErrs <- d.serve(failed, d.cfg.Metrics, d.metricsHandler()) })
	rest.Go(func() { serveErrs <- d.serve(loopCtx, d.cfg.Health, d.healthHandler()) })
	rest.Go(func() { d.follow(failed) })
	// What the last requests met with is worth seeing: it ends after the drain.
	rest.Go(func() { _ = d.answerer.Run(loopCtx, d.dial) }) // its error is the context's
	rest.Go(func() { d.spare(loopCtx) })
	rest.Go(func() { d.keep(failed) })
	rest.Go(func() { d.mend(failed) })
	select {
	case <-failed.Done():
	case err := <-serveErrs:
		d.cfg.Say("cannot answer scrapes or health checks", "error", err)
		<-failed.Done()
	}
	d.drain()
	endLoops()
	loops.Wait()
	fail()
	rest.Wait()
	endLog()
	logs.Wait()
	return errors.Join(loopErr, logErr)
}

// predecessors says which addresses may be bound although they are taken: those
// that no other processes hold than these. One that has ended holds none.
func predecessors(pids []int) func(addr netip.AddrPort, udp bool) bool {
	var holders []*procfs.Holder
	for _, pid := range pids {
		if h, err := procfs.Hold(pid); err == nil {
			holders = append(holders, h)
		}
	}
	return func(addr netip.AddrPort, udp bool) bool { return procfs.HeldBy(holders, addr, udp) }
}

// spare has the proxy take on nothing new while the process is near its limit of
// memory.
func (d *dataPlane) spare(ctx context.Context) {
	limit := memory.SetLimit()
	memory.Watch(ctx, limit, func(short bool) {
		if !short {
			d.cfg.Say("there is memory again: requests are served")
			d.proxy.Short("")
			return
		}
		why := fmt.Sprintf("windrose is near its limit of memory, %d MiB: GOMEMLIMIT, or that of its control group, or half of the machine's", limit>>20)
		d.cfg.Say("new requests are refused", "reason", why)
		d.proxy.Short(why)
	})
}

func (d *dataPlane) drain() {
	d.mu.Lock()
	d.draining = true
	d.mu.Unlock()
	d.proxy.Drain(context.Background())
}

// follow takes plans from the control part, and the stored one if there is none
// for a while.
func (d *dataPlane) follow(ctx context.Context) {
	stored := time.AfterFunc(patience, d.useStored)
	defer stored.Stop()
	if err := d.client.Run(ctx, d.dial, d.apply); err != nil && ctx.Err() == nil {
		d.cfg.Say("the plan stream has ended", "error", err)
	}
}

// dial connects to the control part.
func (d *dataPlane) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", d.cfg.Feed)
}

// answer answers a question of the control part about single requests.
func (d *dataPlane) answer(ctx context.Context, question []byte, send feed.Send) error {
	var q tap.Question
	if err := json.Unmarshal(question, &q); err != nil {
		return fmt.Errorf("the question is not understood: %w", err)
	}
	return d.seen.Answer(ctx, &q, func(a *tap.Answer) error { return send(a, len(a.Events)+int(a.Dropped)) })
}

// useStored serves the stored plan, unless the control part was quicker.
func (d *dataPlane) useStored() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.applied || d.draining || len(d.stored) == 0 {
		return
	}
	d.cfg.Say("the control part does not answer: serving the stored plan", "parts", len(d.stored))
	d.use(d.stored, nil)
}

// apply takes a delta from the control part.
func (d *dataPlane) apply(delta feed.Delta) feed.Ack {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining {
		return feed.Ack{Version: delta.Version, Refused: "the data plane is draining"}
	}
	d.version = delta.Version
	parts := delta.Parts
	if !d.applied {
		// A builder removes before it adds, so what is stored goes in without what
		// has left since. Of two parts with one key the later counts.
		gone := make(map[plan.Key]bool, len(delta.Removed))
		for _, k := range delta.Removed {
			gone[k] = true
		}
		stays := slices.DeleteFunc(d.stored, func(p plan.Part) bool { return gone[p.Key] })
		parts = append(stays, parts...)
	}
	d.use(parts, delta.Removed)
	return feed.Ack{Version: delta.Version, Problems: d.problems}
}

// use puts changed parts into effect. The caller holds d.mu.
func (d *dataPlane) use(parts []plan.Part, removed []plan.Key) {
	for _, k := range removed {
		delete(d.parts, k)
	}
	for i := range parts {
		d.parts[parts[i].Key] = &parts[i]
	}
	d.hub.Use(d.version, namesOf(partKeys(parts)), namesOf(removed))
	d.plan, d.planProblems = d.builder.Apply(parts, removed)
	d.bind()
	d.applied, d.stored = true, nil
	wait.Signal(d.changed)
}

// bind has the proxy take up the plan, and notes what it could not do. The
// caller holds d.mu.
func (d *dataPlane) bind() {
	problems := slices.Clone(d.planProblems)
	up := d.table.Use(d.plan)
	d.useTraces(d.plan, up)
	for _, p := range d.proxy.Use(d.plan, up) {
		reason := reasonNotUsable
		if p.Partly {
			reason = plan.PartlyServed
		}
		problems = append(problems, plan.Problem{
			Key:    plan.Key{Kind: plan.KindSocket, Name: p.Socket},
			Reason: reason, Message: unusable(p.Err),
		})
		wait.Signal(d.broken)
	}
	d.problems = problems
}

// unusable says why a socket could not be bound, and what to do where that is
// not plain.
func unusable(err error) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return err.Error() + ": another program listens there, ss -ltunp names it"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return err.Error() + ": this machine has no such address, ip address lists those it has"
	case errors.Is(err, os.ErrPermission):
		return err.Error() + ": a port this low needs root or CAP_NET_BIND_SERVICE (setcap cap_net_bind_service=ep on windrose's file); or take a higher one"
	}
	return err.Error()
}

// mend takes up new addresses of external names, and tries again to bind what
// could not be bound.
func (d *dataPlane) mend(ctx context.Context) {
	retry := time.NewTimer(0)
	<-retry.C
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.refresh:
			d.mu.Lock()
			up := d.table.View()
			d.proxy.Refresh(up)
			if d.plan != nil {
				d.useTraces(d.plan, up)
			}
			d.mu.Unlock()
		case <-d.broken:
			retry.Reset(bindAgain)
		case <-retry.C:
			d.bindAgain()
		}
	}
}

func (d *dataPlane) bindAgain() {
	d.mu.Lock()
	if d.draining {
		d.mu.Unlock()
		return
	}
	before := len(d.problems)
	d.bind()
	problems := d.problems
	d.mu.Unlock()
	if len(problems) != before {
		d.client.Report(problems)
	}
}

// keep stores the plan and gives memory back, a while after changes.
func (d *dataPlane) keep(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-again:
			again = nil
			if !d.save() {
				again = time.After(saveAgain)
			}
			continue
		case <-d.changed:
			if !wait.Sleep(ctx, saveAfter) {
				return
			}
			again = nil
			if !d.save() {
				again = time.After(saveAgain)
			}
		case <-d.churned:
			debug.SetGCPercent(busyPercent)
		}
		d.settle(ctx)
		debug.SetGCPercent(gcPercent)
		memory.Trim()
	}
}

// settle waits until nothing has left garbage for a moment. While connections
// keep coming there always is some: it is taken away once in a while, not all the
// time.
func (d *dataPlane) settle(ctx context.Context) {
	most := time.NewTimer(trimEvery)
	defer most.Stop()
	for {
		still := time.NewTimer(trimAfter)
		select {
		case <-d.churned:
			still.Stop()
		case <-still.C:
			return
		case <-most.C:
			still.Stop()
			return
		case <-ctx.Done():
			still.Stop()
			return
		}
	}
}

// save stores the plan; it says whether that is done.
func (d *dataPlane) save() bool {
	if d.store.Path == "" {
		return true
	}
	d.mu.Lock()
	parts := make([]*plan.Part, 0, len(d.parts))
	for _, p := range d.parts {
		parts = append(parts, p)
	}
	d.mu.Unlock()
	if err := d.store.Save(parts); err != nil {
		d.cfg.Say("cannot store the plan: after a restart windrose begins with an older one", "error", err, "retry", saveAgain)
		return false
	}
	return true
}

func partKeys(parts []plan.Part) []plan.Key {
	keys := make([]plan.Key, len(parts))
	for i := range parts {
		keys[i] = parts[i].Key
	}
	return keys
}

// namesOf gives the keys that have metrics of their own.
func namesOf(keys []plan.Key) telemetry.Names {
	var n telemetry.Names
	for _, k := range keys {
		switch k.Kind {
		case plan.KindRoute:
			n.Routes = append(n.Routes, k.Name)
		case plan.KindService:
			n.Services = append(n.Services, k.Name)
		case plan.KindSocket:
			n.Sockets = append(n.Sockets, k.Name)
		case plan.KindSettings, plan.KindListener, plan.KindCertificate, plan.KindTracing:
		}
	}
	return n
}

// reasonNotUsable is the reason of a Problem with a socket: Gateway API's word
// for an address that cannot be used.
const reasonNotUsable = "AddressNotUsable"
