package proxy_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/telemetry"
)

const (
	traceID  = "4bf92f3577b34da6a3ce929d0e0e4736"
	parentID = "00f067aa0ba902b7"
)

// tracedParts are a listener that traces, beside the one of every test, and what
// it asks for.
func tracedParts(t plan.Tracing) []plan.Part {
	if t.Sampling.Den == 0 {
		t.Sampling = plan.Share{Num: 1, Den: 1}
	}
	if t.ParentSampling.Den == 0 {
		t.ParentSampling = plan.Share{Num: 1, Den: 1}
	}
	t.Protocol, t.Service = plan.Zipkin, "collector"
	return []plan.Part{
		{Key: plan.Key{Kind: plan.KindTracing, Name: "tr"}, Tracing: &t},
		service("collector"),
	}
}

// startTraced is start with a listener that traces.
func startTraced(tb testing.TB, loops int, t plan.Tracing, parts ...plan.Part) *gateway {
	tb.Helper()
	g := start(tb, loops, parts...)
	g.trace(t)
	return g
}

// trace has the listener trace.
func (g *gateway) trace(t plan.Tracing) {
	g.t.Helper()
	g.use(tracedParts(t)...)
	addr := netip.MustParseAddrPort(g.addr)
	g.use(plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "l"}, Listener: &plan.Listener{Sockets: []string{plan.SocketName(addr)}, Protocol: plan.HTTP, Tracing: "tr"}})
}

