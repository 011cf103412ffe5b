package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

const secret = "correct-horse-battery"

// serve runs a server until the test ends.
func serve(t *testing.T, cfg admin.Config) (*admin.Server, *admin.Client) {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	s, err := admin.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s, admin.NewClient(s.Addr())
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name, Generation: 3}
}

func route(name string) *gatewayv1.HTTPRoute { return &gatewayv1.HTTPRoute{ObjectMeta: meta(name)} }

func view() *admin.View {
	s := &corev1.Secret{ObjectMeta: meta("keys"), Data: map[string][]byte{"tls.key": []byte(secret), "tls.crt": []byte("public")}, StringData: map[string]string{"password": secret}}
	s.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: secret, "kept": "yes"}
	web := route("web")
	key := object.KeyOf(web)
	return &admin.View{
		Set: &object.Set{
			HTTPRoutes: object.NewTable(web, route("other")),
			Secrets:    object.NewTable(s),
			Services:   object.NewTable(&corev1.Service{ObjectMeta: meta("web")}),
			XTelemetryPolicies: object.NewTable(&gatewayxv1alpha1.XTelemetryPolicy{ObjectMeta: meta("traces"), Spec: gatewayxv1alpha1.TelemetryPolicySpec{Tracing: gatewayxv1alpha1.TracingConfig{
				Provider: gatewayxv1alpha1.TracingProvider{Headers: []gatewayv1.HTTPHeader{{Name: "x-token", Value: secret}}},
			}}}),
			Workloads:  object.NewTable(&v1alpha1.Workload{ObjectMeta: meta("app")}),
			Namespaces: object.NewTable(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}),
			Places:     map[object.Key]object.Place{key: {File: "web.yaml", Line: 3, Column: 1}},
		},
		Statuses: []*object.Status{{Object: key, Route: &gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{{ControllerName: "windrose.dev/gateway-controller"}}}}},
		Findings: []object.Finding{
			{Severity: object.Error, Object: key, Reason: "BackendNotFound", Message: "no such Service", Excerpt: "name: webb"},
			{Severity: object.Warning, Object: object.KeyOf(s), Reason: "NotRead", Message: "odd", Excerpt: "tls.key: " + secret},
			{Severity: object.Error, Object: object.Key{Kind: "XTelemetryPolicy", Namespace: "default", Name: "traces"}, Field: "spec.tracing.provider.headers[0].name", Reason: "Invalid", Excerpt: "- { name: host, value: " + secret},
			{Severity: object.Error, Object: object.Key{Kind: "XTelemetryPolicy", Namespace: "default", Name: "traces"}, Field: "spec.tracing.mode", Reason: "Invalid", Excerpt: "tracing: { mode: x, headers: [" + secret},
		},
		Parts: []*plan.Part{
			{Key: plan.Key{Kind: plan.KindTracing, Name: "t"}, Tracing: &plan.Tracing{Headers: []plan.Header{{Name: "x-token", Value: secret}}}},
			{Key: plan.Key{Kind: plan.KindCertificate, Name: "default/keys"}, Certificate: &plan.Certificate{Chain: []byte("public"), Key: []byte(secret)}},
			{Key: plan.Key{Kind: plan.KindService, Name: "default/web-2:80"}, Service: &plan.Service{}},
			{Key: plan.Key{Kind: plan.KindService, Name: "default/web:80"}, Service: &plan.Service{Endpoints: []plan.Endpoint{{Addr: netip.MustParseAddrPort("127.0.0.1:8080"), Name: "app"}}}},
			{Key: plan.Key{Kind: plan.KindService, Name: "default/webb:80"}, Service: &plan.Service{TLS: &plan.BackendTLS{Client: &plan.ClientCertificate{Chain: []byte("public"), Key: plan.Secret(secret)}}}},
			{Key: plan.Key{Kind: plan.KindSettings, Name: "default"}, Settings: &plan.Settings{SessionKey: plan.Secret(secret)}},
			{Key: plan.Key{Kind: plan.KindSocket, Name: "tcp/[::]:443"}, Socket: &plan.Socket{Addr: netip.MustParseAddrPort("[::]:443")}},
		},
		Control: admin.Control{Version: 7, Applied: 7, DataPlaneUp: true, DataPlanePID: 42, Since: time.Unix(1e9, 0)},
	}
}

