package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/telemetry"
)

func TestPageHasEveryDescribedFamilyInOrder(t *testing.T) {
	h := telemetry.NewHub(telemetry.Config{Version: `1.0"\`, Process: "dataplane"})
	h.Attach(now)
	p := scrape(t, h)
	var names []string
	for _, m := range telemetry.Describe() {
		names = append(names, m.Name)
		if got := p.types[m.Name]; got != string(m.Type) {
			t.Errorf("%s: type %q, want %q", m.Name, got, m.Type)
		}
		if (m.Type == telemetry.Counter) != strings.HasSuffix(m.Name, "_total") {
			t.Errorf("%s is a %s: only counters end in _total", m.Name, m.Type)
		}
		if !strings.HasSuffix(m.Help, ".") {
			t.Errorf("%s: help is no sentence: %q", m.Name, m.Help)
		}
	}
	if !slices.Equal(p.names, names) {
		t.Errorf("page has %v, described are %v", p.names, names)
	}
	if !slices.IsSorted(names) {
		t.Errorf("not sorted: %v", names)
	}
	for _, s := range p.samples {
		if s.name == "windrose_build_info" && s.labels["version"] != `1.0"\` {
			t.Errorf("version came back as %q", s.labels["version"])
		}
	}
	for _, name := range []string{"process_resident_memory_bytes", "process_open_fds", "process_max_fds", "go_goroutines", "go_heap_objects_bytes"} {
		if v := p.samples[name+`{process="dataplane"}`].value; v < 1 {
			t.Errorf("%s is %v", name, v)
		}
	}
}

func TestSamplesHaveTheLabelsThatAreDescribed(t *testing.T) {
	h := telemetry.NewHub(telemetry.Config{Process: "dataplane", Services: func(yield func(string, telemetry.ServiceState)) {
		yield("s", telemetry.ServiceState{Endpoints: 1})
	}})
	h.Use(1, telemetry.Names{Routes: []string{"r"}, Services: []string{"s"}, Sockets: []string{"tcp/[::]:80"}}, telemetry.Names{})
	l := h.Attach(now)
	l.Emit(answer("r", "s", 200))
	l.Socket("tcp/[::]:80")
	p := scrape(t, h)
	seen := map[string]bool{}
	for _, m := range telemetry.Describe() {
		for series, s := range p.samples {
			base := s.name
			if m.Type == telemetry.Histogram {
				base = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(base, "_bucket"), "_sum"), "_count")
			}
			if base != m.Name {
				continue
			}
			seen[m.Name] = true
			delete(s.labels, "le")
			for _, label := range m.Labels {
				if _, ok := s.labels[label]; !ok {
					t.Errorf("%s lacks label %s", series, label)
				}
			}
			if len(s.labels) != len(m.Labels) {
				t.Errorf("%s has other labels than %v", series, m.Labels)
			}
		}
		if !seen[m.Name] {
			t.Errorf("%s has no sample", m.Name)
		}
	}
}

func TestASlotThatIsReusedInheritsNothing(t *testing.T) {
	h := telemetry.NewHub(telemetry.Config{})
	h.Use(1, routes("old"), telemetry.Names{})
	l := h.Attach(now)
	for range 5 {
		l.Emit(answer("old", "", 200)) // slot 0
	}
	h.Use(2, routes("new"), routes("old"))
	l.Emit(answer("new", "", 200)) // slot 0
	l.Emit(answer("old", "", 200)) // a request of the old plan ends
	l.Emit(answer("new", "", 200))

	p := scrape(t, h)
	p.want(t, `windrose_requests_total{route="new",code="200"}`, 2)
	p.want(t, `windrose_requests_total{route="_other",code="200"}`, 6)
	p.lacks(t, `"old"`)
}

