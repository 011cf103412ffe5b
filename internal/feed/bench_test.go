package feed

import (
	"encoding/json"
	"fmt"
	"net"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// full is a plan of 5,000 routes, 5,000 services and 50,000 endpoints.
func full() []*plan.Part {
	parts := routes(5000)
	for i := range 5000 {
		parts = append(parts, service(fmt.Sprintf("r%05d", i), 10))
	}
	return parts
}

// BenchmarkSnapshot is a data plane's first sight of a large plan: encoding,
// the pipe, decoding.
func BenchmarkSnapshot(b *testing.B) {
	parts := full()
	s := &Server{}
	if err := s.Use(1, parts); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		transfer(b, s, &follower{server: s, held: map[plan.Key]Hash{}}, len(parts))
	}
}

// BenchmarkOneRoute is one changed route among 5,000, from Use to the decoded
// delta.
func BenchmarkOneRoute(b *testing.B) {
	parts := full()
	s := &Server{}
	if err := s.Use(1, parts); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		parts[2500] = route("r02500", fmt.Sprintf("/changed%d", i))
		if err := s.Use(uint64(i+2), parts); err != nil {
			b.Fatal(err)
		}
		transfer(b, s, &follower{server: s, acked: s.seq - 1}, 1)
	}
}

func BenchmarkUse(b *testing.B) {
	parts := full()
	b.ReportAllocs()
	for b.Loop() {
		s := &Server{}
		if err := s.Use(1, parts); err != nil {
			b.Fatal(err)
		}
	}
}

// transfer sends what a follower lacks through a pipe and reads it as a client
// does.
func transfer(b *testing.B, s *Server, c *follower, want int) {
	b.Helper()
	near, far := net.Pipe()
	c.wire = newWire(near)
	go func() {
		d, _ := s.next(c)
		if err := c.send(d); err != nil {
			b.Error(err)
		}
		near.Close()
	}()
	in := incoming{names: names{}}
	w := newWire(far)
	for {
		data, err := w.receive(time.Minute)
		if err != nil {
			b.Fatal(err)
		}
		m, err := in.take(data)
		if err != nil {
			b.Fatal(err)
		}
		if m.Last {
			break
		}
	}
	if len(in.delta.Parts) != want || in.refused != "" {
		b.Fatalf("got %d parts, want %d; refused %q", len(in.delta.Parts), want, in.refused)
	}
}

func TestSizeOfParts(t *testing.T) {
	bytes := 0
	for _, p := range full() {
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		bytes += len(data)
	}
	t.Logf("5,000 routes, 5,000 services and 50,000 endpoints are %d KiB on the wire", bytes>>10)
	if bytes > 8<<20 {
		t.Errorf("%d bytes, want under 8 MiB (measured 5 MiB)", bytes)
	}
}
