package telemetry

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"windrose.dev/windrose/internal/record"
)

// traced is a record of a request that was tried twice.
func traced() *record.Record {
	r := full()
	r.Start = time.Date(2026, 3, 1, 11, 30, 45, 0, time.UTC)
	r.Duration = 10 * time.Millisecond
	r.Host, r.Path, r.Client = []byte("shop.example:8443"), []byte("/cart?token=secret"), netip.MustParseAddrPort("[::ffff:192.0.2.7]:5120")
	r.Trace = record.Trace{
		ID: [16]byte{1, 2, 15: 16}, Span: [8]byte{1, 7: 8}, Parent: [8]byte{2, 7: 9}, Sampled: true,
		Tags: []record.Tag{{Name: "env", Value: []byte("test")}, {Name: "absent"}, {Name: "verb", Key: "http.request.method"}, {Name: "unknown", Key: "no.such"}},
	}
	at := netip.MustParseAddrPort("10.0.0.1:8080")
	r.Tries = []record.Try{
		{
			Service: "default/shop:80", Endpoint: at, Begun: time.Millisecond, Ended: 2 * time.Millisecond,
			Fault: record.ConnectFailed, Reason: "connection refused", Span: [8]byte{3, 7: 1},
		},
		{
			Service: "default/shop:80", Endpoint: at, Begun: 3 * time.Millisecond, Connected: 3 * time.Millisecond, Sent: 4 * time.Millisecond,
			Answered: 8 * time.Millisecond, Ended: 9 * time.Millisecond, Reused: true, Status: 200, Span: [8]byte{3, 7: 2},
		},
	}
	return r
}

// read decodes a request as a collector does: TracesData is the same message.
func read(tb testing.TB, body []byte) []*tracepb.Span {
	tb.Helper()
	var req tracepb.TracesData
	if err := proto.Unmarshal(body, &req); err != nil {
		tb.Fatalf("a collector cannot read it: %v", err)
	}
	var all []*tracepb.Span
	for _, r := range req.ResourceSpans {
		for _, s := range r.ScopeSpans {
			all = append(all, s.Spans...)
		}
	}
	return all
}

func attributes(list []*commonpb.KeyValue) map[string]any {
	m := map[string]any{}
	for _, kv := range list {
		switch v := kv.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			m[kv.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			m[kv.Key] = v.IntValue
		case *commonpb.AnyValue_BoolValue:
			m[kv.Key] = v.BoolValue
		}
	}
	return m
}

// encode makes a request of the spans of some records.
func encode(c *Collector, records ...*record.Record) []byte {
	e := spans{zipkin: c.Protocol == Zipkin, service: c.service(), name: c.SpanName}
	var batch []byte
	for _, r := range records {
		batch, _ = e.append(batch, r)
	}
	w := newWire(c, "v1")
	return w.frame(nil, batch)
}

