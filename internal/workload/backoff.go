package workload

import (
	"math/rand/v2"
	"time"
)

// backoff counts failures and gives the pause after each: min, then twice as
// long each time up to max, spread by a tenth so that workloads that fail
// together do not start together.
type backoff struct {
	min, max, healthy time.Duration
	failures          int
}

// next gives the pause after a process that ran for so long.
func (b *backoff) next(ran time.Duration) time.Duration {
	if ran >= b.healthy {
		b.failures = 0
	}
	d := b.min
	for range b.failures {
		if d *= 2; d >= b.max {
			d = b.max
			break
		}
	}
	b.failures++
	spread := time.Duration((rand.Float64() - 0.5) / 5 * float64(d))
	return min(d+spread, b.max)
}
