package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// kinds are all that get shows.
var kinds = []string{
	"gatewayclasses", "gateways", "listenersets", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes",
	"ingresses", "ingressclasses", "services", "endpointslices", "workloads", "secrets", "configmaps", "namespaces",
	"referencegrants", "backendtlspolicies", "gatewayparameters", "routes", "listeners", "findings",
}

// picture is all that a user can see of the state of windrose, without times:
// every object with its status, every finding, and where requests land.
func (w *windrose) picture(urls []string) map[string]string {
	w.t.Helper()
	p := map[string]string{}
	for _, kind := range kinds {
		r := w.cli("get", kind, "-A", "-o", "json")
		if r.code != 0 {
			w.t.Fatalf("get %s: %+v", kind, r)
		}
		var v any
		if err := json.Unmarshal([]byte(r.out), &v); err != nil {
			w.t.Fatalf("get %s: %v", kind, err)
		}
		b, _ := json.MarshalIndent(timeless(v), "", " ")
		p[kind] = string(b)
	}
	for _, url := range urls {
		code, body, h := fetch(url)
		// The id of the request in an answer of windrose is new each time.
		body, _, _ = strings.Cut(body, "request id:")
		p[url] = fmt.Sprint(code, " ", h.Get("x-windrose-fault"), " ", h.Get("X-Mark"), " ", body)
	}
	return p
}

// timeless drops the times of conditions and what belongs to processes.
func timeless(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range []string{"lastTransitionTime", "pid", "restarts"} {
			delete(v, name)
		}
		for k := range v {
			v[k] = timeless(v[k])
		}
	case []any:
		for i := range v {
			v[i] = timeless(v[i])
		}
	}
	return v
}

// edits makes random edits of a folder, good ones and bad ones.
type edits struct {
	w     *windrose
	rng   *rand.Rand
	ports []int
	n     int
}

func (e *edits) pick(of ...string) string { return of[e.rng.IntN(len(of))] }

// one makes one edit and says what it was.
func (e *edits) one() string {
	e.n++
	name := fmt.Sprintf("r%d.yaml", e.rng.IntN(4))
	text := routeOf(strings.TrimSuffix(name, ".yaml"), fmt.Sprintf(
		`{matches: [{path: {type: %s, value: /%s}}], filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Mark, value: "%d"}]}}], backendRefs: [{name: %s, port: 80}]}`,
		e.pick("PathPrefix", "Exact"), e.pick("p", "q"), e.n, e.pick("a", "b", "missing")))
	what := e.pick("good", "good", "good", "invalid", "unparsable", "unknown field", "remove", "twice", "move", "half", "pair", "listener", "gateway", "service")
	switch what {
	case "good":
	case "invalid":
		text = strings.Replace(text, "type: ResponseHeaderModifier,", "type: Nonsense,", 1)
	case "unparsable":
		text = strings.Replace(text, "rules:", "rules: }", 1)
	case "unknown field":
		text = strings.Replace(text, "rules:", "rulez: 1\n  rules:", 1)
	case "remove":
		if err := os.Remove(e.w.config + "/" + name); err != nil {
			return what + " nothing"
		}
		return what + " " + name
	case "twice":
		// An object of another file. Whose is first wins.
		name = "z" + name
	case "move":
		to := fmt.Sprintf("%s%d.yaml", e.pick("a", "r", "z"), e.rng.IntN(4))
		if err := os.Rename(e.w.config+"/"+name, e.w.config+"/"+to); err != nil {
			return what + " nothing"
		}
		return what + " " + name + " to " + to
	case "half":
		// A good object, and one that cannot be read.
		text += "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r" + e.pick("0", "1", "2", "3") + "\n"
	case "pair":
		text = all(text, route("other", "/other", "a"))
	case "listener":
		name = "gateway.yaml"
		text = gatewayOf(fmt.Sprintf("{name: http, protocol: HTTP, port: %d}", e.ports[0]),
			fmt.Sprintf("{name: other, protocol: %s, port: %d}", e.pick("HTTP", "HTTPS", "Nonsense/1"), e.ports[1]))
	case "gateway":
		name, text = "gateway.yaml", gateway(e.ports[0])
	case "service":
		name, text = "b.yaml", bareService("b")
		if e.rng.IntN(2) == 0 {
			text = e.w.read("b.good")
		}
	}
	e.w.write(name, text)
	return what + " " + name
}

