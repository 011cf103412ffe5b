package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// seen is what these tests look at in a request that tap shows.
type seen struct {
	ID, Protocol, Path, Route, Fault, Side string
	Status                                 int
	BytesOut                               int64 `json:"bytes_out"`
	Tries                                  []struct {
		Fault  string
		Status int
	}
}

// tapper is a running windrose tap -o json.
type tapper struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan seen // closed at its end
}

// tap starts windrose tap, with what is remembered first, so that what ends
// before the tap stands is shown as well.
func (w *windrose) tap(args ...string) *tapper {
	w.t.Helper()
	p := &tapper{t: w.t, lines: make(chan seen, 1000)}
	p.cmd = exec.Command(binary, append([]string{"--admin", w.admin, "tap", "-o", "json", "--last", "1000"}, args...)...)
	out, err := p.cmd.StdoutPipe()
	must(w.t, err)
	must(w.t, p.cmd.Start())
	w.t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e seen
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				w.t.Errorf("tap wrote %q: %v", lines.Text(), err)
				return
			}
			p.lines <- e
		}
	}()
	return p
}

// next waits for a request with a path.
func (p *tapper) next(path string) seen {
	p.t.Helper()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	for {
		select {
		case e, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("the tap ended before it showed %s", path)
			}
			if e.Path == path {
				return e
			}
		case <-late.C:
			p.t.Fatalf("the tap does not show %s", path)
		}
	}
}

