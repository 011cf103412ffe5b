package proxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// h2cClient speaks HTTP/2 in cleartext with prior knowledge.
func h2cClient() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{Protocols: p}}
}

// h2cBackend serves HTTP/2 in cleartext.
func h2cBackend(tb testing.TB, h http.HandlerFunc) string {
	tb.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	tb.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func h2cService(name string, addrs ...string) plan.Part {
	p := service(name, addrs...)
	p.Service.Protocol = plan.H2C
	return p
}

// answerAll answers with what it got, trailers both ways.
func answerAll(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Trailer", "X-Sum")
	w.Header().Set("X-Proto", r.Proto)
	fmt.Fprintf(w, "%s %s %s %d %s", r.Method, r.URL, r.Host, len(body), r.Trailer.Get("X-Up"))
	w.Header().Set("X-Sum", fmt.Sprint(len(body)))
}

// eachPair runs a test for every pair of protocols that has HTTP/2 in it.
func eachPair(t *testing.T, h http.HandlerFunc, f func(t *testing.T, base string, client *http.Client)) {
	t.Helper()
	h1 := service("s", backend(t, h))
	h2 := h2cService("s", h2cBackend(t, h))
	for _, c := range []struct {
		name   string
		client *http.Client
		s      plan.Part
	}{
		{"h2 to h1", h2cClient(), h1},
		{"h2 to h2", h2cClient(), h2},
		{"h1 to h2", &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}, h2},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), c.s)
			f(t, "http://"+g.addr, c.client)
			c.client.CloseIdleConnections()
		})
	}
}

// covers: HTTPRouteBackendProtocolH2C
func TestH2CarriesRequests(t *testing.T) {
	eachPair(t, answerAll, func(t *testing.T, base string, client *http.Client) {
		big := strings.Repeat("x", 3<<20)
		for _, c := range []struct {
			method, path, body string
			want               string
		}{
			{"GET", "/a?b=c", "", "GET /a?b=c"},
			{"POST", "/p", "hello", " 5 "},
			{"POST", "/big", big, fmt.Sprintf(" %d ", len(big))},
			{"DELETE", "/d", "", "DELETE /d"},
		} {
			req, err := http.NewRequest(c.method, base+c.path, strings.NewReader(c.body))
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
			if err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), c.want) {
				t.Errorf("%s %s: %v %d %.200q, want %q", c.method, c.path, err, resp.StatusCode, body, c.want)
			}
			if got, want := resp.Trailer.Get("X-Sum"), fmt.Sprint(len(c.body)); got != want {
				t.Errorf("%s %s: trailer %q, want %q", c.method, c.path, got, want)
			}
			if len(resp.Header.Get("X-Request-Id")) != 32 {
				t.Errorf("no request id: %v", resp.Header)
			}
		}
		resp, err := client.Head(base + "/h")
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("HEAD: %v %v", err, resp)
		}
	})
}

func TestH2CarriesTrailersAndUnknownLengthsUp(t *testing.T) {
	eachPair(t, answerAll, func(t *testing.T, base string, client *http.Client) {
		pr, pw := io.Pipe()
		req, err := http.NewRequest("POST", base+"/t", pr)
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
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.HasSuffix(string(body), " 10000 up") {
			t.Errorf("got %q", body)
		}
	})
}

// A stream goes both ways at once, as gRPC's do.
func TestH2StreamsBothWays(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				_, _ = w.Write(buf[:n])
				_ = http.NewResponseController(w).Flush()
			}
			if err != nil {
				return
			}
		}
	}
	eachPair(t, h, func(t *testing.T, base string, client *http.Client) {
		pr, pw := io.Pipe()
		req, err := http.NewRequest("POST", base+"/s", pr)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for i := range 20 {
			msg := fmt.Sprintf("message %02d", i)
			if _, err := io.WriteString(pw, msg); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(msg))
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != msg {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
			t.Errorf("at the end: %q %v", rest, err)
		}
	})
}

