package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

// doorkeeper is an authoriser by Envoy's ext_authz, with gRPC's own server.
type doorkeeper struct {
	authv3.UnimplementedAuthorizationServer
}

func headerOption(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
}

func (doorkeeper) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	h := r.GetAttributes().GetRequest().GetHttp()
	user, ok := strings.CutPrefix(h.GetHeaders()["authorization"], "Bearer ")
	if !ok {
		return &authv3.CheckResponse{Status: &rpc.Status{Code: 16}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: 401}, Headers: []*corev3.HeaderValueOption{headerOption("www-authenticate", "Bearer")}, Body: "a token, please",
		}}}, nil
	}
	return &authv3.CheckResponse{Status: &rpc.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
		Headers: []*corev3.HeaderValueOption{headerOption("x-user", user+" "+h.GetBody())}, HeadersToRemove: []string{"authorization"},
	}}}, nil
}

func extAuthz(t *testing.T) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, doorkeeper{})
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	return ln.Addr().String(), s.Stop
}

func login(t *testing.T) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := r.Cookie("user")
		if err != nil {
			http.Redirect(w, r, "https://login.example"+r.URL.Path, http.StatusFound)
			return
		}
		w.Header().Set("X-User", c.Value)
		w.Header().Set("X-Tenant", c.Value[:1])
	})
}

func askHTTP(service string) string {
	return `{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: ` + service + `, port: 80}, http: {path: /check, allowedHeaders: [cookie], allowedResponseHeaders: [x-user, x-tenant]}}}`
}

// authorised says what the backend was told of who asks.
func authorised(t *testing.T, name string) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s user=%q token=%q", name, r.Header["X-User"], r.Header["Authorization"])
	})
}

// TestExternalAuth: authorisers that are not ours decide, by HTTP and by gRPC, and
// nothing passes while they are down.
func TestExternalAuth(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	keeper, stop := extAuthz(t)
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "a.yaml": service("a", authorised(t, "a")), "login.yaml": service("login", login(t)), "keeper.yaml": service("keeper", keeper),
		"r.yaml": routeOf("r",
			`{matches: [{path: {value: /http}}], filters: [`+askHTTP("login")+`], backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{path: {value: /grpc}}], filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: keeper, port: 80}, grpc: {}, forwardBody: {maxSize: 8}}}], backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{path: {value: /open}}], backendRefs: [{name: a, port: 80}]}`),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	w.eventually("the route serves", func() error { return get200(base + "/open") })
	if got := find(w.get("httproutes", "r").Status.Parents[0].Conditions, "Accepted"); !strings.HasPrefix(got, "True") {
		t.Errorf("status: %s", got)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{base + "/http/x"}, 302, "location: https://login.example/check/http/x"},
		{[]string{"-H", "cookie: user=ann", "-H", "x-user: eve", base + "/http/x"}, 200, `a user=["ann"] token=[]`},
		{[]string{base + "/grpc"}, 401, "a token, please"},
		{[]string{"--http2-prior-knowledge", base + "/grpc"}, 401, "www-authenticate: Bearer"},
		{[]string{"-H", "authorization: Bearer bob", "-H", "x-user: eve", "-d", "hello", base + "/grpc"}, 200, `a user=["bob hello"] token=[]`},
		{[]string{"-H", "authorization: Bearer bob", "-d", "too much to tell", base + "/grpc"}, 413, "body-too-large"},
	} {
		r := curl(t, append([]string{"-s", "-i"}, c.args...)...)
		if !r.answered(c.code) || !strings.Contains(strings.ToLower(r.out), strings.ToLower(c.want)) {
			t.Errorf("%v: got %s, want %d %s", c.args, r.out, c.code, c.want)
		}
	}
	if r := w.cli("explain", base+"/grpc"); r.code != 0 || !strings.Contains(r.out, "ask default/keeper:80/h2c by gRPC") {
		t.Errorf("explain: %+v", r)
	}
	stop()
	if code, body, header := fetch(base + "/grpc"); code != 503 || header.Get("X-Windrose-Fault") != "auth-failed" || !strings.Contains(body, "default/keeper") {
		t.Errorf("without its authoriser: got %d %v %s", code, header, body)
	}
	w.eventually("the log says who decided", func() error {
		text := strings.Join(w.accessLog(), "\n")
		for _, want := range []string{`"fault":"denied"`, `"fault":"auth-failed"`, `"side":"upstream"`, "authoriser default/login:80 answered 302"} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("no %s in %s", want, text)
			}
		}
		return nil
	})
	w.remove("keeper.yaml")
	w.eventually("without the Service, the rule is broken and the others serve", func() error {
		code, body, header := fetch(base + "/grpc")
		if code != 500 || header.Get("X-Windrose-Fault") != "rule-broken" {
			return fmt.Errorf("got %d %s", code, body)
		}
		return get200(base + "/open")
	})
	w.eventually("the status says so", func() error {
		if got := find(w.get("httproutes", "r").Status.Parents[0].Conditions, "ResolvedRefs"); !strings.HasPrefix(got, "False BackendNotFound") {
			return fmt.Errorf("status: %s", got)
		}
		return nil
	})
}

// TestListenerFilters: what an authoriser of a listener says decides which rule
// takes the request.
//
// covers: GatewayListenerFilters
func TestListenerFilters(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gatewayOf(fmt.Sprintf("{name: http, protocol: HTTP, port: %d, filters: {requests: [%s]}}", port, askHTTP("login"))),
		"a.yaml":       service("a", authorised(t, "a")), "b.yaml": service("b", authorised(t, "b")), "login.yaml": service("login", login(t)),
		"r.yaml": routeOf("r",
			`{matches: [{headers: [{name: x-tenant, value: a}]}], backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{headers: [{name: x-tenant, value: b}]}], backendRefs: [{name: b, port: 80}]}`),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	w.eventually("the authoriser is asked", func() error {
		if r := curl(t, "-s", "-i", base+"/"); !r.answered(302) {
			return fmt.Errorf("got %+v", r)
		}
		return nil
	})
	for user, want := range map[string]string{"ann": `a user=["ann"]`, "bob": `b user=["bob"]`} {
		if r := curl(t, "-s", "-H", "cookie: user="+user, "-H", "x-tenant: b", "-H", "x-user: eve", base+"/"); !strings.Contains(r.out, want) {
			t.Errorf("%s: got %s, want %s", user, r.out, want)
		}
	}
	if r := curl(t, "-s", "-i", "-H", "cookie: user=cid", base+"/"); !r.answered(404) {
		t.Errorf("a tenant without a rule: got %s", r.out)
	}
	w.remove("login.yaml")
	w.eventually("without its authoriser the listener answers 500", func() error {
		if got := find(w.get("gateways", "web").Status.Listeners[0].Conditions, "ResolvedRefs"); !strings.HasPrefix(got, "False InvalidListenerFilterRef") {
			return fmt.Errorf("status: %s", got)
		}
		if r := curl(t, "-s", "-i", "-H", "cookie: user=ann", base+"/"); !r.answered(500) {
			return fmt.Errorf("got %s", r.out)
		}
		return nil
	})
}
