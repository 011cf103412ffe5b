package telemetry_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/telemetry"
)

// now runs what is posted at once: the test is the event loop.
func now(f func()) error {
	f()
	return nil
}

func answer(route, service string, status int) *record.Record {
	return &record.Record{
		Start:    time.Date(2026, 3, 1, 12, 30, 45, 123456789, time.UTC),
		Duration: 12345678 * time.Nanosecond, Upstream: 3 * time.Millisecond,
		ID: []byte("0123456789abcdef0123456789abcdef"), Client: netip.MustParseAddrPort("[::ffff:192.0.2.7]:5120"),
		Protocol: "HTTP/1.1", TLS: "TLS1.3", Method: []byte("GET"), Host: []byte("shop.example"),
		Path: []byte("/cart/items?token=secret"), Agent: []byte("curl/8.9"),
		Listener: "Gateway/default/edge/https", Route: route, Service: service,
		Endpoint: netip.MustParseAddrPort("127.0.0.1:8080"), Attempts: 1,
		Status: status, BytesIn: 10, BytesOut: 1024,
	}
}

// sample is one line of a page.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// page is a parsed page: samples by their whole series, and types by name.
type page struct {
	samples map[string]sample
	types   map[string]string
	names   []string // families in order
}

// parse reads a page strictly, as Prometheus would.
func parse(t *testing.T, text []byte) page {
	t.Helper()
	p := page{samples: map[string]sample{}, types: map[string]string{}}
	var current string
	for line := range strings.Lines(string(text)) {
		line, ok := strings.CutSuffix(line, "\n")
		if !ok {
			t.Fatalf("the last line has no end: %q", line)
		}
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			current, _, _ = strings.Cut(rest, " ")
			if slices.Contains(p.names, current) {
				t.Fatalf("family %s comes twice", current)
			}
			p.names = append(p.names, current)
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if name != current {
				t.Fatalf("TYPE of %s within %s", name, current)
			}
			p.types[name] = kind
			continue
		}
		s, series := parseSample(t, line)
		base := s.name
		if p.types[current] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
		}
		if base != current {
			t.Fatalf("sample %q within family %s", line, current)
		}
		if _, ok := p.samples[series]; ok {
			t.Fatalf("series comes twice: %s", series)
		}
		p.samples[series] = s
	}
	return p
}

func parseSample(t *testing.T, line string) (sample, string) {
	t.Helper()
	s := sample{labels: map[string]string{}}
	end := strings.LastIndexByte(line, ' ')
	if end < 0 {
		t.Fatalf("no value: %q", line)
	}
	series := line[:end]
	v, err := strconv.ParseFloat(line[end+1:], 64)
	if err != nil {
		t.Fatalf("value of %q: %v", line, err)
	}
	s.value = v
	name, rest, labelled := strings.Cut(series, "{")
	s.name = name
	for labelled && rest != "}" {
		key, after, ok := strings.Cut(rest, `="`)
		if !ok {
			t.Fatalf("labels of %q", line)
		}
		var value strings.Builder
		i := 0
		for ; i < len(after) && after[i] != '"'; i++ {
			if after[i] != '\\' {
				value.WriteByte(after[i])
				continue
			}
			i++
			switch after[i] {
			case 'n':
				value.WriteByte('\n')
			case '\\', '"':
				value.WriteByte(after[i])
			default:
				t.Fatalf("escape in %q", line)
			}
		}
		s.labels[key] = value.String()
		rest = strings.TrimPrefix(after[i+1:], ",")
	}
	return s, series
}

func (p page) want(t *testing.T, series string, want float64) {
	t.Helper()
	got, ok := p.samples[series]
	if !ok {
		t.Errorf("no series %s", series)
	} else if got.value != want {
		t.Errorf("%s = %v, want %v", series, got.value, want)
	}
}

func (p page) lacks(t *testing.T, part string) {
	t.Helper()
	for series := range p.samples {
		if strings.Contains(series, part) {
			t.Errorf("there is a series %s", series)
		}
	}
}

func scrape(t *testing.T, h *telemetry.Hub) page {
	t.Helper()
	return parse(t, h.AppendMetrics(context.Background(), nil))
}

func routes(names ...string) telemetry.Names { return telemetry.Names{Routes: names} }

func TestRequestsAreCountedByRouteServiceAndCode(t *testing.T) {
	h := telemetry.NewHub(telemetry.Config{Version: "v1", Process: "dataplane"})
	h.Use(7, telemetry.Names{Routes: []string{"HTTPRoute/a/b"}, Services: []string{"a/s:80"}}, telemetry.Names{})
	first, second := h.Attach(now), h.Attach(now)
	for range 3 {
		first.Emit(answer("HTTPRoute/a/b", "a/s:80", 200))
	}
	second.Emit(answer("HTTPRoute/a/b", "a/s:80", 200))
	second.Emit(answer("HTTPRoute/a/b", "a/s:80", 1000))
	missed := answer("", "", 404)
	missed.Fault, missed.Attempts, missed.Upstream = record.NoRoute, 0, 0
	second.Emit(missed)
	again := answer("HTTPRoute/a/b", "a/s:80", 200)
	again.Attempts = 3
	first.Emit(again)

	p := scrape(t, h)
	p.want(t, `windrose_requests_total{route="HTTPRoute/a/b",code="200"}`, 5)
	p.want(t, `windrose_requests_total{route="HTTPRoute/a/b",code="other"}`, 1)
	p.want(t, `windrose_requests_total{route="_none",code="404"}`, 1)
	p.want(t, `windrose_service_requests_total{service="a/s:80",code="200"}`, 5)
	p.want(t, `windrose_request_duration_seconds_count{route="HTTPRoute/a/b"}`, 6)
	p.want(t, `windrose_request_duration_seconds_bucket{route="HTTPRoute/a/b",le="0.01"}`, 0)
	p.want(t, `windrose_request_duration_seconds_bucket{route="HTTPRoute/a/b",le="0.025"}`, 6)
	p.want(t, `windrose_request_duration_seconds_bucket{route="HTTPRoute/a/b",le="+Inf"}`, 6)
	p.want(t, `windrose_service_duration_seconds_sum{service="a/s:80"}`, 0.018)
	p.want(t, `windrose_faults_total{flag="no-route",side="client"}`, 1)
	p.want(t, `windrose_faults_total{flag="internal",side="windrose"}`, 0)
	p.want(t, `windrose_retries_total`, 2)
	p.want(t, `windrose_request_body_bytes_total`, 70)
	p.want(t, `windrose_response_body_bytes_total`, 7*1024)
	p.want(t, `windrose_plan_version`, 7)
}

// lines checks that n lines are in text.
func wantLines(t *testing.T, text []byte, n int) {
	t.Helper()
	if got := bytes.Count(text, []byte("\n")); got != n {
		t.Errorf("got %d lines, want %d: %s", got, n, text)
	}
}

func name(i int) string { return fmt.Sprintf("HTTPRoute/default/r%04d", i) }
