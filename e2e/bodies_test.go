package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

const gib = 1 << 30

// meter counts what passes.
type meter struct{ n atomic.Int64 }

func (m *meter) Write(p []byte) (int, error) {
	m.n.Add(int64(len(p)))
	return len(p), nil
}

// stalls waits until nothing has passed for a while, and gives how much did.
func (m *meter) stalls(t *testing.T) int64 {
	t.Helper()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for last := int64(-1); ; {
		select {
		case <-deadline:
			t.Fatalf("the sender never stalls: %d bytes", last)
		case <-tick.C:
		}
		now := m.n.Load()
		if now == last && now > 0 {
			return now
		}
		last = now
	}
}

// zeros is a body of n bytes.
func zeros(n int64) io.Reader { return io.LimitReader(endless{}, n) }

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// stalledMost is what may be under way while the receiver reads nothing: the
// sockets' buffers of two connections and windrose's own.
const stalledMost = 64 << 20

// TestBigBodiesStayOutOfMemory sends 1 GiB each way, with receivers and senders
// that stall first and then are quick.
func TestBigBodiesStayOutOfMemory(t *testing.T) {
	t.Parallel()
	var sent, taken meter // by the backend
	open := make(chan struct{})
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = io.Copy(io.MultiWriter(w, &sent), zeros(gib))
			return
		}
		<-open
		n, err := io.Copy(&taken, r.Body)
		fmt.Fprintln(w, n, err)
	})
	port := freePort(t)
	w := up(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", addr), "r.yaml": route("r", "/", "a")})
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	plane := w.dataplane()
	before := memory(t, plane, "VmRSS")

	t.Run("down to a slow reader", func(t *testing.T) { download(t, url, &sent) })
	t.Run("up to a slow reader", func(t *testing.T) { upload(t, url, open) })
	t.Run("up from a slow writer", func(t *testing.T) { trickle(t, port, &taken) })

	if grown := memory(t, plane, "VmHWM") - before; grown > 64<<10 {
		t.Errorf("the data plane grew by %d KiB, from %d", grown, before)
	} else {
		t.Logf("the data plane grew by %d KiB, from %d", grown, before)
	}
}

func download(t *testing.T, url string, sent *meter) {
	client := &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n := sent.stalls(t); n > stalledMost {
		t.Errorf("%d MiB were sent while nobody read", n>>20)
	}
	start := time.Now()
	n, err := io.Copy(io.Discard, resp.Body)
	if n != gib || err != nil {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	t.Logf("%.0f MiB/s", float64(n>>20)/time.Since(start).Seconds())
}

func upload(t *testing.T, url string, open chan struct{}) {
	var sent meter
	client := &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, io.TeeReader(zeros(gib), &sent))
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		resp, err := client.Do(req)
		if err == nil {
			err = wantBody(resp, fmt.Appendln(nil, gib, "<nil>"))
		}
		result <- err
	}()
	if n := sent.stalls(t); n > stalledMost {
		t.Errorf("%d MiB were sent while nobody read", n>>20)
	}
	start := time.Now()
	close(open)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f MiB/s", float64(gib>>20)/time.Since(start).Seconds())
}

// trickle sends a body of which each part waits until the one before it has
// arrived at the backend: nothing is held back.
func trickle(t *testing.T, port int, taken *meter) {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const parts, size = 50, 1000
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", parts*size)
	start := taken.n.Load()
	for i := range int64(parts) {
		if _, err := conn.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the part has arrived", func() error {
			if taken.n.Load()-start < (i+1)*size {
				return errors.New("not yet")
			}
			return nil
		})
	}
	if answer, err := io.ReadAll(conn); err != nil || len(answer) < 12 || string(answer[9:12]) != "200" {
		t.Errorf("got %q, %v", answer, err)
	}
}
