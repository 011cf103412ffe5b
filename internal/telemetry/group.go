package telemetry

import (
	"cmp"
	"slices"
)

// budget bounds the series of routes and services.
type budget struct {
	used *int
	most int
}

// take asks for n series of counters.
func (b budget) take(n int) bool {
	if *b.used+n > b.most {
		return false
	}
	*b.used += n
	return true
}

// takeTimes asks for a histogram. Histograms leave a quarter to the counters:
// where not all fits, knowing which route fails goes before knowing how slow it
// is.
func (b budget) takeTimes() bool {
	if *b.used+timesSeries > b.most/4*3 {
		return false
	}
	*b.used += timesSeries
	return true
}

// timesSeries is how many series a histogram is: its buckets, sum and count.
const timesSeries = numBounds + 1 + 2

// total is what was counted under one name since it entered the plan.
type total struct {
	codes []codeCount // sorted by code
	times *histogram  // nil without times, or where the budget was spent
}

// group holds the totals of all routes or all services.
type group struct {
	live  map[string]*total // names in the plan; nil until there is a count
	none  total
	other total
}

func newGroup() group { return group{live: make(map[string]*total)} }

// admit lets names have series of their own.
func (g *group) admit(names []string) {
	for _, name := range names {
		if _, ok := g.live[name]; !ok {
			g.live[name] = nil
		}
	}
}

// remove forgets names, and returns how many series went.
func (g *group) remove(names []string) (series int) {
	for _, name := range names {
		if t := g.live[name]; t != nil {
			series += len(t.codes)
			if t.times != nil {
				series += timesSeries
			}
		}
		delete(g.live, name)
	}
	return series
}

// merge adds entries. It returns late with the names added that are no longer
// in the plan: their loop is to forget them.
func (g *group) merge(entries []entry, limit budget, late []string) []string {
	for i := range entries {
		e := &entries[i]
		t, ok := g.live[e.name]
		switch {
		case e.name == nameNone:
			g.none.add(&e.tally)
		case e.name == nameOther:
			g.other.add(&e.tally)
		case !ok:
			g.other.add(&e.tally)
			if len(late) < maxLate {
				late = append(late, e.name)
			}
		default:
			if t == nil {
				t = new(total)
				g.live[e.name] = t
			}
			t.addWithin(&e.tally, limit, &g.other)
		}
	}
	return late
}

// add adds a tally without a budget.
func (t *total) add(o *tally) {
	for _, c := range o.codes {
		if c.n > 0 {
			t.code(c.code).n += c.n
		}
	}
	if o.times.empty() {
		return
	}
	if t.times == nil {
		t.times = new(histogram)
	}
	t.times.add(&o.times)
}

// addWithin adds a tally as far as the budget lets it, the rest to other.
func (t *total) addWithin(o *tally, limit budget, other *total) {
	for _, c := range o.codes {
		if c.n == 0 {
			continue
		}
		if t.has(c.code) || limit.take(1) {
			t.code(c.code).n += c.n
		} else {
			other.code(c.code).n += c.n
		}
	}
	if o.times.empty() {
		return
	}
	if t.times == nil && limit.takeTimes() {
		t.times = new(histogram)
	}
	if t.times != nil {
		t.times.add(&o.times)
		return
	}
	if other.times == nil {
		other.times = new(histogram)
	}
	other.times.add(&o.times)
}

func byCode(c codeCount, code uint16) int { return cmp.Compare(c.code, code) }

func (t *total) has(code uint16) bool {
	_, ok := slices.BinarySearchFunc(t.codes, code, byCode)
	return ok
}

// code gives the count of a code, and makes it where there is none.
func (t *total) code(code uint16) *codeCount {
	i, ok := slices.BinarySearchFunc(t.codes, code, byCode)
	if !ok {
		t.codes = slices.Insert(t.codes, i, codeCount{code: code})
	}
	return &t.codes[i]
}
