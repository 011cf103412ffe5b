package workload

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/wait"
)

// unit is one workload that needs a goroutine. Its fields belong to run's
// goroutine, except sent, which is the engine's.
type unit struct {
	engine *Engine
	name   object.Name
	log    *slog.Logger
	want   chan *target // size 1, the latest wins; nil means gone
	sent   *target      // what the engine told last

	target   *target
	proc     *process
	restarts int32
	backoff  backoff
	retry    *time.Timer

	check     *check // being made, or made once
	stopProbe func()
	verdicts  chan verdict
	last      report
}

// report is what the unit last told about itself.
type report struct {
	ready           metav1.ConditionStatus
	reason, message string
}

func newUnit(e *Engine, name object.Name) *unit {
	u := &unit{
		engine:  e,
		name:    name,
		log:     e.log.With("workload", name.String()),
		want:    make(chan *target, 1),
		backoff: backoff{min: e.cfg.BackoffMin, max: e.cfg.BackoffMax, healthy: e.cfg.Healthy},
		retry:   time.NewTimer(time.Hour),
	}
	u.retry.Stop()
	return u
}

// tell replaces what the unit has not yet read. Only the engine's goroutine
// calls it.
func (u *unit) tell(t *target) {
	wait.Latest(u.want, t)
}

func (u *unit) run(ctx context.Context) {
	defer u.retry.Stop()
	defer u.endProbe()
	for {
		select {
		case <-ctx.Done():
			u.stop(ctx)
			return
		case t := <-u.want:
			u.use(ctx, t)
			if u.target == nil && len(u.want) == 0 {
				select {
				case u.engine.ended <- u:
					return
				case <-ctx.Done():
					return
				}
			}
		case <-u.exited():
			u.lost()
		case <-u.retry.C:
			u.restarts++
			u.start(ctx)
		case v := <-u.verdicts:
			u.judge(v)
		}
	}
}

func (u *unit) exited() <-chan struct{} {
	if u.proc == nil {
		return nil
	}
	return u.proc.exited
}

// use changes the unit to t.
func (u *unit) use(ctx context.Context, t *target) {
	old := u.target
	if t == nil {
		u.stop(ctx)
		u.target = nil
		return
	}
	if old != nil && old.sameProcess(t) {
		u.target = t
		u.report(u.last.ready, u.last.reason, u.last.message)
		if u.proc != nil || len(t.obj.Spec.Command) == 0 {
			u.probe(ctx)
		}
		return
	}
	u.stop(ctx)
	u.target = t
	u.restarts, u.backoff.failures = 0, 0
	if len(t.obj.Spec.Command) == 0 {
		u.report(metav1.ConditionFalse, ReasonStarting, "waiting for the readiness probe")
		u.probe(ctx)
		return
	}
	u.start(ctx)
}

func (u *unit) start(ctx context.Context) {
	p, err := u.engine.start(u.name, u.target)
	if err != nil {
		pause := u.backoff.next(0)
		u.retry.Reset(pause)
		u.log.Warn("workload does not start", "error", err, "retry", round(pause))
		u.report(metav1.ConditionFalse, ReasonStartFailed,
			fmt.Sprintf("%v; windrose tries again in %v; correct spec.command or spec.workingDirectory", err, round(pause)))
		return
	}
	u.proc = p
	u.log.Info("workload started", "pid", p.pid, "restarts", u.restarts)
	u.report(metav1.ConditionFalse, ReasonStarting, fmt.Sprintf("process %d has started", p.pid))
	u.probe(ctx)
}

// lost handles a process that ended by itself.
func (u *unit) lost() {
	u.endProbe()
	ran, how := u.proc.ran(), u.proc.how()
	u.proc = nil
	pause := u.backoff.next(ran)
	u.retry.Reset(pause)
	u.log.Warn("workload ended", "how", how, "ran", round(ran), "retry", round(pause))
	u.report(metav1.ConditionFalse, ReasonBackOff,
		fmt.Sprintf("the process ended after %v: %s; windrose starts it again in %v", round(ran), how, round(pause)))
}

// stop ends the process and its probe. The unit leaves the endpoints first.
func (u *unit) stop(ctx context.Context) {
	u.endProbe()
	u.retry.Stop()
	if u.proc == nil {
		return
	}
	u.report(metav1.ConditionFalse, ReasonStopped, fmt.Sprintf("windrose is stopping process %d", u.proc.pid))
	grace := time.NewTimer(u.engine.cfg.Grace)
	defer grace.Stop()
	select {
	case <-grace.C:
	case <-ctx.Done():
	case <-u.engine.kill:
	case <-u.proc.exited:
	}
	patience := 10 * time.Second
	if s := u.target.obj.Spec.StopTimeoutSeconds; s != nil {
		patience = time.Duration(*s) * time.Second
	}
	if err := u.proc.stop(patience, u.engine.kill); err != nil {
		u.log.Error("workload cannot be stopped", "pid", u.proc.pid, "error", err)
	} else {
		u.log.Info("workload stopped", "pid", u.proc.pid, "how", u.proc.how())
	}
	u.proc = nil
	u.report(metav1.ConditionFalse, ReasonStopped, "windrose has stopped the process")
}

// probe begins to probe the target, unless it already does in the same way. A
// ready unit stays ready until a new probe has failed as often as it may.
func (u *unit) probe(ctx context.Context) {
	check, err := newCheck(u.target)
	if err == nil && check != nil && u.check != nil && *check == *u.check {
		return
	}
	u.endProbe()
	switch {
	case err != nil:
		u.report(metav1.ConditionFalse, ReasonProbeFailed, err.Error())
		return
	case check == nil:
		u.report(metav1.ConditionTrue, ReasonRunning, fmt.Sprintf("process %d runs", u.proc.pid))
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	verdicts := make(chan verdict, 1)
	ready := u.last.ready == metav1.ConditionTrue
	go func() {
		defer close(done)
		check.watch(ctx, verdicts, ready)
	}()
	u.check, u.verdicts = check, verdicts
	u.stopProbe = func() { cancel(); <-done }
}

func (u *unit) endProbe() {
	if u.stopProbe != nil {
		u.stopProbe()
		u.check, u.stopProbe, u.verdicts = nil, nil, nil
	}
}

func (u *unit) judge(v verdict) {
	switch {
	case v.ready:
		u.report(metav1.ConditionTrue, ReasonRunning, v.message)
	case v.wasReady:
		u.log.Warn("workload is not ready any more", "error", v.message)
		u.report(metav1.ConditionFalse, ReasonProbeFailed, v.message)
	default:
		u.report(metav1.ConditionFalse, ReasonStarting, v.message)
	}
}

func (u *unit) report(ready metav1.ConditionStatus, reason, message string) {
	u.last = report{ready, reason, message}
	st := status(u.target, ready, reason, message)
	st.Restarts = u.restarts
	if u.proc != nil {
		st.PID = int32(u.proc.pid)
	}
	u.engine.publish(u.name, st)
}

// round shortens a duration for people.
func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
