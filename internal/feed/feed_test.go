package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// pipes is a listener whose connections are in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, errors.New("nobody listens")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func allow(net.Conn) error { return nil }

// control is a running server.
type control struct {
	*Server
	*pipes
	acks chan Ack
	gone chan error
	stop func()
}

func startControl(t *testing.T) *control {
	c := &control{Server: &Server{Build: "test", Check: allow}, pipes: newPipes(), acks: make(chan Ack, 100), gone: make(chan error, 100)}
	c.OnAck = func(_ Peer, a Ack) { c.acks <- a }
	c.OnPeer = func(_ Peer, err error) {
		if err != nil {
			c.gone <- err
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, c.pipes) }()
	c.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	}
	return c
}

// dataplane is a running client that keeps what it was given.
type dataplane struct {
	Client
	parts  map[plan.Key]*plan.Part
	deltas chan Delta
	states chan error
	answer atomic.Pointer[func(Delta) Ack]
	stop   func()
}

func startDataplane(t *testing.T, dial func(context.Context) (net.Conn, error), held ...plan.Part) *dataplane {
	d := &dataplane{
		Client: Client{Node: "node", Build: "test", Held: held},
		parts:  map[plan.Key]*plan.Part{}, deltas: make(chan Delta, 100), states: make(chan error, 1000),
	}
	d.answers(func(Delta) Ack { return Ack{} })
	d.OnState = func(err error) { d.states <- err }
	for i := range held {
		d.parts[held[i].Key] = &held[i]
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- d.Run(ctx, dial, func(delta Delta) Ack {
			ack := (*d.answer.Load())(delta)
			if ack.Refused == "" {
				for _, key := range delta.Removed {
					delete(d.parts, key)
				}
				for i := range delta.Parts {
					d.parts[delta.Parts[i].Key] = &delta.Parts[i]
				}
			}
			d.deltas <- delta
			return ack
		})
	}()
	d.stop = func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("client: got %v, want canceled", err)
		}
	}
	return d
}

// answers says what becomes of the next deltas.
func (d *dataplane) answers(f func(Delta) Ack) { d.answer.Store(&f) }

func (d *dataplane) serves(t *testing.T, parts []*plan.Part) {
	t.Helper()
	if len(d.parts) != len(parts) {
		t.Errorf("the data plane has %d parts, want %d", len(d.parts), len(parts))
	}
	for _, want := range parts {
		got := d.parts[want.Key]
		if got == nil {
			t.Errorf("the data plane lacks %s", want.Key)
			continue
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if string(a) != string(b) {
			t.Errorf("%s: got %s, want %s", want.Key, a, b)
		}
	}
}

func route(name, path string) *plan.Part {
	return &plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "HTTPRoute/default/" + name}, Route: &plan.Route{
		Created: 1700000000,
		Attach:  []plan.Attachment{{Listener: "Gateway/default/gw/http", Host: "shop.example", Original: "shop.example"}},
		Rules: []plan.Rule{{
			Matches:  []plan.Match{{PathType: plan.PathPrefix, Path: path}},
			Backends: []plan.Backend{{Service: "default/" + name + ":80", Weight: 1}},
		}},
	}}
}

func service(name string, endpoints int) *plan.Part {
	s := &plan.Service{Protocol: plan.HTTP}
	for i := range endpoints {
		s.Endpoints = append(s.Endpoints, plan.Endpoint{
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 8080), Name: fmt.Sprintf("pod-%d", i),
		})
	}
	return &plan.Part{Key: plan.Key{Kind: plan.KindService, Name: "default/" + name + ":80"}, Service: s}
}

func routes(n int) []*plan.Part {
	parts := make([]*plan.Part, n)
	for i := range parts {
		parts[i] = route(fmt.Sprintf("r%05d", i), fmt.Sprintf("/p%d", i))
	}
	return parts
}

// peers are the data planes that follow the plan, in no particular order.
func (s *Server) peers() []Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Peer
	for c := range s.clients {
		if c.welcome {
			all = append(all, c.peer)
		}
	}
	return all
}

func use(t *testing.T, c *control, version uint64, parts []*plan.Part) {
	t.Helper()
	if err := c.Use(version, parts); err != nil {
		t.Fatal(err)
	}
}