// TestSingleRequestsAreSeen: tap and explain --request, with traffic of every
// kind and a fault of each side.
func TestSingleRequestsAreSeen(t *testing.T) {
	t.Parallel()
	port, tcp := freePort(t), freePort(t)
	var asked atomic.Int64
	flaky := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	hold, held := make(chan struct{}), make(chan struct{}, 1)
	slow := serve(t, func(http.ResponseWriter, *http.Request) { held <- struct{}{}; <-hold })
	t.Cleanup(func() { close(hold) })
	w := up(t, map[string]string{
		"gateway.yaml": withParameters(gatewayOf(fmt.Sprintf("{name: http, protocol: HTTP, port: %d}", port), fmt.Sprintf("{name: tcp, protocol: TCP, port: %d}", tcp)), "{limits: {inFlight: 1}}"),
		"services.yaml": all(service("a", backend(t, "a")), service("flaky", flaky), service("slow", slow), service("dead", freeAddr(t)),
			service("echo", tcpEcho(t, "echo"))),
		"routes.yaml": routeOf("shop",
			`{matches: [{path: {value: /a}}], backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{path: {value: /retry}}], retry: {codes: [503], attempts: 1, backoff: 1ms}, backendRefs: [{name: flaky, port: 80}]}`,
			`{matches: [{path: {value: /dead}}], backendRefs: [{name: dead, port: 80}]}`,
			`{matches: [{path: {value: /missing}}], backendRefs: [{name: absent, port: 80}]}`,
			`{matches: [{path: {value: /slow}}], backendRefs: [{name: slow, port: 80}]}`),
		"tcp.yaml": streamRoute("TCPRoute", "bytes", "tcp", "echo", ""),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	p := w.tap()
	slowDone := make(chan struct{})
	go func() { defer close(slowDone); fetch(base + "/slow") }()
	<-held

	for _, c := range []struct {
		name, path  string
		curl        []string
		status      int
		protocol    string
		fault, side string
		tries       string // the status or the fault of each
		explained   []string
		hidden      string // what of the query must not show
	}{
		{
			"HTTP/1", "/a/1", nil, 200, "HTTP/1.1", "", "", "200",
			[]string{"GET 127.0.0.1:", "HTTPRoute default/shop rule 0  (", "routes.yaml:1", "gateway.yaml:", "default/a:80, which gets every request of the rule", "it answered 200", "Answer:      200"},
			"secret",
		},
		{"HTTP/2", "/a/2", []string{"--http2-prior-knowledge", "-d", "body"}, 200, "HTTP/2", "", "", "200", []string{"POST 127.0.0.1:", "HTTP/2 from 127.0.0.1:", "after 4 bytes of the client's body"}, "secret"},
		{"a retry", "/retry", nil, 200, "HTTP/1.1", "", "", "503 200", []string{"attempt 1: it answered 503", "attempt 2: it answered 200", "rule 1"}, ""},
		{"the client's fault", "/nowhere", nil, 404, "HTTP/1.1", "no-route", "client", "", []string{"Rule:        none took it", "404 no-route", "the client's side", "attach a route"}, ""},
		{"the configuration's fault", "/missing", nil, 500, "HTTP/1.1", "backend-missing", "config", "", []string{"500 backend-missing", "absent", "the configuration's side", "rule 3", "ReferenceGrant"}, ""},
		{"the service's fault", "/dead", nil, 503, "HTTP/1.1", "connect-failed", "upstream", "connect-failed", []string{"attempt 1: connect-failed: connect: connection refused", "the service's side: default/dead:80, last at 127.0.0.1:", "look whether the endpoint runs"}, ""},
		{"windrose's limit", "/slow", nil, 503, "HTTP/1.1", "overload", "windrose", "", []string{"503 overload", "limits.inFlight", "windrose's side", "add capacity"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := curl(t, append(c.curl, "-i", base+c.path+"?"+c.hidden)...)
			if !r.answered(c.status) {
				t.Fatalf("got %+v, want %d", r, c.status)
			}
			e := p.next(c.path)
			var tries []string
			for _, try := range e.Tries {
				if try.Fault != "" {
					tries = append(tries, try.Fault)
				} else {
					tries = append(tries, fmt.Sprint(try.Status))
				}
			}
			if e.Status != c.status || e.Protocol != c.protocol || e.Fault != c.fault || e.Side != c.side || strings.Join(tries, " ") != c.tries {
				t.Errorf("tap shows %+v", e)
			}
			if !strings.Contains(strings.ToLower(r.out), "x-request-id: "+e.ID) {
				t.Errorf("the answer does not name request %s: %s", e.ID, r.out)
			}
			if c.fault != "" && !strings.Contains(r.out, "windrose explain --request "+e.ID+" ") {
				t.Errorf("the fault does not say how to learn more: %s", r.out)
			}
			x := w.cli("explain", "--request", e.ID)
			for _, want := range c.explained {
				if !strings.Contains(x.out, want) {
					t.Errorf("%q is not in\n%s%s", want, x.out, x.err)
				}
			}
			if c.hidden != "" && strings.Contains(x.out, c.hidden) {
				t.Errorf("the query is shown in\n%s", x.out)
			}
			if x.code != 0 {
				t.Errorf("exit code %d", x.code)
			}
		})
	}

	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", tcp))
	must(t, err)
	if got, err := exchangeText(c, "hello"); got != "echo:hello" {
		t.Errorf("got %q, %v", got, err)
	}
	stream := p.next("")
	if stream.Protocol != "TCP" || stream.Route != "TCPRoute/default/bytes" || stream.BytesOut != int64(len("echo:hello")) || len(stream.Tries) != 1 {
		t.Errorf("tap shows %+v", stream)
	}
	if x := w.cli("explain", "--request", stream.ID); x.code != 0 || !strings.Contains(x.out, "TCPRoute default/bytes rule 0") || !strings.Contains(x.out, "the connection stood") {
		t.Errorf("explain: %+v", x)
	}
	if x := w.cli("explain", "--request", "nobody"); x.code != 5 || !strings.Contains(x.err, "since the data plane started") {
		t.Errorf("explain of an id that nobody had: %+v", x)
	}
}

// TestTapOutlivesTheDataPlane, filters and limits.
func TestTapOutlivesTheDataPlane(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/a", "a")})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	ok, faults, queries := w.tap("--code", "2xx", "--path", "/a/"), w.tap("--fault", "no-route"), w.tap("--query", "--path", "/a/3", "--limit", "1", "--last", "0")
	fetch(base + "/a/1?x=1")
	fetch(base + "/none")
	if e := ok.next("/a/1"); e.Status != 200 {
		t.Errorf("got %+v", e)
	}
	if e := faults.next("/none"); e.Status != 404 {
		t.Errorf("got %+v", e)
	}
	old := w.dataplane()
	must(t, syscall.Kill(old, syscall.SIGKILL))
	w.eventually("another data plane serves", func() error {
		if pid := w.dataplane(); pid == old {
			return fmt.Errorf("the data plane is %d still", pid)
		}
		return get200(base + "/a/2")
	})
	ok.next("/a/2")
	// Until the tap stands at the new one, what ends is not shown.
	w.eventually("a request is shown with its query", func() error {
		fetch(base + "/a/3?token=1")
		select {
		case e := <-queries.lines:
			if e.Path != "/a/3?token=1" {
				t.Errorf("got %+v", e)
			}
			return nil
		default:
			return fmt.Errorf("not yet")
		}
	})
	if err := queries.cmd.Wait(); err != nil {
		t.Errorf("after its limit the tap ended with %v", err)
	}
	must(t, faults.cmd.Process.Signal(syscall.SIGINT))
	for e := range faults.lines {
		if e.Fault != "no-route" {
			t.Errorf("the filter let %+v through", e)
		}
	}
	if err := faults.cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C the tap ended with %v", err)
	}
	if r := w.cli("tap", "--for", "100ms"); r.code != 0 || !strings.Contains(r.err, "requests, 0 dropped") {
		t.Errorf("tap for a while: %+v", r)
	}
	r := w.cli("top", "--once", "--interval", "200ms")
	if r.code != 0 || !strings.Contains(r.out, "HTTPRoute/default/r ") || !strings.Contains(r.out, "default/a:80 ") || !strings.Contains(r.out, "1/1") {
		t.Errorf("top: %+v", r)
	}
	// A browser page gets server-sent events.
	req, err := http.NewRequest(http.MethodGet, "http://"+w.admin+"/api/v1/tap?path=/a/4", nil)
	must(t, err)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	events := bufio.NewReader(resp.Body)
	until := func(want string) {
		for {
			line, err := events.ReadString('\n')
			if err != nil {
				t.Fatalf("%v before %q", err, want)
			}
			if strings.HasPrefix(line, want) {
				return
			}
		}
	}
	until("event: BEGUN")
	fetch(base + "/a/4")
	until("event: REQUEST")
	until(`data: {"type":"REQUEST","request":{`)
}