func get(t *testing.T, s *admin.Server, path string, edit func(*http.Request)) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestObjects(t *testing.T) {
	s, c := serve(t, admin.Config{Output: func(n object.Name) []admin.Line { return []admin.Line{{Text: "hello from " + n.Name}} }})
	s.Use(view())
	items, err := c.Objects(t.Context(), admin.Selection{Kinds: []string{"HTTPRoute"}, Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if len(items) != 1 {
		t.Fatalf("got %d items, want 1", len(items))
	}
	it := items[0]
	var r gatewayv1.HTTPRoute
	if err := json.Unmarshal(it.Object, &r); err != nil {
		t.Fatal(err)
	}
	if r.APIVersion != "gateway.networking.k8s.io/v1" || r.Kind != "HTTPRoute" || len(r.Status.Parents) != 1 {
		t.Errorf("object %s", it.Object)
	}
	if it.Place.String() != "web.yaml:3:1" || len(it.Findings) != 1 || it.Findings[0].Excerpt != "name: webb" {
		t.Errorf("item %+v", it)
	}

	items, err = c.Objects(t.Context(), admin.Selection{Kinds: []string{"Service", "Workload"}, Details: true})
	if err != nil || len(items) != 2 {
		t.Fatalf("got %v, %v", items, err)
	}
	if got := items[0].Endpoints; len(got) != 1 || got[0].Service != "default/web:80" || !slices.Equal(got[0].Endpoints, []string{"127.0.0.1:8080 (app)"}) {
		t.Errorf("endpoints %+v", got)
	}
	if got := items[1].Output; len(got) != 1 || got[0].Text != "hello from app" {
		t.Errorf("output %+v", got)
	}

	all, err := c.Objects(t.Context(), admin.Selection{Namespace: "elsewhere"})
	if err != nil || len(all) != 1 || all[0].Kind != "Namespace" {
		t.Errorf("of another namespace: %v, %v; want what belongs to none", all, err)
	}
}

func TestEveryKindIsServedWithItsVersion(t *testing.T) {
	s, c := serve(t, admin.Config{})
	changed := []metav1.Object{
		&gatewayv1.GatewayClass{}, &gatewayv1.Gateway{}, &gatewayv1.ListenerSet{}, &gatewayv1.GRPCRoute{}, &gatewayv1.TLSRoute{},
		&gatewayv1.TCPRoute{}, &gatewayv1.UDPRoute{}, &gatewayv1.BackendTLSPolicy{}, &gatewayxv1alpha1.XBackend{},
		&gatewayxv1alpha1.XBackendTrafficPolicy{}, &gatewayxv1alpha1.XTelemetryPolicy{}, &gatewayxv1alpha1.XMesh{}, &gatewayv1.ReferenceGrant{}, &corev1.ConfigMap{}, &v1alpha1.GatewayParameters{},
	}
	s.Use(&admin.View{Set: (&object.Set{}).With(changed, nil)})
	items, err := c.Objects(t.Context(), admin.Selection{})
	if err != nil || len(items) != len(changed) {
		t.Fatalf("got %d items and %v, want %d", len(items), err, len(changed))
	}
	for _, it := range items {
		var m metav1.TypeMeta
		if err := json.Unmarshal(it.Object, &m); err != nil || m.Kind != it.Kind || m.APIVersion == "" {
			t.Errorf("%s: %s", it.Kind, it.Object)
		}
	}
}

func TestSecretsNeverLeave(t *testing.T) {
	s, c := serve(t, admin.Config{})
	s.Use(view())
	for _, path := range []string{"/api/v1/objects?details=1", "/api/v1/findings", "/api/v1/plan?parts=1", "/metrics"} {
		status, body := get(t, s, path, nil)
		if status != http.StatusOK {
			t.Errorf("%s: status %d", path, status)
		}
		for _, form := range []string{secret, "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"} {
			if strings.Contains(body, form) {
				t.Errorf("%s shows a secret: %s", path, body)
			}
		}
	}
	items, err := c.Objects(t.Context(), admin.Selection{Kinds: []string{"Secret"}})
	if err != nil || len(items) != 1 {
		t.Fatal(items, err)
	}
	for _, want := range []string{`"tls.key":null`, `"tls.crt":"cHVibGlj"`, `"kept":"yes"`} {
		if !strings.Contains(string(items[0].Object), want) {
			t.Errorf("no %s in %s", want, items[0].Object)
		}
	}
	if got := string(view().Set.Secrets.All()[0].Data["tls.key"]); got != secret {
		t.Errorf("the object itself was changed: %q", got)
	}
	plan, err := c.Plan(t.Context())
	if err != nil || len(plan.All) != 7 || plan.Sockets[0] != "[::]:443" || !plan.Ready || plan.PID != 42 {
		t.Errorf("plan %+v, %v", plan, err)
	}
}

func TestOnlyThisMachineMayAskAndOnlyRead(t *testing.T) {
	s, _ := serve(t, admin.Config{Version: admin.Version{Version: "1.2.3"}})
	_, port, _ := net.SplitHostPort(s.Addr())
	tests := []struct {
		name string
		edit func(*http.Request)
		want int
	}{
		{"as is", func(*http.Request) {}, 200},
		{"localhost", func(r *http.Request) { r.Host = "localhost:" + port }, 200},
		{"ipv6", func(r *http.Request) { r.Host = "[::1]:" + port }, 200},
		{"without port", func(r *http.Request) { r.Host = "localhost" }, 200},
		{"a rebound name", func(r *http.Request) { r.Host = "evil.example:" + port }, 421},
		{"a name that begins well", func(r *http.Request) { r.Host = "localhost.evil.example" }, 421},
		{"another site", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"another origin", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403},
		{"typed into a browser", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "none") }, 200},
		{"post", func(r *http.Request) { r.Method = http.MethodPost }, 405},
		{"preflight", func(r *http.Request) { r.Method = http.MethodOptions }, 405},
		{"head", func(r *http.Request) { r.Method = http.MethodHead }, 200},
	}
	for _, tt := range tests {
		if got, body := get(t, s, "/api/v1/version", tt.edit); got != tt.want {
			t.Errorf("%s: got %d, want %d: %s", tt.name, got, tt.want, body)
		}
	}
	if got, body := get(t, s, "/api/v2", nil); got != 404 || !strings.Contains(body, `"mend"`) {
		t.Errorf("unknown path: %d %s", got, body)
	}
	for _, addr := range []string{"0.0.0.0:15000", ":15000", "192.0.2.1:0", "example.com:1", "nonsense"} {
		if s, err := admin.Listen(admin.Config{Addr: addr}); err == nil {
			t.Errorf("listens on %s", s.Addr())
		}
	}
}