func TestSeriesGoWithTheirRouteAndBeginAnew(t *testing.T) {
	h := telemetry.NewHub(telemetry.Config{})
	all := telemetry.Names{Routes: []string{"a", "b"}, Services: []string{"s"}, Sockets: []string{"tcp/[::]:80", "tcp/[::]:81"}}
	h.Use(1, all, telemetry.Names{})
	l := h.Attach(now)
	l.Emit(answer("a", "s", 200))
	l.Emit(answer("b", "s", 200))
	open := l.Socket("tcp/[::]:80")
	open.Accepted, open.Active = 2, 1
	l.Socket("tcp/[::]:81").Accepted = 3
	before := scrape(t, h)
	before.want(t, `windrose_connections_accepted_total{socket="tcp/[::]:81"}`, 3)
	before.want(t, `windrose_metric_series`, 3*(1+17))

	h.Use(2, telemetry.Names{}, telemetry.Names{Routes: all.Routes[1:], Services: all.Services, Sockets: all.Sockets})
	after := scrape(t, h)
	after.want(t, `windrose_requests_total{route="a",code="200"}`, 1)
	after.want(t, `windrose_metric_series`, 1+17)
	after.lacks(t, `"b"`)
	after.lacks(t, `"s"`)
	after.lacks(t, `:81"`)
	after.want(t, `windrose_connections_active{socket="tcp/[::]:80"}`, 1) // still drains
	open.Active = 0
	scrape(t, h).lacks(t, `:80"`)

	h.Use(3, all, telemetry.Names{})
	l.Emit(answer("b", "s", 200))
	scrape(t, h).want(t, `windrose_requests_total{route="b",code="200"}`, 1)
}

// A connection or a flow of bytes has no status code, which is not the same as
// one that is not counted apart.
func TestWhatHasNoStatusHasCodeNone(t *testing.T) {
	h := telemetry.NewHub(telemetry.Config{})
	h.Use(1, routes("r"), telemetry.Names{})
	l := h.Attach(now)
	l.Emit(answer("r", "", 0))
	l.Emit(answer("r", "", 0))
	l.Emit(answer("r", "", 999))
	p := scrape(t, h)
	p.want(t, `windrose_requests_total{route="r",code="none"}`, 2)
	p.want(t, `windrose_requests_total{route="r",code="other"}`, 1)
}

func TestSeriesAreBounded(t *testing.T) {
	const most, n = 400, 300
	h := telemetry.NewHub(telemetry.Config{MaxSeries: most})
	l := h.Attach(now)
	var all []string
	for i := range n {
		all = append(all, name(i))
	}
	h.Use(1, routes(all...), telemetry.Names{})
	check := func(answers float64) {
		t.Helper()
		p := scrape(t, h)
		var own, sum, timed float64
		for series, s := range p.samples {
			if s.name == "windrose_requests_total" {
				sum += s.value
			}
			if s.name == "windrose_request_duration_seconds_count" {
				timed += s.value
			}
			if strings.Contains(series, `route="HTTPRoute`) {
				own++
			}
		}
		if own > most || own < most-17 {
			t.Errorf("%v series of routes, want at most %v and nearly all", own, most)
		}
		if sum != answers || timed != answers {
			t.Errorf("%v answers and %v times in all, want %v", sum, timed, answers)
		}
		p.want(t, `windrose_metric_series`, own)
		p.want(t, `windrose_metric_series_limit`, most)
	}
	for status := range 600 {
		for i := range n {
			l.Emit(answer(name(i), "", status))
		}
		if status == 2 {
			check(3 * n)
		}
	}
	check(600 * n)
}

func TestALoopIsBoundedWithoutAScrape(t *testing.T) {
	h := telemetry.NewHub(telemetry.Config{})
	l := h.Attach(now)
	const n = 40_000 // more than the 32,768 that are counted apart
	for i := range n {
		r := answer(name(i), "", 200)
		r.RuleSlot = 1 << 60
		l.Emit(r)
		l.Socket(fmt.Sprint(i)).Accepted++
	}
	p := scrape(t, h)
	p.want(t, `windrose_requests_total{route="_other",code="200"}`, n)
	p.want(t, `windrose_connections_accepted_total{socket="_other"}`, n-1024)
}

