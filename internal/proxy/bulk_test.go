package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"testing"

	"windrose.dev/windrose/internal/plan"
)

// bulkBytes is a body that is worth splicing, and more than the kernel keeps for
// one connection.
const bulkBytes = 24 << 20

func bulk() []byte {
	data := make([]byte, bulkBytes)
	_, _ = (&noise{}).Read(data)
	return data
}

// bulkService gives large answers, and says what it got of requests: their
// number of bytes and their sum.
func bulkService(tb testing.TB, data []byte) string {
	return backend(tb, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data)
			return
		}
		h := sha256.New()
		n, _ := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
	})
}

func (g *gateway) splices(tb testing.TB, least int) {
	tb.Helper()
	if n := g.proxy.Spliced(); n < uint64(least) {
		tb.Errorf("%d bytes were spliced, want %d at least", n, least)
	}
}

// A large answer passes the process by, whole, to a client that reads late, and
// the connections on both sides serve the next request.
func TestLargeAnswerIsSpliced(t *testing.T) {
	data := bulk()
	g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", bulkService(t, data)))
	p := g.dial()
	for round := 1; round <= 2; round++ {
		p.send("GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n")
		eventually(t, "the endpoint is ahead of its client", func() bool { return g.metric("windrose_requests_active") == 1 })
		resp, err := http.ReadResponse(p.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("round %d: got %d bytes (%v) that are not the %d sent", round, len(got), err, len(data))
		}
		g.splices(t, round*bulkBytes/2)
	}
	for _, l := range g.wantLines(2) {
		if l.BytesOut != bulkBytes || l.Status != 200 || l.Fault != "" {
			t.Errorf("record: got %+v", l)
		}
	}
	if n := g.metric("windrose_upstream_connections_opened_total"); n != 1 {
		t.Errorf("%v connections to the endpoint were opened, want 1", n)
	}
}

// A large request passes the process by to an endpoint that reads late.
func TestLargeRequestIsSpliced(t *testing.T) {
	data := bulk()
	want := fmt.Sprintf("%d %x", len(data), sha256.Sum256(data))
	g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", bulkService(t, data)))
	p := g.dial()
	for round := 1; round <= 2; round++ {
		sent := make(chan error, 1)
		go func() {
			_, err := fmt.Fprintf(p, "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: %d\r\n\r\n%s", len(data), data)
			sent <- err
		}()
		if _, got := p.answer("POST"); got != want {
			t.Fatalf("round %d: the endpoint got %s, want %s", round, got, want)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		g.splices(t, round*bulkBytes/2)
	}
	for _, l := range g.wantLines(2) {
		if l.BytesIn != bulkBytes || l.Status != 200 || l.Fault != "" {
			t.Errorf("record: got %+v", l)
		}
	}
}

// An endpoint that ends in the middle of a large answer is not taken for one
// that has said all.
func TestLargeAnswerIsCutOff(t *testing.T) {
	data := bulk()
	g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", endpoint(t, func(p *peer) {
		p.request()
		fmt.Fprintf(p, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", 2*len(data), data)
	})))
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n")
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("half an answer was taken for the whole")
	}
	if l := g.wantLines(1)[0]; l.Fault != "upstream-reset" {
		t.Errorf("record: got %+v", l)
	}
	g.splices(t, bulkBytes/2)
}

// A client that leaves in the middle of a large answer or request leaves nothing
// behind.
func TestLargeBodiesOfClientsThatLeave(t *testing.T) {
	t.Parallel()
	data := bulk()
	g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", bulkService(t, data)))
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n")
	if _, err := io.CopyN(io.Discard, bufio.NewReader(p), 8<<20); err != nil {
		t.Fatal(err)
	}
	p.reset()
	q := g.dial()
	fmt.Fprintf(q, "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: %d\r\n\r\n%s", 2*len(data), data)
	q.reset()
	for _, l := range g.wantLines(2) {
		if l.Fault != "client-gone" {
			t.Errorf("record: got %+v", l)
		}
	}
	eventually(t, "nothing is in flight", func() bool {
		return g.metric("windrose_requests_active") == 0 && g.metric("windrose_upstream_connections_active") == 0
	})
}
