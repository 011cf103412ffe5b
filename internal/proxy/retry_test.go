package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// retrying is a rule for everything to service s that tries again.
func retrying(r plan.Retry, timeouts plan.Timeouts) plan.Part {
	rule := all(plan.Backend{Service: "s", Weight: 1})
	rule.Retry, rule.Timeouts = &r, timeouts
	return route("r", rule)
}

// covers: HTTPRouteRetry
func TestRetriesOnCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		retry    plan.Retry
		method   string
		fails    int64 // how many answers are 503
		status   int
		attempts int
	}{
		{"GET", plan.Retry{Codes: []int{500, 503}, Attempts: 3}, "GET", 2, 200, 3},
		{"POST, since the rule names the code", plan.Retry{Codes: []int{503}, Attempts: 1}, "POST", 1, 200, 2},
		{"no more than the rule says", plan.Retry{Codes: []int{503}, Attempts: 2}, "GET", 5, 503, 3},
		{"another code", plan.Retry{Codes: []int{500}, Attempts: 3}, "GET", 1, 503, 1},
		{"no attempts", plan.Retry{Codes: []int{503}}, "GET", 1, 503, 1},
	} {
		var left atomic.Int64
		h := func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if left.Add(-1) >= 0 {
				w.WriteHeader(503)
				fmt.Fprint(w, "not now")
				return
			}
			fmt.Fprintf(w, "%s %d %.3s", r.Method, len(body), body)
		}
		c.retry.Backoff = time.Millisecond
		for _, s := range []plan.Part{service("s", backend(t, h)), h2cService("s", h2cBackend(t, h))} {
			for _, client := range []*http.Client{h2cClient(), {Timeout: 20 * time.Second, Transport: &http.Transport{}}} {
				t.Run(fmt.Sprintf("%s/%s/%T", c.name, s.Service.Protocol, client.Transport.(*http.Transport).Protocols), func(t *testing.T) {
					left.Store(c.fails)
					g := start(t, 1, retrying(c.retry, plan.Timeouts{}), s)
					body := ""
					if c.method == "POST" {
						body = strings.Repeat("x", 20_000)
					}
					req, err := http.NewRequest(c.method, "http://"+g.addr+"/", io.MultiReader(strings.NewReader(body))) // of unknown length
					if err != nil {
						t.Fatal(err)
					}
					if body == "" {
						req.Body = nil
					}
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					client.CloseIdleConnections()
					want := "not now"
					if c.status == 200 {
						want = fmt.Sprintf("%s %d %.3s", c.method, len(body), body)
					}
					if err != nil || resp.StatusCode != c.status || string(got) != want {
						t.Errorf("got %d %q (%v), want %d %q", resp.StatusCode, got, err, c.status, want)
					}
					if l := g.wantLines(1)[0]; l.Attempts != c.attempts || l.BytesIn != int64(len(body)) {
						t.Errorf("record: got %+v, want %d attempts and %d bytes in", l, c.attempts, len(body))
					}
				})
			}
		}
	}
}

// Answers with a length, chunked, and cut short; the connection is used again
// only if all of the answer was there.
func TestRetriesWhateverTheFailedAnswerLooksLike(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
	for name, text := range map[string]string{
		"no body":       "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
		"small":         "HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nabc",
		"chunked":       "HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"not all there": "HTTP/1.1 503 No\r\ncontent-length: 100\r\n\r\nabc",
		"until close":   "HTTP/1.1 503 No\r\n\r\nabc",
		"two answers":   "HTTP/1.1 503 No\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
	} {
		for _, split := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", split), func(t *testing.T) {
				t.Parallel()
				var asked atomic.Int64
				b := endpoint(t, func(p *peer) {
					for {
						if req, _ := p.request(); req == nil {
							return
						}
						if asked.Add(1) != 1 {
							p.send(ok)
							continue
						}
						if split {
							p.send(text[:20])
							p.waitSent()
							p.send(text[20:])
							continue
						}
						p.send(text)
					}
				})
				g := start(t, 1, retrying(plan.Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Millisecond}, plan.Timeouts{}), service("s", b))
				p := g.dial()
				for range 3 {
					p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
					if resp, body := p.answer("GET"); resp.StatusCode != 200 || body != "ok" {
						t.Errorf("got %d %q, want 200 ok", resp.StatusCode, body)
					}
				}
				g.wantLines(3)
			})
		}
	}
}

