package tap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/record"
)

// full is a record with every field set.
func full() *record.Record {
	at := netip.MustParseAddrPort("[2001:db8::1]:8080")
	return &record.Record{
		Start: time.Unix(1_800_000_000, 123_456_000), Duration: 12 * time.Millisecond, Received: time.Microsecond, Asked: 2 * time.Microsecond, Answered: 11 * time.Millisecond,
		Upstream: 9 * time.Millisecond, ID: []byte("0123456789abcdef0123456789abcdef"), Client: netip.MustParseAddrPort("192.0.2.7:5120"),
		Protocol: "HTTP/1.1", TLS: "TLS1.3", Identity: "spiffe://example/cart", Method: []byte("GET"), Host: []byte("shop.example"), Path: []byte("/cart?token=1"), Agent: []byte("curl/8.9"),
		Listener: "Gateway/default/edge/https", Route: "HTTPRoute/default/shop", Rule: 2, Service: "default/shop:80",
		Endpoint: at, Attempts: 2, Status: 504, BytesIn: 10, BytesOut: 1024, Fault: record.BackendTimeout, Reason: "no answer",
		Tries: []record.Try{
			{Service: "default/old:80", Endpoint: netip.MustParseAddrPort("127.0.0.1:1"), Begun: time.Millisecond, Ended: 2 * time.Millisecond, Fault: record.ConnectFailed, Reason: "connection refused"},
			{
				Service: "default/shop:80", Endpoint: at, Begun: 2 * time.Millisecond, Connected: 2 * time.Millisecond, Sent: 3 * time.Millisecond,
				Answered: 11 * time.Millisecond, Ended: 12 * time.Millisecond, Reused: true, Status: 503, Fault: record.BackendTimeout, Reason: "no answer",
			},
		},
	}
}

// read gives the record of one entry.
func read(tb testing.TB, entry []byte) record.Record {
	tb.Helper()
	var r record.Record
	if rest := next(entry, &r); len(rest) != 0 {
		tb.Fatalf("%d bytes follow", len(rest))
	}
	return r
}

