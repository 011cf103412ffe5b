package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// peer gives a program of other people that tools/peers makes, once for all
// runs.
func peer(t *testing.T, name, file string) string {
	t.Helper()
	cmd := exec.Command("../tools/peers", name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make %s: %v\n%s", name, err, tail(string(out), 40))
	}
	path, err := filepath.EvalSymlinks(filepath.Join("../.cache/peers", file))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// spawn runs a program until the test ends.
func spawn(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(name), tail(out.String(), 40))
		}
	})
}

// answers waits until somebody answers at a URL: a program that has just been
// started may take its time.
func answers(t *testing.T, url string) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := get200(url)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", url, err)
		}
		<-tick.C
	}
}

// jaeger is a running Jaeger.
type jaeger struct{ grpc, http, query string }

func startJaeger(t *testing.T) jaeger {
	t.Helper()
	j := jaeger{grpc: freeAddr(t), http: freeAddr(t), query: freeAddr(t)}
	config := filepath.Join(t.TempDir(), "jaeger.yaml")
	text := fmt.Sprintf(`service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {receivers: [otlp], exporters: [jaeger_storage_exporter]}
  telemetry:
    metrics: {level: none}
extensions:
  jaeger_storage: {backends: {memory: {memory: {max_traces: 1000}}}}
  jaeger_query:
    storage: {traces: memory}
    http: {endpoint: %q}
    grpc: {endpoint: %q}
receivers:
  otlp: {protocols: {grpc: {endpoint: %q}, http: {endpoint: %q}}}
exporters:
  jaeger_storage_exporter: {trace_storage: memory}
`, j.query, freeAddr(t), j.grpc, j.http)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	spawn(t, []string{"OTEL_SDK_DISABLED=true", "OTEL_TRACES_SAMPLER=always_off"}, peer(t, "jaeger", "jaeger"), "--config", config)
	answers(t, "http://"+j.query+"/api/services")
	return j
}

// seenSpan is a span as a test looks at it, wherever it was read.
type seenSpan struct {
	id, parent, name, kind, service string
	tags                            map[string]string
	events                          []string
}

// trace reads the spans of a trace from Jaeger; none while it does not know it.
func (j jaeger) trace(t *testing.T, id string) []seenSpan {
	t.Helper()
	code, body, _ := fetch("http://" + j.query + "/api/traces/" + id)
	if code == http.StatusNotFound {
		return nil
	}
	type tags []struct {
		Key   string
		Value any
	}
	var reply struct {
		Data []struct {
			Spans []struct {
				SpanID, OperationName, ProcessID string
				References                       []struct{ RefType, SpanID string }
				Tags                             tags
				Logs                             []struct{ Fields tags }
			}
			Processes map[string]struct{ ServiceName string }
		}
	}
	if err := json.Unmarshal([]byte(body), &reply); err != nil || code != http.StatusOK {
		t.Fatalf("Jaeger: %d %v %s", code, err, body)
	}
	var all []seenSpan
	for _, tr := range reply.Data {
		for _, s := range tr.Spans {
			seen := seenSpan{id: s.SpanID, name: s.OperationName, service: tr.Processes[s.ProcessID].ServiceName, tags: map[string]string{}}
			for _, r := range s.References {
				seen.parent = r.SpanID
			}
			for _, kv := range s.Tags {
				seen.tags[kv.Key] = fmt.Sprint(kv.Value)
			}
			for _, l := range s.Logs {
				for _, kv := range l.Fields {
					if kv.Key == "event" {
						seen.events = append(seen.events, fmt.Sprint(kv.Value))
					}
				}
			}
			seen.kind = seen.tags["span.kind"]
			all = append(all, seen)
		}
	}
	return all
}

// zipkinTrace reads the spans of a trace from Zipkin.
func zipkinTrace(t *testing.T, addr, id string) []seenSpan {
	t.Helper()
	code, body, _ := fetch("http://" + addr + "/api/v2/trace/" + id)
	if code == http.StatusNotFound {
		return nil
	}
	var spans []struct {
		ID, ParentID, Name, Kind string
		LocalEndpoint            struct{ ServiceName string }
		Tags                     map[string]string
		Annotations              []struct{ Value string }
	}
	if err := json.Unmarshal([]byte(body), &spans); err != nil || code != http.StatusOK {
		t.Fatalf("Zipkin: %d %v %s", code, err, body)
	}
	var all []seenSpan
	for _, s := range spans {
		seen := seenSpan{id: s.ID, parent: s.ParentID, name: s.Name, kind: strings.ToLower(s.Kind), service: s.LocalEndpoint.ServiceName, tags: s.Tags}
		for _, a := range s.Annotations {
			seen.events = append(seen.events, a.Value)
		}
		all = append(all, seen)
	}
	return all
}