func TestDeltas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		d := startDataplane(t, c.dial)
		synctest.Wait()
		if got := c.peers(); len(got) != 1 || got[0] != (Peer{"node", "test"}) {
			t.Errorf("clients: %v", got)
		}
		// Enough for several frames.
		parts := routes(3000)
		use(t, c, 7, parts)
		if delta := <-d.deltas; delta.Version != 7 || len(delta.Parts) != 3000 {
			t.Errorf("got version %d with %d parts, want 7 with all", delta.Version, len(delta.Parts))
		}
		if ack := <-c.acks; ack.Version != 7 || ack.Refused != "" {
			t.Errorf("ack: %+v", ack)
		}
		d.serves(t, parts)

		// One changed, one equal with another pointer, one removed, one new.
		next := slices.Clone(parts[1:])
		next[5] = route("r00006", "/other")
		next[6] = route("r00007", "/p7")
		next = append(next, service("s", 2))
		use(t, c, 8, next)
		delta := <-d.deltas
		if len(delta.Parts) != 2 || len(delta.Removed) != 1 || delta.Removed[0] != parts[0].Key {
			t.Errorf("got %d parts, removed %v", len(delta.Parts), delta.Removed)
		}
		<-c.acks
		d.serves(t, next)

		// No difference still is a version that the data plane answers for.
		use(t, c, 9, next)
		if delta := <-d.deltas; delta.Version != 9 || len(delta.Parts)+len(delta.Removed) != 0 {
			t.Errorf("got %+v, want an empty delta", delta)
		}
		// Days of silence do not end the stream.
		time.Sleep(48 * time.Hour)
		if len(c.peers()) != 1 || len(c.gone) > 0 {
			t.Error("the idle stream ended")
		}
		d.stop()
		c.stop()
	})
}

func TestSlowClientSkipsVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		d := startDataplane(t, c.dial)
		hold := make(chan struct{})
		d.answers(func(Delta) Ack { <-hold; return Ack{} })
		other := startDataplane(t, c.dial)
		for v := range uint64(50) {
			use(t, c, v+1, routes(int(v+1)))
			synctest.Wait()
		}
		if got := len(other.deltas); got != 50 {
			t.Errorf("the quick one got %d deltas, want 50", got)
		}
		close(hold)
		synctest.Wait()
		if first, second := <-d.deltas, <-d.deltas; first.Version != 1 || second.Version != 50 || len(second.Parts) != 49 {
			t.Errorf("the slow one got versions %d and %d", first.Version, second.Version)
		}
		d.serves(t, routes(50))
		d.stop()
		other.stop()
		c.stop()
	})
}

func TestDeadClientIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		use(t, c, 1, routes(10))
		d := startDataplane(t, c.dial)
		hold := make(chan struct{})
		d.answers(func(Delta) Ack { <-hold; return Ack{} })
		err := <-c.gone
		if want := "no answer to version 1 within 30s"; err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		close(hold)
		synctest.Wait()
		d.stop()
		c.stop()
	})
}

func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := startControl(t)
		var listening atomic.Pointer[pipes]
		listening.Store(first.pipes)
		d := startDataplane(t, func(ctx context.Context) (net.Conn, error) { return listening.Load().dial(ctx) })
		parts := append(routes(100), service("s", 1))
		use(t, first, 1000, parts)
		<-d.deltas
		synctest.Wait()
		first.stop()
		time.Sleep(time.Minute)

		// Another control part knows nothing of the first one's versions.
		next := slices.Clone(parts[1:])
		next[0] = route("r00001", "/changed")
		second := startControl(t)
		use(t, second, 1, next)
		listening.Store(second.pipes)
		delta := <-d.deltas
		if delta.Version != 1 || len(delta.Parts) != 1 || len(delta.Removed) != 1 {
			t.Errorf("got version %d, %d parts, %d removed; want only what differs", delta.Version, len(delta.Parts), len(delta.Removed))
		}
		<-second.acks
		d.serves(t, next)
		d.stop()
		second.stop()
	})
}

func TestHeldParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		use(t, c, 1, append(routes(5), service("s", 3)))
		held := []plan.Part{*route("r00000", "/p0"), *route("r00001", "/old"), *service("s", 3), *service("gone", 1)}
		d := startDataplane(t, c.dial, held...)
		delta := <-d.deltas
		if len(delta.Parts) != 4 || len(delta.Removed) != 1 {
			t.Errorf("got %d parts, %d removed, want 4 and 1", len(delta.Parts), len(delta.Removed))
		}
		d.serves(t, append(routes(5), service("s", 3)))
		d.stop()
		c.stop()
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		d := startDataplane(t, func(context.Context) (net.Conn, error) {
			dials.Add(1)
			return nil, errors.New("no such file")
		})
		time.Sleep(10 * time.Minute)
		if n := dials.Load(); n < 100 || n > 260 {
			t.Errorf("%d dials in 10 minutes", n)
		}
		d.stop()
	})
}

func TestProblemsAndReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		d := startDataplane(t, c.dial)
		problem := plan.Problem{Key: plan.Key{Kind: plan.KindSocket, Name: "tcp/[::]:80"}, Reason: "AddressInUse", Message: "in use"}
		d.answers(func(Delta) Ack { return Ack{Problems: []plan.Problem{problem}} })
		use(t, c, 3, routes(1))
		if ack := <-c.acks; ack.Version != 3 || len(ack.Problems) != 1 || ack.Problems[0] != problem {
			t.Errorf("got %+v", ack)
		}
		synctest.Wait()
		d.Report(nil)
		if ack := <-c.acks; ack.Version != 3 || len(ack.Problems) != 0 {
			t.Errorf("got %+v", ack)
		}
		many := make([]plan.Problem, 5000)
		d.answers(func(Delta) Ack { return Ack{Problems: many} })
		use(t, c, 4, routes(2))
		if ack := <-c.acks; len(ack.Problems) != maxProblems {
			t.Errorf("got %d problems, want %d", len(ack.Problems), maxProblems)
		}
		d.stop()
		c.stop()
	})
}

func TestRefusedDeltaIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		d := startDataplane(t, c.dial)
		use(t, c, 1, routes(3))
		<-d.deltas
		<-c.acks
		refusal := "not today"
		d.answers(func(Delta) Ack { return Ack{Refused: refusal} })
		use(t, c, 2, routes(1))
		<-d.deltas
		if ack := <-c.acks; ack.Refused != refusal || ack.Version != 2 {
			t.Errorf("got %+v", ack)
		}
		synctest.Wait()
		d.serves(t, routes(3))
		d.answers(func(Delta) Ack { return Ack{} })
		next := append(routes(1), service("s", 1))
		use(t, c, 3, next)
		if delta := <-d.deltas; len(delta.Parts) != 1 || len(delta.Removed) != 2 {
			t.Errorf("got %d parts and %d removed, want also what version 2 changed", len(delta.Parts), len(delta.Removed))
		}
		d.serves(t, next)
		d.stop()
		c.stop()
	})
}

// TestNotUnderstood plays a control part that is newer than the data plane.
func TestNotUnderstood(t *testing.T) {
	const good = `{"hash":"00000000000000000000000000000001","part":{"key":{"kind":"service","name":"a/b:80"},"service":{"protocol":"http"}}}`
	tests := []struct {
		name, part, want string
	}{
		{"a field", `{"hash":"00000000000000000000000000000000","part":{"key":{"kind":"route","name":"HTTPRoute/a/b"},"route":{"created":1,"attach":[],"rules":[],"onlyFor":"me"}}}`, `part route/HTTPRoute/a/b is not understood: json: unknown field "onlyFor"`},
		{"a kind", `{"hash":"00000000000000000000000000000000","part":{"key":{"kind":"wall","name":"w"}}}`, "part wall/w is empty or of a kind that this data plane does not know"},
		{"a kind with its content", `{"hash":"00000000000000000000000000000000","part":{"key":{"kind":"wall","name":"w"},"wall":{}}}`, `part wall/w is not understood: json: unknown field "wall"`},
		{"another content", `{"hash":"00000000000000000000000000000000","part":{"key":{"kind":"route","name":"r"},"service":{"protocol":"http"}}}`, "part route/r is empty or of a kind that this data plane does not know"},
		{"a hash", `{"hash":"0","part":{"key":{"kind":"wall","name":"w"}}}`, "part wall/w is not understood: hash of 1 digits, want 32"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipes()
				d := startDataplane(t, p.dial)
				w := greetAsServer(t, p)
				for _, frame := range []string{
					`{"type":"delta","version":5,"parts":[` + good + `]}`,
					`{"type":"delta","version":5,"parts":[` + good + `,` + tt.part + `]}`,
					`{"type":"delta","version":5,"parts":[` + good + `]}`,
					`{"type":"delta","version":5,"last":true}`,
				} {
					if err := w.sendRaw([]byte(frame)); err != nil {
						t.Fatal(err)
					}
				}
				if ack := readAck(t, w); ack.Version != 5 || ack.Refused != tt.want {
					t.Errorf("got %+v, want refused: %s", ack, tt.want)
				}
				if len(d.deltas) > 0 {
					t.Error("it was applied")
				}
				// The next one is taken.
				if err := w.sendRaw([]byte(`{"type":"delta","version":6,"parts":[` + good + `],"last":true}`)); err != nil {
					t.Fatal(err)
				}
				if ack := readAck(t, w); ack.Version != 6 || ack.Refused != "" || len(d.parts) != 1 {
					t.Errorf("got %+v", ack)
				}
				w.conn.Close()
				d.stop()
			})
		})
	}
}