func TestEntryKeepsEveryField(t *testing.T) {
	want := full()
	got := read(t, appendEntry(nil, want, true))
	if !reflect.DeepEqual(&got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	want.Path = []byte("/cart")
	if got = read(t, appendEntry(nil, full(), false)); !reflect.DeepEqual(&got, want) {
		t.Errorf("without query: got %+v\nwant %+v", got, want)
	}
	// Not the record's own, so that a new field of it cannot be forgotten.
	left := map[string]bool{"RuleSlot": true, "ServiceSlot": true, "Trace": true} // a trace is told where it is exported
	empty := appendEntry(nil, &record.Record{}, true)
	for field := range reflect.TypeFor[record.Record]().Fields() {
		r := &record.Record{}
		reflect.ValueOf(r).Elem().FieldByIndex(field.Index).Set(reflect.ValueOf(full()).Elem().FieldByIndex(field.Index))
		if field.Name == "Endpoint" { // it is the last try's
			continue
		}
		if same := string(appendEntry(nil, r, true)) == string(empty); same != left[field.Name] {
			t.Errorf("%s: left out of the entry: %v, want %v", field.Name, same, left[field.Name])
		}
	}
}

func TestLongestEntryFits(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	r := full()
	r.ID = []byte(long[:maxID])
	r.Method, r.Host, r.Path, r.Agent = []byte(long), []byte(long), []byte("/"+long+"?"+long), []byte(long)
	r.Listener, r.Route, r.Service, r.Reason, r.Identity = long, long, long, long, long
	r.Tries = nil
	for range record.MaxTries {
		t := r.Try()
		t.Service, t.Reason, t.Endpoint = "another"+long, long, r.Endpoint
	}
	for _, query := range []bool{false, true} {
		n := len(appendEntry(nil, r, query))
		if n > sizeOf(r) || n > maxEntry {
			t.Errorf("got %d bytes, want at most %d as reckoned and %d", n, sizeOf(r), maxEntry)
		}
	}
	if n := len(appendEntry(nil, full(), true)); n > sizeOf(full()) {
		t.Errorf("got %d bytes, want at most %d as reckoned", n, sizeOf(full()))
	}
}

func TestEventAsJSON(t *testing.T) {
	r := read(t, appendEntry(nil, full(), false))
	text, err := json.Marshal(EventOf(&r))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"ts":"2027-01-15T08:00:00.123456Z","id":"0123456789abcdef0123456789abcdef","client":"192.0.2.7:5120","method":"GET","host":"shop.example","path":"/cart",` +
		`"protocol":"HTTP/1.1","tls":"TLS1.3","identity":"spiffe://example/cart","status":504,"bytes_in":10,"bytes_out":1024,"duration_ms":12.000,"received_ms":0.001,"asked_ms":0.002,"answered_ms":11.000,"upstream_ms":9.000,` +
		`"listener":"Gateway/default/edge/https","route":"HTTPRoute/default/shop","rule":2,"service":"default/shop:80","endpoint":"[2001:db8::1]:8080","attempts":2,"agent":"curl/8.9",` +
		`"fault":"backend-timeout","side":"upstream","reason":"no answer","mend":"make the service faster, or raise timeouts.backendRequest of the route's rule",` +
		`"tries":[{"service":"default/old:80","endpoint":"127.0.0.1:1","begun_ms":1.000,"ended_ms":2.000,"fault":"connect-failed","reason":"connection refused"},` +
		`{"service":"default/shop:80","endpoint":"[2001:db8::1]:8080","begun_ms":2.000,"connected_ms":2.000,"sent_ms":3.000,"answered_ms":11.000,"ended_ms":12.000,"reused":true,"status":503,"fault":"backend-timeout","reason":"no answer"}]}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	var back Event
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, EventOf(&r)) {
		t.Errorf("read back: %v, %+v", err, back)
	}
}

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		f     Filter
		takes bool
	}{
		{Filter{}, true},
		{Filter{Route: "shop"}, true},
		{Filter{Route: "default/shop"}, true},
		{Filter{Route: "HTTPRoute/default/shop"}, true},
		{Filter{Route: "sho"}, false},
		{Filter{Route: "fault/shop"}, false},
		{Filter{Listener: "edge"}, true},
		{Filter{Listener: "edge/https"}, true},
		{Filter{Listener: "http"}, false},
		{Filter{Service: "shop"}, true},
		{Filter{Service: "default/shop"}, true},
		{Filter{Service: "shop:80"}, true},
		{Filter{Service: "shop:8"}, false},
		{Filter{Code: "504"}, true},
		{Filter{Code: "5xx"}, true},
		{Filter{Code: "5XX"}, true},
		{Filter{Code: "4xx"}, false},
		{Filter{Path: "/ca"}, true},
		{Filter{Path: "/cart?"}, false},
		{Filter{Path: "/carts"}, false},
		{Filter{Host: "SHOP.example"}, true},
		{Filter{Host: "*.example"}, true},
		{Filter{Host: "*.shop.example"}, false},
		{Filter{Host: "example"}, false},
		{Filter{Method: "get"}, true},
		{Filter{Method: "POST"}, false},
		{Filter{Fault: "any"}, true},
		{Filter{Fault: "backend-timeout"}, true},
		{Filter{Fault: "no-route"}, false},
		{Filter{Client: "192.0.2.7"}, true},
		{Filter{Client: "::ffff:192.0.2.7"}, true},
		{Filter{Client: "192.0.2.9/24"}, true},
		{Filter{Client: "192.0.3.0/24"}, false},
		{Filter{Slow: 12 * time.Millisecond}, true},
		{Filter{Slow: 13 * time.Millisecond}, false},
		{Filter{Route: "shop", Code: "2xx"}, false},
	} {
		m, err := c.f.Compile()
		if err != nil {
			t.Errorf("%+v: %v", c.f, err)
			continue
		}
		r := full()
		r.Host = []byte("shop.Example:8443")
		if got := m.Takes(r); got != c.takes {
			t.Errorf("%+v: takes %v, want %v", c.f, got, c.takes)
		}
		if n := testing.AllocsPerRun(10, func() { m.Takes(r) }); n != 0 {
			t.Errorf("%+v: %v allocations", c.f, n)
		}
	}
	for f, want := range map[Filter]string{
		{Code: "600"}:                        `code "600" is not a status`,
		{Code: "9xx"}:                        `code "9xx" is not a status`,
		{Fault: "noroute"}:                   `fault "noroute" is not known: any, or one of bad-request, `,
		{Client: "example"}:                  `client "example" is neither an address nor a prefix`,
		{Slow: -1}:                           `slow -1ns is negative`,
		{Path: strings.Repeat("/", 1+1<<10)}: "over the limit",
	} {
		if _, err := f.Compile(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", f, err, want)
		}
	}
}