// collectorService is a Service with a port for a collector.
func collectorService(name, addr, protocol string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{port: 80, targetPort: %[3]s, appProtocol: %[4]s}]
---
apiVersion: windrose.dev/v1alpha1
kind: Workload
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec: {address: %[2]s, ports: [{name: traces, port: %[3]s}]}
`, name, host, port, protocol)
}

// told collects what a backend was told of traces, and answers with the status
// that the path asks for.
func told(t *testing.T, got chan<- http.Header) string {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Clone()
		if strings.HasSuffix(r.URL.Path, "/wrong") {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
}

// wantTrace waits for the spans of a request, which are two, and holds them
// against what the backend was told.
func wantTrace(t *testing.T, spans func() []seenSpan, header http.Header) (request, attempt seenSpan) {
	t.Helper()
	var all []seenSpan
	eventually(t, "the collector has both spans", func() error {
		if all = spans(); len(all) != 2 {
			return fmt.Errorf("got %+v", all)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b seenSpan) int { return strings.Compare(b.kind, a.kind) })
	request, attempt = all[0], all[1]
	parts := strings.Split(header.Get("Traceparent"), "-")
	if request.kind != "server" || attempt.kind != "client" || attempt.parent != request.id || attempt.id != parts[2] {
		t.Errorf("request %+v, attempt %+v, the backend was told %s", request, attempt, header.Get("Traceparent"))
	}
	if !slices.Contains(attempt.events, "answered") {
		t.Errorf("events %v", attempt.events)
	}
	return request, attempt
}

// TestTracesInJaeger reads spans back from a real Jaeger, over gRPC and HTTP.
//
// covers: XTelemetryPolicy
func TestTracesInJaeger(t *testing.T) {
	t.Parallel()
	j := startJaeger(t)
	got := make(chan http.Header, 64)
	port := freePort(t)
	policy := func(collector, rate string) string {
		return fmt.Sprintf(`apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XTelemetryPolicy
metadata: {name: traces}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  tracing:
    mode: Enabled
    provider: {backendRef: {name: %s, port: 80}}
    samplingRate: {numerator: %s}
    parentBasedSampling: {mode: Enabled}
    serviceName: edge
    attributes:
    - {name: env, sourceType: Literal, literalValue: test}
    - {name: user, sourceType: Header, headerName: X-User}
    - {name: verb, sourceType: Attribute, attributeKey: http.request.method}
