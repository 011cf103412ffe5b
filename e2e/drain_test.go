package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// slow is a backend whose answers wait.
type slow struct {
	addr    string
	arrived chan string   // the path of each request that came
	release chan struct{} // closed to let them all go on
}

func newSlow(t *testing.T) *slow {
	t.Helper()
	s := &slow{arrived: make(chan string, 100), release: make(chan struct{})}
	s.addr = serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.HasPrefix(r.URL.Path, "/begun") {
			_, _ = io.WriteString(w, "first half, ")
			w.(http.Flusher).Flush()
		}
		s.arrived <- r.URL.Path
		select {
		case <-s.release:
			fmt.Fprintf(w, "done %s", body)
		case <-r.Context().Done():
		}
	})
	return s
}

func waitFor[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatalf("waited 30 s for %s", what)
		panic("unreachable")
	}
}

// TestShutdownLetsRequestsEnd: SIGTERM closes the doors and waits for who is in.
func TestShutdownLetsRequestsEnd(t *testing.T) {
	t.Parallel()
	s := newSlow(t)
	port := freePort(t)
	w := up(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", s.addr), "r.yaml": route("r", "/", "a")})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}
	results := make(chan error, 2)
	go func() {
		resp, err := client.Post("http://"+addr+"/waits", "text/plain", strings.NewReader("x"))
		if err == nil {
			err = wantBody(resp, []byte("done x"))
		}
		results <- err
	}()
	go func() {
		resp, err := client.Get("http://" + addr + "/begun")
		if err == nil {
			err = wantBody(resp, []byte("first half, done "))
		}
		results <- err
	}()
	waitFor(t, "the first request", s.arrived)
	waitFor(t, "the second request", s.arrived)
	w.signal(syscall.SIGTERM)
	w.eventually("new connections are refused", func() error {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
			return errors.New("accepted")
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		return nil
	})
	select {
	case err := <-results:
		t.Errorf("a request ended early: %v", err)
	case <-w.done:
		t.Error("windrose ended with requests in flight")
	default:
	}
	close(s.release)
	for range 2 {
		if err := waitFor(t, "the answers", results); err != nil {
			t.Error(err)
		}
	}
	if code := w.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestShutdownEndsWhatLastsTooLong: the drain timeout of GatewayParameters bounds
// it.
func TestShutdownEndsWhatLastsTooLong(t *testing.T) {
	t.Parallel()
	s := newSlow(t)
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": withParameters(gateway(port), "{timeouts: {drain: 1s}}"),
		"a.yaml":       service("a", s.addr), "r.yaml": route("r", "/", "a"),
	})
	result := make(chan error, 1)
	go func() {
		result <- get(&http.Client{Timeout: time.Minute}, fmt.Sprintf("http://127.0.0.1:%d/never", port))
	}()
	waitFor(t, "the request", s.arrived)
	start := time.Now()
	w.signal(syscall.SIGTERM)
	if err := waitFor(t, "the end of the request", result); err == nil {
		t.Error("the request was answered 200 by nobody")
	} else {
		t.Log(err)
	}
	code := w.wait()
	if took := time.Since(start); took < time.Second || took > 15*time.Second {
		t.Errorf("it took %v with a drain timeout of 1s", took)
	}
	if code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestRemovedListenerDrains: a port that goes away lets requests end, and the
// other ports do not notice.
//
// covers: GatewayModifyListeners
func TestRemovedListenerDrains(t *testing.T) {
	t.Parallel()
	s := newSlow(t)
	stays, goes := freePort(t), freePort(t)
	listeners := []string{
		fmt.Sprintf("{name: stays, protocol: HTTP, port: %d}", stays),
		fmt.Sprintf("{name: goes, protocol: HTTP, port: %d}", goes),
	}
	w := up(t, map[string]string{"gateway.yaml": gatewayOf(listeners...), "a.yaml": service("a", s.addr), "r.yaml": route("r", "/", "a")})
	results := make(chan error, 2)
	for _, port := range []int{stays, goes} {
		go func() {
			results <- get(&http.Client{Timeout: time.Minute, Transport: &http.Transport{}}, fmt.Sprintf("http://127.0.0.1:%d/", port))
		}()
		waitFor(t, "the request", s.arrived)
	}
	w.write("gateway.yaml", gatewayOf(listeners[0]))
	w.eventually("the port is closed", func() error {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", goes), time.Second)
		if err == nil {
			conn.Close()
			return errors.New("accepted")
		}
		return nil
	})
	close(s.release)
	for range 2 {
		if err := waitFor(t, "the answers", results); err != nil {
			t.Error(err)
		}
	}
}
