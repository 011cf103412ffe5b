package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

func mirrored(services ...string) plan.Rule {
	r := all(plan.Backend{Service: "s", Weight: 1})
	for _, s := range services {
		r.Filters = append(r.Filters, plan.Filter{Mirror: &plan.Mirror{Service: s, Num: 1, Den: 1}})
	}
	return r
}

// copies is a handler that keeps what it was asked.
type copies struct {
	mu   sync.Mutex
	seen []string
}

func (c *copies) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	c.mu.Lock()
	c.seen = append(c.seen, fmt.Sprintf("%s %s %s x-set=%s %d %.3s trailer=%s err=%v", r.Method, r.URL, r.Host, r.Header.Get("X-Set"), len(body), body, r.Trailer.Get("X-Up"), err))
	c.mu.Unlock()
	w.WriteHeader(500)
	_, _ = w.Write(make([]byte, 100_000)) // nobody wants it
}

func (c *copies) wait(tb testing.TB, n int) []string {
	tb.Helper()
	var got []string
	eventually(tb, fmt.Sprintf("%d copies came", n), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		got = append(got[:0], c.seen...)
		return len(got) >= n
	})
	if len(got) != n {
		tb.Errorf("%d copies, want %d: %q", len(got), n, got)
	}
	return got
}

// covers: HTTPRouteRequestMirror HTTPRouteRequestMultipleMirrors
func TestMirrorsGetTheRequest(t *testing.T) {
	for _, client := range []*http.Client{h2cClient(), {Timeout: 20 * time.Second, Transport: &http.Transport{}}} {
		for _, second := range []bool{false, true} { // the main service speaks HTTP/2
			one, two := &copies{}, &copies{}
			main := service("s", backend(t, answerAll))
			if second {
				main = h2cService("s", h2cBackend(t, answerAll))
			}
			rule := mirrored("one", "two")
			rule.Filters = append(rule.Filters, plan.Filter{RequestHeaders: &plan.HeaderEdit{Set: []plan.Header{{Name: "X-Set", Value: "1"}}}})
			g := start(t, 1, route("r", rule), main, service("one", backend(t, one.ServeHTTP)), h2cService("two", h2cBackend(t, two.ServeHTTP)))
			for _, body := range []string{"", "abc", strings.Repeat("x", 30_000)} {
				req, err := http.NewRequest("PUT", "http://"+g.addr+"/a?b=c", io.MultiReader(strings.NewReader(body)))
				if err != nil {
					t.Fatal(err)
				}
				req.Host = "shop.example"
				req.Trailer = http.Header{"X-Up": {"up"}}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := fmt.Sprintf("PUT /a?b=c shop.example %d up", len(body)); resp.StatusCode != 200 || string(got) != want {
					t.Errorf("got %d %q, want 200 %q", resp.StatusCode, got, want)
				}
				for _, c := range []*copies{one, two} {
					want := fmt.Sprintf("PUT /a?b=c shop.example x-set=1 %d %.3s trailer=up err=<nil>", len(body), body)
					if got := c.wait(t, 1)[0]; got != want {
						t.Errorf("the mirror got %q, want %q", got, want)
					}
					c.mu.Lock()
					c.seen = nil
					c.mu.Unlock()
				}
			}
			client.CloseIdleConnections()
			eventually(t, "copies are counted", func() bool { return g.metric("windrose_mirrors_total") == 6 })
			g.wantLines(3) // copies have no record
			if n := g.metric("windrose_requests_active"); n != 0 {
				t.Errorf("%v requests are active", n)
			}
		}
	}
}

