package loop

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestTimersAgainstModel arms, moves and stops timers at random and advances by
// steps from a tick to days: none may fire early, or later than a tick after
// its time.
func TestTimersAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		l := &Loop{}
		l.timers.init()
		var now int64
		due := map[*Timer]int64{}
		timers := make([]*Timer, 300)
		for i := range timers {
			timer := &Timer{}
			timer.F = func() {
				if when := due[timer]; l.timers.tick<<tickBits < when {
					t.Errorf("seed %d: a timer for %d fired at tick %d", seed, when, l.timers.tick)
				}
				if _, ok := due[timer]; !ok {
					t.Errorf("seed %d: a timer that is not armed fired", seed)
				}
				delete(due, timer)
				if rng.IntN(4) == 0 { // a handler may arm again at once
					due[timer] = now + rng.Int64N(int64(time.Minute))
					l.Arm(timer, due[timer])
				}
			}
			timers[i] = timer
		}
		for range 4000 {
			timer := timers[rng.IntN(len(timers))]
			switch rng.IntN(8) {
			case 0:
				l.Stop(timer)
				delete(due, timer)
			case 1:
				now += rng.Int64N(1 << (20 + rng.IntN(30))) // up to 13 days
				l.timers.advance(l, now)
				for timer, when := range due {
					if when+int64(Resolution) <= now {
						t.Fatalf("seed %d: a timer for %d has not fired at %d", seed, when, now)
					}
					if !timer.Armed() {
						t.Fatalf("seed %d: a timer was lost", seed)
					}
				}
			default:
				due[timer] = now + rng.Int64N(1<<(10+rng.IntN(45))) // up to a year
				l.Arm(timer, due[timer])
			}
			if l.timers.count != len(due) {
				t.Fatalf("seed %d: %d timers are armed, want %d", seed, l.timers.count, len(due))
			}
			next := l.timers.next()
			if (next == 0) != (len(due) == 0) {
				t.Fatalf("seed %d: next is %d with %d timers", seed, next, len(due))
			}
			for _, when := range due {
				if next > when+int64(Resolution) && next > (l.timers.tick+1)<<tickBits {
					t.Fatalf("seed %d: next is %d, but a timer is due at %d", seed, next, when)
				}
			}
		}
	}
}

func TestTimersBeyondTheWheel(t *testing.T) {
	l := &Loop{}
	l.timers.init()
	fired := false
	timer := Timer{F: func() { fired = true }}
	const when = int64(3 * 365 * 24 * time.Hour)
	l.Arm(&timer, when)
	for now := int64(0); now < when; now += when / 50 {
		l.timers.advance(l, now)
		if fired {
			t.Fatalf("fired at %v", time.Duration(now))
		}
	}
	l.timers.advance(l, when+int64(Resolution))
	if !fired {
		t.Error("did not fire")
	}
}
