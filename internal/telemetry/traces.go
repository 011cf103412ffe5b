package telemetry

import (
	"context"
	"crypto/tls"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"windrose.dev/windrose/internal/record"
)

// Traces brings spans to collectors. A loop encodes the spans of a request into
// a buffer of its own and hands that over once in a while, as it does with lines
// of the access log; for each collector one goroutine frames and sends them.
// Whatever a collector does, a loop never waits: what finds no room is dropped
// and counted.
type Traces struct {
	version string
	say     func(message string, args ...any)

	mu      sync.Mutex // guards what follows
	running bool
	ctx     context.Context
	exports sync.WaitGroup
	exits   map[string]*exit // by the collector's name
	ended   exported         // counts of exits that are gone
}

// TraceProtocol is what a collector speaks. Its values are those of the plan.
type TraceProtocol string

// The protocols.
const (
	OTLPGRPC TraceProtocol = "otlp-grpc"
	OTLPHTTP TraceProtocol = "otlp-http"
	Zipkin   TraceProtocol = "zipkin"
)

// Collector says where spans go, and as what.
type Collector struct {
	Name      string // of the Tracing in the plan
	Protocol  TraceProtocol
	Authority string      // empty: the endpoint's address
	Path      string      // empty: as the protocol has it
	Headers   [][2]string // of requests, name and value
	Service   string      // what windrose passes for; empty: windrose
	SpanName  string      // empty: by method and route
}

func (c *Collector) same(o *Collector) bool {
	return c.Name == o.Name && c.Protocol == o.Protocol && c.Authority == o.Authority && c.Path == o.Path &&
		slices.Equal(c.Headers, o.Headers) && c.Service == o.Service && c.SpanName == o.SpanName
}

// Reach gives where a collector is at the moment, the nth time that it is asked:
// its endpoints take turns. The config is nil in cleartext.
type Reach func(n int) (netip.AddrPort, *tls.Config, error)

// exported counts what became of spans behind the loops.
type exported struct{ sent, failed, refused uint64 }

const (
	// maxQueued bounds the bytes of spans that wait for one collector.
	maxQueued = 4 << 20
	// queueBuffers bounds the buffers that hold them.
	queueBuffers = 256
	// lingerTime is how long an exit that is no longer wanted takes what loops still
	// have.
	lingerTime = 2 * time.Second
)

// exit is the way to one collector.
type exit struct {
	collector Collector
	reach     atomic.Pointer[Reach]
	queue     chan *spanBuffer
	spares    chan *spanBuffer
	queued    atomic.Int64 // bytes in queue
	leave     chan struct{}

	sent    atomic.Uint64
	failed  atomic.Uint64 // the collector could not be reached, or was too slow
	refused atomic.Uint64 // it did not want them
}

// spanBuffer holds spans as one collector wants them.
type spanBuffer struct {
	data []byte
	n    int
}

// NewTraces makes a Traces without collectors. say is told when a collector is
// lost and found.
func NewTraces(version string, say func(message string, args ...any)) *Traces {
	return &Traces{version: version, say: say, exits: map[string]*exit{}}
}

// Run sends until ctx ends, then what loops have handed over, within two seconds;
// so ctx ends after the event loops did.
func (t *Traces) Run(ctx context.Context) {
	t.mu.Lock()
	t.running, t.ctx = true, ctx
	for _, x := range t.exits {
		t.start(x)
	}
	t.mu.Unlock()
	<-ctx.Done()
	t.mu.Lock()
	t.running = false
	t.mu.Unlock()
	t.exports.Wait()
}

// start has an exit send. The caller holds t.mu.
func (t *Traces) start(x *exit) {
	if !t.running {
		return
	}
	ctx := t.ctx
	t.exports.Go(func() {
		e := newExporter(x, t.version, t.say)
		e.run(ctx)
	})
}

// Use says which collectors there are, and how each is reached. The caller calls
// it before any event loop gets the plan that names them.
func (t *Traces) Use(all []Collector, reach []Reach) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := make(map[string]bool, len(all))
	for i := range all {
		c := &all[i]
		wanted[c.Name] = true
		x := t.exits[c.Name]
		if x == nil || !x.collector.same(c) {
			t.drop(c.Name)
			x = &exit{collector: *c, queue: make(chan *spanBuffer, queueBuffers), spares: make(chan *spanBuffer, 64), leave: make(chan struct{})}
			x.reach.Store(&reach[i])
			t.exits[c.Name] = x
			t.start(x)
			continue
		}
		x.reach.Store(&reach[i])
	}
	for name := range t.exits {
		if !wanted[name] {
			t.drop(name)
		}
	}
}

