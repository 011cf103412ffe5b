package plan

import (
	"net/netip"
	"slices"
	"testing"
)

func tracingPart(name, service string) Part {
	full := Share{1, 1}
	return Part{Key: Key{KindTracing, name}, Tracing: &Tracing{Protocol: OTLPGRPC, Service: service, Sampling: full, ParentSampling: full}}
}

// A listener finds what it traces by, in whatever order the two come, and loses
// it when that goes; the collector's service keeps its slot meanwhile.
func TestTracingOfAListener(t *testing.T) {
	b := NewBuilder()
	addr := netip.MustParseAddrPort("127.0.0.1:80")
	listener := Part{Key: Key{KindListener, "l"}, Listener: &Listener{Sockets: []string{SocketName(addr)}, Protocol: HTTP, Tracing: "t"}}
	p, problems := b.Apply([]Part{{Key: Key{KindSocket, SocketName(addr)}, Socket: &Socket{Addr: addr}}, listener}, nil)
	of := func() *BoundTracing { return p.Bound(SocketName(addr)).Listener(nil).Tracing }
	if of() != nil || !slices.ContainsFunc(problems, func(p Problem) bool { return p.Reason == TracingAbsent }) {
		t.Fatalf("tracing %v, problems %v", of(), problems)
	}
	p, problems = b.Apply([]Part{tracingPart("t", "s")}, nil)
	first := of()
	if first == nil || len(problems) != 0 || first.Parents != ParentsTrusted || p.ServiceName(first.Service) != "s" || p.Tracings()[first.Slot] != first {
		t.Fatalf("tracing %+v, problems %v", first, problems)
	}
	again := tracingPart("t", "s")
	again.Tracing.SpanName = "edge"
	p, _ = b.Apply([]Part{again}, nil)
	if of() == first || of().Slot != first.Slot || of().Service != first.Service || of().SpanName != "edge" {
		t.Errorf("changed to %+v", of())
	}
	p, problems = b.Apply([]Part{{Key: Key{KindTracing, "t"}, Tracing: &Tracing{Protocol: "morse", Service: "s"}}}, nil)
	if of() != nil || !slices.ContainsFunc(problems, func(p Problem) bool { return p.Reason == PartInvalid }) {
		t.Errorf("a protocol that nobody speaks: %+v, %v", of(), problems)
	}
	p, _ = b.Apply(nil, []Key{{KindTracing, "t"}})
	if of() != nil || p.Tracings()[first.Slot] != nil || len(b.asked) != 0 {
		t.Errorf("after it went: %+v, services asked %v", of(), b.asked)
	}
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		share Share
		want  int // of 1000 in a row
	}{{Share{0, 1}, 0}, {Share{1, 1}, 1000}, {Share{1, 100}, 10}, {Share{3, 10}, 300}, {Share{999, 1000}, 999}} {
		n := 0
		for i := range uint64(1000) {
			if c.share.Takes(i + 12345) {
				n++
			}
		}
		if n != c.want {
			t.Errorf("%v took %d of 1000, want %d", c.share, n, c.want)
		}
	}
}