func TestHealth(t *testing.T) {
	s, c := serve(t, admin.Config{})
	if got, _ := get(t, s, "/healthz/live", nil); got != 200 {
		t.Errorf("live: %d", got)
	}
	_, err := c.Findings(t.Context())
	var api *admin.APIError
	if !errors.As(err, &api) || api.Status != 503 || api.Mend == "" {
		t.Errorf("before the first view: %v", err)
	}
	steps := []struct {
		name string
		view *admin.View
		want int
	}{
		{"nothing read", nil, 503},
		{"data plane away", &admin.View{Set: &object.Set{}, Control: admin.Control{Version: 1, Applied: 1}}, 503},
		{"not applied", &admin.View{Set: &object.Set{}, Control: admin.Control{Version: 2, Applied: 1, DataPlaneUp: true}}, 503},
		{"applied", &admin.View{Set: &object.Set{}, Control: admin.Control{Version: 2, Applied: 2, DataPlaneUp: true}}, 200},
	}
	for _, st := range steps {
		if st.view != nil {
			s.Use(st.view)
		}
		if got, body := get(t, s, "/healthz/ready", nil); got != st.want {
			t.Errorf("%s: %d %s", st.name, got, body)
		}
	}
}

// dataPlanePage shows one number that the control part shows too.
const dataPlanePage = `# HELP process_open_fds File descriptors that the process has open.
# TYPE process_open_fds gauge
process_open_fds{process="dataplane"} 9
# HELP windrose_requests_total Requests.
# TYPE windrose_requests_total counter
windrose_requests_total 5
`

