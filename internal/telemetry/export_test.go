package telemetry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"windrose.dev/windrose/internal/record"
)

// got is what a collector of a test got.
type got struct {
	spans  int
	header http.Header
	path   string
}

// pipe is a Traces with one loop and one collector.
type pipe struct {
	tb     testing.TB
	traces *Traces
	hub    *Hub
	loop   *Loop
	tracer *Tracer
	end    func()
}

func newPipe(tb testing.TB, c Collector, reach Reach) *pipe {
	tb.Helper()
	p := &pipe{tb: tb, traces: NewTraces("v1", func(m string, args ...any) { tb.Log(append([]any{m}, args...)...) })}
	p.hub = NewHub(Config{Traces: p.traces})
	p.loop = p.hub.Attach(func(f func()) error { f(); return nil })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.traces.Run(ctx) })
	var once sync.Once
	p.end = func() { once.Do(func() { p.loop.Flush(); cancel(); wg.Wait() }) }
	tb.Cleanup(p.end)
	for running := false; !running; runtime.Gosched() {
		p.traces.mu.Lock()
		running = p.traces.running
		p.traces.mu.Unlock()
	}
	c.Name = "t"
	p.use(c, reach)
	return p
}

func (p *pipe) use(c Collector, reach Reach) {
	p.traces.Use([]Collector{c}, []Reach{reach})
	p.tracer = p.loop.UseTracers([]string{"", c.Name, "no such"})[1]
}

// trace gives a request's spans away: three.
func (p *pipe) trace() {
	p.tracer.Trace(traced())
	p.loop.Flush()
}

// result is how many spans came to an end.
func (p *pipe) result(which string) string {
	p.tb.Helper()
	page := string(p.hub.AppendMetrics(context.Background(), nil))
	_, rest, ok := strings.Cut(page, `windrose_trace_spans_total{result="`+which+`"} `)
	if !ok {
		p.tb.Fatalf("no result %s on the page", which)
	}
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

func (p *pipe) wait(which, want string) {
	p.tb.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for p.result(which) != want {
		select {
		case <-deadline:
			p.tb.Fatalf("%s spans of result %s, want %s", p.result(which), which, want)
		case <-tick.C:
		}
	}
}

func reachAddr(addr string, cfg *tls.Config) Reach {
	return func(int) (netip.AddrPort, *tls.Config, error) { return netip.MustParseAddrPort(addr), cfg, nil }
}

// collector is a collector of spans over HTTP.
func collector(tb testing.TB, protocol TraceProtocol, answer func(n int, w http.ResponseWriter)) (*httptest.Server, <-chan got) {
	tb.Helper()
	all := make(chan got, 64)
	var n atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			tb.Error(err)
		}
		g := got{header: r.Header, path: r.URL.Path}
		if protocol == Zipkin {
			var list []map[string]any
			if err := json.Unmarshal(body, &list); err != nil {
				tb.Errorf("%v: %s", err, body)
			}
			g.spans = len(list)
		} else {
			g.spans = len(read(tb, body))
		}
		all <- g
		if i := int(n.Add(1)); answer != nil {
			answer(i, w)
		}
	}))
	tb.Cleanup(s.Close)
	return s, all
}

// grpcCollector is a collector as grpc-go makes it.
func grpcCollector(tb testing.TB, verdict func(n int) error) (string, <-chan got) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	all := make(chan got, 64)
	var n atomic.Int32
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var data tracepb.TracesData // the same message as the request
			if err := decode(&data); err != nil {
				return nil, err
			}
			g := got{}
			for _, r := range data.ResourceSpans {
				for _, s := range r.ScopeSpans {
					g.spans += len(s.Spans)
				}
			}
			md, _ := metadata.FromIncomingContext(ctx)
			g.header = http.Header{"X-Token": md.Get("x-token")}
			all <- g
			if i := int(n.Add(1)); verdict != nil {
				if err := verdict(i); err != nil {
					return nil, err
				}
			}
			return &emptypb.Empty{}, nil
		}}},
	}, nil)
	go func() { _ = server.Serve(ln) }()
	tb.Cleanup(server.Stop)
	return ln.Addr().String(), all
}

