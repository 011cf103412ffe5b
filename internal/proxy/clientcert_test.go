package proxy_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// checked is a gateway whose listeners on one socket ask for certificates: one of
// a.example for those of the first authority, one of b.example for those of the
// second, one of free.example for none, and one of maybe.example for those of the
// first, but serves everybody. Its endpoint says whom it was told of.
func checked(t *testing.T, a, b *authority, more ...plan.Part) (*gateway, string) {
	t.Helper()
	back := backend(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "from %q", r.Header.Values("X-Forwarded-Client-Cert"))
	})
	g := start(t, 1, append(to(back), more...)...)
	addr := g.listen("a", plan.Listener{Protocol: plan.HTTPS, Hostname: "a.example", Certificates: []string{"c"}, Clients: &plan.ClientCheck{Authorities: a.pem()}},
		certificate(t, "c", false, "a.example", "b.example", "free.example", "maybe.example"))
	listener := func(name, host string, check *plan.ClientCheck) plan.Part {
		return plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: name}, Listener: &plan.Listener{
			Sockets: []string{"tcp/" + addr}, Protocol: plan.HTTPS, Hostname: host, Certificates: []string{"c"}, Clients: check,
		}}
	}
	attach := plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "checked"}, Route: &plan.Route{Rules: []plan.Rule{all(plan.Backend{Service: "s", Weight: 1})}}}
	for _, name := range []string{"a", "b", "free", "maybe"} {
		attach.Route.Attach = append(attach.Route.Attach, plan.Attachment{Listener: name})
	}
	g.use(listener("b", "b.example", &plan.ClientCheck{Authorities: b.pem()}), listener("free", "free.example", nil),
		listener("maybe", "maybe.example", &plan.ClientCheck{Authorities: a.pem(), Optional: true}), listener("rest", "", nil), attach)
	return g, addr
}

// get asks for a host over a connection of its own, or says why that fails.
func get(tb testing.TB, addr, sni, host string, more *tls.Config, headers ...string) string {
	tb.Helper()
	cfg := more.Clone()
	cfg.ServerName, cfg.InsecureSkipVerify = sni, true
	c, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n%s\r\n", host, strings.Join(headers, ""))
	b, err := io.ReadAll(c)
	if len(b) == 0 && err != nil {
		return err.Error() // with TLS 1.3 a refusal comes after the client's end of the handshake
	}
	return string(b)
}

func hashOf(c *tls.Config) string {
	sum := sha256.Sum256(c.Certificates[0].Certificate[0])
	return hex.EncodeToString(sum[:])
}

func TestClientsAreAskedForCertificates(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	g, addr := checked(t, a, b)
	good := a.certificate("client.example", "spiffe://mesh.example/ns/x", time.Hour)
	other, expired := b.certificate("other.example", "", time.Hour), a.certificate("late.example", "", -time.Hour)
	told := `from ["Hash=` + hashOf(good) + `;Subject=\"\";URI=spiffe://mesh.example/ns/x;DNS=client.example"]`
	const refused, misdirected, nobody = "tls: ", "HTTP/1.1 421 ", "from []"
	for _, c := range []struct {
		name, sni, host string
		client          *tls.Config
		want            string
	}{
		{"the right authority", "a.example", "a.example", good, told},
		{"no certificate", "a.example", "a.example", &tls.Config{}, refused},
		{"another authority", "a.example", "a.example", other, refused},
		{"expired", "a.example", "a.example", expired, refused},
		{"the other listener's", "b.example", "b.example", other, "DNS=other.example"},
		{"a listener that asks nobody", "free.example", "free.example", good, nobody},
		{"a host that asks, over a connection that was not asked", "free.example", "a.example", good, misdirected},
		{"a host that asks, over one without a server name", "", "a.example", good, misdirected},
		{"a host of another check", "b.example", "a.example", other, misdirected},
		{"optional, the right one", "maybe.example", "maybe.example", good, told},
		{"optional, none", "maybe.example", "maybe.example", &tls.Config{}, nobody},
		{"optional, another authority", "maybe.example", "maybe.example", other, nobody},
		{"optional, expired", "maybe.example", "maybe.example", expired, nobody},
		{"a host that asks, over one that may go without", "maybe.example", "a.example", &tls.Config{}, misdirected},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(c.name+"/"+tls.VersionName(version), func(t *testing.T) {
				client := c.client.Clone()
				client.MaxVersion = version
				// As somebody who thinks that any certificate will do.
				if len(client.Certificates) > 0 {
					client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &client.Certificates[0], nil }
				}
				if got := get(t, addr, c.sni, c.host, client); !strings.Contains(got, c.want) {
					t.Errorf("got %q, want it to contain %q", got, c.want)
				}
			})
		}
	}
	eventually(t, "a record names the client", func() bool {
		return slices.ContainsFunc(g.lines(), func(l line) bool { return l.Identity == "spiffe://mesh.example/ns/x" })
	})
}