// Whatever a mirror does, the request and its answer are as without.
func TestMirrorsDoNoHarm(t *testing.T) {
	hang := endpoint(t, func(p *peer) { p.request(); _, _ = p.r.ReadByte() })
	for name, c := range map[string]struct {
		mirror plan.Part
		body   int
		result string // of the metric
	}{
		"refuses":          {service("m", closedAddr(t)), 10, "failed"},
		"no endpoint":      {service("m"), 10, "failed"},
		"not there":        {service("other"), 10, "failed"},
		"breaks off":       {service("m", once(t, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")), 10, "failed"},
		"nonsense":         {service("m", once(t, "hello?\r\n\r\n")), 10, "failed"},
		"hangs":            {service("m", hang), 10, "failed"},
		"large request":    {service("m", answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")), 300_000, "dropped"},
		"answers":          {service("m", answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")), 10, "answered"},
		"HTTP/2 that is 1": {h2cService("m", answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")), 10, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, 1, route("r", mirrored("m")), service("s", backend(t, answerAll)), c.mirror, settings(plan.Settings{BodyTimeout: 400 * time.Millisecond}))
			p := g.dial()
			for range 3 {
				p.send(fmt.Sprintf("POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s", c.body, strings.Repeat("x", c.body)))
				resp, body := p.answer("POST")
				if want := fmt.Sprintf("POST /p x %d ", c.body); resp.StatusCode != 200 || body != want {
					t.Errorf("got %d %q, want 200 %q", resp.StatusCode, body, want)
				}
			}
			eventually(t, "3 copies are "+c.result, func() bool {
				return strings.Contains(string(g.hub.AppendMetrics(t.Context(), nil)), `windrose_mirrors_total{result="`+c.result+`"} 3`)
			})
			g.wantLines(3)
		})
	}
}

// covers: HTTPRouteRequestPercentageMirror
func TestMirrorsOfAShareAreExact(t *testing.T) {
	var n, m atomic.Int64
	rule := mirrored()
	rule.Filters = []plan.Filter{
		{Mirror: &plan.Mirror{Service: "n", Num: 20, Den: 100}},
		{Mirror: &plan.Mirror{Service: "m", Num: 2, Den: 3}},
		{Mirror: &plan.Mirror{Service: "m", Num: 0, Den: 3}},
	}
	count := func(n *atomic.Int64) string {
		return backend(t, func(http.ResponseWriter, *http.Request) { n.Add(1) })
	}
	g := start(t, 2, route("r", rule), service("s", answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")), service("n", count(&n)), service("m", count(&m)))
	var wg sync.WaitGroup
	for range 6 {
		p := g.dial()
		wg.Go(func() {
			for range 50 {
				p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
				if _, err := http.ReadResponse(p.r, nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "60 and 200 of 300", func() bool { return n.Load() >= 60 && m.Load() >= 200 })
	eventually(t, "all are counted", func() bool { return g.metric("windrose_mirrors_total") == 260 })
	if n.Load() != 60 || m.Load() != 200 {
		t.Errorf("got %d and %d copies, want 60 and 200", n.Load(), m.Load())
	}
}

// A client that goes before its request is whole leaves nothing to copy.
func TestMirrorsGetNoHalfRequest(t *testing.T) {
	c := &copies{}
	g := start(t, 1, route("r", mirrored("m")), service("s", backend(t, answerAll)), service("m", backend(t, c.ServeHTTP)))
	p := g.dial()
	p.send("POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc")
	eventually(t, "the request is under way", func() bool { return g.metric("windrose_requests_active") == 1 })
	p.reset()
	g.wantLines(1)
	eventually(t, "the copy is dropped", func() bool {
		return strings.Contains(string(g.hub.AppendMetrics(t.Context(), nil)), `windrose_mirrors_total{result="dropped"} 1`)
	})
	c.wait(t, 0)
}

// A mirror that hangs holds no more than so much.
func TestMirrorsThatHangAreBounded(t *testing.T) {
	t.Parallel()
	hang := endpoint(t, func(p *peer) { p.request(); _, _ = p.r.ReadByte() })
	g := start(t, 1, route("r", mirrored("m")), service("s", answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")), service("m", hang), settings(plan.Settings{BodyTimeout: time.Second}))
	p := g.dial()
	const n = 300
	for range n {
		p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
		if resp, _ := p.answer("GET"); resp.StatusCode != 200 {
			t.Fatalf("got %d, want 200", resp.StatusCode)
		}
	}
	if open := g.metric("windrose_upstream_connections_active"); open > 256+1 {
		t.Errorf("%v connections to endpoints are open", open)
	}
	eventually(t, "all copies are over", func() bool { return g.metric("windrose_mirrors_total") == n })
	// There is room again.
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	p.answer("GET")
	eventually(t, "the next is copied", func() bool { return g.metric("windrose_upstream_connections_active") == 2 })
}