func TestSpansReachACollector(t *testing.T) {
	headers := [][2]string{{"x-token", "secret"}}
	for _, c := range []struct {
		protocol TraceProtocol
		path     string
		want     string
		kind     string
	}{
		{OTLPHTTP, "", "/v1/traces", "application/x-protobuf"},
		{OTLPHTTP, "/otlp", "/otlp", "application/x-protobuf"},
		{Zipkin, "", "/api/v2/spans", "application/json"},
	} {
		t.Run(string(c.protocol)+c.path, func(t *testing.T) {
			s, all := collector(t, c.protocol, nil)
			p := newPipe(t, Collector{Protocol: c.protocol, Path: c.path, Headers: headers}, reachAddr(s.Listener.Addr().String(), nil))
			p.trace()
			p.trace()
			p.wait("exported", "6")
			g := <-all
			if g.spans != 6 || g.path != c.want || g.header.Get("Content-Type") != c.kind || g.header.Get("X-Token") != "secret" {
				t.Errorf("got %+v, want both requests' spans at once", g)
			}
		})
	}
	t.Run("gRPC", func(t *testing.T) {
		addr, all := grpcCollector(t, nil)
		p := newPipe(t, Collector{Protocol: OTLPGRPC, Headers: headers}, reachAddr(addr, nil))
		p.trace()
		p.wait("exported", "3")
		if g := <-all; g.spans != 3 || g.header.Get("X-Token") != "secret" {
			t.Errorf("got %+v", g)
		}
		p.trace()
		p.wait("exported", "6")
	})
}

func TestSpansOverTLS(t *testing.T) {
	for _, protocol := range []TraceProtocol{OTLPHTTP, OTLPGRPC} {
		t.Run(string(protocol), func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if want := map[TraceProtocol]int{OTLPHTTP: 1, OTLPGRPC: 2}[protocol]; r.ProtoMajor != want || r.Host != "collector.example" {
					t.Errorf("asked in HTTP/%d for %s", r.ProtoMajor, r.Host)
				}
				w.Header().Set("Trailer", "grpc-status")
				w.WriteHeader(http.StatusOK)
				w.Header().Set("Grpc-Status", "0")
			}))
			s.EnableHTTP2 = true
			s.StartTLS()
			defer s.Close()
			cfg := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
			cfg.ServerName = "example.com"
			cfg.NextProtos = map[TraceProtocol][]string{OTLPHTTP: {"http/1.1"}, OTLPGRPC: {"h2"}}[protocol]
			p := newPipe(t, Collector{Protocol: protocol, Authority: "collector.example"}, reachAddr(s.Listener.Addr().String(), cfg))
			p.trace()
			p.wait("exported", "3")
		})
	}
}

// What is worth another try is tried again, and what is not, is not.
func TestSpansThatACollectorDoesNotTake(t *testing.T) {
	status := func(code, then int) func(int, http.ResponseWriter) {
		return func(n int, w http.ResponseWriter) {
			if n > 1 {
				code = then
			}
			w.WriteHeader(code)
		}
	}
	for _, c := range []struct {
		name   string
		answer func(int, http.ResponseWriter)
		result string
		asked  int
	}{
		{"busy, then not", status(503, 200), "exported", 2},
		{"too many requests, then not", status(429, 202), "exported", 2},
		{"refused", status(400, 200), "refused", 1},
		{"moved", status(302, 200), "refused", 1},
		{"some refused", func(_ int, w http.ResponseWriter) {
			partial := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 3)
			_, _ = w.Write(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial))
		}, "refused", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, all := collector(t, OTLPHTTP, c.answer)
			p := newPipe(t, Collector{Protocol: OTLPHTTP}, reachAddr(s.Listener.Addr().String(), nil))
			p.trace()
			p.wait(c.result, "3")
			if len(all) != c.asked {
				t.Errorf("asked %d times, want %d", len(all), c.asked)
			}
		})
	}
	for _, c := range []struct {
		code   codes.Code
		result string
		asked  int
	}{{codes.Unavailable, "exported", 2}, {codes.ResourceExhausted, "exported", 2}, {codes.InvalidArgument, "refused", 1}, {codes.Unimplemented, "refused", 1}} {
		t.Run(c.code.String(), func(t *testing.T) {
			addr, all := grpcCollector(t, func(n int) error {
				if n == 1 {
					return grpcstatus.Error(c.code, "no")
				}
				return nil
			})
			p := newPipe(t, Collector{Protocol: OTLPGRPC}, reachAddr(addr, nil))
			p.trace()
			p.wait(c.result, "3")
			if len(all) != c.asked {
				t.Errorf("asked %d times, want %d", len(all), c.asked)
			}
		})
	}
}