// at is the post of an event loop that runs what is posted at once.
func at(l func(func())) func(func()) error { return func(f func()) error { l(f); return nil } }

// one asks for one answer.
func one(t *testing.T, h *Hub, q *Question) *Answer {
	t.Helper()
	var got *Answer
	if err := h.Answer(t.Context(), q, func(a *Answer) error { got = a; return nil }); err != nil || got == nil {
		t.Fatalf("%+v: got %v and %v", q, got, err)
	}
	return got
}

// bytes is the memory that the ring has taken.
func (g *ring) bytes() int {
	n := 0
	for _, p := range g.pieces {
		n += cap(p)
	}
	return n
}

func TestFindAndRecent(t *testing.T) {
	h := NewHub(2)
	loops := []*Loop{h.Attach(at(func(f func()) { f() })), h.Attach(at(func(f func()) { f() }))}
	begin := time.Unix(1_800_000_000, 0)
	emit := func(i int, status int) {
		loops[i%2].Emit(&record.Record{Start: begin.Add(time.Duration(i) * time.Second), ID: fmt.Append(nil, "id-", i), Status: status, Path: fmt.Append(nil, "/", i, "?x")})
	}
	for i := range 10 {
		emit(i, 200)
	}
	emit(3, 500) // the same id again
	a := one(t, h, &Question{Find: "id-3"})
	if len(a.Events) != 2 || a.Events[0].Path != "/3" || !a.Reach.Ordinary.IsZero() || !a.Reach.Favoured.IsZero() {
		t.Errorf("got %+v and %+v, want two requests and nothing forgotten", a.Events, a.Reach)
	}
	if a := one(t, h, &Question{Find: "id-"}); len(a.Events) != 0 {
		t.Errorf("got %+v for an id that nobody had", a.Events)
	}
	a = one(t, h, &Question{Recent: &Recent{Limit: 3}})
	if len(a.Events) != 3 || a.Events[0].ID != "id-9" || a.Events[1].ID != "id-8" || a.Events[2].ID != "id-7" {
		t.Errorf("got %+v, want the newest three first", a.Events)
	}
	a = one(t, h, &Question{Recent: &Recent{Filter: Filter{Code: "5xx"}, Limit: 3}})
	if len(a.Events) != 1 || a.Events[0].ID != "id-3" {
		t.Errorf("got %+v, want the one that failed", a.Events)
	}
	// Ordinary requests push each other out; the one that failed stays.
	for i := range 10_000 {
		emit(100+i, 200)
	}
	a = one(t, h, &Question{Find: "id-3"})
	if len(a.Events) != 1 || a.Events[0].Status != 500 {
		t.Errorf("got %+v, want the one that failed alone", a.Events)
	}
	oldest := one(t, h, &Question{Recent: &Recent{Limit: MaxRecent}}).Reach.Ordinary
	if oldest.IsZero() || oldest.Before(begin.Add(100*time.Second)) || !a.Reach.Favoured.IsZero() {
		t.Errorf("got reach %v and %v, want that of ordinary ones alone to have an end", oldest, a.Reach.Favoured)
	}
	id := fmt.Sprint("id-", int(oldest.Sub(begin)/time.Second))
	if a := one(t, h, &Question{Find: id}); len(a.Events) != 1 {
		t.Errorf("%s is where the memory begins, and not found", id)
	}
	for _, l := range loops {
		if n := l.ordinary.bytes() + l.favoured.bytes(); n > MemoryBytes/2 {
			t.Errorf("a loop has taken %d bytes, want at most %d", n, MemoryBytes/2)
		}
	}
}

