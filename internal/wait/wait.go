// Package wait holds the ways in which goroutines wait for each other without
// anything piling up between them: a signal that is set or not, a value of
// which only the latest counts, and a pause that ends with its context.
//
// Signals and latest values are channels of size 1, so that who sends never
// waits for who receives.
package wait

import (
	"context"
	"time"
)

// Signal sets a signal. One that is set already stands for both.
func Signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Latest sends a value in place of the one that was not received yet. Only one
// goroutine may send on c: with two, one could wait.
func Latest[T any](c chan T, v T) {
	select {
	case <-c:
	default:
	}
	c <- v
}

// Sleep waits, and says false if ctx ended before. A time that is not positive
// is over at once.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
