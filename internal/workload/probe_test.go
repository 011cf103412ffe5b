package workload

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"

	"windrose.dev/windrose/api/v1alpha1"
)

func TestNewCheck(t *testing.T) {
	ports := []v1alpha1.WorkloadPort{{Name: "http", Port: 8080}, {Name: "9", Port: 9090}}
	get := func(path string, port intstr.IntOrString) *v1alpha1.Probe {
		return &v1alpha1.Probe{HTTP: &v1alpha1.HTTPProbe{Path: path, Port: port}}
	}
	tests := []struct {
		name      string
		spec      v1alpha1.WorkloadSpec
		addr, url string
		err       string
	}{
		{"first port", v1alpha1.WorkloadSpec{Command: []string{"x"}, Ports: ports}, "127.0.0.1:8080", "", ""},
		{"no port", v1alpha1.WorkloadSpec{Command: []string{"x"}}, "", "", ""},
		{"named port", v1alpha1.WorkloadSpec{Address: "::1", Ports: ports, Readiness: get("/a?b", intstr.FromString("http"))}, "[::1]:8080", "http://[::1]:8080/a?b", ""},
		{"numeric name wins", v1alpha1.WorkloadSpec{Address: "10.0.0.1", Ports: ports, Readiness: get("", intstr.FromString("9"))}, "10.0.0.1:9090", "http://10.0.0.1:9090/", ""},
		{"number in a string", v1alpha1.WorkloadSpec{Address: "10.0.0.1", Readiness: get("x", intstr.FromString("81"))}, "10.0.0.1:81", "http://10.0.0.1:81/x", ""},
		{"number", v1alpha1.WorkloadSpec{Address: "10.0.0.1", Readiness: get("", intstr.FromInt32(9))}, "10.0.0.1:9", "http://10.0.0.1:9/", ""},
		{"unknown port", v1alpha1.WorkloadSpec{Address: "10.0.0.1", Readiness: get("", intstr.FromString("web"))}, "", "", `port "web"`},
		{"port 0", v1alpha1.WorkloadSpec{Address: "10.0.0.1", Readiness: get("", intstr.FromInt32(0))}, "", "", `port "0"`},
		{"bad path", v1alpha1.WorkloadSpec{Address: "10.0.0.1", Readiness: get("/%zz", intstr.FromInt32(1))}, "", "", "not a path"},
		{"bad address", v1alpha1.WorkloadSpec{Address: "host", Readiness: get("/", intstr.FromInt32(1))}, "", "", "not an IP address"},
		{"empty probe", v1alpha1.WorkloadSpec{Address: "10.0.0.1", Readiness: &v1alpha1.Probe{}}, "", "", "neither http nor tcp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := newCheck(&target{obj: &v1alpha1.Workload{Spec: tt.spec}})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q in it", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c == nil {
				c = &check{}
			}
			if c.addr != tt.addr || c.url != tt.url {
				t.Errorf("got %q and %q, want %q and %q", c.addr, c.url, tt.addr, tt.url)
			}
		})
	}
}

func TestAProbeDoesNotFollowRedirects(t *testing.T) {
	followed := make(chan struct{}, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			followed <- struct{}{}
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer srv.Close()
	c := &check{addr: srv.Listener.Addr().String(), url: srv.URL + "/", timeout: 5e9}
	if v := c.probe(context.Background(), c.client()); !v.ready {
		t.Errorf("got %+v", v)
	}
	select {
	case <-followed:
		t.Error("the redirect was followed")
	default:
	}
}

func TestTheMessageOfAFailedProbeIsStable(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	slow := &check{addr: addr, url: srv.URL + "/", timeout: 1e7}
	if got, want := slow.probe(context.Background(), slow.client()).message, "GET "+srv.URL+"/: no answer in time"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	addr = closed.Listener.Addr().String()
	c := &check{addr: addr, timeout: 5e9}
	if got, want := c.probe(context.Background(), nil).message, "no TCP connection to "+addr+": connection refused"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