func TestDetachKeepsCounts(t *testing.T) {
	h := telemetry.NewHub(telemetry.Config{})
	names := telemetry.Names{Routes: []string{"r"}, Sockets: []string{"tcp/[::]:80"}}
	for i := range 400 {
		names.Routes = append(names.Routes, name(i))
	}
	h.Use(1, names, telemetry.Names{})
	for range 2 {
		l := h.Attach(now)
		for _, r := range names.Routes {
			l.Emit(answer(r, "", 200))
		}
		s := l.Socket("tcp/[::]:80")
		s.Accepted, s.Active = 4, 1
		l.Panics, l.UpstreamOpened, l.UpstreamReused, l.UpstreamFailed, l.RequestsActive, l.RetriesDenied, l.MirrorsAnswered, l.MirrorsFailed, l.MirrorsDropped, l.Handed = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
		l.AuthAllowed, l.AuthDenied, l.AuthFailed = 10, 11, 12
		l.CutProtocol, l.CutSlow, l.CutRoom = 11, 12, 13
		l.Handshake(telemetry.HandshakeOK)
		l.Outward(telemetry.HandshakeGone)
		l.Turn(time.Second)
		h.Detach(l)
		h.Detach(l) // a second time does nothing
	}
	p := scrape(t, h)
	p.want(t, `windrose_requests_total{route="r",code="200"}`, 2)
	p.want(t, `windrose_requests_total{route="`+name(399)+`",code="200"}`, 2)
	p.want(t, `windrose_connections_accepted_total{socket="tcp/[::]:80"}`, 8)
	p.want(t, `windrose_connections_active{socket="tcp/[::]:80"}`, 0)
	p.want(t, `windrose_panics_total`, 2)
	p.want(t, `windrose_upstream_connections_opened_total`, 4)
	p.want(t, `windrose_upstream_connections_reused_total`, 6)
	p.want(t, `windrose_upstream_connections_failed_total`, 8)
	p.want(t, `windrose_retries_denied_total`, 12)
	p.want(t, `windrose_mirrors_total{result="answered"}`, 14)
	p.want(t, `windrose_authorizations_total{result="allowed"}`, 20)
	p.want(t, `windrose_authorizations_total{result="denied"}`, 22)
	p.want(t, `windrose_authorizations_total{result="failed"}`, 24)
	p.want(t, `windrose_mirrors_total{result="failed"}`, 16)
	p.want(t, `windrose_mirrors_total{result="dropped"}`, 18)
	p.want(t, `windrose_connections_handed_total`, 20)
	p.want(t, `windrose_connections_cut_total{reason="protocol"}`, 22)
	p.want(t, `windrose_connections_cut_total{reason="slow"}`, 24)
	p.want(t, `windrose_connections_cut_total{reason="room"}`, 26)
	p.want(t, `windrose_requests_active`, 0)
	p.want(t, `windrose_tls_handshakes_total{result="ok"}`, 2)
	p.want(t, `windrose_upstream_tls_handshakes_total{result="endpoint-gone"}`, 2)
	p.want(t, `windrose_loop_turn_duration_seconds_sum`, 2)
}

// inbox is an event loop's inbox: a goroutine runs what is posted.
type inbox chan func()

func (in inbox) post(f func()) error {
	select {
	case in <- f:
		return nil
	default:
		return errors.New("inbox is full")
	}
}

func TestALoopThatHangsDelaysAScrapeByASecondAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := telemetry.NewHub(telemetry.Config{})
		h.Use(1, routes("r"), telemetry.Names{})
		stuck := make(inbox, 1)
		l := h.Attach(stuck.post)
		l.Emit(answer("r", "", 200))
		other := h.Attach(now)
		other.Emit(answer("r", "", 200))

		for range 2 { // the second finds a fold under way
			start := time.Now()
			p := scrape(t, h)
			if took := time.Since(start); took != time.Second {
				t.Errorf("took %v, want 1s", took)
			}
			p.want(t, `windrose_requests_total{route="r",code="200"}`, 1)
		}
		scrape(t, h).want(t, `windrose_loop_lag_seconds{loop="0"}`, 3)

		(<-stuck)() // the loop wakes up
		l.Emit(answer("r", "", 200))
		go func() { (<-stuck)() }()
		start := time.Now()
		scrape(t, h).want(t, `windrose_requests_total{route="r",code="200"}`, 3)
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v, want 0s", took)
		}
	})
}