// A collector that is not there costs spans and nothing else, and there is a
// bound to what waits for it; when it comes back it gets what is new.
func TestSpansForADeadCollector(t *testing.T) {
	s, all := collector(t, OTLPHTTP, nil)
	var mu sync.Mutex
	dead := true
	p := newPipe(t, Collector{Protocol: OTLPHTTP}, func(int) (netip.AddrPort, *tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		if dead {
			return netip.AddrPort{}, nil, errors.New("it has no endpoint")
		}
		return netip.MustParseAddrPort(s.Listener.Addr().String()), nil, nil
	})
	const n = 3 * maxQueued / 1500
	for range n {
		p.tracer.Trace(traced())
	}
	p.loop.Flush()
	if dropped := p.result("queue"); dropped == "0" || len(dropped) < 4 {
		t.Errorf("%s of %d spans were dropped, want what is beyond the bound", dropped, 3*n)
	}
	if queued := p.tracer.exit.queued.Load(); queued > maxQueued {
		t.Errorf("%d bytes wait, want %d at most", queued, maxQueued)
	}
	mu.Lock()
	dead = false
	mu.Unlock()
	var sum int
	fmt.Sscan(p.result("queue"), &sum)
	p.wait("exported", fmt.Sprint(3*n-sum))
	if p.result("collector") != "0" {
		t.Errorf("%s spans were given up", p.result("collector"))
	}
	if len(all) < 2 {
		t.Errorf("asked %d times, want batches that are bounded", len(all))
	}
}

// An endpoint that is none any more gets nothing, though it is still connected.
func TestSpansFollowTheEndpoints(t *testing.T) {
	first, gone := grpcCollector(t, nil)
	second, all := grpcCollector(t, nil)
	c := Collector{Name: "t", Protocol: OTLPGRPC}
	p := newPipe(t, c, reachAddr(first, nil))
	p.trace()
	p.wait("exported", "3")
	p.use(c, reachAddr(second, nil))
	p.trace()
	p.wait("exported", "6")
	if len(gone) != 1 || len(all) != 1 {
		t.Errorf("%d requests to the first, %d to the second, want one each", len(gone), len(all))
	}
}

// What was handed over before the end is sent at the end, unless there is nobody.
func TestSpansAtTheEnd(t *testing.T) {
	s, all := collector(t, Zipkin, nil)
	p := newPipe(t, Collector{Protocol: Zipkin}, reachAddr(s.Listener.Addr().String(), nil))
	p.tracer.Trace(traced())
	p.end()
	if len(all) != 1 || p.result("exported") != "3" {
		t.Errorf("%d requests, %s spans", len(all), p.result("exported"))
	}
	p = newPipe(t, Collector{Protocol: Zipkin}, func(int) (netip.AddrPort, *tls.Config, error) { return netip.AddrPort{}, nil, io.EOF })
	p.tracer.Trace(traced())
	p.end()
	if p.result("collector") != "3" {
		t.Errorf("%s spans were given up, want all", p.result("collector"))
	}
}

