package proxy_test

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"windrose.dev/windrose/internal/plan"
)

func oneRefusal(answers string) bool {
	return (strings.HasPrefix(answers, "HTTP/1.1 4") || strings.HasPrefix(answers, "HTTP/1.1 5")) &&
		strings.Count(answers, "x-request-id: ") == 1
}

// After a message that is refused, nothing of it and nothing behind it reaches
// an endpoint.
func TestNothingIsSmuggled(t *testing.T) {
	const evil = "GET /evil HTTP/1.1\r\nhost: x\r\n\r\n"
	const post = "POST / HTTP/1.1\r\nhost: x\r\n"
	for name, text := range map[string]string{
		"both lengths":                 post + "content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + evil,
		"both lengths, the other way":  post + "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + evil,
		"two lengths":                  post + "content-length: 0\r\ncontent-length: 33\r\n\r\n" + evil,
		"two equal lengths":            post + "content-length: 0\r\ncontent-length: 0\r\n\r\n" + evil,
		"a list of lengths":            post + "content-length: 0, 0\r\n\r\n" + evil,
		"a signed length":              post + "content-length: +0\r\n\r\n" + evil,
		"a length with a space":        post + "content-length: 0 0\r\n\r\n" + evil,
		"a length that overflows":      post + "content-length: 18446744073709551616\r\n\r\n" + evil,
		"space before the colon":       post + "content-length : 33\r\n\r\n" + evil,
		"obs-fold":                     post + "x: y\r\n transfer-encoding: chunked\r\n\r\n" + evil,
		"chunked, but not last":        post + "transfer-encoding: chunked, identity\r\n\r\n" + evil,
		"chunked twice":                post + "transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + evil,
		"chunked in quotes":            post + "transfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n" + evil,
		"chunked after a vertical tab": post + "transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + evil,
		"an unknown coding":            post + "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + evil,
		"chunked in HTTP/1.0":          "POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + evil,
		"a bare LF":                    "POST / HTTP/1.1\nhost: x\ncontent-length: 0\n\n" + evil,
		"a bare CR":                    post + "x: a\rcontent-length: 33\r\n\r\n" + evil,
		"a NUL":                        post + "x: a\x00b\r\n\r\n" + evil,
		"no colon":                     post + "content-length\r\n\r\n" + evil,
		"an empty name":                post + ": x\r\n\r\n" + evil,
		"two hosts":                    post + "host: y\r\n\r\n" + evil,
		"a space in the host":          "POST / HTTP/1.1\r\nhost: x y\r\n\r\n" + evil,
		"no host":                      "GET / HTTP/1.1\r\n\r\n" + evil,
		"a space in the target":        "GET /a b HTTP/1.1\r\nhost: x\r\n\r\n" + evil,
		"a tab as separator":           "GET\t/\tHTTP/1.1\r\nhost: x\r\n\r\n" + evil,
		"HTTP/0.9":                     "GET /\r\n\r\n" + evil,
		"half of a preface of HTTP/2":  "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + evil,
		"HTTP/1.10":                    "GET / HTTP/1.10\r\nhost: x\r\n\r\n" + evil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var bytes atomic.Int64
			b := endpoint(t, func(p *peer) {
				n, _ := io.Copy(io.Discard, p.r)
				bytes.Add(n)
			})
			g := start(t, 1, to(b)...)
			p := g.dial()
			p.send(text)
			got := p.rest()
			if !oneRefusal(got) {
				t.Errorf("got %q, want one refusal and the end", got)
			}
			if !strings.Contains(got, "connection: close\r\n") {
				t.Errorf("got %q, want connection: close", got)
			}
			g.wantLines(1)
			if n := g.metric("windrose_upstream_connections_opened_total"); n != 0 || bytes.Load() != 0 {
				t.Errorf("%v connections with %d bytes reached the endpoint, want none", n, bytes.Load())
			}
		})
	}
}

