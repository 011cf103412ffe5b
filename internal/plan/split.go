package plan

import "math/bits"

// A rule's weights are an exact schedule without a table. Positions count
// requests; position p belongs to the first backend if the line of slope w/W
// passes an integer between p and p+1 (Bresenham), else it is the next position
// of the rest, which is divided in the same way. With weights 1, 1, 2:
//
//	position   0 1 2 3 4 5 6 7
//	backend    2 2 1 0 2 2 1 0
//
// Each W positions in a row, wherever they begin, hold each backend exactly as
// often as its weight says, as evenly as the line allows. So all that a split
// needs is one counter, shared by whoever serves the rule.

// Pick is the position of the backend that serves the request with that number,
// or -1 if the weights sum to 0.
func (r *BoundRule) Pick(position uint64) int {
	last := len(r.Backends) - 1
	if last < 0 || r.total == 0 {
		return -1
	}
	position %= r.total
	rest := r.total
	for i := range r.Backends {
		share := r.Backends[i].share
		if share == rest {
			return i
		}
		if share == 0 {
			continue
		}
		before := scale(position, share, rest)
		after := scale(position+1, share, rest)
		if after != before {
			return i
		}
		position -= before
		rest -= share
	}
	return last
}

// scale is p * share / total, with p <= total and share < total.
func scale(p, share, total uint64) uint64 {
	if p|share < 1<<32 {
		return p * share / total
	}
	hi, lo := bits.Mul64(p, share)
	q, _ := bits.Div64(hi, lo, total)
	return q
}

// setShares fills the backends' shares of the schedule: the weights, divided by
// what they have in common.
func (r *BoundRule) setShares() {
	common := uint64(0)
	for i := range r.Backends {
		common = gcd(common, weight(r.Backends[i].Weight))
	}
	r.total = 0
	for i := range r.Backends {
		b := &r.Backends[i]
		b.share = weight(b.Weight)
		if common > 0 {
			b.share /= common
		}
		r.total += b.share
	}
}

func weight(w int32) uint64 { return uint64(max(w, 0)) }

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
