package proxy_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"windrose.dev/windrose/internal/plan"
)

// authz is an authoriser that speaks ext_authz.
func authz(tb testing.TB, answer func(*authv3.CheckRequest) *authv3.CheckResponse) plan.Part {
	return h2cService("a", h2cBackend(tb, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m := &authv3.CheckRequest{}
		if r.URL.Path != authv3.Authorization_Check_FullMethodName || len(b) < 5 || proto.Unmarshal(b[5:], m) != nil {
			tb.Errorf("asked %s %q", r.URL, b)
		}
		out, err := proto.Marshal(answer(m))
		if err != nil {
			tb.Error(err)
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(out))), out...))
		w.Header().Set("Grpc-Status", "0")
	}))
}

func field(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
}

func TestAuthByGRPC(t *testing.T) {
	added := field("x-group", "g")
	added.Append = wrapperspb.Bool(true) //nolint:staticcheck // it is what most servers set
	var got *authv3.AttributeContext
	auth := authz(t, func(m *authv3.CheckRequest) *authv3.CheckResponse {
		got = m.GetAttributes()
		switch got.GetRequest().GetHttp().GetPath() {
		case "/no":
			return &authv3.CheckResponse{Status: &status.Status{Code: 16, Message: "no token"}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
				Status: &typev3.HttpStatus{Code: 401}, Headers: []*corev3.HeaderValueOption{field("www-authenticate", "Bearer"), field("content-length", "7"), field("bad name", "x")}, Body: "token?",
			}}}
		case "/plain-no":
			return &authv3.CheckResponse{Status: &status.Status{Code: 7}}
		case "/query?token=x&a=1&%74oken=y&b&to+ken=z&b=2":
			return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
				QueryParametersToRemove: []string{"token", "to ken"}, QueryParametersToSet: []*corev3.QueryParameter{{Key: "b", Value: "3&c=4\r\n"}},
			}}}
		case "/query?token=x":
			return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{QueryParametersToRemove: []string{"token"}}}}
		case "/smuggle":
			return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
				Headers: []*corev3.HeaderValueOption{field("x-user", "ann\r\nx-admin: 1")},
			}}}
		case "/silent":
			return &authv3.CheckResponse{}
		}
		return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:         []*corev3.HeaderValueOption{field("x-user", "ann"), added, field("host", "evil"), field("transfer-encoding", "chunked"), field("content-length", "1")},
			HeadersToRemove: []string{"authorization", "host"}, ResponseHeadersToAdd: []*corev3.HeaderValueOption{field("x-answer", "1")},
		}}}
	})
	g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a", GRPC: true, MaxBody: 100}))), service("s", backend(t, repeater)), auth)
	for name, client := range clients() {
		resp, body := do(t, client, newRequest(t, "POST", "http://"+g.addr+"/a?b=c", "hello", "X-User", "eve", "X-Group", "mine", "Authorization", "me"))
		want := `POST /a?b=c shop.example body=5hello X-User=["ann"] X-Group=["mine" "g"] trailer=""`
		if resp.StatusCode != 200 || body != want || resp.Header.Get("X-Answer") != "1" {
			t.Errorf("%s: got %d %s\nwant %s", name, resp.StatusCode, body, want)
		}
		h := got.GetRequest().GetHttp()
		if h.GetMethod() != "POST" || h.GetPath() != "/a?b=c" || h.GetHost() != "shop.example" || h.GetBody() != "hello" || !strings.HasPrefix(h.GetProtocol(), name) ||
			h.GetHeaders()["x-user"] != "eve" || h.GetHeaders()["authorization"] != "me" || h.GetHeaders()["x-forwarded-for"] != "127.0.0.1" || got.GetSource().GetAddress().GetSocketAddress().GetAddress() != "127.0.0.1" {
			t.Errorf("%s: the authoriser was told %v", name, got)
		}
		for path, c := range map[string]struct {
			status int
			fault  string
			body   string
		}{
			"/no":            {401, "denied", "token?"},
			"/plain-no":      {403, "denied", "denied: "},
			"/query?token=x": {200, "", "GET /query shop.example "},
			"/query?token=x&a=1&%74oken=y&b&to+ken=z&b=2": {200, "", "GET /query?a=1&b=3%26c%3D4%0D%0A shop.example "},
			"/smuggle": {503, "auth-failed", "auth-failed: "},
			"/silent":  {503, "auth-failed", "auth-failed: "},
		} {
			resp, body := do(t, client, newRequest(t, "GET", "http://"+g.addr+path, ""))
			if resp.StatusCode != c.status || resp.Header.Get("X-Windrose-Fault") != c.fault || !strings.HasPrefix(body, c.body) {
				t.Errorf("%s %s: got %d %v %s", name, path, resp.StatusCode, resp.Header, body)
			}
			if path == "/no" && resp.Header.Get("Www-Authenticate") != "Bearer" {
				t.Errorf("%s: got %v", name, resp.Header)
			}
		}
		client.CloseIdleConnections()
	}
	// A client that speaks gRPC hears no in gRPC's words.
	client := h2cClient()
	req := newRequest(t, "POST", "http://"+g.addr+"/no", "\x00\x00\x00\x00\x00", "Content-Type", "application/grpc", "Te", "trailers")
	resp, _ := do(t, client, req)
	if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "16" || resp.Header.Get("Www-Authenticate") != "Bearer" {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
	client.CloseIdleConnections()
}

