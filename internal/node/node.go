// Package node is one running windrose on one machine: it builds every part
// from a Config, joins them, and ends them in order. It is the only wiring.
//
//	source ──Set──> pipeline (one goroutine) ──parts──> feed ═══> data plane
//	workload ─────────> │  │ <──acks─────────────────────┘
//	                    │  └──View──> admin
//	                    └──words──> log, terminal
//
// The pipeline is one goroutine with one select; what comes to it waits in
// channels of size 1 in which the latest wins, so nothing can pile up.
//
// The data plane is a process of its own. It outlives this one if this one
// dies; the next start finds it, and goes on with it if it is the same program
// with the same arguments, or else replaces it without a gap. When windrose is
// told to end, the data plane drains first, then workloads are stopped, then
// the rest ends.
//
// Everything that lasts is in the state folder, which one windrose holds at a
// time:
//
//	lock             held by the running windrose
//	ledger.json      of package source
//	workloads.json   of package workload
//	dataplane.json   which process the data plane is
//	feed/feed.sock   the plan stream
//	dataplane/plan   what the data plane stored; owned by its user
//
// The data plane gets the last two folders as open descriptors: without root's
// rights it could not reach them by their paths, and need not be able to.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/feed"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/source"
	"windrose.dev/windrose/internal/wait"
	"windrose.dev/windrose/internal/workload"
)

// The defaults of a Config.
const (
	DefaultMetrics = "127.0.0.1:15020"
	DefaultHealth  = "127.0.0.1:15021"
)

// Config says what a node reads and where it is reached.
type Config struct {
	Paths   []string // of manifests
	State   string   // folder for what lasts
	Admin   string   // address of the admin API; empty: admin.DefaultAddr
	Metrics string   // of the data plane; empty: none
	Health  string   // of the data plane; empty: none
	// JSON writes the log as JSON and leaves out the account for people.
	JSON bool
	// Stdout takes the data plane's access log, Stderr all talk. Files are given
	// to the data plane as they are, so that it can outlive this process.
	Stdout, Stderr io.Writer
	Version        admin.Version
	// Abort, when closed, ends all patience: what still drains or stops is
	// killed. Nil never does.
	Abort <-chan struct{}
}

// Run is a running windrose. It returns when ctx has ended and everything has
// been stopped, or when a part that windrose cannot be without has failed.
func Run(ctx context.Context, cfg Config) error {
	debug.SetGCPercent(gcPercent)
	st, err := openState(cfg.State)
	if err != nil {
		return err
	}
	defer st.close()
	n := &node{cfg: cfg, state: st, log: newLog(cfg)}
	if err := n.build(); err != nil {
		return err
	}
	return n.run(ctx)
}

// gcPercent: what the control part holds lives long, and changes are small, so
// collecting early costs little and keeps the process small.
const gcPercent = 50

// newLog makes the log of the control part.
func newLog(cfg Config) *slog.Logger {
	if cfg.JSON {
		return slog.New(slog.NewJSONHandler(cfg.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(cfg.Stderr, nil))
}

// node holds the parts.
type node struct {
	cfg   Config
	state *state
	log   *slog.Logger

	admin    *admin.Server
	feed     *feed.Server
	feedLn   net.Listener
	engine   *workload.Engine
	folder   *source.Folder
	plane    *plane
	pipeline *pipeline
}

// build makes every part; nothing runs yet but what may fail for reasons that
// the user can mend is tried.
func (n *node) build() (err error) {
	n.engine = workload.New(workload.Config{State: n.state.dir, Log: n.log})
	metrics := ""
	if n.cfg.Metrics != "" {
		metrics = "http://" + n.cfg.Metrics + "/metrics"
	}
	n.admin, err = admin.Listen(admin.Config{
		Addr: n.cfg.Admin, Version: n.cfg.Version, Metrics: metrics,
		Output: func(name object.Name) []admin.Line { return outputOf(n.engine, name) },
		Ask:    n.ask,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			n.admin.Close()
		}
	}()
	n.plane = newPlane(n.cfg, n.state, n.log)
	if n.feedLn, err = n.state.listenFeed(n.plane.user()); err != nil {
		return err
	}
	key, err := n.state.sessionKey()
	if err != nil {
		return err
	}
	n.pipeline = newPipeline(n, key)
	n.feed = &feed.Server{
		Build: n.cfg.Version.Version, Check: feed.LocalPeer(n.plane.user().uid),
		OnAck: n.pipeline.ack, OnPeer: n.pipeline.peer,
	}
	n.plane.ready = n.pipeline.serves
	n.plane.changed = func() { wait.Signal(n.pipeline.news) }
	n.folder = source.New(source.Config{Paths: n.cfg.Paths, StateDir: n.state.dir})
	return nil
}

// run starts the parts and ends them in reverse. A part that fails ends all.
func (n *node) run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	engine := n.start(ctx, fail, "run workloads", n.engine.Run)
	rest := n.start(ctx, fail, "serve the admin API", n.admin.Run)
	stream := n.start(ctx, fail, "serve the plan stream", func(ctx context.Context) error { return n.feed.Run(ctx, n.feedLn) })
	follow := n.start(ctx, fail, "follow the configuration", func(ctx context.Context) error { return n.folder.Run(ctx, n.pipeline.offer) })
	apply := n.start(ctx, fail, "apply the configuration", n.pipeline.run)
	plane := n.start(ctx, fail, "run the data plane", n.plane.run)

	<-ctx.Done()
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		select {
		case <-n.cfg.Abort:
			n.engine.Kill()
		case <-stopped:
		}
	}()
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
		n.log.Info("windrose ends: the data plane drains, then workloads stop")
	}
	follow.end()
	apply.end()
	plane.end() // drains, bounded
	engine.end()
	stream.end()
	rest.end()
	return err
}

// task is a running part.
type task struct {
	cancel context.CancelFunc
	wg     *sync.WaitGroup
}

// end tells a part to end and waits until it has.
func (t task) end() {
	t.cancel()
	t.wg.Wait()
}

// start runs a part. The end of ctx does not end it, so that parts end in
// order; its own error ends all.
func (n *node) start(ctx context.Context, fail context.CancelCauseFunc, what string, run func(context.Context) error) task {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t := task{cancel: cancel, wg: new(sync.WaitGroup)}
	t.wg.Go(func() {
		if err := run(own); err != nil && own.Err() == nil {
			fail(fmt.Errorf("%s: %w", what, err))
		}
	})
	return t
}

func outputOf(e *workload.Engine, name object.Name) []admin.Line {
	lines := e.Output(name)
	out := make([]admin.Line, len(lines))
	for i, l := range lines {
		out[i] = admin.Line(l)
	}
	return out
}

// DefaultState is where a node of this user keeps what lasts.
func DefaultState() string {
	if os.Geteuid() == 0 {
		return "/var/lib/windrose"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "windrose")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "windrose.state"
	}
	return filepath.Join(home, ".local", "state", "windrose")
}
