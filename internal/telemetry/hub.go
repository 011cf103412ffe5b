package telemetry

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"windrose.dev/windrose/internal/record"
)

const (
	// defaultMaxSeries bounds the series of routes and services together.
	defaultMaxSeries = 20_000
	// gatherTimeout bounds how long a scrape waits for event loops.
	gatherTimeout = time.Second
	// foldCells is how many cells one fold takes, so that a scrape costs no event
	// loop more than some 50 µs at once.
	foldCells = 256
	// maxLate bounds the names that one fold tells a loop to forget.
	maxLate = 1024
)

// Config configures a Hub.
type Config struct {
	Version   string  // of windrose, for windrose_build_info
	Process   string  // value of the label "process", by which Merge's pages differ
	MaxSeries int     // series of routes and services together; 0 is 20,000
	Log       *Log    // nil: no access log
	Traces    *Traces // nil: no spans
	// Watch, if set, is called for each loop that is attached, with its post, and
	// gives the loop's Watch.
	Watch func(post func(func()) error) func(*record.Record)
	// Services, if set, calls yield with the state of each service of the plan. It
	// must not block.
	Services func(yield func(name string, s ServiceState))
}

// ServiceState is how a service is at one moment.
type ServiceState struct {
	Active    int // requests in flight
	Endpoints int
	LeftOut   int // of the endpoints, because they refused or failed
}

// Hub gathers what the loops count and shows it. It is safe for concurrent use.
type Hub struct {
	config  Config
	started time.Time
	turn    chan struct{} // held by whoever gathers; waiting for it can be given up

	mu       sync.Mutex // guards all below; no event loop takes it
	loops    []*member
	index    int    // of the next loop
	ended    fixed  // counts of loops that were detached
	endedOf  Counts // likewise, without the gauges
	routes   group
	services group
	sockets  map[string]Socket // sockets in the plan, with the counts of loops that were detached
	series   int               // of routes and services
	version  uint64            // of the plan
	changed  time.Time         // when the plan was last changed
	changes  uint64
	size     int // of a page, to begin the next with the memory it needs
}

// member is a loop as the hub sees it.
type member struct {
	loop *Loop
	name string
	post func(func()) error
	back chan *batch // at most one batch is under way

	// Only who holds Hub.turn uses these.
	idle   *batch // nil while it is under way
	posted time.Time

	// Guarded by Hub.mu.
	last batch // the newest batch, without its cells
	lag  time.Duration
	late Names // what the loop is to forget with the next fold
}

// batch carries counts from a loop to the hub.
type batch struct {
	routes   []entry
	services []entry
	left     int // cells left for another fold
	late     Names

	counts  Counts
	fixed   fixed
	sockets map[string]Socket
	lag     time.Duration // from post to run
}

// entry is the tally of one name since the fold before.
type entry struct {
	name string
	tally
}

// NewHub makes a Hub without loops.
func NewHub(config Config) *Hub {
	if config.MaxSeries <= 0 {
		config.MaxSeries = defaultMaxSeries
	}
	return &Hub{
		config:   config,
		started:  time.Now(),
		turn:     make(chan struct{}, 1),
		routes:   newGroup(),
		services: newGroup(),
		sockets:  make(map[string]Socket),
	}
}

// Attach makes the Loop of an event loop. post has a function run on that event
// loop, in the order of the calls; it may be called from any goroutine, must not
// block, and returns an error where the function will not run.
func (h *Hub) Attach(post func(func()) error) *Loop {
	l := newLoop(h.config.Log, h.config.Traces)
	if h.config.Watch != nil {
		l.Watch = h.config.Watch(post)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	m := &member{loop: l, name: strconv.Itoa(h.index), post: post, back: make(chan *batch, 1), idle: new(batch)}
	h.index++
	h.loops = append(h.loops, m)
	return l
}

// Detach collects the last counts of l. Its event loop must have ended, and
// must not run functions that were posted to it any more. Detach waits for a
// scrape under way, about a second at most.
func (h *Hub) Detach(l *Loop) {
	h.turn <- struct{}{}
	defer func() { <-h.turn }()
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.loops, func(m *member) bool { return m.loop == l })
	if i < 0 {
		return
	}
	m := h.loops[i]
	select {
	case b := <-m.back:
		h.merge(m, b)
	default:
	}
	for m.idle = new(batch); ; {
		l.fold(m.idle, time.Now())
		h.merge(m, m.idle)
		if m.idle.left == 0 {
			break
		}
	}
	h.ended.add(&m.last.fixed)
	h.endedOf.add(&m.last.counts)
	for name, s := range m.last.sockets {
		if sum, ok := h.sockets[name]; ok {
			sum.Accepted += s.Accepted
			sum.Refused += s.Refused
			h.sockets[name] = sum
		}
	}
	h.loops = slices.Delete(h.loops, i, i+1)
}