func TestAFullInboxIsAskedAgain(t *testing.T) {
	full := true
	h := telemetry.NewHub(telemetry.Config{})
	h.Use(1, routes("r", "s"), telemetry.Names{})
	l := h.Attach(func(f func()) error {
		if full {
			return errors.New("full")
		}
		return now(f)
	})
	l.Emit(answer("r", "", 200))
	h.Use(2, telemetry.Names{}, routes("s"))
	scrape(t, h).lacks(t, `route="r"`)
	full = false
	scrape(t, h).want(t, `windrose_requests_total{route="r",code="200"}`, 1)
}

func TestScrapeEndsWithItsContext(t *testing.T) {
	h := telemetry.NewHub(telemetry.Config{})
	h.Attach(make(inbox, 1).post)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p := parse(t, h.AppendMetrics(ctx, nil))
	p.want(t, "windrose_panics_total", 0)
}

// TestScrapesWhileLoopsCount is for the race detector, and checks that folds
// neither lose nor double.
func TestScrapesWhileLoopsCount(t *testing.T) {
	const each, n = 20_000, 400
	log := telemetry.NewLog(io.Discard, 0)
	h := telemetry.NewHub(telemetry.Config{Log: log, MaxSeries: 1 << 20})
	var all []string
	for i := range n {
		all = append(all, name(i))
	}
	names := telemetry.Names{Routes: all, Services: all}
	h.Use(1, names, telemetry.Names{})
	ctx, cancel := context.WithCancel(context.Background())
	var background, loops sync.WaitGroup
	background.Go(func() {
		if err := log.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		background.Go(func() {
			for ctx.Err() == nil {
				parse(t, h.AppendMetrics(ctx, nil))
			}
		})
	}
	background.Go(func() {
		for i := uint64(2); ctx.Err() == nil; i++ {
			h.Use(i, routes("extra"), telemetry.Names{})
			h.Use(i, telemetry.Names{}, routes("extra"))
		}
	})
	for range 3 {
		loops.Go(func() {
			in := make(inbox, 64)
			l := h.Attach(in.post)
			for i := range each {
				select {
				case f := <-in:
					f()
				default:
				}
				r := answer(name(i%n), name(i%n), 200+i%3)
				r.RuleSlot, r.ServiceSlot = i%n, i%n
				l.Emit(r)
				l.RequestsActive++
				l.Socket("tcp/[::]:80").Accepted++
				l.Turn(time.Microsecond)
				l.Tick(time.Now())
			}
			l.Flush()
			h.Detach(l)
		})
	}
	loops.Wait()
	cancel()
	background.Wait()
	var requests, served float64
	for _, s := range scrape(t, h).samples {
		switch s.name {
		case "windrose_requests_total":
			requests += s.value
		case "windrose_service_duration_seconds_count":
			served += s.value
		}
	}
	if requests != 3*each || served != 3*each {
		t.Errorf("%v requests and %v services' times, want %v", requests, served, 3*each)
	}
}

func TestEmitAllocatesNothing(t *testing.T) {
	for _, mode := range []telemetry.LogMode{telemetry.LogOff, telemetry.LogSampled, telemetry.LogOn} {
		log := telemetry.NewLog(io.Discard, 1)
		h := telemetry.NewHub(telemetry.Config{Log: log})
		h.Use(1, routes("r"), telemetry.Names{})
		l := h.Attach(now)
		l.Use(telemetry.Logging{Mode: mode, Every: 3})
		hit, miss := answer("r", "s", 200), answer("", "", 404)
		miss.Fault, miss.Reason = record.NoRoute, "no route for shop.example/cart"
		for range 1000 { // two buffers fill up: one is queued, one is used for good
			l.Emit(hit)
			l.Emit(miss)
		}
		at := time.Now()
		got := testing.AllocsPerRun(1000, func() {
			l.Emit(hit)
			l.Emit(miss)
			l.Turn(time.Millisecond)
			l.Tick(at)
		})
		if got != 0 {
			t.Errorf("log %s: %v allocations, want 0", mode, got)
		}
	}
}

func TestMergeJoinsFamilies(t *testing.T) {
	control, data := new(telemetry.Page), new(telemetry.Page)
	cpu := telemetry.Metric{Name: "cpu_seconds_total", Type: telemetry.Counter, Help: "CPU \\ time\nin all.", Labels: []string{"process"}}
	control.Family(cpu)
	control.Value(0.5, "control")
	control.Family(telemetry.Metric{Name: "objects", Type: telemetry.Gauge, Help: "Objects."})
	control.Count(3)
	data.Family(telemetry.Metric{Name: "requests_total", Type: telemetry.Counter, Help: "Requests.", Labels: []string{"route"}})
	data.Count(7, "a\"b\\c\nd\xff")
	data.Family(cpu)
	data.Value(1e9, "dataplane")

	merged := telemetry.Merge(nil, control.Bytes(), data.Bytes())
	want := `# HELP cpu_seconds_total CPU \\ time\nin all.
# TYPE cpu_seconds_total counter
cpu_seconds_total{process="control"} 0.5
cpu_seconds_total{process="dataplane"} 1e+09
# HELP objects Objects.
# TYPE objects gauge
objects 3
# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{route="a\"b\\c\nd` + "\ufffd" + `"} 7
`
	if string(merged) != want {
		t.Errorf("got\n%s\nwant\n%s", merged, want)
	}
	parse(t, merged)
}

func TestTwoProcessesMakeOnePage(t *testing.T) {
	started := time.UnixMilli(1_700_000_000_500)
	control := telemetry.AppendProcess(nil, telemetry.Config{Process: "control", Version: "v1"}, started)
	data := telemetry.NewHub(telemetry.Config{Process: "dataplane", Version: "v1"}).AppendMetrics(context.Background(), nil)
	p := parse(t, telemetry.Merge(nil, control, data))
	p.want(t, `process_start_time_seconds{process="control"}`, 1_700_000_000.5)
	for _, process := range []string{"control", "dataplane"} {
		p.want(t, fmt.Sprintf(`windrose_build_info{process=%q,version="v1",go=%q}`, process, runtime.Version()), 1)
	}
	p.want(t, "windrose_panics_total", 0)
}

func TestStateOfServices(t *testing.T) {
	h := telemetry.NewHub(telemetry.Config{MaxSeries: 8, Services: func(yield func(string, telemetry.ServiceState)) {
		yield("default/b:80", telemetry.ServiceState{Active: -1, Endpoints: 1})
		yield("default/a:80", telemetry.ServiceState{Active: 7, Endpoints: 3, LeftOut: 1})
		yield("default/c:80", telemetry.ServiceState{Active: 1})
	}})
	p := scrape(t, h)
	for series, want := range map[string]float64{
		`windrose_service_requests_active{service="default/a:80"}`:            7,
		`windrose_service_endpoints{service="default/a:80",state="ready"}`:    2,
		`windrose_service_endpoints{service="default/a:80",state="left_out"}`: 1,
		`windrose_service_requests_active{service="default/b:80"}`:            0, // caught between two changes
	} {
		if got, ok := p.samples[series]; !ok || got.value != want {
			t.Errorf("%s: got %v %v, want %v", series, got.value, ok, want)
		}
	}
	if _, ok := p.samples[`windrose_service_requests_active{service="default/c:80"}`]; ok {
		t.Error("more services are shown than the bound lets")
	}
}
