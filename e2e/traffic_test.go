package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

func fetch(url string) (int, string, http.Header) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), resp.Header
}

func TestRouteIsLiveWhileItIsEdited(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml":  gateway(port),
		"services.yaml": service("a", backend(t, "a")) + "---\n" + service("b", backend(t, "b")),
		"route.yaml":    route("shop", "/", "a"),
	})
	url := fmt.Sprintf("http://127.0.0.1:%d/x", port)
	if code, body, _ := fetch(url); code != 200 || body != "a /x" {
		t.Fatalf("got %d %q", code, body)
	}
	w.write("route.yaml", route("shop", "/", "b"))
	w.eventually("the changed route is live", func() error {
		if code, body, _ := fetch(url); code != 200 || body != "b /x" {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})

	// A backend that does not exist is 500 with its name; nothing falls through.
	w.write("route.yaml", route("shop", "/", "c"))
	w.eventually("a missing backend is told", func() error {
		code, body, h := fetch(url)
		if code != 500 || h.Get("x-windrose-fault") != "backend-missing" || !strings.Contains(body, "default/c") {
			return fmt.Errorf("%d %s %v", code, body, h)
		}
		return nil
	})
	if r := w.cli("get", "routes", "-A"); r.code != 0 || !strings.Contains(r.out, "shop") {
		t.Errorf("get routes: %+v", r)
	}

	// What cannot be read keeps its last good version, now and after a restart.
	w.write("route.yaml", route("shop", "/", "a"))
	w.eventually("back to a", func() error {
		if code, body, _ := fetch(url); code != 200 || body != "a /x" {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	w.write("route.yaml", strings.Replace(route("shop", "/", "b"), "PathPrefix", "PathPrefixx", 1))
	w.eventually("the finding is shown", func() error {
		if r := w.cli("describe", "httproute", "shop"); !strings.Contains(r.out, "PathPrefixx") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	if code, body, _ := fetch(url); code != 200 || body != "a /x" {
		t.Errorf("the last good version must serve: %d %q", code, body)
	}
	w.stop()
	w.start()
	w.ready()
	if code, body, _ := fetch(url); code != 200 || body != "a /x" {
		t.Errorf("the last good version must serve after a restart: %d %q", code, body)
	}

	w.remove("route.yaml")
	w.eventually("a deleted route is gone", func() error {
		if code, _, h := fetch(url); code != 404 || h.Get("x-windrose-fault") != "no-route" {
			return fmt.Errorf("%d", code)
		}
		return nil
	})
}

func TestAccessLogHasOneLineForEachRequest(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "services.yaml": service("a", backend(t, "a")), "route.yaml": route("shop", "/a", "a"),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	fetch(base + "/a/1?token=secret")
	_, _, h := fetch(base + "/b")
	w.stop()
	seen := map[string]map[string]any{}
	lines := w.accessLog()
	for _, line := range lines {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		seen[fmt.Sprint(m["path"])] = m
	}
	if len(lines) != 2 {
		t.Fatalf("got %d lines, want 2: %v", len(lines), seen)
	}
	if l := seen["/a/1"]; l["status"] != 200.0 || l["route"] != "HTTPRoute/default/shop" {
		t.Errorf("line of the request that was served: %v", l)
	}
	if l := seen["/b"]; l["fault"] != "no-route" || l["id"] != h.Get("x-request-id") || l["mend"] == nil {
		t.Errorf("line of the fault: %v", l)
	}
	if strings.Contains(w.read("../stdout"), "token") {
		t.Error("the query is logged")
	}
}

func TestControlDiesAndTrafficFlows(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "services.yaml": service("a", backend(t, "a")) + "---\n" + service("b", backend(t, "b")),
		"route.yaml": route("shop", "/", "a"),
	})
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	l := newLoad(t)
	l.run(4, func() error { return get(client, url) })
	plane := w.dataplane()
	if err := w.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-w.done
	if code, body, _ := fetch(url); code != 200 {
		t.Errorf("with control dead: %d %s", code, body)
	}
	w.start()
	w.ready()
	w.write("route.yaml", route("shop", "/", "b"))
	w.eventually("the new control part is in control", func() error {
		if code, body, _ := fetch(url); code != 200 || body != "b /" {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	if got := w.dataplane(); got != plane {
		t.Errorf("the data plane was replaced: %d, was %d", got, plane)
	}
	l.end(t)
}

func TestDataPlaneDiesAndComesBack(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "services.yaml": service("a", backend(t, "a")), "route.yaml": route("shop", "/", "a"),
	})
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	old := w.dataplane()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.eventually("a new data plane serves", func() error {
		if code, body, _ := fetch(url); code != 200 {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	if w.dataplane() == old {
		t.Error("it is the same process")
	}
}
