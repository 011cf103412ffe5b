package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load asks again and again over keep-alive connections until stopped, and
// counts.
type load struct {
	ok, bad atomic.Int64
	first   atomic.Pointer[string] // of the failures
	ended   chan struct{}
	stop    func() // closes ended, once
	wg      sync.WaitGroup
}

func newLoad(t *testing.T) *load {
	t.Helper()
	l := &load{ended: make(chan struct{})}
	l.stop = sync.OnceFunc(func() { close(l.ended) })
	t.Cleanup(func() { l.stop(); l.wg.Wait() })
	return l
}

// run makes n clients ask until the end.
func (l *load) run(n int, ask func() error) {
	for range n {
		l.wg.Go(func() {
			for {
				select {
				case <-l.ended:
					return
				default:
				}
				l.count(ask())
			}
		})
	}
}

func (l *load) count(err error) {
	if err == nil {
		l.ok.Add(1)
		return
	}
	text := time.Now().Format(time.StampMicro) + " " + err.Error()
	l.bad.Add(1)
	l.first.CompareAndSwap(nil, &text)
}

func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.wg.Wait()
	if n := l.bad.Load(); n > 0 {
		t.Errorf("%d of %d requests failed, the first with: %s", n, n+l.ok.Load(), *l.first.Load())
	}
	if l.ok.Load() == 0 {
		t.Error("no request was made")
	}
	t.Logf("%d requests", l.ok.Load())
}

// get asks for a URL and wants 200.
func get(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	return wantBody(resp, nil)
}

// post sends a body to a backend that echoes.
func post(client *http.Client, url string, body []byte) error {
	resp, err := client.Post(url, "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return err
	}
	return wantBody(resp, body)
}

// wantBody reads an answer to its end. It must be 200, and if want is not nil
// have that body.
func wantBody(resp *http.Response, want []byte) error {
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return fmt.Errorf("%s: read body: %w", resp.Status, err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: %s", resp.Status, resp.Header.Get("x-windrose-fault"), got)
	case want != nil && !bytes.Equal(got, want):
		return fmt.Errorf("%d bytes came back of %d, or others", len(got), len(want))
	}
	return nil
}

// changes is what happens to the configuration under load.
type changes struct {
	w       *windrose
	http    string // addresses of the listeners
	https   string
	fixed   [2]string // addresses of backends that live as long as the test
	ports   []int     // of workloads that come and go
	current []int     // of ports: the workloads there are
	serial  int64     // of the newest certificate
	done    map[string]int
}

// TestChangesUnderLoad changes everything for 30 s while clients ask. No
// request may fail.
func TestChangesUnderLoad(t *testing.T) {
	t.Parallel()
	c := newChanges(t)
	l := newLoad(t)
	c.load(l)
	rng := rand.New(rand.NewPCG(1, 2))
	steps := []func(){c.moveRoute, c.otherRoutes, c.workloads, c.workloads, c.certificate, c.mistake}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		steps[rng.IntN(len(steps))]()
	}
	l.end(t)
	t.Logf("changes: %v", c.done)
	for _, what := range []string{"route", "other", "add", "remove", "certificate", "mistake"} {
		if c.done[what] == 0 {
			t.Errorf("nothing of this kind was changed: %s", what)
		}
	}
}

func newChanges(t *testing.T) *changes {
	t.Helper()
	echo := func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	}
	c := &changes{
		http: freeAddr(t), https: freeAddr(t), fixed: [2]string{serve(t, echo), serve(t, echo)}, serial: 100,
		ports: []int{freePort(t), freePort(t), freePort(t)}, current: []int{0}, done: map[string]int{},
	}
	c.w = newWindrose(t, map[string]string{
		"services.yaml": all(service("a", c.fixed[0]), service("b", c.fixed[1]), bareService("pool")),
		"load.yaml":     route("load", "/load/", "a"),
		"pool.yaml":     route("pool", "/pool/", "pool"),
		"pool-0.yaml":   command(t, "pool-0", "pool", c.ports[0]),
		"secret.yaml":   secret(t, "web-tls", ecdsaKey, c.serial, "shop.example"),
		"gateway.yaml": gatewayOf("{name: http, protocol: HTTP, port: "+portOf(c.http)+"}",
			"{name: https, protocol: HTTPS, port: "+portOf(c.https)+", hostname: shop.example, tls: {certificateRefs: [{name: web-tls}]}}"),
	})
	c.w.start()
	c.w.ready()
	c.w.eventually("the pool answers", func() error { return get(c.client(), c.url("https", "/pool/x")) })
	return c
}

// client speaks TLS to shop.example.
func (c *changes) client() *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: transport(c.w.t, c.https)}
}

func (c *changes) url(scheme, path string) string {
	if scheme == "https" {
		return "https://shop.example" + path
	}
	return "http://" + c.http + path
}

// load starts the clients: with and without TLS, with connections that are kept
// and ones that are not, GET and POST.
func (c *changes) load(l *load) {
	body := bytes.Repeat([]byte("windrose "), 7000)
	plain := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	tlsKept := c.client()
	tlsNew := c.client()
	tlsNew.Transport.(*http.Transport).DisableKeepAlives = true
	l.run(2, func() error { return get(plain, c.url("http", "/load/1")) })
	l.run(1, func() error { return post(plain, c.url("http", "/load/2"), body) })
	l.run(1, func() error { return get(plain, c.url("http", "/pool/3")) })
	l.run(1, func() error { return post(plain, c.url("http", "/pool/echo"), body) })
	l.run(1, func() error { return get(tlsKept, c.url("https", "/load/4")) })
	l.run(1, func() error { return post(tlsKept, c.url("https", "/pool/echo"), body[:100]) })
	l.run(1, func() error { return get(tlsNew, c.url("https", "/load/5")) })
}

