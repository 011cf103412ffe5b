package proxy_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/session"
)

var sessionKey = plan.Secret(bytes.Repeat([]byte{3}, session.KeySize))

// keyed is the part that has a gateway know sessions.
func keyed() plan.Part { return settings(plan.Settings{SessionKey: sessionKey}) }

func cookie() *plan.Session { return &plan.Session{Cookie: "sid"} }

// staying is a rule for everything whose requests have sessions.
func staying(s *plan.Session, backends ...plan.Backend) plan.Part {
	rule := all(backends...)
	rule.Session = s
	return route("r", rule)
}

func one() plan.Backend { return plan.Backend{Service: "s", Weight: 1} }

// naming answers with name.
func naming(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }
}

// several are n backends that answer with what they are called.
func several(tb testing.TB, make func(testing.TB, http.HandlerFunc) string, names ...string) []string {
	tb.Helper()
	var addrs []string
	for _, name := range names {
		addrs = append(addrs, make(tb, naming(name)))
	}
	return addrs
}

// visitor keeps what it is given, as a browser does, but for one name alone.
type visitor struct {
	tb     testing.TB
	client *http.Client
	base   string
	header string // of the session; empty: cookie sid
	token  string
	given  int    // how often it was given one
	last   string // what it was given
}

func (v *visitor) ask() string {
	v.tb.Helper()
	req, err := http.NewRequest("GET", v.base+"/", http.NoBody)
	if err != nil {
		v.tb.Fatal(err)
	}
	switch {
	case v.token == "":
	case v.header != "":
		req.Header.Set(v.header, v.token)
	default:
		req.Header.Set("Cookie", "other=1; sid="+v.token+"; more=2")
	}
	resp, err := v.client.Do(req)
	if err != nil {
		v.tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		v.tb.Fatal(err)
	}
	if v.header != "" {
		if got := resp.Header.Get(v.header); got != "" {
			v.token, v.last = got, got
			v.given++
		}
		return string(body)
	}
	for _, c := range resp.Cookies() {
		if c.Name == "sid" {
			v.token, v.last = c.Value, c.Raw
			v.given++
		}
	}
	return string(body)
}

// stays asks n times and wants one answer each time.
func (v *visitor) stays(n int) string {
	v.tb.Helper()
	first := v.ask()
	for range n {
		if got := v.ask(); got != first {
			v.tb.Fatalf("the session began at %s, and a request went to %s", first, got)
		}
	}
	return first
}

func (g *gateway) visitor() *visitor {
	return &visitor{tb: g.t, client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}, base: "http://" + g.addr}
}

// covers: SessionPersistence
func TestSessionsStay(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c", "d", "e"}
	h1, h2 := service("s", several(t, backend, names...)...), h2cService("s", several(t, h2cBackend, names...)...)
	for _, c := range []struct {
		name    string
		spec    *plan.Session
		service plan.Part
		client  func() *http.Client
	}{
		{"cookie, h1 to h1", cookie(), h1, func() *http.Client { return &http.Client{Transport: &http.Transport{}} }},
		{"cookie, h2 to h2", cookie(), h2, h2cClient},
		{"cookie, h2 to h1", cookie(), h1, h2cClient},
		{"header, h1 to h2", &plan.Session{Header: "x-session"}, h2, func() *http.Client { return &http.Client{Transport: &http.Transport{}} }},
		{"header, h2 to h1", &plan.Session{Header: "x-session"}, h1, h2cClient},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := start(t, 2, keyed(), staying(c.spec, one()), c.service)
			at := map[string]bool{}
			for range 30 {
				v := g.visitor()
				v.client, v.header = c.client(), c.spec.Header
				at[v.stays(20)] = true
				if v.given != 1 {
					t.Errorf("the client was given %d tokens, want one", v.given)
				}
				v.client.CloseIdleConnections()
			}
			if len(at) < 2 {
				t.Errorf("30 sessions are all at %v", at)
			}
		})
	}
}

// The service's own session counts where the rule has none, and a rule's goes
// before it.
func TestSessionsOfServices(t *testing.T) {
	s := service("s", several(t, backend, "a", "b", "c", "d")...)
	s.Service.Session = cookie()
	g := start(t, 1, keyed(), route("r", all(one())), s)
	v := g.visitor()
	v.stays(30)
	g.use(staying(&plan.Session{Header: "x-session"}, one()))
	w := g.visitor()
	w.header = "x-session"
	w.stays(30)
	if v.given != 1 || w.given != 1 {
		t.Errorf("tokens given: %d and %d, want one each", v.given, w.given)
	}
}

// Weights decide about every request; at each backend the session has its
// endpoint, and one token tells both.
func TestSessionsLeaveTheSplitAlone(t *testing.T) {
	g := start(t, 1, keyed(), staying(cookie(), plan.Backend{Service: "v1", Weight: 7}, plan.Backend{Service: "v2", Weight: 3}),
		service("v1", several(t, backend, "v1a", "v1b", "v1c", "v1d")...), service("v2", several(t, backend, "v2a", "v2b", "v2c", "v2d")...))
	v := g.visitor()
	count := map[string]int{}
	for range 100 {
		count[v.ask()]++
	}
	if len(count) != 2 || v.given != 2 {
		t.Fatalf("requests went to %v with %d tokens, want one endpoint of each backend and two", count, v.given)
	}
	for name, n := range count {
		if want := map[string]int{"v1": 70, "v2": 30}[name[:2]]; n != want {
			t.Errorf("%s had %d of 100 requests, want %d", name, n, want)
		}
	}
}

