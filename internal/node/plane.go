package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/wait"
)

// Times of the data plane's supervision.
const (
	firstPause = 100 * time.Millisecond // before the second start in a row; the first is at once
	maxPause   = 10 * time.Second
	healthyRun = time.Minute // after which there is no pause again
	// takeOver is how long a new data plane may take to serve before the log is
	// told that the old one, of another version, goes on meanwhile.
	takeOver = 30 * time.Second
	// settled is how long it must have served before the old one drains, and look
	// how often it is looked whether it does.
	settled = time.Second
	look    = 20 * time.Millisecond
	// overtime is added to the drain timeout before a data plane is killed.
	overtime = 5 * time.Second
)

// plane supervises the data-plane process.
type plane struct {
	cfg   Config
	state *state
	log   *slog.Logger
	as    user
	// ready says whether the data plane with this pid serves the newest plan.
	ready func(pid int) bool
	// changed is told that pid is another.
	changed func()
	// drain is the drain timeout of the plan.
	drain    atomic.Int64
	restarts atomic.Uint64
	pid      atomic.Int64

	// replaced are data planes of earlier runs. They serve until the one in
	// charge does, however often that is started anew. first sets it.
	replaced []*process
	old      sync.WaitGroup // handing over from them
}

func newPlane(cfg Config, st *state, log *slog.Logger) *plane {
	p := &plane{cfg: cfg, state: st, log: log, as: planeUser()}
	p.drain.Store(int64(drainTimeout(nil)))
	return p
}

func (p *plane) user() user { return p.as }

// program is what is executed as the data plane: the very file that we run,
// whatever stands at its path by now.
const program = "/proc/self/exe"

// args are what the data plane is told. The descriptors are those of spawn.
func (p *plane) args() []string {
	args := []string{"windrose", "dataplane"}
	if p.cfg.JSON {
		args = append(args, "--log-format", "json")
	}
	return append(args, "--feed", "/proc/self/fd/3/feed.sock", "--store", "/proc/self/fd/4/plan", "--metrics", p.cfg.Metrics, "--health", p.cfg.Health)
}

// run keeps a data plane running until ctx ends, and then lets it drain.
func (p *plane) run(ctx context.Context) error {
	defer p.old.Wait()
	pause := time.Duration(0)
	current, err := p.first(ctx)
	for {
		if err != nil {
			p.log.Error("the data plane does not start", "error", err, "retry", pause)
		} else {
			began := time.Now()
			p.is(current.PID)
			select {
			case <-ctx.Done():
				p.stop(current)
				p.state.forget()
				return nil
			case <-current.exited:
			}
			if ctx.Err() != nil {
				p.state.forget()
				return nil
			}
			if time.Since(began) > healthyRun {
				pause = 0
			}
			p.log.Error("the data plane has ended", "pid", current.PID, "retry", pause)
		}
		p.is(0)
		if !wait.Sleep(ctx, pause) {
			return nil
		}
		pause = min(max(2*pause, firstPause), maxPause)
		p.restarts.Add(1)
		current, err = p.start()
	}
}

// is notes which process is the data plane in charge.
func (p *plane) is(pid int) {
	p.pid.Store(int64(pid))
	p.changed()
}

// first gives the data plane to begin with: that of an earlier run, if it is
// the same program with the same arguments, or a new one.
func (p *plane) first(ctx context.Context) (*process, error) {
	var current *process
	for i, id := range p.state.recall() {
		old, err := adopt(id)
		if err != nil {
			continue // it has just ended
		}
		if i == 0 && sameProgram(old.PID) && slices.Equal(old.Args, p.args()) {
			p.log.Info("going on with the data plane of the last run", "pid", old.PID)
			current = old
			continue
		}
		p.log.Info("replacing the data plane of the last run", "pid", old.PID)
		p.replaced = append(p.replaced, old)
	}
	if len(p.replaced) > 0 {
		p.old.Go(func() { p.handOver(ctx) })
	}
	if current != nil {
		return current, nil
	}
	return p.start()
}

// handOver lets the replaced data planes drain once the one in charge serves.
func (p *plane) handOver(ctx context.Context) {
	p.await(ctx)
	var wg sync.WaitGroup
	for _, old := range p.replaced {
		wg.Go(func() { p.stop(old) })
	}
	wg.Wait()
}

// await waits until the data plane in charge has served for a while, or ctx
// ends. One that does not start, or ends again and again, must not cost the one
// that serves.
func (p *plane) await(ctx context.Context) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	told, pid, began, since := false, 0, time.Now(), time.Now()
	for {
		now := int(p.pid.Load())
		if now != pid || !p.ready(now) {
			pid, since = now, time.Now()
		}
		if time.Since(since) >= settled {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !told && time.Since(began) > takeOver {
			told = true
			p.log.Error("the new data plane does not serve: the old one goes on", "for", time.Since(began).Round(time.Second))
		}
	}
}

// serving are those of the replaced that have not ended.
func (p *plane) serving() []identity {
	var ids []identity
	for _, old := range p.replaced {
		select {
		case <-old.exited:
		default:
			ids = append(ids, old.identity)
		}
	}
	return ids
}

// start starts a data plane, beside those that it replaces. That they are among
// its arguments is about this start, and does not make it another data plane.
func (p *plane) start() (*process, error) {
	folders := [2]*os.File{p.state.feed, p.state.plane}
	args, old := p.args(), p.serving()
	for _, id := range old {
		args = append(args, "--take-over", strconv.Itoa(id.PID))
	}
	next, err := spawn(args, p.as, folders, p.cfg.Stdout, p.cfg.Stderr)
	if p.as.drop && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) {
		p.log.Warn("the data plane keeps root's rights: it cannot run as an unprivileged user",
			"error", err, "mend", "let others execute the windrose program, and run windrose with CAP_SETUID, CAP_SETGID and CAP_NET_BIND_SERVICE")
		next, err = spawn(args, user{}, folders, p.cfg.Stdout, p.cfg.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("start the data plane: %w", err)
	}
	next.Args = p.args()
	p.log.Info("data plane started", "pid", next.PID)
	if err := p.state.remember(next.identity, old); err != nil {
		p.log.Warn("the next start will not know this data plane", "error", err)
	}
	return next, nil
}

// stop lets a data plane drain, and kills it when its time or all patience is
// over.
func (p *plane) stop(old *process) {
	_ = old.handle.Signal(syscall.SIGTERM) // fails only if it has ended
	timer := time.NewTimer(time.Duration(p.drain.Load()) + overtime)
	defer timer.Stop()
	select {
	case <-old.exited:
		return
	case <-timer.C:
		p.log.Error("the data plane does not end in time and is killed", "pid", old.PID)
	case <-p.cfg.Abort:
	}
	_ = old.handle.Kill() // as above
	timer.Reset(overtime)
	select {
	case <-old.exited:
	case <-timer.C:
		p.log.Error("the data plane cannot be killed", "pid", old.PID)
	}
}