func TestRetriesPreferAnotherEndpoint(t *testing.T) {
	t.Parallel()
	bad := answering(t, "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
	good := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	g := start(t, 1, retrying(plan.Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Millisecond}, plan.Timeouts{}), service("s", bad, good))
	p := g.dial()
	for range 40 {
		p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
		if resp, _ := p.answer("GET"); resp.StatusCode != 200 {
			t.Fatalf("got %d, want the other endpoint's 200", resp.StatusCode)
		}
	}
}

// An endpoint that breaks off may have done what was asked.
func TestRetriesAfterABreakAreForIdempotentMethods(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method           string
		status, attempts int
	}{{"GET", 200, 2}, {"PUT", 200, 2}, {"POST", 502, 1}} {
		t.Run(c.method, func(t *testing.T) {
			var asked atomic.Int64
			b := endpoint(t, func(p *peer) {
				if req, _ := p.request(); req != nil && asked.Add(1) > 1 {
					p.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
				}
			})
			g := start(t, 1, retrying(plan.Retry{Codes: []int{502}, Attempts: 1}, plan.Timeouts{}), service("s", b))
			p := g.dial()
			p.send(c.method + " / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab")
			if resp, _ := p.answer(c.method); resp.StatusCode != c.status {
				t.Errorf("got %d, want %d", resp.StatusCode, c.status)
			}
			if l := g.wantLines(1)[0]; l.Attempts != c.attempts {
				t.Errorf("%d attempts, want %d", l.Attempts, c.attempts)
			}
		})
	}
}

// covers: HTTPRouteRetryWithBackendTimeout
func TestRetriesAfterTheBackendTimeout(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		var asked atomic.Int64
		h := func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) == 1 {
				<-r.Context().Done()
			}
		}
		s := h2cService("s", h2cBackend(t, h))
		if method == "POST" {
			s = service("s", backend(t, h))
		}
		g := start(t, 1, retrying(plan.Retry{Attempts: 1}, plan.Timeouts{Backend: 100 * time.Millisecond}), s)
		p := g.dial()
		p.send(method + " / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
		want := map[string]int{"GET": 200, "POST": 504}[method]
		if resp, _ := p.answer(method); resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", method, resp.StatusCode, want)
		}
	}
}

// covers: HTTPRouteRetryWithRequestTimeout HTTPRouteRetryWithBackendTimeout
func TestRetriesStayWithinTheRequestTimeout(t *testing.T) {
	t.Parallel()
	b := answering(t, "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
	// The pause would end behind the timeout: the answer that is there is given.
	g := start(t, 1, retrying(plan.Retry{Codes: []int{503}, Attempts: 3, Backoff: time.Hour}, plan.Timeouts{Request: 10 * time.Second}), service("s", b))
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	if resp, _ := p.answer("GET"); resp.StatusCode != 503 || resp.Header.Get("X-Windrose-Fault") != "" {
		t.Errorf("got %d %q, want the service's 503", resp.StatusCode, resp.Header.Get("X-Windrose-Fault"))
	}
	// Attempts that take longer are cut off.
	var asked atomic.Int64
	slow := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			w.WriteHeader(503)
			return
		}
		<-r.Context().Done()
	})
	g = start(t, 1, retrying(plan.Retry{Codes: []int{503}, Attempts: 3}, plan.Timeouts{Request: 300 * time.Millisecond}), service("s", slow))
	p = g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	if resp, _ := p.answer("GET"); resp.StatusCode != 504 || resp.Header.Get("X-Windrose-Fault") != "request-timeout" {
		t.Errorf("got %d %q, want 504 request-timeout", resp.StatusCode, resp.Header.Get("X-Windrose-Fault"))
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("%d attempts, want 2", n)
	}
}