// settled waits until what get shows no longer changes.
func (w *windrose) settled(urls []string) map[string]string {
	w.t.Helper()
	w.mark()
	last := w.picture(urls)
	w.eventually("it comes to rest", func() error {
		now := w.picture(urls)
		if maps.Equal(last, now) {
			return nil
		}
		last = now
		return fmt.Errorf("it changes")
	})
	return last
}

// mark waits until windrose has read all that was written before.
func (w *windrose) mark() {
	w.t.Helper()
	name := fmt.Sprintf("mark-%d", time.Now().UnixNano())
	w.write("mark.yaml", fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n", name))
	w.eventually("windrose has read the mark", func() error {
		if r := w.cli("get", "configmaps", name); r.code != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	w.remove("mark.yaml")
	w.eventually("the mark is gone", func() error {
		if r := w.cli("get", "configmaps", name); r.code != 5 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	w.applied()
}

// TestRestartGivesWhatTheReloadGave: after random edits, bad ones too, a
// restart changes nothing that a user sees.
func TestRestartGivesWhatTheReloadGave(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	e := &edits{rng: rand.New(rand.NewPCG(seed, 0)), ports: []int{freePort(t), freePort(t)}}
	b := service("b", backend(t, "b"))
	e.w = up(t, map[string]string{"gateway.yaml": gateway(e.ports[0]), "a.yaml": service("a", backend(t, "a")), "b.yaml": b, "b.good": b})
	var urls []string
	for _, port := range e.ports {
		for _, path := range []string{"/p", "/p/x", "/q", "/q/x", "/"} {
			urls = append(urls, fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
		}
	}
	rounds := 5
	if long() {
		rounds = 40
	}
	for range rounds {
		var did []string
		for range 2 + e.rng.IntN(8) {
			did = append(did, e.one())
			if e.rng.IntN(2) == 0 {
				e.w.mark() // else several edits are taken as one
			}
		}
		before := e.w.settled(urls)
		e.w.stop()
		e.w.start()
		e.w.ready()
		after := e.w.settled(urls)
		for _, k := range slices.Sorted(maps.Keys(before)) {
			if before[k] != after[k] {
				t.Errorf("after %q %s differs:\n%s", did, k, difference(before[k], after[k]))
			}
		}
		if t.Failed() {
			return
		}
	}
}

// difference gives the lines that only one of two texts has.
func difference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out strings.Builder
	for _, l := range la {
		if !slices.Contains(lb, l) {
			fmt.Fprintln(&out, "- "+l)
		}
	}
	for _, l := range lb {
		if !slices.Contains(la, l) {
			fmt.Fprintln(&out, "+ "+l)
		}
	}
	if out.Len() == 0 {
		return a + "\nbecame\n" + b
	}
	return out.String()
}

// TestChangesWhileItWasDown: the plan that the data plane stored does not bring
// back what was removed meanwhile.
func TestChangesWhileItWasDown(t *testing.T) {
	t.Parallel()
	port, other := freePort(t), freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gatewayOf(fmt.Sprintf("{name: http, protocol: HTTP, port: %d}", port), fmt.Sprintf("{name: other, protocol: HTTP, port: %d}", other)),
		"a.yaml":       service("a", backend(t, "a")), "stays.yaml": route("stays", "/stays", "a"), "goes.yaml": route("goes", "/goes", "a"),
	})
	w.eventually("the data plane has stored the plan", func() error {
		b, err := os.ReadFile(w.state + "/dataplane/plan")
		if err == nil && !strings.Contains(string(b), "default/goes") {
			err = fmt.Errorf("without the route: %s", b)
		}
		return err
	})
	w.stop()
	w.write("gateway.yaml", gateway(port))
	w.remove("goes.yaml")
	w.write("comes.yaml", route("comes", "/comes", "a"))
	w.start()
	w.ready()
	for path, want := range map[string]int{"/stays": 200, "/goes": 404, "/comes": 200} {
		if code, body, _ := fetch(fmt.Sprintf("http://127.0.0.1:%d%s", port, path)); code != want {
			t.Errorf("%s: got %d %s, want %d", path, code, body, want)
		}
	}
	if code, body, _ := fetch(fmt.Sprintf("http://127.0.0.1:%d/", other)); code != 0 {
		t.Errorf("the removed port answers: %d %s", code, body)
	}
}
