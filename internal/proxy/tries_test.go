package proxy_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
)

// wantOrder looks whether the times of a record follow each other as they
// happened. Every record of every test comes by here.
func wantOrder(tb testing.TB, r *record.Record) {
	if got, want := len(r.Tries), min(r.Attempts, record.MaxTries); got != want {
		tb.Errorf("%s %s: got %d tries, want %d", r.Method, r.Path, got, want)
		return
	}
	before := r.Received
	for i, t := range r.Tries {
		if t.Begun <= 0 || t.Begun < before || t.Ended < t.Begun || t.Endpoint != r.Endpoint && i == len(r.Tries)-1 {
			tb.Errorf("%s %s: try %d is out of order: %+v in %+v", r.Method, r.Path, i, t, r)
		}
		for _, s := range []struct{ at, from, to time.Duration }{{t.Connected, t.Begun, t.Ended}, {t.Sent, t.Connected, t.Ended}, {t.Answered, t.Connected, t.Ended}} {
			if s.at != 0 && (s.at < s.from || s.at > s.to) {
				tb.Errorf("%s %s: try %d is out of order: %+v in %+v", r.Method, r.Path, i, t, r)
			}
		}
		before = t.Ended
	}
	if r.Duration < before || r.Answered > r.Duration || r.Answered != 0 && len(r.Tries) > 0 && r.Answered < r.Tries[len(r.Tries)-1].Answered {
		tb.Errorf("%s %s: out of order: %+v", r.Method, r.Path, r)
	}
}

// records has the records that follow given to a channel.
func (g *gateway) records() <-chan record.Record {
	c := make(chan record.Record, 64)
	f := func(r *record.Record) {
		kept := *r
		kept.Tries = slices.Clone(r.Tries)
		kept.Path = slices.Clone(r.Path)
		c <- kept
	}
	g.watch.Store(&f)
	return c
}

// phases says which of a record's phases took place.
func phases(r record.Record) string {
	var b strings.Builder
	b.WriteString(r.Fault.String())
	if r.Answered != 0 {
		b.WriteString(" answered")
	}
	for _, t := range r.Tries {
		b.WriteString(" [")
		b.WriteString(t.Service)
		for _, p := range []struct {
			name string
			at   time.Duration
		}{{"connected", t.Connected}, {"sent", t.Sent}, {"answered", t.Answered}} {
			if p.at != 0 {
				b.WriteString(" " + p.name)
			}
		}
		if t.Reused {
			b.WriteString(" reused")
		}
		if t.Status != 0 {
			fmt.Fprintf(&b, " %d", t.Status)
		}
		if t.Fault != 0 {
			b.WriteString(" " + t.Fault.String())
		}
		b.WriteString("]")
	}
	return strings.TrimSpace(b.String())
}

