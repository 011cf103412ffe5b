package proxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"windrose.dev/windrose/internal/plan"
)

// overQUIC is a gateway with an HTTPS listener that is served over QUIC too.
func overQUIC(tb testing.TB, loops int, s plan.Part, more ...plan.Part) (*gateway, string) {
	tb.Helper()
	g := start(tb, loops, append(more, route("r", all(plan.Backend{Service: "s", Weight: 1})), s)...)
	addr := g.listen("tls", plan.Listener{Protocol: plan.HTTPS, Certificates: []string{"c"}},
		settings(plan.Settings{HTTP3: true}),
		certificate(tb, "c", false, "shop.example"),
		plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "r2"}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: "tls"}}, Rules: []plan.Rule{all(plan.Backend{Service: "s", Weight: 1})},
		}})
	return g, addr
}

// h3Transport speaks HTTP/3 to addr, whatever the host.
func h3Transport(tb testing.TB, addr string, cfg *tls.Config) *http3.Transport {
	tb.Helper()
	if cfg == nil {
		cfg = &tls.Config{}
	}
	cfg.InsecureSkipVerify = true
	t := &http3.Transport{
		TLSClientConfig: cfg,
		Dial: func(ctx context.Context, _ string, cfg *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddrEarly(ctx, addr, cfg, q)
		},
	}
	tb.Cleanup(func() { t.Close() })
	return t
}

func h3Client(tb testing.TB, addr string) *http.Client {
	tb.Helper()
	return &http.Client{Transport: h3Transport(tb, addr, nil)}
}

// eachEndpoint runs a test over HTTP/3 with endpoints of both protocols.
func eachEndpoint(t *testing.T, h http.HandlerFunc, f func(t *testing.T, g *gateway, addr string)) {
	t.Helper()
	for name, s := range map[string]plan.Part{"to HTTP/1": service("s", backend(t, h)), "to HTTP/2": h2cService("s", h2cBackend(t, h))} {
		t.Run(name, func(t *testing.T) {
			g, addr := overQUIC(t, 2, s)
			f(t, g, addr)
		})
	}
}

func TestH3CarriesRequests(t *testing.T) {
	eachEndpoint(t, answerAll, func(t *testing.T, g *gateway, addr string) {
		client := h3Client(t, addr)
		big := strings.Repeat("x", 3<<20)
		for _, c := range []struct{ method, path, body, want string }{
			{"GET", "/a?b=c", "", "GET /a?b=c shop.example 0 "},
			{"POST", "/p", "hello", " 5 "},
			{"POST", "/big", big, fmt.Sprintf(" %d ", len(big))},
			{"DELETE", "/d", "", "DELETE /d"},
		} {
			req, err := http.NewRequest(c.method, "https://shop.example"+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Cookie", "a=b; c=d")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s %s: %v", c.method, c.path, err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.ProtoMajor != 3 || resp.StatusCode != 200 || !strings.Contains(string(body), c.want) {
				t.Errorf("%s %s: %v %s %d %.200q, want %q", c.method, c.path, err, resp.Proto, resp.StatusCode, body, c.want)
			}
			if got, want := resp.Trailer.Get("X-Sum"), fmt.Sprint(len(c.body)); got != want {
				t.Errorf("%s %s: trailer %q, want %q", c.method, c.path, got, want)
			}
			if len(resp.Header.Get("X-Request-Id")) != 32 || resp.Header.Get("Alt-Svc") != "" {
				t.Errorf("%s %s: header %v", c.method, c.path, resp.Header)
			}
		}
		resp, err := client.Head("https://shop.example/h")
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != 200 {
			t.Errorf("HEAD: %v", resp)
		}
		g.wantLines(5)
		if n := strings.Count(g.log.String(), `"protocol":"HTTP/3"`); n != 5 {
			t.Errorf("%d lines say HTTP/3, want 5: %s", n, g.log.String())
		}
		if n := g.metric("windrose_connections_active"); n != 1 {
			t.Errorf("%v connections are active, want 1", n)
		}
	})
}

func TestH3CarriesTrailersAndUnknownLengthsUp(t *testing.T) {
	eachEndpoint(t, answerAll, func(t *testing.T, _ *gateway, addr string) {
		pr, pw := io.Pipe()
		req, err := http.NewRequest("POST", "https://shop.example/t", pr)
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"X-Up": nil}
		go func() {
			for range 10 {
				_, _ = pw.Write(bytes.Repeat([]byte("y"), 1000))
			}
			req.Trailer.Set("X-Up", "up")
			pw.Close()
		}()
		resp, err := h3Client(t, addr).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		if !strings.HasSuffix(string(body), " 10000 up") {
			t.Errorf("got %q, want 10000 bytes and the trailer", body)
		}
	})
}

