package proxy

import (
	"testing"
	"time"
)

func TestBudgetOfRetries(t *testing.T) {
	const second = int64(time.Second)
	b := &budget{}
	spend := func(now int64) int {
		n := 0
		for b.spend(now) {
			n++
		}
		return n
	}
	now := 1000 * second
	if got := spend(now); got != budgetFree {
		t.Errorf("without requests: %d retries, want %d", got, budgetFree)
	}
	for range 500 {
		b.request(now + second)
	}
	if got := spend(now + second); got != 100 {
		t.Errorf("500 requests gave %d retries, want 100", got)
	}
	if got := spend(now + 9*second); got != 0 {
		t.Errorf("within the window: %d retries, want none", got)
	}
	// The first second leaves the window with what was spent in it.
	if got := spend(now + 10*second); got != 100 {
		t.Errorf("when the first second has left: %d retries, want 100", got)
	}
	// And the requests leave it too.
	if got := spend(now + 11*second); got != 0 {
		t.Errorf("when the requests have left: %d retries, want none", got)
	}
	if got := spend(now + 1000*second); got != budgetFree {
		t.Errorf("after a long time: %d retries, want %d", got, budgetFree)
	}
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		base      time.Duration
		n         int
		low, high time.Duration
	}{
		{0, 0, 25 * time.Millisecond, 37500 * time.Microsecond},
		{100 * time.Millisecond, 0, 100 * time.Millisecond, 150 * time.Millisecond},
		{100 * time.Millisecond, 2, 400 * time.Millisecond, 600 * time.Millisecond},
		{100 * time.Millisecond, 1000, maxBackoff, maxBackoff * 3 / 2},
		{time.Minute, 3, time.Minute, 90 * time.Second},
		{-1, 0, 25 * time.Millisecond, 37500 * time.Microsecond},
	} {
		for _, random := range []uint64{0, 1 << 20, 1<<64 - 1} {
			if got := time.Duration(backoff(c.base, c.n, random)); got < c.low || got > c.high {
				t.Errorf("backoff(%v, %d, %d) is %v, want %v to %v", c.base, c.n, random, got, c.low, c.high)
			}
		}
	}
}