// Use says what a new plan names. The caller calls it before any event loop
// gets the plan. What is added may have been there before; what is removed
// loses its series, also if requests of the old plan still end.
func (h *Hub) Use(version uint64, added, removed Names) {
	h.mu.Lock()
	h.version, h.changed = version, time.Now()
	h.changes++
	h.series -= h.routes.remove(removed.Routes) + h.services.remove(removed.Services)
	h.routes.admit(added.Routes)
	h.services.admit(added.Services)
	for _, name := range removed.Sockets {
		delete(h.sockets, name)
	}
	for _, name := range added.Sockets {
		if _, ok := h.sockets[name]; !ok {
			h.sockets[name] = Socket{}
		}
	}
	loops := slices.Clone(h.loops)
	h.mu.Unlock()

	if len(removed.Routes)+len(removed.Services)+len(removed.Sockets) == 0 {
		return
	}
	for _, m := range loops {
		if err := m.post(func() { m.loop.drop(removed) }); err != nil {
			h.mu.Lock()
			m.late.add(removed) // with the next fold, then
			h.mu.Unlock()
		}
	}
}

// add adds names as far as the bound lets it. A name that is left out comes
// again when its loop counts it again.
func (n *Names) add(o Names) {
	n.Routes = append(n.Routes, o.Routes[:min(len(o.Routes), max(maxLate-len(n.Routes), 0))]...)
	n.Services = append(n.Services, o.Services[:min(len(o.Services), max(maxLate-len(n.Services), 0))]...)
	n.Sockets = append(n.Sockets, o.Sockets[:min(len(o.Sockets), max(maxLate-len(n.Sockets), 0))]...)
}

// AppendMetrics gathers from the loops and appends a page in Prometheus' text
// format 0.0.4. It takes about a second at most; a loop that does not answer by
// then shows its counts of the scrape before. It ends early with ctx.
func (h *Hub) AppendMetrics(ctx context.Context, dst []byte) []byte {
	h.gather(ctx)
	self := processNow(h.config, h.started)
	h.mu.Lock()
	defer h.mu.Unlock()
	p := Page{text: slices.Grow(dst, h.size)}
	for i := range families {
		f := &families[i]
		p.Family(f.Metric)
		if f.self != nil {
			f.self(&p, &self)
		} else {
			f.show(h, &p)
		}
	}
	h.size = len(p.text) - len(dst) + len(p.text)/16
	return p.text
}

// gather merges what the loops counted. Another gather under way is joined by
// waiting for it.
func (h *Hub) gather(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return
	}
	h.mu.Lock()
	loops := slices.Clone(h.loops)
	h.mu.Unlock()
	since := time.Now()
	for _, m := range loops {
		h.ask(m)
	}
	for _, m := range loops {
		h.collect(ctx, m, since)
	}
}

// ask posts a fold unless one is under way.
func (h *Hub) ask(m *member) {
	if m.idle == nil {
		return
	}
	b := m.idle
	h.mu.Lock()
	b.late, m.late = m.late, Names{}
	h.mu.Unlock()
	posted := time.Now()
	err := m.post(func() {
		m.loop.fold(b, posted)
		m.back <- b // never blocks: no other batch is under way
	})
	if err != nil {
		h.mu.Lock()
		m.late.add(b.late)
		h.mu.Unlock()
		return
	}
	m.idle, m.posted = nil, posted
}

// collect merges the batches of one loop until it has what the loop held when
// it was asked, or ctx ends. A batch from before since, which an earlier gather
// gave up on, is followed by a new one.
func (h *Hub) collect(ctx context.Context, m *member, since time.Time) {
	left := -1 // cells that another fold should bring; a busy loop always has new ones
	for m.idle == nil {
		b := m.receive(ctx)
		h.mu.Lock()
		if b == nil {
			m.lag = time.Since(m.posted)
			h.mu.Unlock()
			return
		}
		m.idle = b
		h.merge(m, b)
		h.mu.Unlock()
		if left < 0 {
			left = b.left
		} else {
			left -= foldCells
		}
		if stale := m.posted.Before(since); stale {
			left = -1
			h.ask(m)
		} else if left > 0 {
			h.ask(m)
		}
	}
}

