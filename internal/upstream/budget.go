package upstream

import (
	"sync"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// Budget bounds the retries of one service, over all rules and loops, as the
// service's own policy says. It outlives plans.
type Budget struct {
	of plan.RetryBudget

	mu       sync.Mutex // guards what follows
	requests window     // first attempts
	retries  window
	free     window // retries, within of.FreeInterval
}

func newBudget(of *plan.RetryBudget) *Budget {
	return &Budget{of: *of, requests: window{span: of.Interval}, retries: window{span: of.Interval}, free: window{span: of.FreeInterval}}
}

// Request counts a request.
func (b *Budget) Request(now int64) {
	b.mu.Lock()
	b.requests.add(now)
	b.mu.Unlock()
}

// Spend counts a retry if there is room for it; it says whether there is.
func (b *Budget) Spend(now int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	retries := b.retries.sum(now) + 1
	if retries*100 > (b.requests.sum(now)+retries)*uint64(b.of.Percent) && b.free.sum(now) >= uint64(b.of.Free) {
		return false
	}
	b.retries.add(now)
	b.free.add(now)
	return true
}

// window counts what happened within the last span, to a tenth of it.
type window struct {
	span   time.Duration
	newest int64 // which tenth
	counts [10]uint64
}

// at moves the window to now, and gives the place of this tenth.
func (w *window) at(now int64) int {
	const n = int64(len(w.counts))
	tenth := now / max(int64(w.span)/n, 1)
	for i := min(tenth-w.newest, n); i > 0; i-- {
		w.counts[(tenth-i+1)%n] = 0
	}
	w.newest = max(w.newest, tenth)
	return int(w.newest % n)
}

func (w *window) add(now int64) { w.counts[w.at(now)]++ }

func (w *window) sum(now int64) uint64 {
	w.at(now)
	var all uint64
	for _, n := range w.counts {
		all += n
	}
	return all
}
