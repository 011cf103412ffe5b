package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"windrose.dev/windrose/internal/plan"
)

func TestAnswersPass(t *testing.T) {
	for _, c := range []struct {
		name    string
		request string // the head, without its end
		answer  string // of the endpoint
		want    []string
		not     []string
		body    string // as it stands on the wire
		last    bool   // the connection ends
	}{
		{
			name: "with a length", answer: "HTTP/1.1 200 Fine\r\ncontent-length: 2\r\nx-a: b\r\n\r\nok",
			want: []string{"HTTP/1.1 200 Fine\r\n", "x-a: b\r\n", "content-length: 2\r\n", "x-request-id: "}, not: []string{"connection:"}, body: "ok",
		},
		{
			name: "to HEAD", request: "HEAD / HTTP/1.1\r\nhost: x\r\n", answer: "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
			want: []string{"content-length: 10\r\n"},
		},
		{
			name: "204 with a length that must not be", answer: "HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n",
			want: []string{"HTTP/1.1 204 No\r\n"}, not: []string{"content-length", "transfer-encoding"},
		},
		{
			name: "304 with the length of the whole", answer: "HTTP/1.1 304 Not Modified\r\ncontent-length: 77\r\netag: \"x\"\r\n\r\n",
			want: []string{"content-length: 77\r\n", "etag: \"x\"\r\n"},
		},
		{
			name: "chunked", answer: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
			want: []string{"transfer-encoding: chunked\r\n"}, body: "3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
		},
		{
			name: "chunked with trailers", answer: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n1\r\na\r\n0\r\nx-sum: 5\r\ncontent-length: 9\r\n\r\n",
			want: []string{"trailer: x-sum\r\n"}, body: "1\r\na\r\n0\r\nx-sum: 5\r\n\r\n",
		},
		{
			name: "chunked to HTTP/1.0", request: "GET / HTTP/1.0\r\nconnection: keep-alive\r\n", answer: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			want: []string{"connection: close\r\n"}, not: []string{"transfer-encoding"}, body: "abc", last: true,
		},
		{
			name: "HTTP/1.0 keep-alive", request: "GET / HTTP/1.0\r\nconnection: keep-alive\r\n", answer: "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
			want: []string{"connection: keep-alive\r\n"}, body: "a",
		},
		{
			name: "HTTP/1.0", request: "GET / HTTP/1.0\r\n", answer: "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
			want: []string{"connection: close\r\n"}, body: "a", last: true,
		},
		{
			name: "interim", answer: "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
			want: []string{"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n"}, body: "a",
		},
		{
			name: "interim to HTTP/1.0", request: "GET / HTTP/1.0\r\n", answer: "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
			not: []string{"103 Early"}, body: "a", last: true,
		},
		{
			name: "hop by hop fields end", answer: "HTTP/1.1 200 OK\r\nconnection: x-hop, keep-alive\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\nx-end: 2\r\nproxy-authenticate: no\r\ncontent-length: 0\r\n\r\n",
			want: []string{"x-end: 2\r\n"}, not: []string{"x-hop", "keep-alive", "proxy-auth"},
		},
		{
			name: "windrose's own fields cannot be forged", answer: "HTTP/1.1 200 OK\r\nx-windrose-fault: internal\r\nx-request-id: forged\r\ncontent-length: 0\r\n\r\n",
			want: []string{"x-request-id: "}, not: []string{"x-windrose-fault", "forged"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, 1, to(answering(t, c.answer))...)
			p := g.dial()
			if c.request == "" {
				c.request = "GET / HTTP/1.1\r\nhost: x\r\n"
			}
			p.send(c.request + "\r\n")
			head := p.head()
			if strings.HasPrefix(head, "HTTP/1.1 1") {
				head += p.head()
			}
			for _, want := range c.want {
				if !strings.Contains(head, want) {
					t.Errorf("head is %q, want it to contain %q", head, want)
				}
			}
			for _, not := range c.not {
				if strings.Contains(head, not) {
					t.Errorf("head is %q, want no %q in it", head, not)
				}
			}
			p.exactly(c.body)
			if c.last {
				if rest := p.rest(); rest != "" {
					t.Errorf("got %q behind the answer", rest)
				}
				g.wantLines(1)
				return
			}
			p.send("GET /next HTTP/1.1\r\nhost: x\r\n\r\n")
			if _, body := p.answer("GET"); body != "next" {
				t.Errorf("second answer: got %q, want %q", body, "next")
			}
			g.wantLines(2)
		})
	}
}