func TestMetrics(t *testing.T) {
	dp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, dataPlanePage) }))
	defer dp.Close()
	s, _ := serve(t, admin.Config{Metrics: dp.URL})
	s.Use(view())
	_, body := get(t, s, "/metrics", nil)
	for _, want := range []string{
		"windrose_requests_total 5\n", "windrose_control_dataplane_up 1\n", `windrose_control_objects{kind="HTTPRoute"} 2`,
		`windrose_control_findings{severity="error"} 3`, "windrose_control_plan_version 7\n", `process_resident_memory_bytes{process="control"} `,
		"process_open_fds{process=\"control\"}", "process_open_fds{process=\"dataplane\"} 9\n",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	if n := strings.Count(body, "# TYPE process_open_fds gauge\n"); n != 1 {
		t.Errorf("process_open_fds is declared %d times, want once", n)
	}
	dp.Close()
	if _, body := get(t, s, "/metrics", nil); !strings.Contains(body, "windrose_control_dataplane_up 0\n") {
		t.Errorf("data plane away:\n%s", body)
	}
}

func TestWatchTellsWhatChanges(t *testing.T) {
	s, c := serve(t, admin.Config{})
	v := view()
	s.Use(v)
	events := make(chan admin.Event, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- c.Watch(ctx, admin.Selection{Kinds: []string{"HTTPRoute"}}, func(e admin.Event) error { events <- e; return nil })
	}()
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case e := <-events:
				if got := string(e.Type) + " " + e.Item.Name; got != w {
					t.Fatalf("got %q, want %q", got, w)
				}
			case err := <-done:
				t.Fatalf("the watch ended: %v", err)
			}
		}
	}
	expect("ADDED other", "ADDED web", "SYNCED ")

	v2 := *v
	v2.Set = v.Set.With([]metav1.Object{route("new")}, nil)
	s.Use(&v2)
	expect("ADDED new")
	v3 := v2
	v3.Statuses = []*object.Status{{Object: v.Statuses[0].Object, Route: &gatewayv1.RouteStatus{}}}
	s.Use(&v3)
	expect("MODIFIED web")
	v4 := v3
	v4.Set = v3.Set.With(nil, []object.Key{object.KeyOf(route("other"))})
	s.Use(&v4)
	expect("DELETED other")
	v5 := v4
	v5.Set = v4.Set.With(nil, []object.Key{object.KeyOf(route("new")), object.KeyOf(route("web"))})
	s.Use(&v5)
	<-events
	<-events
	s.Use(v)
	expect("ADDED other", "ADDED web")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestWatchersAreBounded(t *testing.T) {
	s, c := serve(t, admin.Config{})
	s.Use(view())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	synced := make(chan struct{}, 32)
	done := make(chan struct{}, 32)
	for range 32 {
		go func() {
			c.Watch(ctx, admin.Selection{}, func(e admin.Event) error {
				if e.Type == admin.Synced {
					synced <- struct{}{}
				}
				return nil
			})
			done <- struct{}{}
		}()
	}
	for range 32 {
		<-synced
	}
	var api *admin.APIError
	if err := c.Watch(t.Context(), admin.Selection{}, nil); !errors.As(err, &api) || api.Status != http.StatusTooManyRequests {
		t.Errorf("got %v", err)
	}
	cancel()
	for range 32 {
		<-done
	}
}

func TestNobodyAnswers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	_, err = admin.NewClient(ln.Addr().String()).Version(t.Context())
	if !errors.Is(err, admin.ErrUnreachable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	var api *admin.APIError
	if _, err = admin.NewClient(other.Listener.Addr().String()).Version(t.Context()); !errors.As(err, &api) || !strings.Contains(api.Mend, "another program") {
		t.Errorf("another server: %v", err)
	}
}