// deadEnd is a way for spans to a collector that is never there.
func deadEnd(tb testing.TB) *telemetry.Traces {
	tb.Helper()
	traces := telemetry.NewTraces("test", func(string, ...any) {})
	traces.Use([]telemetry.Collector{{Name: "tr", Protocol: telemetry.Zipkin}}, []telemetry.Reach{func(int) (netip.AddrPort, *tls.Config, error) {
		return netip.AddrPort{}, nil, io.EOF
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { traces.Run(ctx); close(done) }()
	tb.Cleanup(func() { cancel(); <-done })
	return traces
}

// told is what an endpoint was told of a trace.
type told struct{ parent, state, b3, multi string }

func toldBy(h http.Header) told {
	multi := ""
	if h.Get("X-B3-TraceId") != "" {
		multi = h.Get("X-B3-TraceId") + "-" + h.Get("X-B3-SpanId") + "-" + h.Get("X-B3-Sampled")
	}
	return told{parent: h.Get("Traceparent"), state: strings.Join(h.Values("Tracestate"), ","), b3: h.Get("B3"), multi: multi}
}

// shape is what was told with letters for the numbers: T for the trace that came,
// P for the span that came, t and s for new ones.
func (x told) shape(r record.Record) string {
	text := strings.TrimSpace(x.parent + " " + x.state + " " + x.b3 + " " + x.multi)
	span := ""
	if n := len(r.Tries); n > 0 {
		span = fmt.Sprintf("%x", r.Tries[n-1].Span)
	}
	return strings.NewReplacer(traceID, "T", parentID, "P", fmt.Sprintf("%x", r.Trace.ID), "t", span, "s").Replace(text)
}

func TestTraceIsToldToTheEndpoint(t *testing.T) {
	const w3c, old = "00-" + traceID + "-" + parentID + "-01", "00-" + traceID + "-" + parentID + "-00"
	trusted := settings(plan.Settings{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	none, full := plan.Share{Num: 0, Den: 1}, plan.Share{Num: 1, Den: 1}
	for _, c := range []struct {
		name    string
		tracing plan.Tracing
		trusted bool
		headers []string
		want    string
	}{
		{"a trace begins", plan.Tracing{}, false, nil, "00-t-s-01"},
		{"not sampled", plan.Tracing{Sampling: none}, false, nil, "00-t-s-00"},
		{"a stranger's is dropped", plan.Tracing{Sampling: none}, false, []string{"traceparent", w3c, "tracestate", "a=1", "b3", "1", "x-b3-traceid", traceID}, "00-t-s-00"},
		{"a trusted proxy's goes on", plan.Tracing{Sampling: none}, true, []string{"traceparent", w3c, "tracestate", "a=1", "tracestate", "b=2"}, "00-T-s-01 a=1,b=2"},
		{"and so does that it was not sampled", plan.Tracing{}, true, []string{"traceparent", old}, "00-T-s-00"},
		{"anybody's goes on", plan.Tracing{Sampling: none, Parents: plan.ParentsAll}, false, []string{"traceparent", w3c}, "00-T-s-01"},
		{"but less is sampled", plan.Tracing{ParentSampling: none, Parents: plan.ParentsAll}, false, []string{"traceparent", w3c}, "00-T-s-00"},
		{"the decision is ours", plan.Tracing{Sampling: none, Parents: plan.ParentsIgnored}, false, []string{"traceparent", w3c}, "00-T-s-00"},
		{"the decision is ours, yes", plan.Tracing{Sampling: full, Parents: plan.ParentsIgnored}, false, []string{"traceparent", old}, "00-T-s-01"},
		{"nonsense begins a trace", plan.Tracing{Parents: plan.ParentsAll}, false, []string{"traceparent", w3c[1:], "tracestate", "a=1"}, "00-t-s-01"},
		{"twice is nonsense", plan.Tracing{Parents: plan.ParentsAll}, false, []string{"traceparent", w3c, "traceparent", w3c}, "00-t-s-01"},
		{"a state that is none", plan.Tracing{Parents: plan.ParentsAll}, false, []string{"traceparent", w3c, "tracestate", "A"}, "00-T-s-01"},
		{"B3", plan.Tracing{Parents: plan.ParentsAll}, false, []string{"b3", traceID + "-" + parentID + "-0"}, "00-T-s-00  T-s-0"},
		{"B3 that leaves it to us", plan.Tracing{Sampling: none, Parents: plan.ParentsAll}, false, []string{"b3", traceID + "-" + parentID}, "00-T-s-00  T-s-0"},
		{"B3 that says no", plan.Tracing{Parents: plan.ParentsAll}, false, []string{"b3", "0"}, "00-t-s-00  t-s-0"},
		{
			"B3 in several fields",
			plan.Tracing{Parents: plan.ParentsAll},
			false,
			[]string{"x-b3-traceid", traceID, "x-b3-spanid", parentID, "x-b3-parentspanid", parentID, "x-b3-sampled", "1"},
			"00-T-s-01   T-s-1",
		},
		{"traceparent goes before", plan.Tracing{Parents: plan.ParentsAll}, false, []string{"traceparent", old, "b3", "1"}, "00-T-s-00  T-s-0"},
		{"B3 is wanted", plan.Tracing{B3: true, B3Multi: true}, false, nil, "00-t-s-01  t-s-1 t-s-1"},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/h2=%v", c.name, h2), func(t *testing.T) {
				seen := make(chan told, 1)
				answer := func(_ http.ResponseWriter, r *http.Request) { seen <- toldBy(r.Header) }
				parts := []plan.Part{route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", backend(t, answer))}
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
				if h2 {
					parts[1], client = h2cService("s", h2cBackend(t, answer)), h2cClient()
				}
				if c.trusted {
					parts = append(parts, trusted)
				}
				g := startTraced(t, 1, c.tracing, parts...)
				records := g.records()
				req, err := http.NewRequest("GET", "http://"+g.addr+"/", nil)
				if err != nil {
					t.Fatal(err)
				}
				for i := 0; i < len(c.headers); i += 2 {
					req.Header.Add(c.headers[i], c.headers[i+1])
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				client.CloseIdleConnections()
				r := <-records
				if got := (<-seen).shape(r); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				if goes := strings.Contains(c.want, "T"); goes != (fmt.Sprintf("%x", r.Trace.Parent) == parentID) {
					t.Errorf("parent %x", r.Trace.Parent)
				} else if !goes && fmt.Sprintf("%x", r.Trace.ID) != string(r.ID) {
					t.Errorf("trace %x of request %s, want one number", r.Trace.ID, r.ID)
				}
			})
		}
	}
}

// Where nobody traces, what a request brings of a trace is the service's own
// business.
func TestUntracedRequestsKeepTheirTrace(t *testing.T) {
	seen := make(chan told, 1)
	g := start(t, 1, to(backend(t, func(_ http.ResponseWriter, r *http.Request) { seen <- toldBy(r.Header) }))...)
	records := g.records()
	req, err := http.NewRequest("GET", "http://"+g.addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", "whatever")
	req.Header.Set("B3", "0")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := <-seen; got != (told{parent: "whatever", b3: "0"}) {
		t.Errorf("got %+v", got)
	}
	if r := <-records; r.Trace.Traced() {
		t.Errorf("the record has trace %x", r.Trace.ID)
	}
}

// A rule that sets or removes the field has its way.
func TestTraceFieldsAreTheRules(t *testing.T) {
	for _, c := range []struct {
		name string
		edit plan.HeaderEdit
		want string
	}{
		{"set", plan.HeaderEdit{Set: []plan.Header{{Name: "Traceparent", Value: "mine"}}}, "mine"},
		{"removed", plan.HeaderEdit{Remove: []string{"traceparent"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := make(chan []string, 1)
			r := all(plan.Backend{Service: "s", Weight: 1})
			r.Filters = []plan.Filter{{RequestHeaders: &c.edit}}
			g := startTraced(t, 1, plan.Tracing{}, route("r", r), service("s", backend(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Values("Traceparent") })))
			resp, err := http.Get("http://" + g.addr + "/")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := strings.Join(<-seen, ","); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Each attempt is a span of its own, and its endpoint is told so.
func TestEachAttemptHasItsSpan(t *testing.T) {
	var mu sync.Mutex
	var spans []string
	g := startTraced(t, 1, plan.Tracing{B3Multi: true},
		retrying(plan.Retry{Codes: []int{503}, Attempts: 2, Backoff: time.Millisecond}, plan.Timeouts{}),
		service("s", backend(t, func(w http.ResponseWriter, r *http.Request) {
			parent := r.Header.Get("Traceparent")
			mu.Lock()
			defer mu.Unlock()
			spans = append(spans, parent[36:52])
			if r.Header.Get("X-B3-SpanId") != parent[36:52] {
				t.Errorf("two spans are told: %v", r.Header)
			}
			w.WriteHeader(503)
		})))
	records := g.records()
	resp, err := http.Post("http://"+g.addr+"/", "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	r := <-records
	var want []string
	for _, try := range r.Tries {
		want = append(want, fmt.Sprintf("%x", try.Span))
	}
	if len(want) != 3 || !slices.Equal(spans, want) {
		t.Errorf("told %v, the record has %v", spans, want)
	}
	slices.Sort(want)
	if slices.Contains(slices.Compact(want), fmt.Sprintf("%x", r.Trace.Span)) || len(slices.Compact(want)) != 3 {
		t.Errorf("spans are not different: %v", want)
	}
}

// A copy for a mirror belongs to the request it is a copy of.
func TestMirrorsAreToldTheTrace(t *testing.T) {
	seen := make(chan string, 1)
	r := mirrored("m")
	g := startTraced(t, 1, plan.Tracing{}, route("r", r), service("s", backend(t, func(http.ResponseWriter, *http.Request) {})),
		service("m", backend(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Traceparent") })))
	records := g.records()
	req, err := http.NewRequest("GET", "http://"+g.addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", "00-"+traceID+"-"+parentID+"-01")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := <-records
	if want := fmt.Sprintf("00-%x-%x-01", got.Trace.ID, got.Trace.Span); <-seen != want {
		t.Errorf("the mirror was not told %s", want)
	}
}

// A share is exact over all loops, and counts on when the plan changes.
func TestSamplingIsExact(t *testing.T) {
	for _, c := range []struct {
		name   string
		parent string
		t      plan.Tracing
	}{
		{"new traces", "", plan.Tracing{Sampling: plan.Share{Num: 3, Den: 10}}},
		{"of those that came sampled", "00-" + traceID + "-" + parentID + "-01", plan.Tracing{Sampling: plan.Share{Num: 0, Den: 1}, ParentSampling: plan.Share{Num: 3, Den: 10}, Parents: plan.ParentsAll}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
			g := startTraced(t, 2, c.t, to(b)...)
			var mu sync.Mutex
			sampled, n := 0, 0
			f := func(r *record.Record) {
				mu.Lock()
				defer mu.Unlock()
				n++
				if r.Trace.Sampled {
					sampled++
				}
			}
			g.watch.Store(&f)
			for round := range 2 {
				var wg sync.WaitGroup
				for range 10 {
					wg.Go(func() {
						for range 10 {
							p := g.dial()
							head := "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
							if c.parent != "" {
								head += "traceparent: " + c.parent + "\r\n"
							}
							p.send(head + "\r\n")
							p.answer("GET")
							p.Close()
						}
					})
				}
				wg.Wait()
				eventually(t, "all records are there", func() bool { mu.Lock(); defer mu.Unlock(); return n == 100*(round+1) })
				if want := 30 * (round + 1); sampled != want {
					t.Errorf("%d of %d were sampled, want %d", sampled, n, want)
				}
				again := c.t
				again.SpanName = "another"
				g.use(tracedParts(again)[0])
			}
		})
	}
}

// zipkinSpan is what the tests look at in a span.
type zipkinSpan struct {
	TraceID, ID, ParentID, Kind, Name string
	Tags                              map[string]string
}

// collected runs the way of spans for a gateway; ask asks the gateway, and what
// its collector got is returned.
func collected(t *testing.T, tracing plan.Tracing, ask func(g *gateway), parts ...plan.Part) []zipkinSpan {
	t.Helper()
	var mu sync.Mutex
	var all []zipkinSpan
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var list []zipkinSpan
		if err := json.NewDecoder(r.Body).Decode(&list); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, list...)
	}))
	defer s.Close()
	traces := telemetry.NewTraces("test", func(m string, args ...any) { t.Log(append([]any{m}, args...)...) })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	traces.Use([]telemetry.Collector{{Name: "tr", Protocol: telemetry.Zipkin}}, []telemetry.Reach{func(int) (netip.AddrPort, *tls.Config, error) {
		return netip.MustParseAddrPort(s.Listener.Addr().String()), nil, nil
	}})
	go func() { traces.Run(ctx); close(done) }()
	t.Run("gateway", func(t *testing.T) {
		g := startWith(t, 1, traces, parts...)
		g.trace(tracing)
		ask(g)
	})
	cancel()
	<-done
	return all
}

func TestErrorsAreExported(t *testing.T) {
	fine := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	wrong := answering(t, "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
	absent := answering(t, "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")
	at := func(path, service string) plan.Rule {
		return plan.Rule{Matches: []plan.Match{{PathType: plan.PathExact, Path: path}}, Backends: []plan.Backend{{Service: service, Weight: 1}}}
	}
	parts := []plan.Part{
		route("r", at("/fine", "fine"), at("/wrong", "wrong"), at("/absent", "absent"), at("/down", "down")),
		service("fine", fine), service("wrong", wrong), service("absent", absent), service("down", closedAddr(t)),
	}
	ask := func(g *gateway) {
		for _, path := range []string{"/fine", "/wrong", "/absent", "/down", "/nowhere"} {
			resp, err := http.Get("http://" + g.addr + path)
			if err != nil {
				g.t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
	none, full := plan.Share{Num: 0, Den: 1}, plan.Share{Num: 1, Den: 1}
	for _, c := range []struct {
		name    string
		tracing plan.Tracing
		want    string
	}{
		{"none sampled", plan.Tracing{Sampling: none}, ""},
		{"none sampled, but errors", plan.Tracing{Sampling: none, Errors: true}, "/down 503, /wrong 500"},
		{"all", plan.Tracing{Sampling: full, Errors: true}, "/absent 404, /down 503, /fine 200, /nowhere 404, /wrong 500"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, s := range collected(t, c.tracing, ask, parts...) {
				if s.Kind == "SERVER" {
					got = append(got, s.Tags["url.path"]+" "+s.Tags["http.response.status_code"])
				}
			}
			slices.Sort(got)
			if text := strings.Join(got, ", "); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
}

func TestTagsThatWereAskedFor(t *testing.T) {
	b := answering(t, "HTTP/1.1 200 OK\r\nx-version: 7\r\nx-both: answer\r\ncontent-length: 0\r\n\r\n")
	tracing := plan.Tracing{Attributes: []plan.TraceAttribute{
		{Name: "env", Literal: "test"},
		{Name: "user", Header: "x-user"},
		{Name: "version", Header: "x-version"},
		{Name: "both", Header: "x-both"},
		{Name: "none", Header: "x-none"},
		{Name: "verb", Key: "http.request.method"},
	}}
	all := collected(t, tracing, func(g *gateway) {
		for range 2 { // what is kept for reuse must not mix requests up
			req, err := http.NewRequest("GET", "http://"+g.addr+"/", nil)
			if err != nil {
				g.t.Fatal(err)
			}
			req.Header.Set("X-User", "ann")
			req.Header.Set("X-Both", "request")
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				g.t.Fatal(err)
			}
			resp.Body.Close()
		}
	}, to(b)...)
	if len(all) != 4 {
		t.Fatalf("got %d spans, want four", len(all))
	}
	for _, s := range all {
		for name, want := range map[string]string{"env": "test", "user": "ann", "version": "7", "both": "request", "none": "", "verb": "GET"} {
			if s.Tags[name] != want {
				t.Errorf("%s: %s is %q, want %q", s.Kind, name, s.Tags[name], want)
			}
		}
	}
}