func TestAnswerUntilCloseBecomesChunked(t *testing.T) {
	g := start(t, 1, to(once(t, "HTTP/1.1 200 OK\r\n\r\nall of it"))...)
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	resp, body := p.answer("GET")
	if body != "all of it" || len(resp.TransferEncoding) != 1 || resp.Close {
		t.Errorf("got %q %v close=%v, want it chunked and the connection to stay", body, resp.TransferEncoding, resp.Close)
	}
}

func TestMalformedAnswers(t *testing.T) {
	const tail = "content-length: 1\r\n\r\na"
	for _, c := range []struct{ name, answer, flag string }{
		{"not HTTP", "SSH-2.0-x\r\n\r\n", "upstream-protocol"},
		{"HTTP/2", "HTTP/2 200 OK\r\n" + tail, "upstream-protocol"},
		{"status of two digits", "HTTP/1.1 20 OK\r\n" + tail, "upstream-protocol"},
		{"both lengths", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n" + tail, "upstream-protocol"},
		{"two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + tail, "upstream-protocol"},
		{"negative length", "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "upstream-protocol"},
		{"obs-fold", "HTTP/1.1 200 OK\r\nx: 1\r\n 2\r\n" + tail, "upstream-protocol"},
		{"bare LF", "HTTP/1.1 200 OK\ncontent-length: 1\n\na", "upstream-protocol"},
		{"space before the colon", "HTTP/1.1 200 OK\r\nx : 1\r\n" + tail, "upstream-protocol"},
		{"101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "upstream-protocol"},
		{"head without an end", "HTTP/1.1 200 OK\r\nx: " + strings.Repeat("a", 70<<10), "upstream-protocol"},
		{"nothing", "", "upstream-reset"},
		{"half a head", "HTTP/1.1 200 OK\r\ncontent-le", "upstream-reset"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, 1, to(once(t, c.answer))...)
			p := g.dial()
			p.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
			resp, _ := p.answer("POST")
			if resp.StatusCode != 502 || resp.Header.Get("X-Windrose-Fault") != c.flag {
				t.Errorf("got %d %q, want 502 %q", resp.StatusCode, resp.Header.Get("X-Windrose-Fault"), c.flag)
			}
			if l := g.wantLines(1)[0]; l.Fault != c.flag || l.Status != 502 {
				t.Errorf("record: got %+v, want 502 %s", l, c.flag)
			}
		})
	}
}

func TestTruncatedAnswerIsNeverACleanEnd(t *testing.T) {
	for _, c := range []struct{ name, request, answer string }{
		{"short of its length", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"},
		{"without the last chunk", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"},
		{"within a chunk", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc"},
		{"with a chunk that is none", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"},
		{"chunked to HTTP/1.0, where the end of the connection is the end", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, 1, to(once(t, c.answer))...)
			p := g.dial()
			p.send(c.request)
			// The head may be lost with the reset too.
			resp, err := http.ReadResponse(p.r, nil)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			if !cutOff(err) {
				t.Errorf("the client saw %v, want that the answer was cut off", err)
			}
			if l := g.wantLines(1)[0]; l.Status != 200 || l.Fault == "" {
				t.Errorf("record: got %+v, want 200 with a fault", l)
			}
		})
	}
}

// An endpoint that refuses a body answers and closes while the body still comes:
// the reset that follows must not take the answer with it.
func TestEarlyAnswerSurvivesTheReset(t *testing.T) {
	b := endpoint(t, func(p *peer) {
		p.head()
		p.send("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
	})
	g := start(t, 1, to(b)...)
	for i := range 20 {
		p := g.dial()
		go func() {
			_, _ = io.WriteString(p, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n")
			_, _ = io.Copy(p, io.LimitReader(zeroes{}, 4000000))
		}()
		resp, err := http.ReadResponse(p.r, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 413 || string(body) != "big" || err != nil {
			t.Fatalf("request %d: got %d %q (%v), want 413 %q", i, resp.StatusCode, body, err, "big")
		}
		p.Close()
	}
	g.wantLines(20)
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAnswerIsTheSameHoweverItArrives(t *testing.T) {
	const answer = "HTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n10;x=y\r\n0123456789abcdef\r\n0\r\nx-t: 1\r\n\r\n"
	b := endpoint(t, func(p *peer) {
		req, _ := p.request()
		at, err := strconv.Atoi(req.URL.Path[1:])
		if err != nil {
			t.Error(err)
		}
		p.send(answer[:at])
		p.waitSent()
		p.send(answer[at:])
		p.request()
	})
	g := start(t, 1, to(b)...)
	var wg sync.WaitGroup
	for at := 1; at < len(answer); at++ {
		p := g.dial()
		wg.Go(func() {
			p.send(fmt.Sprintf("GET /%d HTTP/1.1\r\nhost: x\r\n\r\n", at))
			interim, err := http.ReadResponse(p.r, nil)
			if err != nil || interim.StatusCode != 103 {
				t.Errorf("split at %d: got %v (%v), want 103", at, interim, err)
				return
			}
			resp, err := http.ReadResponse(p.r, nil)
			if err != nil {
				t.Errorf("split at %d: %v", at, err)
				return
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || string(body) != "abcd0123456789abcdef" || resp.Trailer.Get("X-T") != "1" {
				t.Errorf("split at %d: got %q, trailers %v (%v)", at, body, resp.Trailer, err)
			}
		})
	}
	wg.Wait()
	g.wantLines(len(answer) - 1)
}

func TestRequestIsTheSameHoweverItArrives(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %q %q %s", r.Method, r.URL, r.Header.Get("X-A"), body, r.Trailer.Get("X-T"))
	})
	g := start(t, 1, to(b)...)
	const text = "\r\nPUT /a?b HTTP/1.1\r\nhost: x\r\nx-a: b c\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n3;q=\"z\"\r\nabc\r\n2\r\nde\r\n0\r\nx-t: 7\r\n\r\n" +
		"POST /c HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nfghi"
	for at := 1; at < len(text); at++ {
		p := g.dial()
		p.send(text[:at])
		p.waitSent()
		p.send(text[at:])
		for _, want := range []string{`PUT /a?b "b c" "abcde" 7`, `POST /c "" "fghi" `} {
			if _, body := p.answer("GET"); body != want {
				t.Fatalf("split at %d: got %q, want %q", at, body, want)
			}
		}
		p.Close()
	}
	g.wantLines(2 * (len(text) - 1))
}

func TestBytewiseRequest(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %q", r.URL, body)
	})
	g := start(t, 1, to(b)...)
	p := g.dial()
	for _, c := range []byte("POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n") {
		p.send(string(c))
		p.waitSent()
	}
	if _, body := p.answer("POST"); body != `/x "a"` {
		t.Errorf("got %q", body)
	}
}

// An endpoint cannot hold a request for ever with answers that are none.
func TestEndlessInterimAnswers(t *testing.T) {
	b := endpoint(t, func(p *peer) {
		p.head()
		for {
			if _, err := io.WriteString(p, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"); err != nil {
				return
			}
		}
	})
	for _, version := range []string{"HTTP/1.1", "HTTP/1.0"} {
		g := start(t, 1, to(b)...)
		got := g.raw("GET / " + version + "\r\nhost: x\r\nconnection: close\r\n\r\n")
		if !strings.Contains(got, "HTTP/1.1 502 ") || !strings.Contains(got, "interim answers without end") {
			t.Errorf("%s: got %q", version, got[max(0, len(got)-300):])
		}
	}
}

// A fault before the request's end says that the connection ends with it: a
// client must not send another request there.
func TestFaultBeforeTheRequestsEndClosesTheConnection(t *testing.T) {
	g := start(t, 1, route("r", plan.Rule{
		Matches: []plan.Match{{PathType: plan.PathPrefix, Path: "/"}},
		Broken:  &plan.Broken{Status: 500, Reason: "it cannot serve"},
	}))
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 5\r\n\r\nab")
	resp, _ := p.answer("POST")
	if resp.StatusCode != 500 || !resp.Close {
		t.Errorf("got %d, close %v; want 500 and close", resp.StatusCode, resp.Close)
	}
	p.send("cde")
	if rest := p.rest(); rest != "" {
		t.Errorf("after the fault came %q", rest)
	}
	q := g.dial()
	for range 2 {
		q.send("POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 2\r\n\r\nab")
		if resp, _ := q.answer("POST"); resp.StatusCode != 500 || resp.Close {
			t.Errorf("got %d, close %v; want 500 and no close", resp.StatusCode, resp.Close)
		}
	}
}