// covers: HTTPRouteRetryConnectionError
func TestRetriesOfConnections(t *testing.T) {
	// Zero attempts is one attempt, also where nothing was sent.
	live := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	g := start(t, 1, retrying(plan.Retry{}, plan.Timeouts{}), service("s", closedAddr(t), closedAddr(t), closedAddr(t), live))
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	p.answer("GET")
	if l := g.wantLines(1)[0]; l.Attempts != 1 {
		t.Errorf("%d attempts, want 1", l.Attempts)
	}
	// An endpoint that is about to listen is waited for.
	addr := freeAddr(t)
	g = start(t, 1, retrying(plan.Retry{Attempts: 20, Backoff: 10 * time.Millisecond}, plan.Timeouts{}), service("s", addr.String()))
	p = g.dial()
	p.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab")
	eventually(t, "a connection was tried", func() bool { return g.metric("windrose_upstream_connections_failed_total") > 0 })
	s := &http.Server{Addr: addr.String(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })}
	go func() { _ = s.ListenAndServe() }()
	defer s.Close()
	if resp, body := p.answer("POST"); resp.StatusCode != 200 || body != "ab" {
		t.Errorf("got %d %q, want 200 ab", resp.StatusCode, body)
	}
}

// While a request waits for its next attempt, its client may go, and windrose.
func TestRetriesThatWaitAreEnded(t *testing.T) {
	t.Parallel()
	b := answering(t, "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
	waiting := []plan.Part{retrying(plan.Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Hour}, plan.Timeouts{}), service("s", b), settings(plan.Settings{DrainTimeout: 300 * time.Millisecond, BodyTimeout: 2 * time.Hour})}
	wait := func(g *gateway) *peer {
		p := g.dial()
		p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
		eventually(t, "the request waits", func() bool { return g.metric("windrose_upstream_connections_idle") == 1 })
		return p
	}
	g := start(t, 1, waiting...)
	wait(g).Close()
	if l := g.wantLines(1)[0]; l.Fault != "client-gone" || l.Attempts != 1 {
		t.Errorf("got %+v, want client-gone after one attempt", l)
	}
	g = start(t, 1, waiting...)
	p := wait(g)
	drained := make(chan struct{})
	go func() { defer close(drained); g.proxy.Drain(context.Background()) }()
	if resp, _ := p.answer("GET"); resp.StatusCode != 503 || resp.Header.Get("X-Windrose-Fault") != "draining" {
		t.Errorf("got %d %q, want 503 draining", resp.StatusCode, resp.Header.Get("X-Windrose-Fault"))
	}
	<-drained
}

func TestRetriesHaveABudget(t *testing.T) {
	b := answering(t, "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
	g := start(t, 1, retrying(plan.Retry{Codes: []int{503}, Attempts: 50, Backoff: 1}, plan.Timeouts{}), service("s", b))
	const peers = 12
	for range peers {
		p := g.dial()
		p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	}
	sum := 0
	for _, l := range g.wantLines(peers) {
		sum += l.Attempts - 1
	}
	// All that is free, and a fifth of the requests.
	if denied := g.metric("windrose_retries_denied_total"); sum > 2*(100+peers/5) || denied == 0 {
		t.Errorf("%d retries, %v denied", sum, denied)
	}
}

// A service's own budget bounds its retries; whoever gets none is told so, and not
// what the endpoint said.
//
// covers: XBackendTrafficPolicy
func TestRetriesWithinTheServicesBudget(t *testing.T) {
	const no = "HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno"
	for _, c := range []struct {
		name     string
		endpoint func(tb testing.TB) string
		retry    plan.Retry
		last     int // what the client gets when its retry failed too
	}{
		{"answers", func(tb testing.TB) string { return answering(tb, no) }, plan.Retry{Codes: []int{500}, Attempts: 1, Backoff: time.Millisecond}, 500},
		{"breaks", func(tb testing.TB) string { return endpoint(tb, func(p *peer) { p.request() }) }, plan.Retry{Attempts: 1, Backoff: time.Millisecond}, 502},
		{"refusals", closedAddr, plan.Retry{Attempts: 1, Backoff: time.Millisecond}, 503},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := service("s", c.endpoint(t))
			s.Service.Budget = &plan.RetryBudget{Percent: 0, Interval: time.Minute, Free: 2, FreeInterval: time.Hour}
			g := start(t, 1, retrying(c.retry, plan.Timeouts{}), s)
			for i := range 4 {
				p := g.dial()
				p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
				resp, body := p.answer("GET")
				want, spent := c.last, false
				if i >= 2 {
					want, spent = 503, true
				}
				if resp.StatusCode != want || strings.Contains(body, "retry budget of service s") != spent {
					t.Errorf("request %d: got %d %q, want %d, budget spent %v", i, resp.StatusCode, body, want, spent)
				}
			}
			if n := g.metric("windrose_retries_denied_total"); n != 2 {
				t.Errorf("%v retries were denied, want 2", n)
			}
		})
	}
}
