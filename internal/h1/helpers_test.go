package h1_test

import (
	"fmt"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h1"
)

// small are limits that tests can reach.
var small = h1.Limits{HeadBytes: 2048, TargetBytes: 100, Fields: 70}

// describe renders everything that Parse found out about a request.
func describe(r *h1.Request) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s path=%s query=%v:%s host=%s minor=%d body=%d:%d keep=%v continue=%v upgrade=%s trailers=%v hop=%b",
		r.Method, r.Target, r.Path, r.HasQuery, r.Query, r.Host, r.Minor, r.Body, r.Length,
		r.KeepAlive, r.Continue, r.Upgrade, r.Trailers, r.HopByHop)
	describeFields(&s, r.Fields)
	return s.String()
}

func describeResponse(r *h1.Response) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d %s minor=%d body=%d:%d keep=%v upgrade=%s hop=%b",
		r.Status, r.Reason, r.Minor, r.Body, r.Length, r.KeepAlive, r.Upgrade, r.HopByHop)
	describeFields(&s, r.Fields)
	return s.String()
}

func describeFields(s *strings.Builder, fields []h1.Field) {
	for _, f := range fields {
		fmt.Fprintf(s, "\n%s: %s (%d)", f.Name, f.Value, f.Known)
	}
}

// parse is what Request.Parse and Response.Parse do, as text: what was read and
// how many bytes it took, an error, or that more is needed.
type parse func(buf []byte, from int) string

func outcome(n int, err *h1.Error, text func() string) string {
	switch {
	case err != nil:
		return fmt.Sprintf("error %d: %s", err.Status, err.Reason)
	case n == 0:
		return "more"
	}
	return fmt.Sprintf("%d bytes: %s", n, text())
}

func parseRequest(lim h1.Limits) parse {
	var r h1.Request
	return func(buf []byte, from int) string {
		n, err := r.Parse(buf, from, lim)
		return outcome(n, err, func() string { return describe(&r) })
	}
}

func parseResponse(method string, lim h1.Limits) parse {
	var r h1.Response
	return func(buf []byte, from int) string {
		n, err := r.Parse(buf, from, []byte(method), lim)
		return outcome(n, err, func() string { return describeResponse(&r) })
	}
}

// checkPieces parses in whole, in two pieces cut at every byte, and byte by
// byte, and wants the same result.
func checkPieces(tb testing.TB, in []byte, p parse) {
	tb.Helper()
	want := p(in, 0)
	for cut := 1; cut < len(in); cut++ {
		got := p(in[:cut:cut], 0)
		if got == "more" {
			got = p(in, cut)
		}
		if got != want {
			tb.Fatalf("cut at %d of %q:\ngot  %s\nwant %s", cut, in, got, want)
		}
	}
	got := "more"
	for n := 1; n <= len(in) && got == "more"; n++ {
		got = p(in[:n:n], n-1)
	}
	if len(in) > 0 && got != want {
		tb.Fatalf("byte by byte %q:\ngot  %s\nwant %s", in, got, want)
	}
}

// bodyResult is what a decoder made of some bytes.
type bodyResult struct {
	content  string
	consumed int
	done     bool
	err      string
	trailers string
}

// decode feeds in to a body in pieces of the given size.
func decode(tb testing.TB, b *h1.Body, in []byte, piece int) bodyResult {
	tb.Helper()
	var out bodyResult
	var content strings.Builder
	end := 0
	for out.consumed < len(in) && !out.done && out.err == "" {
		if out.consumed == end {
			end = min(len(in), end+piece)
		}
		data, n, done, err := b.Next(in[out.consumed:end:end])
		content.Write(data)
		out.consumed += n
		out.done = done
		switch {
		case done != b.Done():
			tb.Fatalf("Next says done %v and Done %v", done, b.Done())
		case err != nil:
			out.err = fmt.Sprintf("%d %s", err.Status, err.Reason)
			out.consumed = 0 // where it was noticed does not matter
			if _, _, _, again := b.Next(in[end:]); again != err && end < len(in) {
				tb.Fatalf("after %v Next returned %v", err, again)
			}
		case n == 0 && !done:
			tb.Fatalf("Next took nothing of %q", in[out.consumed:end])
		}
	}
	out.content = content.String()
	if out.done {
		var s strings.Builder
		describeFields(&s, b.Trailers())
		out.trailers = s.String()
	}
	return out
}

// checkBodyPieces decodes in whole and in pieces, and wants the same result.
func checkBodyPieces(tb testing.TB, c h1.Coding, length int64, in []byte) bodyResult {
	tb.Helper()
	var b h1.Body
	b.Reset(c, length)
	want := decode(tb, &b, in, len(in)+1)
	for _, piece := range []int{1, 2, 3, 5, 7, 16} {
		b.Reset(c, length)
		if got := decode(tb, &b, in, piece); got != want {
			tb.Fatalf("%q in pieces of %d:\ngot  %+v\nwant %+v", in, piece, got, want)
		}
	}
	return want
}