// receive waits for the batch under way; it is nil if ctx ends first.
func (m *member) receive(ctx context.Context) *batch {
	select {
	case b := <-m.back:
		return b
	case <-ctx.Done():
	}
	select {
	case b := <-m.back: // was there in time, behind a loop that was not
		return b
	default:
		return nil
	}
}

// merge adds a batch to the totals. The caller holds h.mu.
func (h *Hub) merge(m *member, b *batch) {
	limit := budget{used: &h.series, most: h.config.MaxSeries}
	m.late.Routes = h.routes.merge(b.routes, limit, m.late.Routes)
	m.late.Services = h.services.merge(b.services, limit, m.late.Services)
	m.last.counts, m.last.fixed, m.lag = b.counts, b.fixed, b.lag
	if m.last.sockets == nil {
		m.last.sockets = make(map[string]Socket)
	}
	clear(m.last.sockets)
	maps.Copy(m.last.sockets, b.sockets)
}

// fold moves what l counted since the fold before into b. It runs on l's event
// loop.
func (l *Loop) fold(b *batch, posted time.Time) {
	b.lag = time.Since(posted)
	l.drop(b.late)
	b.routes = l.routes.fold(b.routes[:0], foldCells)
	b.services = l.services.fold(b.services[:0], foldCells-len(b.routes))
	b.left = len(l.routes.dirty) + len(l.services.dirty)
	b.counts, b.fixed = l.Counts, l.fixed
	if b.sockets == nil {
		b.sockets = make(map[string]Socket)
	}
	clear(b.sockets)
	for name, s := range l.sockets {
		if s.gone && s.Active == 0 {
			delete(l.sockets, name)
			continue
		}
		b.sockets[name] = *s
	}
}

// fold moves up to room cells to dst, those first that wait longest.
func (t *table) fold(dst []entry, room int) []entry {
	n := min(room, len(t.dirty))
	for _, c := range t.dirty[:n] {
		c.dirty = false
		if len(dst) < cap(dst) {
			dst = dst[:len(dst)+1] // its codes have memory already
		} else {
			dst = append(dst, entry{})
		}
		e := &dst[len(dst)-1]
		e.name = c.name
		c.moveTo(&e.tally)
	}
	rest := copy(t.dirty, t.dirty[n:])
	clear(t.dirty[rest:])
	t.dirty = t.dirty[:rest]
	return dst
}

func (f *fixed) add(o *fixed) {
	for i, n := range o.faults {
		f.faults[i] += n
	}
	for i, n := range o.handshakes {
		f.handshakes[i] += n
	}
	for i, n := range o.outward {
		f.outward[i] += n
	}
	f.bytesIn += o.bytesIn
	f.bytesOut += o.bytesOut
	f.retries += o.retries
	f.dropped += o.dropped
	f.spansDropped += o.spansDropped
	f.turns.add(&o.turns)
}

// add sums what only grows; a loop that ended holds nothing open.
func (c *Counts) add(o *Counts) {
	c.UpstreamOpened += o.UpstreamOpened
	c.UpstreamReused += o.UpstreamReused
	c.UpstreamFailed += o.UpstreamFailed
	c.RetriesDenied += o.RetriesDenied
	c.CutProtocol += o.CutProtocol
	c.CutSlow += o.CutSlow
	c.CutRoom += o.CutRoom
	c.Handed += o.Handed
	c.MirrorsAnswered += o.MirrorsAnswered
	c.MirrorsFailed += o.MirrorsFailed
	c.MirrorsDropped += o.MirrorsDropped
	c.AuthAllowed += o.AuthAllowed
	c.AuthDenied += o.AuthDenied
	c.AuthFailed += o.AuthFailed
	c.Panics += o.Panics
}

// sum adds up the counts of all loops, ended ones included. The caller holds
// h.mu.
func (h *Hub) sum() (Counts, fixed) {
	c, f := h.endedOf, h.ended
	for _, m := range h.loops {
		o := &m.last.counts
		c.add(o)
		c.RequestsActive += o.RequestsActive
		c.TunnelsActive += o.TunnelsActive
		c.UpstreamActive += o.UpstreamActive
		c.UpstreamIdle += o.UpstreamIdle
		f.add(&m.last.fixed)
	}
	return c, f
}