// What a client says of itself is worth nothing.
func TestClientCertHeaderCannotBeForged(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	good := a.certificate("client.example", "", time.Hour)
	forged := []string{"x-forwarded-client-cert: Hash=1;URI=spiffe://root\r\n", "X_Forwarded_Client_Cert: Hash=2\r\n"}
	g, addr := checked(t, a, b)
	for host, want := range map[string]string{"free.example": "from []", "maybe.example": "from []", "a.example": `from ["Hash=` + hashOf(good)} {
		client := good
		if host == "maybe.example" {
			client = &tls.Config{}
		}
		if got := get(t, addr, host, host, client, forged...); !strings.Contains(got, want) || strings.Contains(got, "root") || strings.Contains(got, "Hash=2") {
			t.Errorf("%s: got %q, want it to contain %q and nothing forged", host, got, want)
		}
	}
	// A trusted peer speaks for its own clients; its own certificate follows.
	g.use(settings(plan.Settings{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}))
	if got := get(t, addr, "a.example", "a.example", good, forged[0]); !strings.Contains(got, `from ["Hash=1;URI=spiffe://root" "Hash=`+hashOf(good)) {
		t.Errorf("from a trusted peer: got %q", got)
	}
}

// What one listener's authorities say of a client is not told to the endpoints of
// another that asks nobody, nor once it asks nobody any more.
func TestIdentityIsToldWhereItWasProven(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	g, addr := checked(t, a, b)
	rest := func(check *plan.ClientCheck) plan.Part {
		return plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "rest"}, Listener: &plan.Listener{
			Sockets: []string{"tcp/" + addr}, Protocol: plan.HTTPS, Certificates: []string{"c"}, Clients: check,
		}}
	}
	g.use(rest(&plan.ClientCheck{Authorities: b.pem()}))
	good := b.certificate("client.example", "", time.Hour)
	// Without a server name, the listener for all names makes the handshake.
	if got := get(t, addr, "", "free.example", good); !strings.Contains(got, "from []") {
		t.Errorf("got %q, want nobody to be told of", got)
	}
	good = a.certificate("client.example", "", time.Hour)
	good.ServerName = "a.example"
	kept := dialTLS(t, addr, good)
	for _, want := range []string{`from ["Hash=`, "from []"} {
		kept.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n")
		if resp, body := kept.answer("GET"); resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("got %d %q, want 200 and %q", resp.StatusCode, body, want)
		}
		g.use(plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "a"}, Listener: &plan.Listener{
			Sockets: []string{"tcp/" + addr}, Protocol: plan.HTTPS, Hostname: "a.example", Certificates: []string{"c"},
		}})
	}
}

// A session is resumed under the check that it was made under, and under no
// other.
func TestClientSessionsStayUnderTheirCheck(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	g, addr := checked(t, a, b)
	ask := func(client *tls.Config, sni string) (string, bool) {
		c := client.Clone()
		resumed := false
		c.VerifyConnection = func(s tls.ConnectionState) error { resumed = s.DidResume; return nil }
		return get(t, addr, sni, sni, c), resumed
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			good := a.certificate("client.example", "", time.Hour)
			good.MaxVersion, good.ClientSessionCache = version, oneSession{tls.NewLRUClientSessionCache(1)}
			for _, host := range []string{"a.example", "maybe.example"} {
				for i, want := range []bool{false, true, true} {
					if got, resumed := ask(good, host); !strings.Contains(got, "DNS=client.example") || resumed != want {
						t.Errorf("%s, time %d: got %q, resumed %v, want %v", host, i, got, resumed, want)
					}
				}
			}
			// Nobody who was not asked gets in with the session of such a connection.
			stranger := &tls.Config{MaxVersion: version, ClientSessionCache: oneSession{tls.NewLRUClientSessionCache(1)}}
			for _, from := range []string{"free.example", "maybe.example"} {
				if got, _ := ask(stranger, from); !strings.Contains(got, "from []") {
					t.Errorf("%s: got %q", from, got)
				}
				if got, resumed := ask(stranger, "a.example"); !strings.HasPrefix(got, "remote error: tls: ") || resumed {
					t.Errorf("with a session of %s: got %q, resumed %v", from, got, resumed)
				}
			}
		})
	}
	// The authority is replaced: what was proven by the old one is worth nothing.
	good := a.certificate("client.example", "", time.Hour)
	good.ClientSessionCache = oneSession{tls.NewLRUClientSessionCache(1)}
	ask(good, "a.example")
	g.use(plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "a"}, Listener: &plan.Listener{
		Sockets: []string{"tcp/" + addr}, Protocol: plan.HTTPS, Hostname: "a.example", Certificates: []string{"c"}, Clients: &plan.ClientCheck{Authorities: b.pem()},
	}})
	if got, resumed := ask(good, "a.example"); !strings.HasPrefix(got, "remote error: tls: ") || resumed {
		t.Errorf("after the authority was replaced: got %q, resumed %v", got, resumed)
	}
}

