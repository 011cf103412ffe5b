package dataplane

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"windrose.dev/windrose/internal/feed"
	"windrose.dev/windrose/internal/plan"
)

// bench is a data plane with a control part that the test plays.
type rig struct {
	t      *testing.T
	dir    string
	acks   chan feed.Ack
	server *feed.Server
	health string
	stop   func()
}

func freeAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return netip.MustParseAddrPort(ln.Addr().String())
}

func (r *rig) control(ctx context.Context) {
	r.t.Helper()
	ln, err := net.Listen("unix", filepath.Join(r.dir, "feed.sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = &feed.Server{Build: "test", Check: feed.LocalPeer(), OnAck: func(_ feed.Peer, a feed.Ack) { r.acks <- a }}
	go func() { _ = r.server.Run(ctx, ln) }()
}

func (r *rig) dataplane() {
	r.t.Helper()
	r.health = freeAddr(r.t).String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{
			Feed: filepath.Join(r.dir, "feed.sock"), Store: filepath.Join(r.dir, "plan"), Node: "n", Version: "test",
			Health: r.health, Log: io.Discard, Say: func(m string, args ...any) { r.t.Log(append([]any{m}, args...)...) },
		})
	}()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Error(err)
			}
		})
	}
	r.t.Cleanup(r.stop)
}

func (r *rig) ack() feed.Ack {
	r.t.Helper()
	select {
	case a := <-r.acks:
		return a
	case <-time.After(10 * time.Second):
		r.t.Fatal("no ack")
		return feed.Ack{}
	}
}

// eventually polls, because the other end is another goroutine's socket.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}

func get(url string) (int, string) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func gatewayParts(addr netip.AddrPort, backend string) []*plan.Part {
	return []*plan.Part{
		{Key: plan.Key{Kind: plan.KindSocket, Name: plan.SocketName(addr)}, Socket: &plan.Socket{Addr: addr}},
		{Key: plan.Key{Kind: plan.KindListener, Name: "l"}, Listener: &plan.Listener{Sockets: []string{plan.SocketName(addr)}, Protocol: plan.HTTP}},
		{Key: plan.Key{Kind: plan.KindRoute, Name: "r"}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: "l"}},
			Rules:  []plan.Rule{{Matches: []plan.Match{{PathType: plan.PathPrefix, Path: "/"}}, Backends: []plan.Backend{{Service: "s", Weight: 1}}}},
		}},
		{Key: plan.Key{Kind: plan.KindService, Name: "s"}, Service: &plan.Service{Protocol: plan.HTTP, Endpoints: []plan.Endpoint{{Addr: netip.MustParseAddrPort(backend)}}}},
	}
}

func TestLifeOfADataPlane(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello ", r.URL.Path) }))
	defer backend.Close()
	r := &rig{t: t, dir: t.TempDir(), acks: make(chan feed.Ack, 16)}
	ctx, endControl := context.WithCancel(context.Background())
	defer endControl()
	r.control(ctx)
	r.dataplane()

	eventually(t, "live", func() bool { code, _ := get("http://" + r.health + "/healthz/live"); return code == 200 })
	if code, body := get("http://" + r.health + "/healthz/ready"); code != 503 {
		t.Errorf("ready before a plan: %d %s", code, body)
	}

	addr := freeAddr(t)
	parts := gatewayParts(addr, backend.Listener.Addr().String())
	if err := r.server.Use(1, parts); err != nil {
		t.Fatal(err)
	}
	if a := r.ack(); a.Version != 1 || len(a.Problems) != 0 || a.Refused != "" {
		t.Fatalf("ack: %+v", a)
	}
	if code, body := get("http://" + addr.String() + "/x"); code != 200 || body != "hello /x" {
		t.Errorf("got %d %q", code, body)
	}
	if code, _ := get("http://" + r.health + "/healthz/ready"); code != 200 {
		t.Errorf("ready with a plan: %d", code)
	}

	// A socket that somebody else has is a problem of its own, and mends itself.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	busy := netip.MustParseAddrPort(taken.Addr().String())
	more := append(slices.Clone(parts), &plan.Part{Key: plan.Key{Kind: plan.KindSocket, Name: plan.SocketName(busy)}, Socket: &plan.Socket{Addr: busy}},
		&plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "l2"}, Listener: &plan.Listener{Sockets: []string{plan.SocketName(busy)}, Protocol: plan.HTTP}})
	if err := r.server.Use(2, more); err != nil {
		t.Fatal(err)
	}
	if a := r.ack(); len(a.Problems) != 1 || !strings.Contains(a.Problems[0].Message, "address already in use") {
		t.Fatalf("ack with a taken address: %+v", a)
	}
	if code, _ := get("http://" + addr.String() + "/x"); code != 200 {
		t.Errorf("the other socket must serve: %d", code)
	}
	taken.Close()
	if a := r.ack(); len(a.Problems) != 0 {
		t.Fatalf("report after the address is free: %+v", a)
	}

	// Without a control part traffic flows, and a new data plane serves what is
	// stored.
	eventually(t, "stored", func() bool { _, err := os.Stat(filepath.Join(r.dir, "plan")); return err == nil })
	endControl()
	if code, _ := get("http://" + addr.String() + "/x"); code != 200 {
		t.Errorf("without control: %d", code)
	}
	r.stop()
	r.dataplane()
	eventually(t, "stored plan in use", func() bool { code, _ := get("http://" + addr.String() + "/x"); return code == 200 })

	// A new control part sends only what changed.
	os.Remove(filepath.Join(r.dir, "feed.sock"))
	ctx2, end2 := context.WithCancel(context.Background())
	defer end2()
	r.control(ctx2)
	if err := r.server.Use(7, parts[:3]); err != nil {
		t.Fatal(err)
	}
	if a := r.ack(); a.Version != 7 || a.Refused != "" {
		t.Fatalf("ack: %+v", a)
	}
	if code, body := get("http://" + addr.String() + "/x"); code < 500 || !strings.Contains(body, "s") {
		t.Errorf("after the service went: %d %q", code, body)
	}
}