func TestSessionsMoveWhenTheirEndpointIsGone(t *testing.T) {
	addrs := several(t, backend, "a", "b", "c")
	g := start(t, 1, keyed(), staying(cookie(), one()), service("s", addrs...))
	v := g.visitor()
	first := v.stays(5)
	i := int(first[0] - 'a')
	rest := append(append([]string(nil), addrs[:i]...), addrs[i+1:]...)

	draining := service("s", rest...)
	draining.Service.Draining = []plan.Endpoint{{Addr: netip.MustParseAddrPort(addrs[i])}}
	g.use(draining)
	if got := v.stays(10); got != first || v.given != 1 {
		t.Errorf("while %s drains the session is at %s, with %d tokens", first, got, v.given)
	}
	for range 20 {
		if got := g.visitor().ask(); got == first {
			t.Fatalf("a new session began at %s, which drains", got)
		}
	}
	g.use(service("s", rest...))
	if got := v.stays(10); got == first || v.given != 2 {
		t.Errorf("when %s is gone the session is at %s, with %d tokens, want another and 2", first, got, v.given)
	}
}

func TestSessionsMoveWhenTheirEndpointRefuses(t *testing.T) {
	good, away := backend(t, naming("good")), closedAddr(t)
	g := start(t, 1, keyed(), staying(cookie(), one()), service("s", good, away))
	sealer, err := session.New(sessionKey)
	if err != nil {
		t.Fatal(err)
	}
	v := g.visitor()
	v.token = string(sealer.Seal([]session.Pin{{Service: session.Hash("s"), Endpoint: netip.MustParseAddrPort(away), Since: uint32(time.Now().Unix())}}))
	if got := v.stays(5); got != "good" || v.given != 1 {
		t.Errorf("the session is at %q with %d tokens, want the endpoint that is there, and one", got, v.given)
	}
}

// An answer that is not the last word does not end a session: what the client
// has there is there alone.
func TestRetriesStayInTheSession(t *testing.T) {
	var asked, others atomic.Int64
	flaky := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1)%2 == 1 {
			w.WriteHeader(503)
			return
		}
		_, _ = io.WriteString(w, "flaky")
	})
	other := backend(t, func(http.ResponseWriter, *http.Request) { others.Add(1) })
	r := staying(cookie(), one())
	r.Route.Rules[0].Retry = &plan.Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Millisecond}
	g := start(t, 1, keyed(), r, service("s", flaky, other))
	sealer, err := session.New(sessionKey)
	if err != nil {
		t.Fatal(err)
	}
	v := g.visitor()
	v.token = string(sealer.Seal([]session.Pin{{Service: session.Hash("s"), Endpoint: netip.MustParseAddrPort(flaky), Since: uint32(time.Now().Unix())}}))
	if got := v.stays(5); got != "flaky" || others.Load() != 0 || v.given != 0 {
		t.Errorf("the session is at %q, the other endpoint had %d requests, %d tokens were given", got, others.Load(), v.given)
	}
}

func TestTokensThatAreNone(t *testing.T) {
	addrs := several(t, backend, "a", "b")
	stranger := backend(t, naming("stranger"))
	g := start(t, 1, keyed(), staying(&plan.Session{Cookie: "sid", Timeout: time.Hour}, one()), service("s", addrs...), service("other", stranger))
	key := bytes.Repeat([]byte{4}, session.KeySize)
	forger, err := session.New(key)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := session.New(sessionKey)
	if err != nil {
		t.Fatal(err)
	}
	now := uint32(time.Now().Unix())
	pin := func(service, addr string, since uint32) []session.Pin {
		return []session.Pin{{Service: session.Hash(service), Endpoint: netip.MustParseAddrPort(addr), Since: since}}
	}
	genuine := sealer.Seal(pin("s", addrs[0], now))
	bent := bytes.Clone(genuine)
	bent[len(bent)/2] ^= 1
	for name, token := range map[string]string{
		"nonsense":                    "x",
		"an address":                  stranger,
		"another key":                 string(forger.Seal(pin("s", addrs[0], now))),
		"one bit off":                 string(bent),
		"cut short":                   string(genuine[:len(genuine)-1]),
		"an endpoint of another":      string(sealer.Seal(pin("s", stranger, now))),
		"of another service":          string(sealer.Seal(pin("other", stranger, now))),
		"its time is over":            string(sealer.Seal(pin("s", addrs[0], now-3601))),
		"from a far future":           string(sealer.Seal(pin("s", addrs[0], now+3600))),
		"very long":                   strings.Repeat("A", 4000),
		"of no endpoint in the world": string(sealer.Seal(pin("s", "192.0.2.1:1", now))),
	} {
		v := g.visitor()
		v.token = token
		if got := v.stays(5); got != "a" && got != "b" || v.given != 1 {
			t.Errorf("%s: the request went to %q, and %d tokens were given", name, got, v.given)
		}
	}
	// A good one among bad ones is found.
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\ncookie: sid=x; sid=\"" + string(bent) + "\"\r\ncookie: sid=" + string(genuine) + "\r\n\r\n")
	if resp, body := p.answer("GET"); body != "a" || resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("with a good token behind bad ones: %q, %q", body, resp.Header.Get("Set-Cookie"))
	}
}

