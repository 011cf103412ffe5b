package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/cli"
)

// counting is a windrose whose data plane's metrics are pages in turn, the last
// for good.
func counting(t *testing.T, pages ...string) string {
	t.Helper()
	var asked atomic.Int64
	plane := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i := min(int(asked.Add(1)), len(pages)) - 1
		fmt.Fprint(w, pages[i])
	}))
	t.Cleanup(plane.Close)
	s, err := admin.Listen(admin.Config{Addr: "127.0.0.1:0", Metrics: plane.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s.Addr()
}

// metricsPage is a page with one route and one service: so many requests, of
// which so many failed, and how many of them took at most 0.1 s; the rest took at
// most 0.2 s.
func metricsPage(requests, failed, quick int) string {
	return fmt.Sprintf(`# HELP windrose_requests_total x
# TYPE windrose_requests_total counter
windrose_requests_total{route="HTTPRoute/default/a\"b",code="200"} %[1]d
windrose_requests_total{route="HTTPRoute/default/a\"b",code="503"} %[2]d
windrose_requests_total{route="_none",code="404"} 0
windrose_request_duration_seconds_bucket{route="HTTPRoute/default/a\"b",le="0.1"} %[4]d
windrose_request_duration_seconds_bucket{route="HTTPRoute/default/a\"b",le="0.2"} %[3]d
windrose_request_duration_seconds_bucket{route="HTTPRoute/default/a\"b",le="+Inf"} %[3]d
windrose_service_requests_total{service="default/a:80",code="200"} %[1]d
windrose_service_requests_active{service="default/a:80"} 7
windrose_service_endpoints{service="default/a:80",state="ready"} 2
windrose_service_endpoints{service="default/a:80",state="left_out"} 1
windrose_service_requests_total{service="default/idle:80",code="200"} 5
windrose_requests_active 9
windrose_connections_active{socket="tcp/a"} 3
windrose_connections_active{socket="tcp/b"} 4
`, requests-failed, failed, requests, quick)
}

func TestTop(t *testing.T) {
	type line struct {
		Name      string
		Rate      float64 `json:"requests_per_second"`
		Errors    float64
		P50       *float64 `json:"p50_ms"`
		P99       *float64 `json:"p99_ms"`
		Endpoints *struct {
			Active  int `json:"requests_active"`
			Ready   int
			LeftOut int `json:"left_out"`
		}
	}
	type load struct {
		Interval         float64 `json:"interval_ms"`
		Rate             float64 `json:"requests_per_second"`
		Active           int     `json:"requests_active"`
		Connections      int     `json:"connections_active"`
		DataPlane        bool    `json:"data_plane"`
		Routes, Services []line
	}
	for _, c := range []struct {
		name     string
		pages    []string
		requests float64
		errors   float64
		p50, p99 float64 // ms; 0 none
	}{
		// Of 100 requests 60 took up to 0.1 s and 40 up to 0.2 s.
		{"what came meanwhile", []string{metricsPage(1000, 900, 10), metricsPage(1100, 925, 70)}, 100, 0.25, 1000. / 12, 197.5},
		{"nothing came", []string{metricsPage(1000, 900, 10)}, 0, 0, 0, 0},
		{"a new data plane counts anew", []string{metricsPage(1000, 900, 10), metricsPage(10, 0, 10)}, 10, 0, 50, 99},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := cli.Main(t.Context(), []string{"top", "--once", "--interval", "100ms", "-o", "json", "--admin", counting(t, c.pages...)}, &stdout, &stderr); code != 0 {
				t.Fatalf("exit code %d: %s", code, stderr.String())
			}
			var l load
			if err := json.Unmarshal(stdout.Bytes(), &l); err != nil {
				t.Fatalf("%v in %s", err, stdout.String())
			}
			if !l.DataPlane || l.Active != 9 || l.Connections != 7 || len(l.Routes) != 1 || len(l.Services) != 2 {
				t.Fatalf("got %s", stdout.String())
			}
			r, s := l.Routes[0], l.Services[0]
			near := func(got *float64, want float64) bool {
				return want == 0 && got == nil || got != nil && math.Abs(*got-want) < 0.01
			}
			if n := r.Rate * l.Interval / 1000; r.Name != `HTTPRoute/default/a"b` || math.Abs(n-c.requests) > 0.01 || math.Abs(r.Errors-c.errors) > 1e-9 || !near(r.P50, c.p50) || !near(r.P99, c.p99) {
				t.Errorf("route: got %+v, want %v requests, errors %v, p50 %v, p99 %v; %s", r, c.requests, c.errors, c.p50, c.p99, stdout.String())
			}
			if s.Name != "default/a:80" || s.Endpoints == nil || s.Endpoints.Active != 7 || s.Endpoints.Ready != 2 || s.Endpoints.LeftOut != 1 || s.P50 != nil {
				t.Errorf("service: got %+v", s)
			}
		})
	}
}

func TestTopForPeople(t *testing.T) {
	addr := counting(t, metricsPage(0, 0, 0), metricsPage(100, 25, 60))
	var stdout, stderr bytes.Buffer
	if code := cli.Main(t.Context(), []string{"top", "--once", "--interval", "100ms", "--admin", addr}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	for _, want := range []string{"9 in flight   7 connections\n", "\nROUTE ", "25.0%   83.3ms   197ms\n", "\nSERVICE ", "7           2/3\n"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("%q is not in\n%s", want, stdout.String())
		}
	}
	if strings.Contains(stdout.String(), "\x1b") || strings.Contains(stdout.String(), "_none") {
		t.Errorf("commands for a terminal, or _none without requests, in\n%s", stdout.String())
	}
	for _, args := range [][]string{{"top", "--interval", "1ms"}, {"top", "-o", "yaml"}} {
		if code := cli.Main(t.Context(), args, &stdout, &stderr); code != 2 {
			t.Errorf("%v: exit code %d, want 2", args, code)
		}
	}
}