func TestSpansOfARequest(t *testing.T) {
	body := encode(&Collector{Protocol: OTLPHTTP, Service: "edge"}, traced())
	var req tracepb.TracesData
	if err := proto.Unmarshal(body, &req); err != nil {
		t.Fatal(err)
	}
	if got := attributes(req.ResourceSpans[0].Resource.Attributes); got["service.name"] != "edge" || got["service.version"] != "v1" {
		t.Errorf("resource: %v", got)
	}
	if got := req.ResourceSpans[0].ScopeSpans[0].Scope; got.Name != "windrose.dev/windrose" || got.Version != "v1" {
		t.Errorf("scope: %v", got)
	}
	all := read(t, body)
	if len(all) != 3 {
		t.Fatalf("got %d spans, want that of the request and two attempts", len(all))
	}
	for i, want := range []struct {
		name       string
		kind       tracepb.Span_SpanKind
		begun, end time.Duration
		erred      bool
		message    string
		remote     bool
		events     string
		attributes map[string]any
	}{
		{
			"GET HTTPRoute/default/shop", tracepb.Span_SPAN_KIND_SERVER, 0, 10 * time.Millisecond, true, "default/shop:80 gave no answer within 1s", true, "",
			map[string]any{
				"http.request.method": "GET", "url.scheme": "https", "url.path": "/cart", "http.response.status_code": int64(504), "error.type": "backend-timeout",
				"server.address": "shop.example", "server.port": int64(8443), "client.address": "192.0.2.7", "client.port": int64(5120),
				"network.peer.address": "192.0.2.7", "network.peer.port": int64(5120), "network.protocol.name": "http", "network.protocol.version": "1.1",
				"tls.protocol.version": "1.3", "user_agent.original": "curl/8.9", "http.request.body.size": int64(10), "http.response.body.size": int64(1024),
				"windrose.request_id": "0123456789abcdef", "windrose.listener": "Gateway/default/edge/https", "windrose.route": "HTTPRoute/default/shop",
				"windrose.rule": int64(2), "windrose.service": "default/shop:80", "windrose.fault": "backend-timeout", "windrose.side": "upstream",
				"windrose.reason": "default/shop:80 gave no answer within 1s", "env": "test", "verb": "GET",
			},
		},
		{
			"GET", tracepb.Span_SPAN_KIND_CLIENT, time.Millisecond, 2 * time.Millisecond, true, "connection refused", false, "",
			map[string]any{
				"http.request.method": "GET", "server.address": "10.0.0.1", "server.port": int64(8080), "network.peer.address": "10.0.0.1", "network.peer.port": int64(8080),
				"error.type": "connect-failed", "windrose.service": "default/shop:80", "windrose.connection.reused": false,
				"windrose.fault": "connect-failed", "windrose.side": "upstream", "windrose.reason": "connection refused", "env": "test", "verb": "GET",
			},
		},
		{
			"GET", tracepb.Span_SPAN_KIND_CLIENT, 3 * time.Millisecond, 9 * time.Millisecond, false, "", false, "sent 4ms, answered 8ms",
			map[string]any{
				"http.request.method": "GET", "server.address": "10.0.0.1", "server.port": int64(8080), "network.peer.address": "10.0.0.1", "network.peer.port": int64(8080),
				"http.response.status_code": int64(200), "http.request.resend_count": int64(1), "windrose.service": "default/shop:80",
				"windrose.connection.reused": true, "env": "test", "verb": "GET",
			},
		},
	} {
		s, r := all[i], traced()
		begun, end := s.StartTimeUnixNano-uint64(r.Start.UnixNano()), s.EndTimeUnixNano-uint64(r.Start.UnixNano())
		if s.Name != want.name || s.Kind != want.kind || time.Duration(begun) != want.begun || time.Duration(end) != want.end {
			t.Errorf("span %d: got %s %v from %v to %v", i, s.Name, s.Kind, time.Duration(begun), time.Duration(end))
		}
		if erred := s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR; erred != want.erred || s.Status.GetMessage() != want.message {
			t.Errorf("span %d: status %v", i, s.Status)
		}
		if s.Flags&1 == 0 || (s.Flags&flagRemote != 0) != want.remote {
			t.Errorf("span %d: flags %x", i, s.Flags)
		}
		parent := r.Trace.Span
		if i == 0 {
			parent = r.Trace.Parent
		}
		if [16]byte(s.TraceId) != r.Trace.ID || [8]byte(s.ParentSpanId) != parent {
			t.Errorf("span %d: trace %x, parent %x", i, s.TraceId, s.ParentSpanId)
		}
		if got := attributes(s.Attributes); !reflect.DeepEqual(got, want.attributes) {
			t.Errorf("span %d: got\n%v\nwant\n%v", i, got, want.attributes)
		}
		var events []string
		for _, e := range s.Events {
			events = append(events, fmt.Sprint(e.Name, " ", time.Duration(e.TimeUnixNano-uint64(r.Start.UnixNano()))))
		}
		if got := strings.Join(events, ", "); got != want.events {
			t.Errorf("span %d: events %s, want %s", i, got, want.events)
		}
	}
}

func TestSpansForZipkin(t *testing.T) {
	var got []struct {
		TraceID, ID, ParentID, Kind, Name string
		Timestamp, Duration               int64
		LocalEndpoint, RemoteEndpoint     struct {
			ServiceName, IPv4 string
			Port              int
		}
		Annotations []struct {
			Timestamp int64
			Value     string
		}
		Tags map[string]string
	}
	body := encode(&Collector{Protocol: Zipkin, SpanName: "edge"}, traced(), traced())
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if len(got) != 6 {
		t.Fatalf("got %d spans, want six", len(got))
	}
	root, last := got[3], got[5]
	start := traced().Start.UnixMicro()
	if root.TraceID != "01020000000000000000000000000010" || root.ID != "0100000000000008" || root.ParentID != "0200000000000009" ||
		root.Kind != "SERVER" || root.Name != "edge" || root.Timestamp != start || root.Duration != 10000 ||
		root.LocalEndpoint.ServiceName != "windrose" || root.RemoteEndpoint.IPv4 != "192.0.2.7" || root.RemoteEndpoint.Port != 5120 ||
		root.Tags["http.response.status_code"] != "504" || root.Tags["error"] != "true" || root.Tags["url.path"] != "/cart" || root.Tags["env"] != "test" {
		t.Errorf("the request's span: %+v", root)
	}
	if last.ParentID != root.ID || last.Kind != "CLIENT" || last.Name != "GET" || last.Timestamp != start+3000 || last.Duration != 6000 ||
		last.RemoteEndpoint.ServiceName != "default/shop:80" || last.Tags["error"] != "" ||
		len(last.Annotations) != 2 || last.Annotations[1].Value != "answered" || last.Annotations[1].Timestamp != start+8000 {
		t.Errorf("the last attempt's span: %+v", last)
	}
}

