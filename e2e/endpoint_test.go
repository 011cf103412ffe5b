package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// scripted is an endpoint that does to a request what its path says. It serves
// one request on a connection.
func scripted(t *testing.T) string {
	t.Helper()
	ln := listen(t, "127.0.0.1:0")
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go act(c)
		}
	}()
	return ln.Addr().String()
}

const (
	okHead   = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\nConnection: close\r\n\r\n"
	halfBody = "0123456789"
	dripTime = 40 * time.Millisecond
)

// act plays the part that the path of a request names.
func act(c net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		c.Close()
		return
	}
	_, _ = io.Copy(io.Discard, req.Body)
	say := func(text string) { _, _ = io.WriteString(c, text) }
	reset := func() { _ = c.(*net.TCPConn).SetLinger(0); c.Close() }
	switch strings.TrimPrefix(req.URL.Path, "/") {
	case "closes-before-head", "closes-before-head/x":
	case "resets-before-head":
		reset()
	case "closes-in-head":
		say(okHead[:20])
	case "closes-in-body":
		say(okHead + halfBody)
	case "resets-in-body":
		say(okHead + halfBody)
		// What was sent must have arrived: a reset overtakes it.
		<-time.After(dripTime)
		reset()
	case "closes-in-chunk":
		say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n" + halfBody)
	case "speaks-nonsense":
		say("nonsense\r\n\r\n")
	case "drips-body":
		say(okHead)
		for range 20 {
			<-time.After(dripTime)
			say("x")
		}
	case "drips-head":
		for _, b := range []byte(okHead[:17] + "x: " + strings.Repeat("x", 10_000)) {
			<-time.After(dripTime)
			if _, err := c.Write([]byte{b}); err != nil {
				break
			}
		}
	case "hangs-in-body":
		say(okHead + halfBody)
		return // the connection stays open
	case "hangs", "hangs/rule", "hangs/backend":
		return
	default:
		say(okHead + halfBody + halfBody)
	}
	c.Close()
}

// logged waits for the line of the access log about a path.
func (w *windrose) logged(path string) map[string]any {
	w.t.Helper()
	var line map[string]any
	w.eventually("the request is logged: "+path, func() error {
		for _, text := range w.accessLog() {
			var m map[string]any
			if json.Unmarshal([]byte(text), &m) == nil && m["path"] == path {
				line = m
				return nil
			}
		}
		return errors.New("not yet")
	})
	return line
}

// clients are one of HTTP/1 and one of HTTP/2 with prior knowledge.
func clients() map[string]*http.Client {
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	return map[string]*http.Client{
		"h1": {Timeout: 20 * time.Second, Transport: &http.Transport{}},
		"h2": {Timeout: 20 * time.Second, Transport: h2},
	}
}

// TestWhatEndpointsDoToRequests: whatever an endpoint does, the client gets an
// answer or the end of one, the record says whose fault it was, and the
// connection of a client of HTTP/2 serves on.
func TestWhatEndpointsDoToRequests(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": withParameters(gateway(port), "{timeouts: {body: 500ms}}"), "a.yaml": service("a", scripted(t)),
		"r.yaml": routeOf("r",
			`{matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{path: {type: PathPrefix, value: /hangs/rule}}], timeouts: {request: 200ms}, backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{path: {type: PathPrefix, value: /hangs/backend}}], timeouts: {backendRequest: 200ms}, backendRefs: [{name: a, port: 80}]}`),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d/", port)
	for name, client := range clients() {
		for what, tt := range map[string]struct {
			code  int
			fault string
			cut   bool // the answer breaks off after half of the body
		}{
			"is-fine":            {200, "", false},
			"drips-body":         {200, "", false},
			"closes-before-head": {502, "upstream-reset", false},
			"resets-before-head": {502, "upstream-reset", false},
			"closes-in-head":     {502, "upstream-reset", false},
			"speaks-nonsense":    {502, "upstream-protocol", false},
			"closes-in-body":     {200, "upstream-reset", true},
			"resets-in-body":     {200, "upstream-reset", true},
			"closes-in-chunk":    {200, "upstream-reset", true},
			"hangs":              {504, "backend-timeout", false},
			"hangs/rule":         {504, "request-timeout", false},
			"hangs/backend":      {504, "backend-timeout", false},
			"hangs-in-body":      {200, "backend-timeout", true},
			"drips-head":         {504, "backend-timeout", false},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				t.Parallel()
				path := "/" + what + "?" + name
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					w.meets(t, client, method, base+path[1:], tt.code, tt.fault, tt.cut)
				}
				line := w.logged("/" + what)
				wanted := any(tt.fault)
				if tt.fault == "" {
					wanted = nil
				}
				if line["status"] != float64(tt.code) || line["fault"] != wanted || tt.cut && line["bytes_out"] != float64(len(halfBody)) {
					t.Errorf("the record is %v", line)
				}
			})
		}
	}
}

// meets asks and compares what comes.
func (w *windrose) meets(t *testing.T, client *http.Client, method, url string, code int, fault string, cut bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case resp.StatusCode != code:
		t.Errorf("%s: %s %s, want %d", method, resp.Status, body, code)
	case cut:
		if err == nil || string(body) != halfBody {
			t.Errorf("%s: the answer was cut off, and the client sees %q, %v", method, body, err)
		}
	case err != nil:
		t.Errorf("%s: %v", method, err)
	case resp.Header.Get("x-windrose-fault") != fault:
		t.Errorf("%s: fault %q, want %q", method, resp.Header.Get("x-windrose-fault"), fault)
	}
}