func TestH3StreamsBothWays(t *testing.T) {
	eachEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		w.Header().Set("Link", "</a>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(200)
		_ = c.Flush()
		buf := make([]byte, 4)
		for {
			if _, err := io.ReadFull(r.Body, buf); err != nil {
				return
			}
			_, _ = w.Write(buf)
			_ = c.Flush()
		}
	}, func(t *testing.T, _ *gateway, addr string) {
		pr, pw := io.Pipe()
		req, err := http.NewRequest("POST", "https://shop.example/s", pr)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := h3Client(t, addr).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4)
		for i := range 50 {
			want := fmt.Sprintf("%04d", i)
			_, _ = io.WriteString(pw, want)
			if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != want {
				t.Fatalf("got %q (%v), want %q", buf, err, want)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
			t.Errorf("got %q (%v) behind the end", rest, err)
		}
	})
}

func TestH3ManyRequestsAndASlowReader(t *testing.T) {
	const size = 8 << 20
	var mu sync.Mutex
	sent := 0
	g, addr := overQUIC(t, 2, service("s", backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/big" {
			fmt.Fprint(w, r.URL.Path)
			return
		}
		for range size / 65536 {
			n, err := w.Write(make([]byte, 65536))
			if err != nil {
				return
			}
			mu.Lock()
			sent += n
			mu.Unlock()
		}
	})))
	client := h3Client(t, addr)
	slow, err := client.Get("https://shop.example/big")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			resp, err := client.Get(fmt.Sprintf("https://shop.example/%d", i))
			if err != nil {
				t.Errorf("%d: %v", i, err)
				return
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(body) != fmt.Sprintf("/%d", i) {
				t.Errorf("%d: got %q", i, body)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	if sent >= size {
		t.Errorf("the endpoint sent all %d bytes while nobody read them", sent)
	}
	mu.Unlock()
	n, err := io.Copy(io.Discard, slow.Body)
	if n != size || err != nil {
		t.Errorf("got %d bytes (%v), want %d", n, err, size)
	}
	g.wantLines(201)
}

// Who asks for many large answers and reads none has little of them kept; all of
// them come once they are read.
func TestH3AnswersThatNobodyReads(t *testing.T) {
	const size, many, most = 1 << 20, 90, 3 << 20
	g, addr := overQUIC(t, 1, service("s", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, size))
	})))
	transport := h3Transport(t, addr, nil)
	// No answer is to wait for another that is not read.
	transport.QUICConfig = &quic.Config{
		InitialStreamReceiveWindow: 16 << 10, MaxStreamReceiveWindow: 64 << 10,
		InitialConnectionReceiveWindow: many * size, MaxConnectionReceiveWindow: many * size,
	}
	client := &http.Client{Transport: transport}
	answers := make(chan *http.Response, many)
	for range many {
		go func() {
			resp, err := client.Get("https://shop.example/")
			if err != nil {
				t.Error(err)
			}
			answers <- resp
		}()
	}
	var all []*http.Response
	for range many {
		if resp := <-answers; resp != nil {
			all = append(all, resp)
		}
	}
	last := -1
	eventually(t, "nothing more comes", func() bool {
		before := last
		last = g.proxy.Unwritten()
		return last == before
	})
	if last > most {
		t.Errorf("%d bytes are kept of %d answers, want at most %d", last, len(all), most)
	}
	var wg sync.WaitGroup
	for _, resp := range all {
		wg.Go(func() {
			if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
				t.Errorf("got %d bytes (%v), want %d", n, err, size)
			}
			resp.Body.Close()
		})
	}
	wg.Wait()
	eventually(t, "nothing is kept", func() bool { return g.proxy.Unwritten() == 0 })
}

