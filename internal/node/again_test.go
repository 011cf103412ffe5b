package node

import (
	"math"
	"testing"
	"time"
)

func TestUntilAgain(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		name   string
		moment time.Time
		want   time.Duration
	}{
		{"never", time.Time{}, math.MaxInt64},
		{"soon", now.Add(time.Minute), time.Minute},
		{"far off, when the clock may have been set", now.Add(1000 * time.Hour), time.Hour},
		{"gone by, which is looked at once a second at most", now.Add(-time.Minute), time.Second},
	} {
		if got := untilAgain(now, c.moment); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