// A collector refuses a whole request for one byte that is not UTF-8, and a
// peer chooses the bytes.
func TestSpansOfWhatAPeerMakesUp(t *testing.T) {
	r := traced()
	r.Method, r.Host, r.Path = []byte("BREW"), []byte("\xff\xfe:99999999999"), []byte("/\xc3\x28\x00\"\\"+strings.Repeat("é", 5000))
	r.Agent, r.ID = []byte(strings.Repeat("x", maxAttribute-1)+"é"), []byte("\x80")
	r.Trace.Tags[0].Value = []byte("\xed\xa0\x80")
	spans := read(t, encode(&Collector{Protocol: OTLPHTTP}, r))
	got := attributes(spans[0].Attributes)
	if got["http.request.method"] != "_OTHER" || got["http.request.method_original"] != "BREW" || spans[0].Name != "_OTHER HTTPRoute/default/shop" {
		t.Errorf("method %v %v, name %s", got["http.request.method"], got["http.request.method_original"], spans[0].Name)
	}
	if _, ok := got["server.port"]; ok {
		t.Errorf("port %v", got["server.port"])
	}
	if path, _ := got["url.path"].(string); !strings.HasPrefix(path, "/\ufffd(\x00") || len(path) > maxAttribute+8 {
		t.Errorf("path of %d bytes: %.20q", len(path), path)
	}
	if agent, _ := got["user_agent.original"].(string); agent != strings.Repeat("x", maxAttribute-1) {
		t.Errorf("agent of %d bytes, want it cut before the character that is not whole", len(agent))
	}
	if body := encode(&Collector{Protocol: Zipkin}, r); !json.Valid(body) {
		t.Errorf("not JSON: %s", body)
	}
}

func FuzzSpans(f *testing.F) {
	f.Add([]byte("GET"), []byte("a:80"), []byte("/\xff"), []byte("x"))
	f.Fuzz(func(t *testing.T, method, host, path, agent []byte) {
		r := traced()
		r.Method, r.Host, r.Path, r.Agent = method, host, path, agent
		r.Trace.Tags[0].Value = path
		read(t, encode(&Collector{Protocol: OTLPHTTP}, r))
		if body := encode(&Collector{Protocol: Zipkin}, r); !json.Valid(body) {
			t.Errorf("not JSON: %q", body)
		}
	})
}

// Every attribute of the conventions that windrose says it knows has a value for
// some request.
func TestEveryStandardAttributeHasAValue(t *testing.T) {
	seen := map[string]bool{}
	for _, method := range []string{"GET", "BREW"} {
		r := traced()
		r.Method = []byte(method)
		for key := range attributes(read(t, encode(&Collector{Protocol: OTLPHTTP}, r))[0].Attributes) {
			seen[key] = true
		}
	}
	for _, key := range requestKeys {
		if !seen[key] || !Standard(key) {
			t.Errorf("%s has no value", key)
		}
	}
	if Standard("no.such") {
		t.Error("no.such is taken for an attribute")
	}
}

// Whose fault it is decides whether the span of the request is an error; what a
// client did wrong is none (semantic conventions, HTTP server spans).
func TestSpansThatErred(t *testing.T) {
	for _, c := range []struct {
		fault  record.Flag
		status int
		want   bool
	}{{0, 200, false}, {0, 404, false}, {0, 500, true}, {record.NoRoute, 404, false}, {record.ClientGone, 499, false}, {record.ConnectFailed, 503, true}, {record.UpstreamReset, 200, true}} {
		r := traced()
		r.Fault, r.Status, r.Tries = c.fault, c.status, nil
		all := read(t, encode(&Collector{Protocol: OTLPHTTP}, r))
		if got := all[0].Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR; got != c.want || len(all) != 1 {
			t.Errorf("%s %d: error %v, want %v", c.fault, c.status, got, c.want)
		}
	}
}

func TestHostPort(t *testing.T) {
	for _, c := range []struct {
		in, host string
		port     int64
	}{{"a", "a", 0}, {"a:80", "a", 80}, {"[::1]:80", "::1", 80}, {"[::1]", "::1", 0}, {"a:x", "a:x", 0}, {"", "", 0}, {"a:", "a", 0}} {
		if host, port := hostPort([]byte(c.in)); string(host) != c.host || port != c.port {
			t.Errorf("%q: got %s, %d", c.in, host, port)
		}
	}
}

func TestSpansAllocateNothing(t *testing.T) {
	r := traced()
	r.Path = []byte("/é/x")
	for _, zipkin := range []bool{false, true} {
		e := spans{zipkin: zipkin, service: "s"}
		var dst []byte
		dst, _ = e.append(dst, r)
		dst = slices.Grow(dst, 8<<10)
		if n := testing.AllocsPerRun(100, func() { dst, _ = e.append(dst[:0], r) }); n != 0 {
			t.Errorf("zipkin %v: %v allocations, want none", zipkin, n)
		}
	}
}