func TestRecordTellsPhases(t *testing.T) {
	const whole = "connected sent answered"
	good := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	busy := answering(t, "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
	silent := endpoint(t, func(p *peer) { p.head(); _, _ = io.Copy(io.Discard, p.r) })
	breaks := once(t, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
	garbage := once(t, "nonsense\r\n\r\n")
	h2c := h2cService("s", h2cBackend(t, answerAll))
	rule := func(retry *plan.Retry, timeouts plan.Timeouts) plan.Part {
		r := all(plan.Backend{Service: "s", Weight: 1})
		r.Retry, r.Timeouts = retry, timeouts
		return route("r", r)
	}
	plain := rule(nil, plan.Timeouts{})
	codes := &plan.Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Millisecond}
	many := &plan.Retry{Codes: []int{503}, Attempts: 11, Backoff: time.Nanosecond}
	for _, c := range []struct {
		name  string
		parts []plan.Part
		body  string
		n     int // requests; the last is looked at
		want  string
	}{
		{"a new connection", []plan.Part{plain, service("s", good)}, "", 1, "answered [s " + whole + " 200]"},
		{"a used connection", []plan.Part{plain, service("s", good)}, "", 2, "answered [s " + whole + " reused 200]"},
		{"a body", []plan.Part{plain, service("s", good)}, "abc", 2, "answered [s " + whole + " reused 200]"},
		{"HTTP/2 to the endpoint", []plan.Part{plain, h2c}, "abc", 1, "answered [s " + whole + " 200]"},
		{"HTTP/2 to the endpoint, used", []plan.Part{plain, h2c}, "", 2, "answered [s " + whole + " reused 200]"},
		{"no route", []plan.Part{service("s", good)}, "", 1, "no-route answered"},
		{"no endpoint", []plan.Part{plain, service("s")}, "", 1, "no-endpoint answered"},
		{"nobody listens", []plan.Part{plain, service("s", closedAddr(t))}, "", 1, "connect-failed answered [s connect-failed]"},
		{
			"nobody listens, and the rule goes on",
			[]plan.Part{rule(&plan.Retry{Attempts: 3, Backoff: time.Nanosecond}, plan.Timeouts{}), service("s", closedAddr(t), closedAddr(t))},
			"", 1,
			"connect-failed answered [s connect-failed] [s connect-failed] [s connect-failed] [s connect-failed] [s connect-failed]",
		},
		{"tried again", []plan.Part{rule(codes, plan.Timeouts{}), service("s", busy)}, "", 1, "answered [s " + whole + " 503] [s " + whole + " reused 503]"},
		{
			"tried often",
			[]plan.Part{rule(many, plan.Timeouts{}), service("s", busy)},
			"", 1,
			"answered [s " + whole + " 503]" + strings.Repeat(" [s "+whole+" reused 503]", record.MaxTries-1),
		},
		{"too slow", []plan.Part{rule(nil, plan.Timeouts{Backend: 20 * time.Millisecond}), service("s", silent)}, "", 1, "backend-timeout answered [s connected sent backend-timeout]"},
		{
			"too slow, twice",
			[]plan.Part{rule(codes, plan.Timeouts{Backend: 20 * time.Millisecond}), service("s", silent)},
			"", 1,
			"backend-timeout answered [s connected sent backend-timeout] [s connected sent backend-timeout]",
		},
		{"breaks off", []plan.Part{plain, service("s", breaks)}, "", 1, "upstream-reset answered [s " + whole + " 200 upstream-reset]"},
		{"no HTTP", []plan.Part{plain, service("s", garbage)}, "", 1, "upstream-protocol answered [s connected sent upstream-protocol]"},
	} {
		for _, client := range []*http.Client{h2cClient(), {Timeout: 20 * time.Second, Transport: &http.Transport{}}} {
			t.Run(fmt.Sprintf("%s/%T", c.name, client.Transport.(*http.Transport).Protocols), func(t *testing.T) {
				g := start(t, 1, c.parts...)
				records := g.records()
				var got record.Record
				for range c.n {
					method := "GET"
					if c.body != "" {
						method = "POST"
					}
					req, err := http.NewRequest(method, "http://"+g.addr+"/", strings.NewReader(c.body))
					if err != nil {
						t.Fatal(err)
					}
					if resp, err := client.Do(req); err == nil { // an answer that breaks off is an error to some
						_, _ = io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
					got = <-records
				}
				client.CloseIdleConnections()
				if p := phases(got); p != c.want {
					t.Errorf("got  %s\nwant %s\n%+v", p, c.want, got)
				}
				for _, try := range got.Tries {
					if (try.Reason == "") != (try.Fault == 0) {
						t.Errorf("fault %q with reason %q", try.Fault, try.Reason)
					}
				}
			})
		}
	}
}

func TestRecordTellsWhenHeadAndBodyCame(t *testing.T) {
	b := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	g := start(t, 1, to(b)...)
	records := g.records()
	began := time.Now()
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nhost: x\r\n")
	p.waitSent()
	g.proxy.Hold(0, func() {}) // the loop has read it
	headed := time.Now()
	p.send("content-length: 2\r\n\r\n")
	g.proxy.Hold(0, func() {})
	p.send("ab")
	p.answer("POST")
	r := <-records
	if r.Start.Before(began) || r.Start.After(headed) || r.Received == 0 {
		t.Errorf("got start %v and head after %v, want them to tell that the head came in two pieces", r.Start, r.Received)
	}
	if try := r.Tries[0]; try.Sent == 0 || try.Sent < try.Connected {
		t.Errorf("got %+v, want the end of the body after the connection stood", try)
	}
}

func TestRecordTellsPhasesOfStreams(t *testing.T) {
	g := start(t, 1, service("t", parrot(t)), service("none", closedAddr(t)))
	records := g.records()
	for _, c := range []struct{ service, want string }{
		{"t", "[t connected]"},
		{"none", "connect-failed [none connect-failed]"},
	} {
		addr := g.carry(plan.Listener{Protocol: plan.TCP}, plan.Backend{Service: c.service, Weight: 1})
		if c.service == "t" {
			p := dialTCP(t, addr)
			p.send("hello")
			p.exactly("hello")
			p.closeWrite()
			_, _ = io.Copy(io.Discard, p.r)
		} else if conn, err := net.Dial("tcp", addr); err == nil { // it may be reset before Dial has returned
			defer conn.Close()
		}
		if got := phases(<-records); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	addr := g.datagrams("127.0.0.1", plan.Backend{Service: "u", Weight: 1})
	g.use(service("u", udpParrot(t)), settings(plan.Settings{FlowTimeout: 20 * time.Millisecond}))
	if got := ask(t, addr).exchange("hi"); got == "" {
		t.Fatal("no answer")
	}
	if got, want := phases(<-records), "[u connected answered]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRecordTellsPhasesOfTunnels(t *testing.T) {
	g := start(t, 1, to(switching(t, "", echo))...)
	records := g.records()
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: abc\r\n\r\n")
	if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 101") {
		t.Fatalf("got %q", head)
	}
	p.closeWrite()
	_, _ = io.Copy(io.Discard, p.r)
	if got, want := phases(<-records), "answered [s connected sent answered 101]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