// Tokens outlive the data plane, and say nothing of addresses.
func TestSessionsOutliveARestart(t *testing.T) {
	addrs := several(t, backend, "a", "b", "c", "d")
	parts := []plan.Part{keyed(), staying(cookie(), one()), service("s", addrs...)}
	v := start(t, 1, parts...).visitor()
	first := v.stays(3)
	for _, a := range addrs {
		if host, port, _ := strings.Cut(a, ":"); strings.Contains(v.last, host) || strings.Contains(v.last, port) {
			t.Errorf("%q shows an address", v.last)
		}
	}
	v.base = "http://" + start(t, 2, parts...).addr
	if got := v.stays(10); got != first || v.given != 1 {
		t.Errorf("the session was at %s, and is at %s after a restart, with %d tokens", first, got, v.given)
	}
}

func TestSessionCookiesAttributes(t *testing.T) {
	for _, c := range []struct {
		spec *plan.Session
		want string
	}{
		{&plan.Session{Cookie: "sid"}, "; Path=/; HttpOnly; SameSite=Strict"},
		{&plan.Session{Cookie: "sid", Timeout: time.Hour}, "; Path=/; HttpOnly; SameSite=Strict"},
		{&plan.Session{Cookie: "sid", Path: "/shop", Timeout: 90 * time.Second, Permanent: true}, "; Path=/shop; Max-Age=90; HttpOnly; SameSite=Strict"},
	} {
		g := start(t, 1, keyed(), staying(c.spec, one()), service("s", backend(t, naming("a"))))
		v := g.visitor()
		v.ask()
		if _, got, _ := strings.Cut(v.last, ";"); ";"+got != c.want {
			t.Errorf("%+v: got %q, want %q", *c.spec, v.last, c.want)
		}
		// Behind a proxy that is trusted, its word on TLS counts.
		g.use(settings(plan.Settings{SessionKey: sessionKey, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}))
		p := g.dial()
		p.send("GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-proto: https\r\n\r\n")
		if resp, _ := p.answer("GET"); !strings.HasSuffix(resp.Header.Get("Set-Cookie"), c.want+"; Secure") {
			t.Errorf("over TLS: got %q, want it to end with %q", resp.Header.Get("Set-Cookie"), c.want+"; Secure")
		}
	}
}

func TestSessionCookiesOverTLSAreSecure(t *testing.T) {
	g := start(t, 1, keyed())
	addr := g.listen("tls", plan.Listener{Protocol: plan.HTTPS, Certificates: []string{"c"}}, certificate(t, "c", false, "x.example"),
		service("s", backend(t, naming("a"))),
		plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "r"}, Route: &plan.Route{Attach: []plan.Attachment{{Listener: "tls"}}, Rules: staying(cookie(), one()).Route.Rules}})
	v := g.visitor()
	v.base = "https://" + addr
	v.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	v.ask()
	if !strings.HasSuffix(v.last, "; Secure") {
		t.Errorf("got %q, want it Secure", v.last)
	}
	v.client.CloseIdleConnections()
}

func TestTunnelsHaveSessions(t *testing.T) {
	g := start(t, 1, keyed(), staying(cookie(), one()), service("s", switching(t, "", echo)))
	p := g.dial()
	p.send(upgrade)
	if head := p.head(); strings.Count(head, "set-cookie: sid=") != 1 {
		t.Errorf("the switch has the head %q, want it to set the cookie", head)
	}
	p.closeWrite()
	p.rest()
}

// What is not an endpoint's answer begins no session, and a header that the
// service itself sends is not taken for a token.
func TestAnswersWithoutSessions(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Session", "mine") })
	g := start(t, 1, keyed(), staying(&plan.Session{Header: "x-session"}, one()), service("s", closedAddr(t)))
	v := g.visitor()
	v.header = "X-Session"
	v.ask()
	if v.given != 0 {
		t.Errorf("a fault has the token %q", v.token)
	}
	g.use(service("s", b))
	if v.ask(); v.given != 1 || v.token == "mine" {
		t.Errorf("got %d tokens, the last %q", v.given, v.token)
	}
	if v.ask(); v.given != 1 {
		t.Errorf("within the session the client got %q", v.token)
	}
	for name, part := range map[string]plan.Part{
		"without a key": settings(plan.Settings{}),
		"a short key":   settings(plan.Settings{SessionKey: plan.Secret("short")}),
	} {
		g.use(part)
		w := g.visitor()
		w.header = "X-Session"
		if w.ask(); w.token != "mine" {
			t.Errorf("%s: the token is %q, want the service's own field", name, w.token)
		}
	}
}