// TestOtherEndpointsAreAskedWhereThatIsSafe: an endpoint that refuses
// connections costs nobody anything; one that breaks off after it has seen a
// request costs those that may not be repeated.
func TestOtherEndpointsAreAskedWhereThatIsSafe(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	dead := freeAddr(t)
	good := backend(t, "good")
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port),
		"a.yaml":       all(service("a", dead, good), service("b", scripted(t), good)),
		"r.yaml": routeOf("r",
			`{matches: [{path: {type: PathPrefix, value: /dead}}], backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{path: {type: PathPrefix, value: /closes-before-head}}], retry: {attempts: 1}, backendRefs: [{name: b, port: 80}]}`),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	for name, client := range clients() {
		for range 10 {
			w.meets(t, client, http.MethodPost, base+"/dead?"+name, 200, "", false)
			w.meets(t, client, http.MethodGet, base+"/closes-before-head?"+name, 200, "", false)
		}
		// A request that changes something has been seen: it is not sent again. The
		// endpoint that breaks off, which is the quickest, is soon asked no more.
		codes := map[int]int{}
		for range 50 {
			resp, err := client.Post(base+"/closes-before-head/x?"+name, "text/plain", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			codes[resp.StatusCode]++
		}
		if codes[502] > 10 || codes[200]+codes[502] != 50 {
			t.Errorf("%s: POST to an endpoint of two that breaks off: %v, want mostly 200, and 502", name, codes)
		}
	}
	w.eventually("a request to the dead endpoint was given to the other", func() error {
		var attempts []float64
		for _, text := range w.accessLog() {
			var m struct {
				Path     string
				Attempts float64
			}
			if json.Unmarshal([]byte(text), &m) == nil && m.Path == "/dead" {
				attempts = append(attempts, m.Attempts)
			}
		}
		if !slices.Contains(attempts, 2) {
			return fmt.Errorf("attempts %v", attempts)
		}
		return nil
	})
}

// TestWhatEndpointsDoToCalls: a gRPC client is told in its own way, also when
// the answer has begun.
func TestWhatEndpointsDoToCalls(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	ln := listen(t, "127.0.0.1:0")
	server := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	go func() { _ = server.Serve(ln) }()
	w := up(t, map[string]string{
		"gateway.yaml":  withParameters(gateway(port), "{timeouts: {body: 500ms}}"),
		"services.yaml": service("test", ln.Addr().String()),
		"route.yaml":    grpcRoute("test", "{method: {service: grpc.testing.TestService}}", "test"),
	})
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	client := testgrpc.NewTestServiceClient(conn)
	call := func() testgrpc.TestService_StreamingOutputCallClient {
		stream, err := client.StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{
			{Size: 10}, {Size: 10, IntervalUs: 60e6},
		}})
		must(t, err)
		if _, err := stream.Recv(); err != nil {
			t.Fatalf("the first message: %v", err)
		}
		return stream
	}
	ends := func(what string, stream testgrpc.TestService_StreamingOutputCallClient, code codes.Code, text string) {
		t.Helper()
		_, err := stream.Recv()
		if s := status.Convert(err); s.Code() != code || !strings.Contains(s.Message(), text) {
			t.Errorf("%s: %v, want %v with %q", what, err, code, text)
		}
	}
	ends("an endpoint that falls silent", call(), codes.DeadlineExceeded, "fell silent")
	stream := call()
	server.Stop() // closes its connections
	ends("an endpoint that ends", stream, codes.Unavailable, "closed the connection before its answer ended")
	for _, want := range []string{"backend-timeout", "upstream-reset"} {
		w.eventually("the fault is counted: "+want, func() error {
			_, page, _ := fetch("http://" + w.stats + "/metrics")
			if got := sample(page, `windrose_faults_total{flag="`+want+`",side="upstream"}`); got != "1" {
				return fmt.Errorf("%q", got)
			}
			return nil
		})
	}
}

// TestWhatEndpointsDoToConnections: below HTTP a break at one end becomes one at
// the other, and silence ends in time.
func TestWhatEndpointsDoToConnections(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	silent := listen(t, "127.0.0.1:0")
	taken := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			taken <- c
		}
	}()
	w := up(t, map[string]string{
		"gateway.yaml": withParameters(gatewayOf(fmt.Sprintf("{name: tcp, protocol: TCP, port: %d}", port)), "{timeouts: {tunnel: 1s}}"),
		"a.yaml":       service("a", silent.Addr().String()), "r.yaml": streamRoute("TCPRoute", "r", "tcp", "a", ""),
	})
	dial := func() (client, endpoint net.Conn) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		must(t, err)
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c, waitFor(t, "the connection to the endpoint", taken)
	}
	client, endpoint := dial()
	_ = endpoint.(*net.TCPConn).SetLinger(0)
	endpoint.Close()
	if n, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the endpoint reset, and the client sees %d, %v", n, err)
	}
	client, endpoint = dial()
	_ = client.(*net.TCPConn).SetLinger(0)
	client.Close()
	_ = endpoint.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := endpoint.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reset, and the endpoint sees %d, %v", n, err)
	}
	client, _ = dial() // nobody says anything
	if n, err := client.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("silence: %d, %v", n, err)
	}
	// Nobody reads: the sender stalls, and the connection ends in time.
	client, _ = dial()
	before := memory(t, w.dataplane(), "VmRSS")
	n, err := io.Copy(client, endless{})
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || n > stalledMost {
		t.Errorf("an endpoint that reads nothing took %d bytes: %v", n, err)
	}
	if grown := memory(t, w.dataplane(), "VmHWM") - before; grown > 16<<10 {
		t.Errorf("the data plane grew by %d KiB", grown)
	}
}