// moveRoute gives the route another backend and other filters, and waits until
// they are live.
func (c *changes) moveRoute() {
	c.done["route"]++
	mark := fmt.Sprint(c.done["route"])
	to := []string{"a", "b"}[c.done["route"]%2]
	filter := fmt.Sprintf("{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Mark, value: %q}]}}", mark)
	if c.done["route"]%3 == 0 {
		filter += ", {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-More, value: more}]}}"
	}
	c.w.write("load.yaml", routeOf("load",
		fmt.Sprintf(`{matches: [{path: {type: PathPrefix, value: /load/}}], filters: [%s], backendRefs: [{name: %s, port: 80}]}`, filter, to)))
	c.w.eventually("the moved route is live", func() error {
		_, _, h := fetch(c.url("http", "/load/mark"))
		if h.Get("X-Mark") != mark {
			return fmt.Errorf("mark %q, want %q", h.Get("X-Mark"), mark)
		}
		return nil
	})
}

// otherRoutes adds or removes routes that nobody asks for.
func (c *changes) otherRoutes() {
	c.done["other"]++
	if c.done["other"]%2 == 0 {
		c.w.remove("other.yaml")
		return
	}
	var routes []string
	for i := range 20 {
		routes = append(routes, route(fmt.Sprintf("other-%d", i), fmt.Sprintf("/load/other/%d", i), "b"))
	}
	c.w.write("other.yaml", all(routes...))
}

// workloads adds a process to the pool, or removes one; windrose takes it out
// of the endpoints before it ends it.
func (c *changes) workloads() {
	if len(c.current) == len(c.ports) {
		i := c.current[0]
		c.current = c.current[1:]
		c.done["remove"]++
		pid := c.w.get("workloads", fmt.Sprintf("pool-%d", i)).Status.PID
		c.w.remove(fmt.Sprintf("pool-%d.yaml", i))
		c.w.eventually("the removed workload has ended", func() error {
			if !gone(pid) {
				return fmt.Errorf("process %d lives", pid)
			}
			return nil
		})
		return
	}
	i := slices.IndexFunc(c.ports, func(p int) bool { return !slices.Contains(c.current, slices.Index(c.ports, p)) })
	c.current = append(c.current, i)
	c.done["add"]++
	name := fmt.Sprintf("pool-%d", i)
	c.w.write(name+".yaml", command(c.w.t, name, "pool", c.ports[i]))
	c.w.eventually("the new workload is ready", func() error {
		for _, o := range c.w.list("workloads") {
			if o.Metadata.Name == name && strings.HasPrefix(find(o.Status.Conditions, "Ready"), "True") {
				return nil
			}
		}
		return errors.New("it is not")
	})
}

// certificate replaces the Secret; the next handshake shows the new one.
func (c *changes) certificate() {
	c.done["certificate"]++
	c.serial++
	c.w.write("secret.yaml", secret(c.w.t, "web-tls", ecdsaKey, c.serial, "shop.example"))
	c.w.eventually("the new certificate is shown", func() error {
		cert, err := shown(c.w.t, c.https, "shop.example")
		if err != nil {
			return err
		}
		if got := cert.SerialNumber.Int64(); got != c.serial {
			return fmt.Errorf("serial %d, want %d", got, c.serial)
		}
		return nil
	})
}

// mistake breaks the route under load, and one in the making, and mends both.
func (c *changes) mistake() {
	c.done["mistake"]++
	good := c.w.read("load.yaml")
	c.w.write("load.yaml", strings.Replace(good, "PathPrefix", "PathPrefixx", 1))
	c.w.write("broken.yaml", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: x\n")
	c.w.eventually("the findings are told", func() error {
		r := c.w.cli("get", "findings", "-A")
		if !strings.Contains(r.out, "PathPrefixx") || !strings.Contains(r.out, "broken.yaml") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	c.w.write("load.yaml", good)
	c.w.remove("broken.yaml")
	c.w.eventually("no finding is left", func() error {
		if r := c.w.cli("get", "findings", "-A"); strings.Contains(r.out, "PathPrefixx") || strings.Contains(r.out, "broken.yaml") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
}

// An endpoint that is an address leaves the plan first and its process ends
// after: nothing that was asked meanwhile may fail.
func TestEndpointLeavesBeforeItsProcess(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	stays := backend(t, "stays")
	w := up(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", stays), "r.yaml": route("r", "/", "a")})
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	l := newLoad(t)
	l.run(2, func() error { return get(client, url) })
	l.run(2, func() error { return post(client, url, nil) })
	for range 10 {
		var asked atomic.Int64
		leaves := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })}
		addr := freeAddr(t)
		ln := listen(t, addr)
		go leaves.Serve(ln)
		w.write("a.yaml", service("a", stays, addr))
		w.eventually("the new endpoint is asked", func() error {
			if asked.Load() == 0 {
				return errors.New("not yet")
			}
			return nil
		})
		w.write("a.yaml", service("a", stays))
		w.eventually("the endpoint has left", func() error {
			if r := w.cli("get", "services", "a"); r.code != 0 || strings.Contains(r.out, addr) {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		w.applied()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := leaves.Shutdown(ctx); err != nil {
			t.Errorf("requests stay on an endpoint that left: %v", err)
		}
		cancel()
	}
	l.end(t)
}
