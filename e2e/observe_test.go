package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func TestMetricsAndHealth(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "a.yaml": all(service("a", backend(t, "a")), service("b", backend(t, "b"))),
		"stays.yaml": route("stays", "/stays", "a"), "goes.yaml": route("goes", "/goes", "b"),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	for range 3 {
		fetch(base + "/stays")
		fetch(base + "/goes")
	}
	fetch(base + "/nowhere")
	fetch(base + "/stays?" + strings.Repeat("x", 20000))
	wants := map[string]string{
		`windrose_requests_total{route="HTTPRoute/default/stays",code="200"}`:      "3",
		`windrose_requests_total{route="HTTPRoute/default/goes",code="200"}`:       "3",
		`windrose_request_duration_seconds_count{route="HTTPRoute/default/stays"}`: "3",
		`windrose_service_requests_total{service="default/a:80",code="200"}`:       "3",
		`windrose_faults_total{flag="no-route",side="client"}`:                     "1",
		`windrose_faults_total{flag="uri-too-long",side="client"}`:                 "1",
		`windrose_panics_total`: "0",
		`windrose_connections_accepted_total{socket="tcp/127.0.0.1:` + fmt.Sprint(port) + `"}`: "8",
	}
	for where, url := range map[string]string{"data plane": "http://" + w.stats + "/metrics", "admin": "http://" + w.admin + "/metrics"} {
		_, page, h := fetch(url)
		if !strings.HasPrefix(h.Get("Content-Type"), "text/plain; version=0.0.4") {
			t.Errorf("%s: content type %q", where, h.Get("Content-Type"))
		}
		checkPage(t, where, page)
		// A request is counted when its end is told, which its client may see first.
		w.eventually(where+" counts all", func() error {
			_, page, _ := fetch(url)
			for series, want := range wants {
				if got := sample(page, series); got != want {
					return fmt.Errorf("%s is %q, want %s; there is\n%s", series, got, want, grep(page, series[:strings.IndexAny(series+"{", "{")]))
				}
			}
			return nil
		})
	}
	// The series of what is gone go with it.
	w.remove("goes.yaml")
	w.write("a.yaml", service("a", backend(t, "a")))
	w.eventually("the series of the removed route and service are gone", func() error {
		_, page, _ := fetch("http://" + w.admin + "/metrics")
		if left := grep(page, "default/goes") + grep(page, "default/b:80"); left != "" {
			return fmt.Errorf("%s", left)
		}
		if sample(page, `windrose_requests_total{route="HTTPRoute/default/stays",code="200"}`) != "3" {
			t.Error("the counts of the other route changed")
		}
		return nil
	})
	for path, want := range map[string]int{"/healthz/live": 200, "/healthz/ready": 200, "/nosuch": 404} {
		if code, body, _ := fetch("http://" + w.health + path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
}

// checkPage holds that a page is as Prometheus' text format wants it: every
// series once, under its TYPE, with a number.
func checkPage(t *testing.T, where, page string) {
	t.Helper()
	series, types := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			if types[name] {
				t.Errorf("%s: two TYPE lines for %s", where, name)
			}
			types[name] = true
			continue
		}
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || series[line[:at]] {
			t.Errorf("%s: a bad line or a series twice: %s", where, line)
			continue
		}
		series[line[:at]] = true
		if _, err := strconv.ParseFloat(line[at+1:], 64); err != nil {
			t.Errorf("%s: %s: %v", where, line, err)
		}
		name := line[:strings.IndexAny(line, "{ ")]
		if base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count"); !types[name] && !types[base] {
			t.Errorf("%s: no TYPE before %s", where, name)
		}
	}
	if len(series) < 30 {
		t.Errorf("%s: only %d series", where, len(series))
	}
}

// TestReadyOnlyWithConfiguration: health says not ready until a plan is served.
func TestReadyOnlyWithConfiguration(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := newWindrose(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/", "a")})
	w.start()
	w.eventually("it is ready, and answers from then on", func() error {
		if err := get200("http://" + w.health + "/healthz/ready"); err != nil {
			return err
		}
		if code, body, _ := fetch(fmt.Sprintf("http://127.0.0.1:%d/", port)); code != 200 {
			t.Errorf("ready, but the answer is %d %s", code, body)
		}
		return nil
	})
}

// TestAccessLogModes are switched while windrose runs.
func TestAccessLogModes(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	mode := func(spec string) string { return withParameters(gateway(port), "{accessLog: "+spec+"}") }
	w := up(t, map[string]string{"gateway.yaml": mode("{mode: \"On\"}"), "a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/a", "a")})
	const n = 40
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	ask := func(name string) {
		for i := range n {
			if code, body, _ := fetch(fmt.Sprintf("%s/a/%s/%d", base, name, i)); code != 200 {
				t.Fatalf("%d %s", code, body)
			}
		}
		fetch(base + "/none/" + name)
	}
	logged := func(name string) (served, faults int) {
		for _, line := range w.accessLog() {
			var l struct{ Path string }
			if json.Unmarshal([]byte(line), &l) != nil {
				continue // half a line, for now
			}
			switch {
			case strings.HasPrefix(l.Path, "/a/"+name+"/"):
				served++
			case l.Path == "/none/"+name:
				faults++
			}
		}
		return served, faults
	}
	for _, tt := range []struct {
		name, spec    string
		least, most   int // of the requests that are served
		faultIsLogged bool
	}{
		{"all", "{mode: All}", n, n, true},
		{"sampled", "{mode: Sampled, every: 10}", 1, n / 4, true},
		{"none", "{mode: None}", 0, 0, false},
		{"all-again", "{mode: All}", n, n, true},
	} {
		w.write("gateway.yaml", mode(tt.spec))
		w.mark()
		ask(tt.name)
		w.eventually("mode "+tt.name, func() error {
			served, faults := logged(tt.name)
			if served < tt.least || served > tt.most || (faults == 1) != tt.faultIsLogged {
				return fmt.Errorf("%d of %d requests and %d of 1 faults are logged", served, n, faults)
			}
			return nil
		})
	}
	// The lines of what came later are written: nothing is under way any more.
	if served, faults := logged("off"); served+faults != 0 {
		t.Errorf("with mode Off %d requests and %d faults were logged", served, faults)
	}
	if served, _ := logged("sampled"); served < 1 || served > n/4 {
		t.Errorf("one in 10 of %d: %d were logged", n, served)
	}
}