// oneSession offers the last session whatever server it is for.
type oneSession struct{ tls.ClientSessionCache }

func (s oneSession) Get(string) (*tls.ClientSessionState, bool) { return s.ClientSessionCache.Get("") }

func (s oneSession) Put(_ string, state *tls.ClientSessionState) { s.ClientSessionCache.Put("", state) }

// A connection from before a check is not served where the check is asked for,
// over HTTP/1 and HTTP/2, and leaves.
func TestConnectionsFromBeforeACheck(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	g, addr := checked(t, a, b)
	free := func(check *plan.ClientCheck) plan.Part {
		return plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "free"}, Listener: &plan.Listener{
			Sockets: []string{"tcp/" + addr}, Protocol: plan.HTTPS, Hostname: "free.example", Certificates: []string{"c"}, Clients: check,
		}}
	}
	old := dialTLS(t, addr, &tls.Config{ServerName: "free.example"})
	old.send("GET / HTTP/1.1\r\nhost: free.example\r\n\r\n")
	if resp, _ := old.answer("GET"); resp.StatusCode != 200 {
		t.Fatalf("before the check: got %d", resp.StatusCode)
	}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{ServerName: "free.example", InsecureSkipVerify: true}, MaxConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	ask := func(client *http.Transport) (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "free.example"
		resp, err := client.RoundTrip(req)
		if err != nil {
			return 0, err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	if code, err := ask(transport); code != 200 {
		t.Fatalf("before the check over HTTP/2: got %d (%v)", code, err)
	}
	g.use(free(&plan.ClientCheck{Authorities: a.pem()}))
	old.send("GET / HTTP/1.1\r\nhost: free.example\r\n\r\n")
	resp, _ := old.answer("GET")
	if resp.StatusCode != 421 || !resp.Close {
		t.Errorf("got %d, close %v, want 421 and the end", resp.StatusCode, resp.Close)
	}
	if code, err := ask(transport); code == 200 {
		t.Errorf("over HTTP/2: got %d (%v), want no answer of the service", code, err)
	}
	// A plan that leaves the check as it is, leaves its connections too.
	good := a.certificate("client.example", "", time.Hour)
	good.ServerName = "free.example"
	kept := dialTLS(t, addr, good)
	for range 3 {
		g.use(free(&plan.ClientCheck{Authorities: a.pem()}))
		kept.send("GET / HTTP/1.1\r\nhost: free.example\r\n\r\n")
		if resp, body := kept.answer("GET"); resp.StatusCode != 200 || resp.Close || !strings.Contains(body, "DNS=client.example") {
			t.Errorf("got %d %q, want the service's answer and no end", resp.StatusCode, body)
		}
	}
}

// Authorities that cannot be read leave nobody to be believed, and not the
// machine's.
func TestClientCheckWithoutAuthorities(t *testing.T) {
	a := newAuthority(t)
	g, addr := checked(t, a, a)
	g.use(plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "a"}, Listener: &plan.Listener{
		Sockets: []string{"tcp/" + addr}, Protocol: plan.HTTPS, Hostname: "a.example", Certificates: []string{"c"}, Clients: &plan.ClientCheck{Authorities: []byte("junk")},
	}})
	if got := get(t, addr, "a.example", "a.example", a.certificate("client.example", "", time.Hour)); !strings.Contains(got, "tls: ") {
		t.Errorf("got %q, want a refusal", got)
	}
}
