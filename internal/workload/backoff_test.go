package workload

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	b := backoff{min: time.Second, max: 30 * time.Second, healthy: time.Minute}
	steps := []struct {
		ran  time.Duration
		want time.Duration
	}{
		{0, time.Second},
		{time.Second, 2 * time.Second},
		{59 * time.Second, 4 * time.Second},
		{0, 8 * time.Second},
		{0, 16 * time.Second},
		{0, 30 * time.Second},
		{0, 30 * time.Second},
		{time.Minute, time.Second}, // it was healthy
		{0, 2 * time.Second},
	}
	for i, s := range steps {
		got := b.next(s.ran)
		if got < s.want*9/10 || got > min(s.want*11/10, b.max) {
			t.Errorf("step %d: got %v, want %v within a tenth", i, got, s.want)
		}
	}
	for range 100 {
		b.next(0)
	}
	if got := b.next(0); got < 27*time.Second || got > 30*time.Second {
		t.Errorf("after many failures: got %v", got)
	}
}