// A loop keeps its way to a collector that stays as it is, and gets another when
// it changes; what it had is sent.
func TestSpansWhenTheCollectorChanges(t *testing.T) {
	s, all := collector(t, OTLPHTTP, nil)
	reach := reachAddr(s.Listener.Addr().String(), nil)
	p := newPipe(t, Collector{Protocol: OTLPHTTP}, reach)
	was := p.tracer
	was.Trace(traced())
	p.use(Collector{Name: "t", Protocol: OTLPHTTP}, reach)
	if p.tracer != was {
		t.Error("the tracer of a collector that did not change is another")
	}
	p.use(Collector{Name: "t", Protocol: OTLPHTTP, Path: "/new"}, reach)
	if p.tracer == was {
		t.Error("the tracer of a collector that changed is the same")
	}
	p.trace()
	paths := map[string]int{}
	for range 2 {
		g := <-all
		paths[g.path] += g.spans
	}
	if paths["/v1/traces"] != 3 || paths["/new"] != 3 {
		t.Errorf("got %v", paths)
	}
	p.traces.Use(nil, nil)
	if list := p.loop.UseTracers([]string{"t"}); list[0] != nil {
		t.Error("a tracer of a collector that was removed")
	}
}

// A dead collector that is removed is given up soon, with all that waits for it.
func TestSpansForADeadCollectorThatIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(t, Collector{Protocol: OTLPHTTP}, func(int) (netip.AddrPort, *tls.Config, error) { return netip.AddrPort{}, nil, io.EOF })
		for range maxQueued / 1500 {
			p.tracer.Trace(traced())
		}
		p.loop.Flush()
		time.Sleep(20 * time.Second) // it is in the middle of a pause
		p.traces.Use(nil, nil)
		removed := time.Now()
		p.traces.exports.Wait()
		if took, most := time.Since(removed), lastPause+lingerTime+drainTimeout; took > most {
			t.Errorf("it took %v, want %v at most", took, most)
		}
	})
}

// Tick hands spans over that have waited long enough.
func TestSpansDoNotWaitForever(t *testing.T) {
	s, _ := collector(t, OTLPHTTP, nil)
	p := newPipe(t, Collector{Protocol: OTLPHTTP}, reachAddr(s.Listener.Addr().String(), nil))
	now := time.Unix(100, 0)
	if wait := p.loop.Tick(now); wait != 0 {
		t.Errorf("nothing waits, and Tick says %v", wait)
	}
	p.tracer.Trace(traced())
	if wait := p.loop.Tick(now); wait != flushAfter {
		t.Errorf("Tick says %v, want %v", wait, flushAfter)
	}
	if wait := p.loop.Tick(now.Add(flushAfter)); wait != 0 {
		t.Errorf("Tick says %v after the time", wait)
	}
	p.wait("exported", "3")
}

func TestTracingAllocatesNothing(t *testing.T) {
	s, _ := collector(t, OTLPHTTP, nil)
	p := newPipe(t, Collector{Protocol: OTLPHTTP}, reachAddr(s.Listener.Addr().String(), nil))
	r := &record.Record{Status: 200, Start: time.Unix(1, 0), Trace: record.Trace{ID: [16]byte{1}}}
	for range 10 {
		p.tracer.Trace(r)
	}
	if n := testing.AllocsPerRun(50, func() { p.tracer.Trace(r) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestRejected(t *testing.T) {
	for _, c := range []struct {
		in   []byte
		want int
	}{{nil, 0}, {[]byte{0x0a, 0}, 0}, {[]byte{0x0a, 2, 8, 7}, 7}, {[]byte{0x0a, 200, 8, 7}, 0}, {[]byte{0x0a, 3, 8, 0xff, 0xff}, 0}, {[]byte("nonsense"), 0}, {[]byte{0x0a}, 0}} {
		if got := rejected(c.in); got != c.want {
			t.Errorf("%x: got %d, want %d", c.in, got, c.want)
		}
	}
}