`, collector, rate)
	}
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "route.yaml": route("r", "/", "a"), "a.yaml": service("a", told(t, got)),
		"collectors.yaml": all(collectorService("grpc", j.grpc, "kubernetes.io/h2c"), collectorService("http", j.http, "http")),
		"policy.yaml":     policy("grpc", "100"),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	for _, collector := range []string{"grpc", "http"} {
		w.write("policy.yaml", policy(collector, "100"))
		w.traces(base, "all", "default/"+collector+":80")
		const parent = "00f067aa0ba902b7"
		id := strings.Repeat("0", 31) + map[string]string{"grpc": "1", "http": "2"}[collector]
		r := curl(t, "-i", "-H", "traceparent: 00-"+id+"-"+parent+"-01", "-H", "X-User: ann", base+"/cart?token=secret")
		if !r.answered(200) {
			t.Fatalf("%+v", r)
		}
		request, attempt := wantTrace(t, func() []seenSpan { return j.trace(t, id) }, <-got)
		if request.parent != parent || request.service != "edge" || request.name != "GET HTTPRoute/default/r" {
			t.Errorf("%s: the request's span: %+v", collector, request)
		}
		for key, want := range map[string]string{
			"http.request.method": "GET", "url.path": "/cart", "http.response.status_code": "200", "windrose.route": "HTTPRoute/default/r",
			"windrose.service": "default/a:80", "server.address": "127.0.0.1", "env": "test", "user": "ann", "verb": "GET",
		} {
			if request.tags[key] != want {
				t.Errorf("%s: %s is %q, want %q", collector, key, request.tags[key], want)
			}
		}
		if attempt.tags["env"] != "test" || attempt.tags["http.response.status_code"] != "200" {
			t.Errorf("%s: the attempt's span: %+v", collector, attempt)
		}
		w.eventually("the access log names the trace", func() error {
			if log := w.read("../stdout"); !strings.Contains(log, `"trace_id":"`+id+`"`) {
				return fmt.Errorf("%s", log)
			}
			return nil
		})
	}
	if c := find(w.policyConditions("traces"), "ResolvedRefs"); !strings.HasPrefix(c, "True") {
		t.Errorf("ResolvedRefs %s", c)
	}
	// What fails is exported although only every hundredth request is sampled; what
	// does not, is not.
	w.write("policy.yaml", policy("grpc", "1"))
	w.traces(base, "1 of 100", "default/grpc:80")
	var ids []string
	for _, path := range []string{"/first", "/fine", "/wrong"} { // the first is sampled or not, as the count stands
		fetch(base + path)
		ids = append(ids, strings.Split((<-got).Get("Traceparent"), "-")[1])
	}
	request := seenSpan{}
	w.eventually("the failed request is in Jaeger", func() error {
		for _, s := range j.trace(t, ids[2]) {
			if s.kind == "server" {
				request = s
				return nil
			}
		}
		return fmt.Errorf("it is not")
	})
	if request.tags["http.response.status_code"] != "500" || request.tags["error"] != "true" {
		t.Errorf("the failed request: %+v", request)
	}
	if spans := append(j.trace(t, ids[0]), j.trace(t, ids[1])...); len(spans) > 2 {
		t.Errorf("two of two requests were exported, want one of a hundred: %+v", spans)
	}
	// A collector that is gone costs nobody but its spans.
	dead := freeAddr(t)
	w.write("collectors.yaml", collectorService("grpc", dead, "kubernetes.io/h2c"))
	w.traces(base, "1 of 100", dead)
	fetch(base + "/wrong")
	<-got
	w.eventually("the operator is told", func() error {
		if talk := w.talk(); !strings.Contains(talk, "spans cannot be exported") {
			return fmt.Errorf("%s", talk)
		}
		return nil
	})
}

// traces waits until requests are traced as a policy says: explain tells it, and
// the data plane has it.
func (w *windrose) traces(url, sampled, collector string) {
	w.t.Helper()
	w.eventually("explain tells of tracing", func() error {
		r := w.cli("explain", url, "-o", "json")
		var x struct {
			Tracing struct{ By, Sampled, Collector string }
		}
		err := json.Unmarshal([]byte(r.out), &x)
		if err != nil || x.Tracing.By != "XTelemetryPolicy default/traces" || !strings.HasPrefix(x.Tracing.Sampled, sampled) || !strings.Contains(x.Tracing.Collector, collector) {
			return fmt.Errorf("explain: %s, and reading it: %w", r.out, cmp.Or(err, errors.New("not as wanted")))
		}
		return nil
	})
	w.applied()
}

// policyConditions are those of an XTelemetryPolicy.
func (w *windrose) policyConditions(name string) []condition {
	w.t.Helper()
	r := w.cli("get", "xtelemetrypolicy", name, "-o", "json")
	var o struct {
		Status struct {
			Ancestors []struct{ Conditions []condition }
		}
	}
	if err := json.Unmarshal([]byte(r.out), &o); err != nil || len(o.Status.Ancestors) != 1 {
		w.t.Fatalf("get xtelemetrypolicy: %v %+v", err, r)
	}
	return o.Status.Ancestors[0].Conditions
}

// TestTracesInZipkin reads spans back from a real Zipkin, which a URL in the
// parameters names; what waits when windrose ends is sent.
func TestTracesInZipkin(t *testing.T) {
	t.Parallel()
	zipkin := freeAddr(t)
	spawn(t, []string{"QUERY_PORT=" + portOf(zipkin), "SELF_TRACING_ENABLED=false"}, "java", "-Xmx256m", "-jar", peer(t, "zipkin", "zipkin.jar"), "--server.address=127.0.0.1", "--logging.level.root=WARN")
	answers(t, "http://"+zipkin+"/health")
	got := make(chan http.Header, 8)
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": withParameters(gateway(port), fmt.Sprintf(`{tracing: {url: "http://%s", protocol: Zipkin, propagation: [B3Multi], serviceName: edge}}`, zipkin)),
		"a.yaml":       all(service("a", told(t, got)), route("r", "/", "a")),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	code, _, answer := fetch(base + "/cart?token=secret")
	header := <-got
	id := header.Get("X-B3-TraceId")
	if code != 200 || id == "" || header.Get("X-B3-Sampled") != "1" || id != answer.Get("X-Request-Id") {
		t.Fatalf("answer %d %v, the backend was told %v", code, answer, header)
	}
	request, _ := wantTrace(t, func() []seenSpan { return zipkinTrace(t, zipkin, id) }, header)
	if request.parent != "" || request.service != "edge" || request.tags["url.path"] != "/cart" || request.tags["http.response.status_code"] != "200" {
		t.Errorf("the request's span: %+v", request)
	}
	fetch(base + "/last")
	last := (<-got).Get("X-B3-TraceId")
	w.stop()
	if spans := zipkinTrace(t, zipkin, last); len(spans) != 2 {
		t.Errorf("windrose ended, and Zipkin has %+v of its last request", spans)
	}
}