// greetAsServer takes a client's greeting and welcomes it.
func greetAsServer(t *testing.T, p *pipes) *wire {
	t.Helper()
	conn, err := p.Accept()
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(conn)
	for _, want := range []string{typeHello, typeHeld} {
		var m message
		data, err := w.receive(time.Second)
		if err == nil {
			err = json.Unmarshal(data, &m)
		}
		if err != nil || m.Type != want {
			t.Fatalf("got %q, %v, want %s", m.Type, err, want)
		}
	}
	if err := w.send(&message{Type: typeWelcome, Protocol: Protocol}); err != nil {
		t.Fatal(err)
	}
	return w
}

func readAck(t *testing.T, w *wire) Ack {
	t.Helper()
	var m message
	data, err := w.receive(time.Second)
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil || m.Ack == nil {
		t.Fatalf("no ack: %v", err)
	}
	return *m.Ack
}

func TestProtocolMismatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		conn, err := c.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w := newWire(conn)
		go w.sendRaw([]byte(`{"type":"hello","protocol":2,"build":"v9","node":"n","new":true}`))
		_, err = readGreeting(w)
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "speaks 2") {
			t.Errorf("the client got %v", err)
		}
		conn.Close()
		if err := <-c.gone; !errors.As(err, &refused) {
			t.Errorf("the server got %v", err)
		}
		c.stop()
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		d := startDataplane(t, p.dial)
		conn, _ := p.Accept()
		w := newWire(conn)
		go func() {
			for {
				if _, err := w.receive(time.Minute); err != nil {
					return
				}
			}
		}()
		if err := w.send(&message{Type: typeWelcome, Protocol: 2, Build: "v9"}); err != nil {
			t.Fatal(err)
		}
		if err := <-d.states; err == nil || !strings.Contains(err.Error(), "speaks 2") {
			t.Errorf("got %v", err)
		}
		d.stop()
	})
}

func TestServerRefuses(t *testing.T) {
	tests := []struct {
		name, frame, want string
	}{
		{"no hello", `{"type":"ack"}`, `begins with "ack"`},
		{"garbage", `hello`, "not understood"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startControl(t)
				conn, _ := c.dial(t.Context())
				w := newWire(conn)
				if err := w.sendRaw([]byte(tt.frame)); err != nil {
					t.Fatal(err)
				}
				if _, err := readGreeting(w); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				conn.Close()
				<-c.gone
				c.stop()
			})
		})
	}
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startControl(t)
			start := time.Now()
			conn, _ := c.dial(t.Context())
			<-c.gone
			if got := time.Since(start); got != helloTimeout {
				t.Errorf("left after %v, want %v", got, helloTimeout)
			}
			conn.Close()
			c.stop()
		})
	})
	t.Run("too many", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startControl(t)
			var all []*dataplane
			for range maxClients {
				all = append(all, startDataplane(t, c.dial))
			}
			synctest.Wait()
			extra := startDataplane(t, c.dial)
			var refused *RefusedError
			if err := <-extra.states; !errors.As(err, &refused) {
				t.Errorf("got %v", err)
			}
			for _, d := range append(all, extra) {
				d.stop()
			}
			c.stop()
		})
	})
}

func TestUseRefuses(t *testing.T) {
	s := &Server{}
	if err := s.Use(1, []*plan.Part{route("a", "/"), route("a", "/b")}); err == nil {
		t.Error("two parts of one key were taken")
	}
	if err := s.Use(1, []*plan.Part{route("a", "/"+strings.Repeat("x", maxFrame))}); err == nil {
		t.Error("a part was taken that no frame can carry")
	}
}

// TestRemovedPartsAreForgotten holds the memory of removals to what a client
// may still lack.
func TestRemovedPartsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		d := startDataplane(t, c.dial)
		for v := range uint64(20) {
			use(t, c, v+1, []*plan.Part{route(fmt.Sprint("r", v), "/")})
			synctest.Wait()
		}
		if len(c.graves) > 1 {
			t.Errorf("%d removals are remembered", len(c.graves))
		}
		d.serves(t, []*plan.Part{route("r19", "/")})
		d.stop()
		synctest.Wait()
		use(t, c, 21, nil)
		use(t, c, 22, nil)
		if len(c.graves) > 0 {
			t.Errorf("%d removals are remembered without clients", len(c.graves))
		}
		c.stop()
	})
}
