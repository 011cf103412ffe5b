package trace_test

import (
	"bytes"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/trace"
)

const (
	long  = "4bf92f3577b34da6a3ce929d0e0e4736"
	short = "a3ce929d0e0e4736"
	span  = "00f067aa0ba902b7"
)

// show is a parent as the tests write it.
func show(p trace.Parent, ok bool) string {
	if !ok {
		return "no"
	}
	decision := []string{"?", "0", "1"}[p.Decision]
	if !p.Begun() {
		return decision
	}
	return string(trace.AppendHex(nil, p.Trace[:])) + " " + string(trace.AppendHex(nil, p.Span[:])) + " " + decision
}

func TestParseTraceparent(t *testing.T) {
	const sampled = long + " " + span + " 1"
	for _, c := range []struct{ name, in, want string }{
		{"sampled", "00-" + long + "-" + span + "-01", sampled},
		{"not sampled", "00-" + long + "-" + span + "-00", long + " " + span + " 0"},
		{"other flags are not looked at", "00-" + long + "-" + span + "-ff", sampled},
		{"only the lowest flag counts", "00-" + long + "-" + span + "-02", long + " " + span + " 0"},
		{"a later version", "cc-" + long + "-" + span + "-01", sampled},
		{"a later version with more", "cc-" + long + "-" + span + "-01-what-the-future-brings", sampled},
		{"a later version with more, not set apart", "cc-" + long + "-" + span + "-01.x", "no"},
		{"version 00 with more", "00-" + long + "-" + span + "-01-x", "no"},
		{"version ff", "ff-" + long + "-" + span + "-01", "no"},
		{"upper case", "00-" + strings.ToUpper(long) + "-" + span + "-01", "no"},
		{"upper case version", "0A-" + long + "-" + span + "-01", "no"},
		{"trace id zero", "00-" + strings.Repeat("0", 32) + "-" + span + "-01", "no"},
		{"span id zero", "00-" + long + "-" + strings.Repeat("0", 16) + "-01", "no"},
		{"no digit in the flags", "00-" + long + "-" + span + "-0g", "no"},
		{"no dashes", strings.Repeat("1", 55), "no"},
		{"another separator", "00." + long + "." + span + ".01", "no"},
		{"too short", "00-" + long + "-" + span + "-0", "no"},
		{"space around", " 00-" + long + "-" + span + "-01", "no"},
		{"empty", "", "no"},
	} {
		if got := show(trace.ParseTraceparent([]byte(c.in))); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestParseB3(t *testing.T) {
	const padded = "0000000000000000" + short
	for _, c := range []struct{ name, in, want string }{
		{"sampled", long + "-" + span + "-1", long + " " + span + " 1"},
		{"not sampled", long + "-" + span + "-0", long + " " + span + " 0"},
		{"debug", long + "-" + span + "-d", long + " " + span + " 1"},
		{"left to us", long + "-" + span, long + " " + span + " ?"},
		{"with its parent", long + "-" + span + "-1-05e3ac9a4f6e3b90", long + " " + span + " 1"},
		{"64 bits", short + "-" + span + "-1", padded + " " + span + " 1"},
		{"64 bits, left to us", short + "-" + span, padded + " " + span + " ?"},
		{"only yes", "1", "1"},
		{"only no", "0", "0"},
		{"only debug", "d", "1"},
		{"only nonsense", "x", "no"},
		{"a bad decision", long + "-" + span + "-2", "no"},
		{"a long decision", long + "-" + span + "-11", "no"},
		{"a bad parent", long + "-" + span + "-1-05e3ac9a4f6e3b9", "no"},
		{"a parent that is no number", long + "-" + span + "-1-zzzzzzzzzzzzzzzz", "no"},
		{"something after the parent", long + "-" + span + "-1-05e3ac9a4f6e3b90-1", "no"},
		{"upper case", strings.ToUpper(long) + "-" + span + "-1", "no"},
		{"trace id zero", strings.Repeat("0", 32) + "-" + span + "-1", "no"},
		{"short trace id zero", strings.Repeat("0", 16) + "-" + span + "-1", "no"},
		{"span id zero", long + "-" + strings.Repeat("0", 16) + "-1", "no"},
		{"ends with a dash", long + "-" + span + "-", "no"},
		{"no span", long, "no"},
		{"empty", "", "no"},
	} {
		if got := show(trace.ParseB3([]byte(c.in))); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestParseB3Fields(t *testing.T) {
	for _, c := range []struct {
		name                        string
		trace, span, sampled, flags string
		want                        string
	}{
		{"sampled", long, span, "1", "", long + " " + span + " 1"},
		{"not sampled", long, span, "0", "", long + " " + span + " 0"},
		{"as old libraries say yes", long, span, "true", "", long + " " + span + " 1"},
		{"as old libraries say no", long, span, "false", "", long + " " + span + " 0"},
		{"debug goes before", long, span, "0", "1", long + " " + span + " 1"},
		{"debug not set", long, span, "0", "0", long + " " + span + " 0"},
		{"left to us", short, span, "", "", "0000000000000000" + short + " " + span + " ?"},
		{"only a decision", "", "", "0", "", "0"},
		{"nothing", "", "", "", "", "no"},
		{"no span", long, "", "1", "", "no"},
		{"no trace", "", span, "1", "", "no"},
		{"a bad decision", long, span, "yes", "", "no"},
		{"bad flags", long, span, "1", "2", "no"},
		{"a bad trace", long[1:], span, "1", "", "no"},
		{"a bad span", long, span[1:], "1", "", "no"},
		{"span id zero", long, strings.Repeat("0", 16), "1", "", "no"},
	} {
		var f trace.B3Fields
		for _, v := range []struct {
			to   *[]byte
			text string
		}{{&f.Trace, c.trace}, {&f.Span, c.span}, {&f.Sampled, c.sampled}, {&f.Flags, c.flags}} {
			if v.text != "" {
				*v.to = []byte(v.text)
			}
		}
		if got := show(f.Parse()); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestAppendedIsRead(t *testing.T) {
	for _, id := range []string{long, "0000000000000000" + short} {
		for _, sampled := range []bool{true, false} {
			want, ok := trace.ParseTraceparent([]byte("00-" + id + "-" + span + "-0" + map[bool]string{true: "1", false: "0"}[sampled]))
			if !ok {
				t.Fatal("the test's own traceparent is wrong")
			}
			w3c, at := trace.AppendTraceparent([]byte("before"), want.Trace, want.Span, sampled)
			if got, ok := trace.ParseTraceparent(w3c[len("before"):]); !ok || got != want || string(w3c[at:at+16]) != span {
				t.Errorf("%s is read as %s, and its span at %d", w3c, show(got, ok), at)
			}
			b3, at := trace.AppendB3([]byte("before"), want.Trace, want.Span, sampled)
			got, ok := trace.ParseB3(b3[len("before"):])
			if got.Form = want.Form; !ok || got != want || string(b3[at:at+16]) != span {
				t.Errorf("%s is read as %s, and its span at %d", b3, show(got, ok), at)
			}
		}
	}
	b := []byte("0123456789")
	trace.PutHex(b[2:], []byte{0xab, 0xcd})
	if string(b) != "01abcd6789" {
		t.Errorf("got %s, want the digits and nothing else to be written over", b)
	}
}

func TestState(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("a=1,", 33), ",")
	for _, c := range []struct {
		name   string
		values []string
		want   bool
	}{
		{"one member", []string{"rojo=00f067aa0ba902b7"}, true},
		{"two fields", []string{"rojo=1", "congo=t61rcWkgMzE"}, true},
		{"a tenant", []string{"fw529a3039@dt=FfAAAAAAAAAA"}, true},
		{"a tenant that begins with a digit", []string{"5@dt=x"}, true},
		{"space and empty members", []string{"a=1 , ,\tb=2,"}, true},
		{"32 members", []string{many[:len(many)-4]}, true},
		{"33 members", []string{many}, false},
		{"33 members in two fields", []string{many[:64], many[:68]}, false},
		{"no value", []string{"a="}, false},
		{"no key", []string{"=a"}, false},
		{"no member", []string{"a"}, false},
		{"upper case key", []string{"A=1"}, false},
		{"key begins with a digit", []string{"1a=1"}, false},
		{"empty system", []string{"a@=1"}, false},
		{"long system", []string{"a@" + strings.Repeat("b", 15) + "=1"}, false},
		{"= in the value", []string{"a=b=c"}, false},
		{"a value that is too long", []string{"a=" + strings.Repeat("b", 257)}, false},
		{"not ASCII", []string{"a=é"}, false},
		{"too much", []string{strings.Repeat(",", 3000)}, false},
	} {
		var s trace.State
		got := true
		for _, v := range c.values {
			got = got && s.Add([]byte(v))
		}
		if got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("00-" + long + "-" + span + "-01"))
	f.Add([]byte("cc-" + long + "-" + span + "-01-more"))
	f.Add([]byte(long + "-" + span + "-1-05e3ac9a4f6e3b90"))
	f.Add([]byte(short + "-" + span + "-d"))
	f.Add([]byte("a@b=c, d=e"))
	f.Add([]byte(strings.Repeat("1", 55)))
	f.Fuzz(func(t *testing.T, in []byte) {
		if p, ok := trace.ParseTraceparent(in); ok {
			out, _ := trace.AppendTraceparent(nil, p.Trace, p.Span, p.Decision == trace.Sampled)
			if !bytes.Equal(out[2:53], in[2:53]) || p.Decision == trace.Undecided || !p.Begun() {
				t.Errorf("%q is read as %+v", in, p)
			}
		}
		if p, ok := trace.ParseB3(in); ok && p.Begun() {
			out, at := trace.AppendB3(nil, p.Trace, p.Span, p.Decision == trace.Sampled)
			again, ok := trace.ParseB3(out)
			if !ok || again.Trace != p.Trace || again.Span != p.Span || !bytes.Contains(in, out[at:at+16]) {
				t.Errorf("%q is read as %+v, and written as %q", in, p, out)
			}
		}
		fields := trace.B3Fields{Trace: in, Span: in, Sampled: in, Flags: in}
		if p, ok := fields.Parse(); ok {
			t.Errorf("%q everywhere is read as %+v", in, p)
		}
		var s trace.State
		s.Add(in)
	})
}

func TestNothingIsAllocated(t *testing.T) {
	parent, b3, state := []byte("00-"+long+"-"+span+"-01"), []byte(long+"-"+span+"-1"), []byte("rojo=1,congo@x=2")
	dst := make([]byte, 0, 256)
	n := testing.AllocsPerRun(100, func() {
		p, _ := trace.ParseTraceparent(parent)
		q, _ := trace.ParseB3(b3)
		var s trace.State
		s.Add(state)
		dst, _ = trace.AppendTraceparent(dst[:0], p.Trace, q.Span, true)
		dst, _ = trace.AppendB3(dst, p.Trace, q.Span, true)
	})
	if n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}