func TestMemoryIsTakenAsItIsNeeded(t *testing.T) {
	for _, loops := range []int{1, 2, 8, 16} {
		l := newLoop(NewHub(loops).bytes)
		if n := l.ordinary.bytes() + l.favoured.bytes(); n != 0 {
			t.Errorf("%d loops: %d bytes are taken before a request", loops, n)
		}
		r := full()
		for range 20_000 {
			r.Start = r.Start.Add(time.Second / 4) // no flood
			r.Fault, r.Attempts, r.Answered, r.Status = 0, 1, 0, 200
			l.Emit(r)
			r.Fault = record.NoRoute
			l.Emit(r)
		}
		if n := (l.ordinary.bytes() + l.favoured.bytes()) * loops; n > MemoryBytes || n < MemoryBytes*3/4 {
			t.Errorf("%d loops: all take %d bytes, want about %d", loops, n, MemoryBytes)
		}
		if n := testing.AllocsPerRun(1000, func() { l.Emit(r) }); n != 0 {
			t.Errorf("%d loops: %v allocations for a request", loops, n)
		}
	}
}

// Of a flood some are kept, and it is said since when all are.
func TestFlood(t *testing.T) {
	h := NewHub(1)
	l := h.Attach(at(func(f func()) { f() }))
	begin := time.Unix(1_800_000_000, 0)
	const flood = 50_000 // each second
	for i := range 3 * flood {
		l.Emit(&record.Record{Start: begin.Add(time.Duration(i) * time.Second / flood), ID: fmt.Append(nil, "id-", i), Status: 200})
	}
	after := begin.Add(10 * time.Second)
	l.Emit(&record.Record{Start: after, ID: []byte("after"), Status: 200})
	a := one(t, h, &Question{Recent: &Recent{Limit: MaxRecent}})
	if len(a.Events) < MaxRecent || a.Events[0].ID != "after" {
		t.Errorf("got %d requests, the newest %q, want many and the one after the flood", len(a.Events), a.Events[0].ID)
	}
	if oldest := a.Events[len(a.Events)-1].Time; a.Events[1].Time.Sub(oldest) < time.Second/2 {
		t.Errorf("what is kept of the flood is from %v to %v: want it to reach back", oldest, a.Events[1].Time)
	}
	if got := a.Reach.Ordinary; got.Before(begin.Add(2*time.Second)) || !got.Before(after) {
		t.Errorf("all are said to be remembered since %v, want the end of the flood", got)
	}
	if !a.Reach.Favoured.IsZero() {
		t.Errorf("favoured ones are said to be remembered since %v only", a.Reach.Favoured)
	}
}

