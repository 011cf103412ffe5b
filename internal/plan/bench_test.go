package plan

import (
	"fmt"
	"testing"
)

func header(string) ([]byte, bool) { return nil, false }

func TestMatchAllocates(t *testing.T) {
	p, _ := NewBuilder().Apply(append(base(),
		routePart("a", "shop.example", parseMatches("prefix /api/v1", "exact /x h:a=1 q:b=2", "regex /r/[0-9]+ q:c~[a-z]+")...),
		routePart("b", "*.example", parseMatches("prefix / GET")...),
	), nil)
	for _, s := range []string{"GET Shop.Example:8080/api/v1/x", "GET shop.example/x?b=%32 a:1", "GET shop.example/r/12?c=%61bc", "GET z.example/", "POST z.example/"} {
		r := request(t, s)
		l := p.Bound(testSocket).Listener(r.Host)
		if n := testing.AllocsPerRun(200, func() { l.Match(p, r) }); n > 0 {
			t.Errorf("%s: %v allocations", s, n)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	conditions := base()
	for i := range 100 {
		conditions = append(conditions, routePart(fmt.Sprintf("r%03d", i), "shop.example", parseMatch(fmt.Sprintf("prefix /api h:x=%d", i))))
	}
	for _, bm := range []struct {
		name  string
		parts []Part
		host  string
		path  string
	}{
		{"routes=1", manyRoutes(1, true), "shop.example", "/api/v1/team0/service0/items"},
		{"hosts=5000", manyRoutes(5000, false), "shop4321.example", "/api/v1/users"},
		{"prefixes=5000", manyRoutes(5000, true), "shop.example", "/api/v1/team21/service4321/items/7"},
		{"prefixes=5000/none", manyRoutes(5000, true), "shop.example", "/other/path/of/some/length"},
		{"conditions=100/none", conditions, "shop.example", "/api/v1"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			p, _ := NewBuilder().Apply(bm.parts, nil)
			r := &Request{Method: []byte("GET"), Host: []byte(bm.host), Path: []byte(bm.path), Header: header}
			l := p.Bound(testSocket).Listener(r.Host)
			b.ReportAllocs()
			for b.Loop() {
				l.Match(p, r)
			}
		})
	}
}

func BenchmarkListener(b *testing.B) {
	for _, n := range []int{1, 1000} {
		parts := base()
		for i := range n {
			parts = append(parts, listenerPart(fmt.Sprintf("l%d", i), fmt.Sprintf("shop%d.example", i)))
		}
		p, _ := NewBuilder().Apply(parts, nil)
		bound, host := p.Bound(testSocket), []byte(fmt.Sprintf("shop%d.example", n-1))
		b.Run(fmt.Sprintf("listeners=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bound.Listener(host)
			}
		})
	}
}

func manyCertificates(n int) []Part {
	parts := base()[:1]
	l := listenerPart(testListener, "")
	l.Listener.Protocol = HTTPS
	for i := range n {
		name := fmt.Sprintf("default/cert%d", i)
		parts = append(parts, certPart(name, i%2 == 0, fmt.Sprintf("shop%d.example", i)))
		l.Listener.Certificates = append(l.Listener.Certificates, name)
	}
	return append(parts, l)
}

func BenchmarkCertificate(b *testing.B) {
	p, _ := NewBuilder().Apply(manyCertificates(10_000), nil)
	bound := p.Bound(testSocket)
	b.Run("certificates=10000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if bound.Certificate("shop9999.example", true) == nil {
				b.Fatal("none")
			}
		}
	})
}

func BenchmarkApply(b *testing.B) {
	for _, oneHost := range []bool{true, false} {
		where := "hosts=5000"
		if oneHost {
			where = "hosts=1"
		}
		parts := manyRoutes(5000, oneHost)
		b.Run("all/routes=5000/"+where, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				NewBuilder().Apply(parts, nil)
			}
		})
		builder := NewBuilder()
		builder.Apply(parts, nil)
		// A route in the middle, with another path or backend each time.
		change := func(i int, path string) Part {
			part := manyRoutes(1, oneHost)[2]
			old := parts[2+2*2500].Route
			part.Key = parts[2+2*2500].Key
			part.Route.Attach = old.Attach
			part.Route.Rules[0].Matches[0].Path = path
			part.Route.Rules[0].Backends[0].Weight = int32(i)
			return part
		}
		b.Run("matches/routes=5000/"+where, func(b *testing.B) {
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				builder.Apply([]Part{change(i, fmt.Sprintf("/changed/%d", i))}, nil)
			}
		})
		b.Run("backends/routes=5000/"+where, func(b *testing.B) {
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				builder.Apply([]Part{change(i, "/same")}, nil)
			}
		})
		b.Run("endpoints/routes=5000/"+where, func(b *testing.B) {
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				part := servicePart("default/service02500:80")
				part.Service.Port = uint16(i)
				builder.Apply([]Part{part}, nil)
			}
		})
	}
	certs := manyCertificates(10_000)
	builder := NewBuilder()
	builder.Apply(certs, nil)
	b.Run("certificate/certificates=10000", func(b *testing.B) {
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			i++
			part := certPart("default/cert5000", false, "shop5000.example")
			part.Certificate.Chain = fmt.Appendf(nil, "%d", i)
			builder.Apply([]Part{part}, nil)
		}
	})
}