// drop lets an exit end in its own time. The caller holds t.mu.
func (t *Traces) drop(name string) {
	x := t.exits[name]
	if x == nil {
		return
	}
	delete(t.exits, name)
	close(x.leave)
	// What it still sends is not counted: nobody watches a collector that was
	// removed.
	t.ended.add(x)
}

// unwanted says that the exit is to leave.
func (x *exit) unwanted() bool {
	select {
	case <-x.leave:
		return true
	default:
		return false
	}
}

func (n *exported) add(x *exit) {
	n.sent += x.sent.Load()
	n.failed += x.failed.Load()
	n.refused += x.refused.Load()
}

// counts sums what became of spans.
func (t *Traces) counts() exported {
	if t == nil {
		return exported{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := t.ended
	for _, x := range t.exits {
		sum.add(x)
	}
	return sum
}

func (t *Traces) exit(name string) *exit {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.exits[name]
}

// Tracer takes the spans of one event loop for one collector.
type Tracer struct {
	loop  *Loop
	exit  *exit
	spans spans
	buf   *spanBuffer
	since time.Time // when the oldest span in buf came; zero: not known yet
}

// UseTracers gives a Tracer for each name, nil for "" and for a collector that
// does not exist. The event loop calls it when it takes up a plan; it keeps those
// whose collector is the same.
func (l *Loop) UseTracers(names []string) []*Tracer {
	old := l.tracers
	l.tracers = nil
	list := make([]*Tracer, len(names))
	for i, name := range names {
		if name == "" {
			continue
		}
		x := l.traces.exit(name)
		if x == nil {
			continue
		}
		if at := slices.IndexFunc(old, func(t *Tracer) bool { return t.exit == x }); at >= 0 {
			list[i] = old[at]
		} else {
			c := &x.collector
			list[i] = &Tracer{loop: l, exit: x, spans: spans{zipkin: c.Protocol == Zipkin, service: c.service(), name: c.SpanName}}
		}
		l.tracers = append(l.tracers, list[i])
	}
	for _, t := range old {
		if !slices.Contains(l.tracers, t) {
			t.flush()
		}
	}
	return list
}

func (c *Collector) service() string {
	if c.Service == "" {
		return "windrose"
	}
	return c.Service
}

// Trace encodes the spans of a request. It keeps nothing of r, and does not
// block.
func (t *Tracer) Trace(r *record.Record) {
	if t.buf == nil {
		t.buf = t.exit.spare()
	}
	var n int
	t.buf.data, n = t.spans.append(t.buf.data, r)
	t.buf.n += n
	if len(t.buf.data) >= flushBytes {
		t.flush()
	}
}

// tick is Loop.Tick for spans.
func (t *Tracer) tick(now time.Time) time.Duration {
	if t.buf == nil {
		return 0
	}
	if t.since.IsZero() {
		t.since = now
	}
	if wait := t.since.Add(flushAfter).Sub(now); wait > 0 {
		return wait
	}
	t.flush()
	return 0
}

// flush hands the spans to the exporter.
func (t *Tracer) flush() {
	b := t.buf
	t.buf, t.since = nil, time.Time{}
	if b == nil {
		return
	}
	size := int64(len(b.data))
	if t.exit.queued.Add(size) <= maxQueued {
		select {
		case t.exit.queue <- b:
			return
		default:
		}
	}
	t.exit.queued.Add(-size)
	t.loop.fixed.spansDropped += uint64(b.n)
	b.data, b.n = b.data[:0], 0
	t.exit.keep(b)
}

// spare gives an empty buffer.
func (x *exit) spare() *spanBuffer {
	select {
	case b := <-x.spares:
		return b
	default:
		return &spanBuffer{data: make([]byte, 0, flushBytes+4<<10)}
	}
}

// keep takes an empty buffer for the next that needs one.
func (x *exit) keep(b *spanBuffer) {
	if cap(b.data) > 2*flushBytes {
		return
	}
	select {
	case x.spares <- b:
	default:
	}
}
