package plan

import (
	"fmt"
	"math"
	"testing"
	"testing/quick"
)

func ruleOf(weights ...int32) *BoundRule {
	r := &BoundRule{}
	for _, w := range weights {
		r.Backends = append(r.Backends, BoundBackend{Weight: w})
	}
	r.setShares()
	return r
}

func TestPick(t *testing.T) {
	tests := []struct {
		weights []int32
		want    []int // from position 0 on
	}{
		{nil, []int{-1, -1}},
		{[]int32{0}, []int{-1, -1}},
		{[]int32{0, 0}, []int{-1}},
		{[]int32{-5}, []int{-1}},
		{[]int32{1}, []int{0, 0, 0}},
		{[]int32{100, 0}, []int{0, 0, 0}},
		{[]int32{0, 7}, []int{1, 1, 1}},
		{[]int32{1, 1}, []int{1, 0, 1, 0}},
		{[]int32{50, 50}, []int{1, 0, 1, 0}},
		{[]int32{1, 1, 2}, []int{2, 2, 1, 0, 2, 2, 1, 0}},
		{[]int32{3, 0, 1}, []int{2, 0, 0, 0, 2}},
	}
	for _, tt := range tests {
		r := ruleOf(tt.weights...)
		for p, want := range tt.want {
			if got := r.Pick(uint64(p)); got != want {
				t.Errorf("weights %v, position %d: got %d, want %d", tt.weights, p, got, want)
			}
		}
	}
}

// TestPickExact is the promise of a split: any W positions in a row hold each
// backend as often as its weight says, W being the sum of the reduced weights.
func TestPickExact(t *testing.T) {
	exact := func(raw [5]uint8, n uint8, start uint64) bool {
		var weights []int32
		for _, w := range raw[:1+n%5] {
			weights = append(weights, int32(w%40))
		}
		r := ruleOf(weights...)
		start %= math.MaxUint64 - 2*r.total
		got := make([]uint64, len(weights))
		for p := start; p < start+r.total; p++ {
			got[r.Pick(p)]++
		}
		for i := range got {
			if got[i] != r.Backends[i].share {
				t.Logf("weights %v from %d: got %v", weights, start, got)
				return false
			}
		}
		return true
	}
	if err := quick.Check(exact, &quick.Config{MaxCount: 3000}); err != nil {
		t.Error(err)
	}
}

// TestPickEven: with two backends no stretch of positions is off by one request
// or more from its fair share.
func TestPickEven(t *testing.T) {
	for _, w := range [][2]int32{{1, 99}, {99, 1}, {1, 1}, {3, 7}, {13, 29}, {100, 1000}} {
		r := ruleOf(w[0], w[1])
		got := 0.0
		for p := range 3 * r.total {
			if r.Pick(p) == 0 {
				got++
			}
			fair := float64(p+1) * float64(w[0]) / float64(w[0]+w[1])
			if math.Abs(got-fair) >= 1 {
				t.Errorf("weights %v: %v requests after %d, fair is %v", w, got, p+1, fair)
			}
		}
	}
}

func FuzzPick(f *testing.F) {
	f.Add(int32(99), int32(1), int32(0), uint64(17))
	f.Add(int32(math.MaxInt32), int32(math.MaxInt32-1), int32(math.MaxInt32-2), uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, a, b, c int32, p uint64) {
		r := ruleOf(a, b, c)
		i := r.Pick(p)
		if i < 0 {
			if a > 0 || b > 0 || c > 0 {
				t.Errorf("weights %d, %d, %d: none is picked", a, b, c)
			}
			return
		}
		if r.Backends[i].Weight <= 0 {
			t.Errorf("weights %d, %d, %d: %d is picked", a, b, c, i)
		}
	})
}

func TestPickAllocates(t *testing.T) {
	r := ruleOf(1, 2, 3, 4)
	p := uint64(0)
	if n := testing.AllocsPerRun(100, func() { r.Pick(p); p++ }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, weights := range [][]int32{{1}, {99, 1}, {50, 30, 20}, {1000000, 999999, 1, 5, 7, 11, 13, 17}} {
		r := ruleOf(weights...)
		b.Run(fmt.Sprintf("backends=%d", len(weights)), func(b *testing.B) {
			p := uint64(0)
			for b.Loop() {
				if r.Pick(p) < 0 {
					b.Fatal("none")
				}
				p++
			}
		})
	}
}
