package proxy_test

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// swapped is one of two plans of 5,000 routes and 500 services that have no part
// in common.
func swapped(version int, endpoints [2]string) []plan.Part {
	const routes, services = 5000, 500
	parts := make([]plan.Part, 0, routes+services)
	for i := range services {
		parts = append(parts, service(fmt.Sprintf("s%d", i), endpoints[version]))
	}
	for i := range routes {
		parts = append(parts, route(fmt.Sprintf("r%d", i), plan.Rule{
			Matches:  []plan.Match{{PathType: plan.PathPrefix, Path: fmt.Sprintf("/p%d", i)}},
			Filters:  []plan.Filter{{ResponseHeaders: &plan.HeaderEdit{Set: []plan.Header{{Name: "x-version", Value: fmt.Sprint(version)}}}}},
			Backends: []plan.Backend{{Service: fmt.Sprintf("s%d", (i+version)%services), Weight: 1}},
		}))
	}
	return parts
}

// Every part of a plan of 5,000 routes is replaced ten times a second, while
// requests come: none fails, none sees two plans, and nothing grows. For a minute
// with WINDROSE_E2E_LONG.
func TestWholePlansAreSwapped(t *testing.T) {
	lasts := seconds(3)
	if os.Getenv("WINDROSE_E2E_LONG") != "" {
		lasts = time.Minute
	}
	var endpoints [2]string
	for v := range endpoints {
		endpoints[v] = backend(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Endpoint", fmt.Sprint(v)) })
	}
	plans := [2][]plan.Part{swapped(0, endpoints), swapped(1, endpoints)}
	g := start(t, 2, append(plans[0], settings(plan.Settings{AccessLog: plan.AccessLog{Mode: plan.LogOff}}))...)
	c := gather(8, g.addr, "GET /p2507/a HTTP/1.1\r\nhost: x\r\n\r\n")
	probe := &http.Client{Timeout: patience}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var before uint64
	swaps := 0
	for end := time.Now().Add(lasts); time.Now().Before(end); swaps++ {
		version := (swaps + 1) % 2
		g.use(plans[version]...)
		resp, err := probe.Get("http://" + g.addr + "/p17/x")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("X-Version") + resp.Header.Get("X-Endpoint"); got != fmt.Sprintf("%d%d", version, version) {
			t.Errorf("swap %d: version and endpoint are %s, want twice %d", swaps, got, version)
		}
		if swaps == 4 {
			before = heap()
		}
		<-tick.C
	}
	after := heap()
	c.leave(t)
	t.Logf("%d swaps, %d requests; live heap %d KiB after 5 swaps, %d KiB at the end", swaps, c.asked.Load(), before>>10, after>>10)
	if before > 0 && after > before+before/2 {
		t.Errorf("the live heap grew from %d to %d bytes over %d swaps", before, after, swaps-5)
	}
}