func TestWhatIsFavoured(t *testing.T) {
	l := newLoop(MemoryBytes)
	for range 1000 {
		l.favours(&record.Record{Status: 200, Answered: 2 * time.Millisecond, Attempts: 1})
	}
	for _, c := range []struct {
		name string
		r    record.Record
		want bool
	}{
		{"usual", record.Record{Status: 200, Answered: 3 * time.Millisecond, Attempts: 1}, false},
		{"a little slower", record.Record{Status: 200, Answered: 10 * time.Millisecond, Attempts: 1}, false},
		{"far slower", record.Record{Status: 200, Answered: 30 * time.Millisecond, Attempts: 1}, true},
		{"a long download", record.Record{Status: 200, Answered: 2 * time.Millisecond, Duration: time.Hour, Attempts: 1}, false},
		{"a long stream", record.Record{Duration: time.Hour, Attempts: 1}, false},
		{"a fault", record.Record{Status: 404, Fault: record.NoRoute}, true},
		{"the service's error", record.Record{Status: 503, Attempts: 1}, true},
		{"the service's 404", record.Record{Status: 404, Attempts: 1}, false},
		{"tried twice", record.Record{Status: 200, Attempts: 2}, true},
	} {
		if got := l.favours(&c.r); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// tapped begins a tap and gives its answers, after the first, which says that it
// has begun.
func tapped(t *testing.T, h *Hub, f Filter) (<-chan *Answer, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan *Answer)
	done := make(chan error, 1)
	go func() {
		done <- h.Answer(ctx, &Question{Tap: &f}, func(a *Answer) error {
			select {
			case answers <- a:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	end := func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the tap ended with %v", err)
		}
	}
	if a := <-answers; len(a.Events) != 0 || a.Dropped != 0 {
		t.Errorf("the tap began with %+v", a)
	}
	return answers, end
}

func TestTap(t *testing.T) {
	h := NewHub(1)
	work := make(chan func(), 16)
	loop := h.Attach(func(f func()) error { work <- f; return nil })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for f := range work {
			f()
		}
	}()
	emit := func(n int) {
		done := make(chan struct{})
		work <- func() {
			defer close(done)
			for range n {
				loop.Emit(full())
				r := full()
				r.Status = 200
				loop.Emit(r)
			}
		}
		<-done
	}
	emit(1) // before anybody looks
	answers, end := tapped(t, h, Filter{Code: "5xx"})
	emit(2)
	var got []Event
	for len(got) < 2 {
		got = append(got, (<-answers).Events...)
	}
	if len(got) != 2 || got[0].Status != 504 || got[0].Path != "/cart" || len(got[0].Tries) != 2 {
		t.Errorf("got %+v, want two requests without their query", got)
	}
	// More than can be kept is dropped, and counted.
	const many = 5000
	emit(many)
	var events, dropped uint64
	for events+dropped < many {
		a := <-answers
		events, dropped = events+uint64(len(a.Events)), dropped+a.Dropped
		if len(a.Events) > paceMost {
			t.Errorf("got %d requests at once, want at most %d", len(a.Events), paceMost)
		}
	}
	if events+dropped != many || dropped == 0 || events < queueSize {
		t.Errorf("got %d requests and %d dropped, want %d in all, and both", events, dropped, many)
	}
	end()
	work <- func() {
		if len(loop.taps) != 0 {
			t.Errorf("%d taps are left", len(loop.taps))
		}
	}
	shown, end := tapped(t, h, Filter{Query: true})
	emit(1)
	if a := <-shown; a.Events[0].Path != "/cart?token=1" {
		t.Errorf("got path %q, want its query", a.Events[0].Path)
	}
	end()
	close(work)
	<-ended
}

func TestTapsAreBounded(t *testing.T) {
	h := NewHub(1)
	for range MaxTaps {
		_, end := tapped(t, h, Filter{})
		defer end()
	}
	if err := h.Answer(t.Context(), &Question{Tap: &Filter{}}, nil); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("got %v, want that the limit is reached", err)
	}
	for q, want := range map[*Question]string{
		{}:                                      "asks nothing",
		{Tap: &Filter{Code: "x"}}:               "not a status",
		{Recent: &Recent{Limit: 0}}:             "between 1 and",
		{Recent: &Recent{Limit: MaxRecent + 1}}: "between 1 and",
		{Recent: &Recent{Filter: Filter{Code: "x"}}}: "not a status",
	} {
		if err := h.Answer(t.Context(), q, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", q, err, want)
		}
	}
}

// BenchmarkEmit is what a request costs while nobody looks.
func BenchmarkEmit(b *testing.B) {
	l := newLoop(MemoryBytes)
	r := full()
	r.Fault, r.Reason, r.Status, r.Attempts, r.Tries = 0, "", 200, 1, r.Tries[1:]
	r.Tries[0].Fault, r.Tries[0].Reason = 0, ""
	b.ReportAllocs()
	for b.Loop() {
		l.Emit(r)
	}
}
