package workload

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/wait"
)

// verdict is what a probe found out.
type verdict struct {
	ready    bool
	wasReady bool // not ready, but was before
	message  string
}

// check asks one address whether a workload is ready.
type check struct {
	addr      string // host:port
	url       string // of an HTTP probe; empty for TCP
	period    time.Duration
	timeout   time.Duration
	threshold int
	// once ends the watch at the first success. It is the check of a command
	// without a readiness probe: one connection says that it listens, and no
	// more are made.
	once bool
}

// newCheck gives the check of a target, or nil if it is ready without one.
func newCheck(t *target) (*check, error) {
	spec := &t.obj.Spec
	if _, err := netip.ParseAddr(t.address()); err != nil {
		return nil, fmt.Errorf("spec.address %q is not an IP address", t.address())
	}
	p := spec.Readiness
	if p == nil {
		if len(spec.Ports) == 0 {
			return nil, nil
		}
		port := strconv.Itoa(int(spec.Ports[0].Port))
		return &check{addr: net.JoinHostPort(t.address(), port), period: 2 * time.Second, timeout: time.Second, threshold: 1, once: true}, nil
	}
	c := &check{
		period:    seconds(p.PeriodSeconds, 2*time.Second),
		timeout:   seconds(p.TimeoutSeconds, time.Second),
		threshold: int(max(p.FailureThreshold, 0)),
	}
	if c.threshold == 0 {
		c.threshold = 3
	}
	var port intstr.IntOrString
	var path string
	switch {
	case p.HTTP != nil:
		port, path = p.HTTP.Port, p.HTTP.Path
	case p.TCP != nil:
		port = p.TCP.Port
	default:
		return nil, fmt.Errorf("spec.readiness has neither http nor tcp")
	}
	number, err := portNumber(spec.Ports, port)
	if err != nil {
		return nil, err
	}
	c.addr = net.JoinHostPort(t.address(), strconv.Itoa(int(number)))
	if p.HTTP != nil {
		if c.url, err = probeURL(c.addr, path); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func seconds(n int32, otherwise time.Duration) time.Duration {
	if n < 1 {
		return otherwise
	}
	return time.Duration(n) * time.Second
}

// portNumber resolves a number, a port's name, or a number in a string.
func portNumber(ports []v1alpha1.WorkloadPort, port intstr.IntOrString) (uint16, error) {
	if port.Type == intstr.String {
		for _, p := range ports {
			if p.Name == port.StrVal {
				return uint16(p.Port), nil
			}
		}
	}
	n, err := strconv.ParseUint(port.String(), 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("spec.readiness: port %q is neither a number nor the name of one of the workload's ports", port.String())
	}
	return uint16(n), nil
}

func probeURL(addr, path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	u, err := url.Parse("http://" + addr + path)
	if err != nil || u.Host != addr {
		return "", fmt.Errorf("spec.readiness.http.path %q is not a path", path)
	}
	return u.String(), nil
}

// watch probes until ctx ends and says so whenever the verdict changes; ready is
// the verdict before. Until the first success it probes more often than the
// period, so that a workload takes requests soon after it can.
func (c *check) watch(ctx context.Context, out chan verdict, ready bool) {
	const firstPause = 50 * time.Millisecond
	var (
		client   = c.client()
		pause    = firstPause
		last     = verdict{ready: ready}
		was      = ready
		failures int
	)
	for {
		v := c.probe(ctx, client)
		if ctx.Err() != nil {
			return
		}
		if v.ready {
			failures, was = 0, true
		} else {
			failures++
			v.wasReady = was
		}
		// A ready workload has failureThreshold chances.
		if v != last && (v.ready || !last.ready || failures >= c.threshold) {
			wait.Latest(out, v) // the newest verdict is the true one
			last = v
		}
		if v.ready && c.once {
			return
		}
		if pause *= 2; was || pause > c.period {
			pause = c.period
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (c *check) client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
			DialContext:            (&net.Dialer{}).DialContext,
		},
		// A redirect is an answer like any other; where it leads is not probed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (c *check) probe(ctx context.Context, client *http.Client) verdict {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if c.url == "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.addr)
		if err != nil {
			return verdict{message: fmt.Sprintf("no TCP connection to %s: %s", c.addr, cause(err))}
		}
		conn.Close()
		return verdict{ready: true, message: "it accepts TCP connections at " + c.addr}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return verdict{message: err.Error()}
	}
	req.Header.Set("User-Agent", "windrose-probe")
	resp, err := client.Do(req)
	if err != nil {
		return verdict{message: fmt.Sprintf("GET %s: %s", c.url, cause(err))}
	}
	resp.Body.Close()
	v := verdict{ready: resp.StatusCode >= 200 && resp.StatusCode < 400, message: fmt.Sprintf("GET %s answers %d", c.url, resp.StatusCode)}
	if !v.ready {
		v.message += "; windrose expects 200 to 399"
	}
	return v
}

// cause drops what net's errors repeat about the address, and the local port,
// which differs from probe to probe.
func cause(err error) string {
	type timeout interface{ Timeout() bool }
	for e := err; e != nil; {
		if t, ok := e.(timeout); ok && t.Timeout() {
			return "no answer in time"
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			return e.Error()
		}
		next := u.Unwrap()
		if next == nil {
			return e.Error()
		}
		e = next
	}
	return err.Error()
}