func TestH2ManyStreamsAndASlowReader(t *testing.T) {
	big := bytes.Repeat([]byte("z"), 2<<20)
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			_, _ = w.Write(big)
			return
		}
		fmt.Fprint(w, r.URL.Path)
	}
	eachPair(t, h, func(t *testing.T, base string, client *http.Client) {
		slow, err := client.Get(base + "/big")
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Body.Close()
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				for j := range 20 {
					path := fmt.Sprintf("/%d/%d", i, j)
					resp, err := client.Get(base + path)
					if err != nil {
						t.Error(err)
						return
					}
					body, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					if string(body) != path {
						t.Errorf("got %q, want %q", body, path)
						return
					}
				}
			})
		}
		wg.Wait()
		if got, err := io.ReadAll(slow.Body); err != nil || !bytes.Equal(got, big) {
			t.Errorf("slow: %d bytes, %v", len(got), err)
		}
	})
}

func TestH2ClientThatGivesUpCancelsTheEndpoint(t *testing.T) {
	gone := make(chan struct{}, 3)
	h := func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		gone <- struct{}{}
	}
	eachPair(t, h, func(t *testing.T, base string, client *http.Client) {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", base+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Error("the endpoint was not told")
		}
	})
}

func TestH2FaultsAndGRPCFaults(t *testing.T) {
	g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", freeAddr(t).String()))
	client := h2cClient()
	resp, err := client.Get("http://" + g.addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 503 || resp.Header.Get("X-Windrose-Fault") != "connect-failed" || !strings.Contains(string(body), "connect-failed") {
		t.Errorf("%d %v %q", resp.StatusCode, resp.Header, body)
	}
	req, _ := http.NewRequest("POST", "http://"+g.addr+"/a.B/C", strings.NewReader("x"))
	req.Header.Set("Content-Type", "application/grpc")
	resp, err = client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "14" || !strings.Contains(resp.Header.Get("Grpc-Message"), "no endpoint") {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	client.CloseIdleConnections()
}

// A backend that goes away in the middle of an answer must not look like an end.
func TestH2AnswerThatBreaksOffIsCutOff(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	eachPair(t, h, func(t *testing.T, base string, client *http.Client) {
		resp, err := client.Get(base + "/")
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Error("it looks like a whole answer")
		}
	})
}

func TestH2IsChosenByALPN(t *testing.T) {
	g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", backend(t, answerAll)))
	addr := g.listen("tls", plan.Listener{Protocol: plan.HTTPS, Certificates: []string{"c"}},
		certificate(t, "c", false, "shop.example"),
		plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "r2"}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: "tls"}}, Rules: []plan.Rule{all(plan.Backend{Service: "s", Weight: 1})},
		}})
	for _, protocols := range [][]string{{"h2", "http/1.1"}, {"http/1.1"}, nil} {
		c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "shop.example", InsecureSkipVerify: true, NextProtos: protocols})
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		if len(protocols) > 0 {
			want = protocols[0]
		}
		if got := c.ConnectionState().NegotiatedProtocol; got != want {
			t.Errorf("%v: got %q", protocols, got)
		}
		c.Close()
	}
	p := new(http.Protocols)
	p.SetHTTP2(true)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		Protocols: p, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}}
	resp, err := client.Get("https://shop.example/x")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 || !strings.HasPrefix(string(body), "GET /x shop.example") {
		t.Errorf("%s %d %q", resp.Proto, resp.StatusCode, body)
	}
	client.CloseIdleConnections()
}

func TestH2DrainLosesNothing(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") }
	g := start(t, 2, route("r", all(plan.Backend{Service: "s", Weight: 1})), h2cService("s", h2cBackend(t, h)))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			client := h2cClient()
			defer client.CloseIdleConnections()
			for {
				resp, err := client.Get("http://" + g.addr + "/")
				if err != nil {
					var op *net.OpError
					if errors.As(err, &op) && op.Op == "dial" {
						return // it is gone: as it should be
					}
					t.Error(err)
					return
				}
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("%v %d", err, resp.StatusCode)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	g.proxy.Drain(context.Background())
	close(stop)
	wg.Wait()
	if n := g.proxy.Connections(); n > 0 {
		t.Errorf("%d connections are left", n)
	}
}