// A body that turns out malformed on its way ends the connection to the
// endpoint too: what follows it is no request there.
func TestBadChunksEndTheExchange(t *testing.T) {
	const evil = "GET /evil HTTP/1.1\r\nhost: x\r\n\r\n"
	for name, chunks := range map[string]string{
		"size with a sign":        "+1\r\na\r\n0\r\n\r\n",
		"size with 0x":            "0x1\r\na\r\n0\r\n\r\n",
		"size that overflows":     "10000000000000001\r\na\r\n0\r\n\r\n",
		"bare LF after the size":  "1\na\r\n0\r\n\r\n",
		"bare CR in an extension": "1;a\rb\r\na\r\n0\r\n\r\n",
		"LF in an extension":      "1;a=\nb\r\na\r\n0\r\n\r\n",
		"more data than the size": "1\r\nab\r\n0\r\n\r\n",
		"bare LF at the end":      "1\r\na\r\n0\r\n\n",
		"space before the size":   " 1\r\na\r\n0\r\n\r\n",
		"trailer with a bare LF":  "1\r\na\r\n0\r\nx: y\n\r\n",
		"trailer without a colon": "1\r\na\r\n0\r\nxy\r\n\r\n",
		"framing without an end":  strings.Repeat("1;"+strings.Repeat("x", 900)+"\r\na\r\n", 100),
	} {
		for _, apart := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				got := make(chan string, 1)
				b := endpoint(t, func(p *peer) {
					all, _ := io.ReadAll(p.r)
					got <- string(all)
				})
				g := start(t, 1, to(b)...)
				p := g.dial()
				p.send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
				if apart { // the request is on its way already
					p.send("1\r\na\r\n")
					p.waitSent()
				}
				p.send(chunks + evil)
				if answer := p.rest(); !oneRefusal(answer) {
					t.Errorf("got %q, want one refusal and the end", answer)
				}
				g.wantLines(1)
				if g.metric("windrose_upstream_connections_opened_total") == 0 {
					return // it was refused before it was sent
				}
				if all := <-got; strings.Contains(all, "evil") || strings.HasSuffix(all, "0\r\n\r\n") {
					t.Errorf("the endpoint got %q, want a request without an end", all)
				}
			})
		}
	}
}

func TestManyBadRequestsAreOneAnswer(t *testing.T) {
	g := start(t, 1)
	p := g.dial()
	go func() { _, _ = io.WriteString(p.Conn, strings.Repeat("BAD\r\n\r\n", 10_000)) }()
	got, _ := io.ReadAll(p.r)
	if n := strings.Count(string(got), "HTTP/1.1 400 "); n != 1 {
		t.Errorf("got %d answers, want 1", n)
	}
	g.wantLines(1)
}

// A service must be able to believe what windrose and its filters say of a
// request, however a client writes the names.
func TestForgedFieldsDoNotPass(t *testing.T) {
	seen := make(chan string, 1)
	b := endpoint(t, func(p *peer) {
		head := p.head()
		_, _ = p.r.ReadString('\n') // the last chunk
		head += p.head()            // trailers
		seen <- head
		p.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	})
	r := all(plan.Backend{Service: "s", Weight: 1})
	r.Filters = []plan.Filter{{RequestHeaders: &plan.HeaderEdit{Set: []plan.Header{{Name: "X-User", Value: "nobody"}}, Remove: []string{"x-secret"}}}}
	g := start(t, 1, service("s", b), route("r", r))
	forged := []string{
		"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Client-Cert", "X-Forwarded-Prefix", "Forwarded", "X-Real-IP",
		"X_Forwarded_For", "x_forwarded-proto", "X_Forwarded_Port", "X_Real_IP", "X-Request-Id", "X_Request_Id",
		"X-User", "X_User", "X-Secret", "x_secret", "Transfer_Encoding", "Content_Length", "Proxy", "Proxy_Authorization",
	}
	var head, trailers strings.Builder
	for _, name := range forged {
		fmt.Fprintf(&head, "%s: forged\r\n", name)
		fmt.Fprintf(&trailers, "%s: forged\r\n", name)
	}
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nhost: x\r\nx_other: kept\r\ntransfer-encoding: chunked\r\n" + head.String() + "\r\n0\r\nx_more: kept\r\n" + trailers.String() + "\r\n")
	if resp, _ := p.answer("POST"); resp.StatusCode != 200 {
		t.Fatalf("status %d", resp.StatusCode)
	}
	got := <-seen
	for l := range strings.Lines(got) {
		if strings.Contains(l, "forged") {
			t.Errorf("the service sees %q", l)
		}
	}
	for _, want := range []string{"x_other: kept", "x_more: kept", "X-User: nobody", "x-forwarded-for: 127.0.0.1"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

func TestInterimAnswersCannotSpeakForWindrose(t *testing.T) {
	b := answering(t, "HTTP/1.1 103 Early Hints\r\nx-windrose-fault: no-route\r\nx-request-id: forged\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", b))
	got := g.raw("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
	if !strings.Contains(got, "link: x") || strings.Contains(got, "no-route") || strings.Contains(got, "forged") {
		t.Errorf("got %q", got)
	}
}
