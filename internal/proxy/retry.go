package proxy

import (
	"slices"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// This file is about requests that a rule has tried again: after answers with
// certain codes, whatever the method; after a connection that broke, or an
// endpoint that took too long, only if the method is idempotent, since the
// endpoint may have done what was asked. What no endpoint has seen is given to
// another without all this: see serverLost.

const (
	defaultBackoff = 25 * time.Millisecond
	// maxBackoff bounds a pause, unless the rule begins with a longer one.
	maxBackoff = 5 * time.Second
)

// once says that the rule wants no second attempt.
func (x *exchange) once() bool { return x.rule.Retry != nil && x.rule.Retry.Attempts <= 0 }

// keeps says whether the request's body is kept for another attempt although it
// comes in pieces.
func (x *exchange) keeps(n int) bool {
	const chunkFrame = 32
	r := x.rule.Retry
	return x.whole && !x.shadow && r != nil && r.Attempts > x.retries && len(x.sent)+n+chunkFrame <= x.view.settings.MaxBufferedBytes
}

// retried says whether the rule has the request tried again after an answer
// with this status.
func retried(r *plan.Retry, status int) bool { return r != nil && slices.Contains(r.Codes, status) }

// again says whether the request may be tried once more after a pause, and
// takes the right to from the service's budget: who hears yes calls pause.
func (x *exchange) again() bool {
	r := x.rule.Retry
	if r == nil || x.shadow || x.retries >= r.Attempts || !x.whole || x.answered {
		return false
	}
	now := x.w.loop.Now()
	x.retryLine = now + backoff(r.Backoff, x.retries, x.w.rng.Uint64())
	if x.deadline != 0 && x.retryLine >= x.deadline {
		x.retryLine = 0 // what there is is better than nothing later
		return false
	}
	if !x.affords(now) {
		x.w.tel.RetriesDenied++
		x.retryLine = 0
		return false
	}
	x.retries++
	return true
}

// affords takes a retry from the budget of the service. A service with a budget
// of its own wants its clients told that it is spent.
func (x *exchange) affords(now int64) bool {
	if b := x.service.Budget; b != nil {
		x.broke = !b.Spend(now)
		return !x.broke
	}
	return x.w.budget(x.backend).spend(now)
}

// spent says what a client is told whose request was not tried again.
func (x *exchange) spent() string {
	return "the retry budget of service " + x.backend.ServiceName + " (retryConstraint of its XBackendTrafficPolicy) is spent"
}

// pause gives the endpoint back, and has the request sent again when again's
// time has come; keep says that the connection is still good.
func (x *exchange) pause(keep bool) {
	if x.s != nil {
		x.tried = append(x.tried, x.s.endpoint())
		x.release(keep)
	}
	if t := x.rec.LastTry(); t != nil && t.Ended == 0 {
		t.Ended = t.Answered // with a status that the rule has tried again
	}
	x.backendLine = 0
	x.activity = x.w.loop.Now()
	x.arm()
}

// resend is called when the pause is over.
func (x *exchange) resend() {
	x.retryLine = 0
	x.activity = x.w.loop.Now()
	x.second = true
	x.arm()
	x.try()
}

// backoff is the pause before the retry with that number: twice as long each
// time, and up to half as long again, so that those who failed together do not
// come back together.
func backoff(base time.Duration, n int, random uint64) int64 {
	if base <= 0 {
		base = defaultBackoff
	}
	limit := max(int64(maxBackoff), int64(base))
	d := int64(base)
	for range n {
		if d = min(2*d, limit); d == limit {
			break
		}
	}
	return d + int64(random%uint64(d/2+1))
}

// budget bounds the retries of one service on one loop, so that a service that
// fails is not buried under the retries of its failures: no more than one for
// every five requests within the window, and a few that are always free.
type budget struct {
	service  string
	second   int64 // the newest of the window
	requests [budgetWindow]uint32
	retries  [budgetWindow]uint32
}

const (
	budgetWindow = 10  // seconds
	budgetShare  = 5   // requests for each retry
	budgetFree   = 100 // retries within the window, whatever the requests
)

// budget is the one of a backend's service.
func (w *worker) budget(b *plan.BoundBackend) *budget {
	if b.Service >= len(w.budgets) {
		w.budgets = append(w.budgets, make([]*budget, b.Service+1-len(w.budgets))...)
	}
	q := w.budgets[b.Service]
	if q == nil || q.service != b.ServiceName { // or the slot was another's
		q = &budget{service: b.ServiceName}
		w.budgets[b.Service] = q
	}
	return q
}

// at moves the window to now, and gives the place of this second.
func (b *budget) at(now int64) int {
	second := now / int64(time.Second)
	for n := min(second-b.second, budgetWindow); n > 0; n-- {
		i := (second - n + 1) % budgetWindow
		b.requests[i], b.retries[i] = 0, 0
	}
	b.second = max(b.second, second)
	return int(b.second % budgetWindow)
}

// request counts a request.
func (b *budget) request(now int64) { b.requests[b.at(now)]++ }

// spend counts a retry if there is room for it; it says whether there is.
func (b *budget) spend(now int64) bool {
	i := b.at(now)
	var requests, retries uint32
	for j := range budgetWindow {
		requests += b.requests[j]
		retries += b.retries[j]
	}
	if retries >= budgetFree+requests/budgetShare {
		return false
	}
	b.retries[i]++
	return true
}