// An authoriser that answers with nonsense by gRPC is no yes.
func TestAuthByGRPCFailsClosed(t *testing.T) {
	yes := []byte{0, 0, 0, 0, 2, 0x0a, 0}
	for name, c := range map[string]struct {
		status string
		body   []byte
	}{
		"a good one":        {"0", yes},
		"no status":         {"", yes},
		"a status of error": {"13", yes},
		"no message":        {"0", nil},
		"compressed":        {"0", append([]byte{1}, yes[1:]...)},
		"cut off":           {"0", yes[:6]},
		"two messages":      {"0", bytes.Repeat(yes, 2)},
		"too long":          {"0", append([]byte{0, 0, 2, 0, 0}, make([]byte, 2<<16)...)},
		"not protobuf":      {"0", []byte{0, 0, 0, 0, 1, 0xff}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			auth := h2cService("a", h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", "application/grpc")
				_, _ = w.Write(c.body)
				w.Header().Set(http.TrailerPrefix+"Grpc-Message", "x")
				if c.status != "" {
					w.Header().Set(http.TrailerPrefix+"Grpc-Status", c.status)
				}
			}))
			g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a", GRPC: true}))), service("s", backend(t, repeater)), auth)
			want := 503
			if name == "a good one" {
				want = 200
			}
			resp, body := do(t, http.DefaultClient, newRequest(t, "GET", "http://"+g.addr+"/", ""))
			if resp.StatusCode != want {
				t.Errorf("got %d %s", resp.StatusCode, body)
			}
		})
	}
}

// A server of gRPC that does not know the call says so without a message.
func TestAuthByGRPCOfAnotherService(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	go func() { _ = s.Serve(ln) }()
	defer s.Stop()
	g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a", GRPC: true}))), service("s", backend(t, repeater)), h2cService("a", ln.Addr().String()))
	resp, body := do(t, http.DefaultClient, newRequest(t, "GET", "http://"+g.addr+"/", ""))
	if resp.StatusCode != 503 || !strings.Contains(body, "authoriser a answered with gRPC status 12") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
}

// What a listener's authoriser changes is changed once, for the rules and for the
// service; what ends at the connection still does.
func TestAuthByGRPCBeforeRouting(t *testing.T) {
	added, absent, there := field("X-Group", "g"), field("x-late", "1"), field("x-extra", "1")
	added.Append = wrapperspb.Bool(true) //nolint:staticcheck // it is what most servers set
	absent.AppendAction, there.AppendAction = corev3.HeaderValueOption_ADD_IF_ABSENT, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS
	auth := authz(t, func(*authv3.CheckRequest) *authv3.CheckResponse {
		return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{added, absent, there, field("x-user", "ann")}, HeadersToRemove: []string{"authorization"},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{field("x-answer", "1")},
		}}}
	})
	rule := guarded(plan.Filter{RequestHeaders: &plan.HeaderEdit{Set: []plan.Header{{Name: "X-Static", Value: "1"}}}})
	rule.Matches[0].Headers = []plan.NameMatch{{Name: "x-group", Value: "mine, g"}}
	g := start(t, 1, route("r", rule), service("s", backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Hop", r.Header.Get("X-Hop"))
		repeater(w, r)
	})), auth)
	g.guardedListener(plan.Auth{Service: "a", GRPC: true})
	p := g.dial()
	p.send("GET /a HTTP/1.1\r\nAuthorization: me\r\nx-user: eve\r\nx-group: mine\r\nhost: x\r\nx-hop: secret\r\nconnection: x-hop\r\n\r\n")
	resp, body := p.answer("GET")
	want := `GET /a x body=0 X-User=["ann"] X-Static=["1"] X-Late=["1"] X-Group=["mine" "g"] trailer=""`
	if resp.StatusCode != 200 || body != want || resp.Header.Get("X-Answer") != "1" || resp.Header.Get("X-Hop") != "" {
		t.Errorf("got %d %v %s\nwant %s", resp.StatusCode, resp.Header, body, want)
	}
}