func TestH3ClientThatGivesUpCancelsTheEndpoint(t *testing.T) {
	gone := make(chan struct{})
	g, addr := overQUIC(t, 1, service("s", backend(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(gone)
	})))
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "https://shop.example/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := h3Client(t, addr).Do(req)
		done <- err
	}()
	eventually(t, "the request is on its way", func() bool { return g.metric("windrose_upstream_connections_active") == 1 })
	cancel()
	if err := <-done; err == nil {
		t.Error("the request ended well")
	}
	<-gone
	if l := g.wantLines(1)[0]; l.Fault != "client-gone" {
		t.Errorf("record: got %+v, want client-gone", l)
	}
}

func TestH3AnswerThatBreaksOffIsCutOff(t *testing.T) {
	g, addr := overQUIC(t, 1, service("s", once(t, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")))
	// The reset may overtake the head.
	if resp, err := h3Client(t, addr).Get("https://shop.example/"); err == nil {
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("got %q as a whole", body)
		}
	}
	if l := g.wantLines(1)[0]; l.Fault != "upstream-reset" {
		t.Errorf("record: got %+v, want upstream-reset", l)
	}
}

func TestH3FaultsAndNames(t *testing.T) {
	g, addr := secure(t, 1)
	g.use(settings(plan.Settings{HTTP3: true}))
	for _, c := range []struct {
		name, sni, host, kind string
		status                int
		fault, grpc           string
	}{
		{name: "a name of the listener", sni: "x.a.example", host: "x.a.example", status: 200},
		{name: "another listener's host", sni: "x.a.example", host: "any.example", status: 421, fault: "misdirected"},
		{name: "gRPC", sni: "x.a.example", host: "any.example", kind: "application/grpc", status: 200, fault: "misdirected", grpc: "12"},
		{name: "an invalid path", sni: "x.a.example", host: "x.a.example/%zz", status: 400, fault: "bad-request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := h3Transport(t, addr, &tls.Config{ServerName: c.sni})
			host, path, _ := strings.Cut(c.host, "/")
			req, err := http.NewRequest("GET", "https://"+host+"/", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			if path != "" {
				req.URL.Opaque = "/a|b" // what a URL does not have, a path may
			}
			if c.kind != "" {
				req.Header.Set("Content-Type", c.kind)
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if path != "" {
				return
			}
			if resp.StatusCode != c.status || resp.Header.Get("X-Windrose-Fault") != c.fault || resp.Header.Get("Grpc-Status") != c.grpc {
				t.Errorf("got %d %v, want %d %s %s", resp.StatusCode, resp.Header, c.status, c.fault, c.grpc)
			}
		})
	}
}

func TestAltSvcIsSaidWhereHTTP3IsServed(t *testing.T) {
	g, addr := overQUIC(t, 1, service("s", answering(t, "HTTP/1.1 200 OK\r\nalt-svc: h3=\":1\"\r\ncontent-length: 0\r\n\r\n")))
	at := netip.MustParseAddrPort(addr)
	want := fmt.Sprintf(`h3=":%d"; ma=86400`, at.Port())
	ask := func() []string {
		p := dialTLS(t, addr, &tls.Config{ServerName: "shop.example"})
		p.send("GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n")
		resp, _ := p.answer("GET")
		return resp.Header.Values("Alt-Svc")
	}
	if got := ask(); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q alone", got, want)
	}
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n")
	if resp, _ := p.answer("GET"); resp.Header.Get("Alt-Svc") == want {
		t.Error("it is said in cleartext")
	}
	g.use(settings(plan.Settings{}))
	if got := ask(); len(got) != 1 || got[0] == want {
		t.Errorf("switched off: got %q, want the service's", got)
	}
	eventually(t, "the UDP port is free", func() bool {
		c, err := net.ListenPacket("udp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func TestQUICPortThatIsTaken(t *testing.T) {
	g, addr := secure(t, 1)
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	next, _ := g.builder.Apply([]plan.Part{settings(plan.Settings{HTTP3: true})}, nil)
	problems := g.proxy.Use(next, g.table.Use(next))
	if len(problems) != 1 || problems[0].Socket != "tcp/"+addr || !strings.Contains(problems[0].Err.Error(), "HTTP/3 is not served") {
		t.Fatalf("got %v, want one problem of the socket", problems)
	}
	p := dialTLS(t, addr, &tls.Config{ServerName: "x.a.example"})
	p.send("GET / HTTP/1.1\r\nhost: x.a.example\r\n\r\n")
	if resp, _ := p.answer("GET"); resp.StatusCode != 200 || resp.Header.Get("Alt-Svc") != "" {
		t.Errorf("got %d %v, want 200 and no Alt-Svc", resp.StatusCode, resp.Header)
	}
}

func TestH3DrainLosesNothing(t *testing.T) {
	entered, answer := make(chan struct{}), make(chan struct{})
	g, addr := overQUIC(t, 2, service("s", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-answer
		fmt.Fprint(w, "late")
	})))
	client := h3Client(t, addr)
	type result struct {
		body string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := client.Get("https://shop.example/")
		if err != nil {
			done <- result{err: err}
			return
		}
		body, err := io.ReadAll(resp.Body)
		done <- result{string(body), err}
	}()
	<-entered
	g.drop(plan.KindSocket, "tcp/"+addr)
	close(answer)
	if r := <-done; r.err != nil || r.body != "late" {
		t.Errorf("got %+v, want late", r)
	}
	eventually(t, "no connection is left", func() bool { return g.proxy.Connections() == 0 })
}

func TestH3WebSocket(t *testing.T) {
	sockets(t, func(t *testing.T, parts []plan.Part) {
		g, addr := overQUIC(t, 1, parts[1])
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		q, err := quic.DialAddr(ctx, addr, &tls.Config{ServerName: "shop.example", InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := (&http3.Transport{}).NewClientConn(q).OpenRequestStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(ctx, "CONNECT", "https://x/chat?a=b", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Proto, req.Host = "websocket", "x"
		req.Header.Set("Sec-Websocket-Version", "13")
		if err := s.SendRequestHeader(req); err != nil {
			t.Fatal(err)
		}
		resp, err := s.ReadResponse()
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("Sec-Websocket-Protocol") != "chat" {
			t.Fatalf("got %+v, %v", resp, err)
		}
		buf := make([]byte, 4)
		for range 50 {
			if _, err := s.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(s, buf); err != nil || string(buf) != "ping" {
				t.Fatalf("got %q, %v", buf, err)
			}
		}
		_ = s.Close()
		if rest, err := io.ReadAll(s); err != nil || len(rest) > 0 {
			t.Errorf("got %q (%v) behind the end", rest, err)
		}
		if l := g.wantLines(1)[0]; l.Status != 200 || l.BytesIn != 200 || l.BytesOut != 200 || l.Fault != "" {
			t.Errorf("record: got %+v", l)
		}
		_ = q.CloseWithError(0, "")
	})
}

func TestH3AsksClientsForCertificates(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	g, addr := checked(t, a, b)
	g.use(settings(plan.Settings{HTTP3: true}))
	alice := a.certificate("client.example", "", time.Hour)
	for _, c := range []struct {
		name, sni, host string
		cfg             *tls.Config
		status          int // 0: the handshake fails
		told            bool
	}{
		{name: "the right one", sni: "a.example", host: "a.example", cfg: alice, status: 200, told: true},
		{name: "none", sni: "a.example", host: "a.example", cfg: &tls.Config{}},
		{name: "another authority's", sni: "b.example", host: "b.example", cfg: alice},
		{name: "none is asked for", sni: "free.example", host: "free.example", cfg: alice, status: 200},
		{name: "none where it may lack", sni: "maybe.example", host: "maybe.example", cfg: &tls.Config{}, status: 200},
		{name: "by way of a name without check", sni: "free.example", host: "a.example", cfg: alice, status: 421},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := c.cfg.Clone()
			cfg.ServerName = c.sni
			client := &http.Client{Transport: h3Transport(t, addr, cfg)}
			resp, err := client.Get("https://" + c.host + "/")
			if c.status == 0 {
				if err == nil {
					t.Errorf("got %d, want no connection", resp.StatusCode)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || strings.Contains(string(body), "Hash=") != c.told {
				t.Errorf("got %d %q, want %d", resp.StatusCode, body, c.status)
			}
		})
	}
}
