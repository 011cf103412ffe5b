package h2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
)

// The types of frames, and their flags.
const (
	data, headers, priority, reset, settings   = 0, 1, 2, 3, 4
	push, ping, goaway, window, continuation   = 5, 6, 7, 8, 9
	endStream, ack, endHeaders, padded, prioed = 1, 1, 4, 8, 0x20
)

// frame makes a frame.
func frame(kind, flags byte, stream uint32, payload ...byte) []byte {
	n := len(payload)
	b := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

func num(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func setting(id uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, id), v)
}

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// block encodes fields, each as "name: value", without a dynamic table, as that
// would tie frames of different tests together. A name may begin with a colon.
func block(fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSizeLimit(0)
	e.SetMaxDynamicTableSize(0)
	for _, f := range fields {
		name, value, _ := strings.Cut(f[1:], ":")
		if err := e.WriteField(hpack.HeaderField{Name: f[:1] + name, Value: strings.TrimPrefix(value, " ")}); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// get is the block of a good request, with more fields behind.
func get(fields ...string) []byte { return request("GET", fields...) }

func request(method string, fields ...string) []byte {
	return block(append([]string{":method: " + method, ":scheme: https", ":authority: a.example", ":path: /p?q"}, fields...)...)
}

// open is a request on a stream that goes on; ask is one that ends.
func open(stream uint32) []byte { return frame(headers, endHeaders, stream, request("POST")...) }

func ask(stream uint32) []byte {
	return frame(headers, endHeaders|endStream, stream, get()...)
}

// hello is what a client begins with.
var hello = cat([]byte(h2.Preface), frame(settings, 0, 0))

// end is one end of a connection under test, with what it has said.
type end struct {
	tb      testing.TB
	c       *h2.Conn
	log     []string
	body    strings.Builder // DATA that is not in the log yet
	bodyEnd string
	err     *h2.Error
	out     []byte // all that was sent
	on      func(ev *h2.Event)
	hold    bool // do not consume
}

func newServer(tb testing.TB, cfg h2.Config) *end {
	tb.Helper()
	e := &end{tb: tb, c: h2.NewServer(h2.NewScratch(cfg))}
	e.flush()
	return e
}

// standing is a server that has got the client's first bytes, and whose answers
// to them are out of the way.
func standing(tb testing.TB, cfg h2.Config) *end {
	tb.Helper()
	e := newServer(tb, cfg)
	e.feed(hello, len(hello))
	e.log, e.out = nil, nil
	return e
}

func newClient(tb testing.TB, cfg h2.Config) *end {
	tb.Helper()
	e := &end{tb: tb, c: h2.NewClient(h2.NewScratch(cfg))}
	e.flush()
	e.feed(frame(settings, 0, 0), 100)
	e.log, e.out = nil, nil
	return e
}

func (e *end) flush() {
	e.out = append(e.out, e.c.Out()...)
	e.c.Sent()
}

// feed gives in to the codec in pieces of a size.
func (e *end) feed(in []byte, piece int) *end {
	e.tb.Helper()
	for len(in) > 0 && e.err == nil {
		p := in[:min(piece, len(in))]
		in = in[len(p):]
		// A copy that is wiped shows what keeps slices of it.
		buf := bytes.Clone(p)
		e.turn(buf)
		for i := range buf {
			buf[i] = 0xee
		}
	}
	e.endBody()
	return e
}

// turn takes all events of buf.
func (e *end) turn(buf []byte) {
	e.tb.Helper()
	for {
		ev, n, err := e.c.Next(buf)
		buf = buf[n:]
		if err != nil {
			e.err = err
			e.endBody()
			e.log = append(e.log, "error "+err.Error())
			if _, _, again := e.c.Next(buf); again != err {
				e.tb.Fatalf("after %v Next returned %v", err, again)
			}
			break
		}
		if ev.Kind == 0 {
			if len(buf) > 0 {
				e.tb.Fatalf("Next stopped before %d bytes", len(buf))
			}
			break
		}
		e.take(&ev)
	}
	e.flush()
}

func (e *end) take(ev *h2.Event) {
	if ev.Kind == h2.Data {
		if e.bodyEnd != "" && e.bodyEnd != fmt.Sprint(ev.Stream) {
			e.endBody()
		}
		e.bodyEnd = fmt.Sprint(ev.Stream)
		e.body.Write(ev.Data)
		if !e.hold {
			e.c.Consumed(ev.Stream, len(ev.Data))
		}
		if ev.End {
			e.bodyEnd += " end"
			e.endBody()
		}
	} else {
		e.endBody()
		e.log = append(e.log, describe(ev))
	}
	if e.on != nil {
		e.on(ev)
	}
}

// endBody puts the DATA so far into the log, however it was cut.
func (e *end) endBody() {
	if e.bodyEnd == "" {
		return
	}
	text := e.body.String()
	if len(text) > 40 {
		text = fmt.Sprintf("%d bytes", len(text))
	}
	e.log = append(e.log, fmt.Sprintf("data %s %q", e.bodyEnd, text))
	e.body.Reset()
	e.bodyEnd = ""
}

func describe(ev *h2.Event) string {
	var s strings.Builder
	s.WriteString(ev.Kind.String())
	if ev.Stream != 0 {
		fmt.Fprintf(&s, " %d", ev.Stream)
	}
	if ev.End {
		s.WriteString(" end")
	}
	if r := ev.Request; r != nil {
		fmt.Fprintf(&s, " %s %s %s path=%s query=%v:%s body=%d:%d", r.Method, r.Scheme, r.Host, r.Path, r.HasQuery, r.Query, r.Body, r.Length)
		if r.Upgrade != nil {
			fmt.Fprintf(&s, " upgrade=%s", r.Upgrade)
		}
		if r.Continue || r.Trailers {
			fmt.Fprintf(&s, " continue=%v trailers=%v", r.Continue, r.Trailers)
		}
		describeFields(&s, r.Fields)
	}
	if r := ev.Response; r != nil {
		fmt.Fprintf(&s, " %d body=%d:%d", r.Status, r.Body, r.Length)
		describeFields(&s, r.Fields)
	}
	if ev.Refused != nil {
		fmt.Fprintf(&s, " refused %d", ev.Refused.Status)
	}
	describeFields(&s, ev.Fields)
	if ev.Kind == h2.Reset || ev.Kind == h2.Goaway {
		fmt.Fprintf(&s, " %v", ev.Code)
	}
	if ev.Local {
		fmt.Fprintf(&s, " local (%s)", ev.Reason)
	}
	if ev.Untouched {
		s.WriteString(" untouched")
	}
	if ev.Value != nil {
		fmt.Fprintf(&s, " <%v>", ev.Value)
	}
	return s.String()
}

func describeFields(s *strings.Builder, fields []h1.Field) {
	for _, f := range fields {
		fmt.Fprintf(s, " [%s: %s]", f.Name, f.Value)
		if f.Known != h1.Classify(f.Name) {
			fmt.Fprintf(s, " known as %d", f.Known)
		}
	}
}

// sent renders what was sent, frame by frame.
func (e *end) sent() string {
	e.tb.Helper()
	return frames(e.tb, bytes.TrimPrefix(e.out, []byte(h2.Preface)))
}

func frames(tb testing.TB, out []byte) string {
	tb.Helper()
	fr := http2.NewFramer(nil, bytes.NewReader(out))
	fr.AllowIllegalReads = true
	fr.SetMaxReadFrameSize(1<<24 - 1)
	dec := hpack.NewDecoder(4096, nil)
	var lines []string
	for {
		f, err := fr.ReadFrame()
		if errors.Is(err, io.EOF) {
			return strings.Join(lines, "\n")
		}
		if err != nil {
			tb.Fatalf("what was sent is no HTTP/2: %v", err)
		}
		lines = append(lines, describeFrame(tb, f, dec))
	}
}

func describeFrame(tb testing.TB, f http2.Frame, dec *hpack.Decoder) string {
	tb.Helper()
	h := f.Header()
	s := fmt.Sprintf("%v %d", h.Type, h.StreamID)
	if h.Flags.Has(endStream) && h.Type < 2 {
		s += " end"
	}
	switch f := f.(type) {
	case *http2.DataFrame:
		s += fmt.Sprintf(" %d bytes", len(f.Data()))
	case *http2.HeadersFrame:
		if !f.HeadersEnded() {
			return s + " begins"
		}
		fields, err := dec.DecodeFull(f.HeaderBlockFragment())
		if err != nil {
			tb.Fatalf("a block cannot be decoded: %v", err)
		}
		for _, field := range fields {
			s += fmt.Sprintf(" [%s: %s]", field.Name, field.Value)
		}
	case *http2.RSTStreamFrame:
		s += " " + h2.Code(f.ErrCode).String()
	case *http2.GoAwayFrame:
		s += fmt.Sprintf(" %d %v", f.LastStreamID, h2.Code(f.ErrCode))
	case *http2.WindowUpdateFrame:
		s += fmt.Sprintf(" %d", f.Increment)
	case *http2.SettingsFrame:
		if f.IsAck() {
			return s + " ack"
		}
		_ = f.ForeachSetting(func(x http2.Setting) error {
			s += fmt.Sprintf(" %v=%d", x.ID, x.Val)
			return nil
		})
	case *http2.PingFrame:
		s += fmt.Sprintf(" ack=%v %x", f.IsAck(), f.Data)
	}
	return s
}

// result is the log and what was sent.
func (e *end) result() string {
	e.tb.Helper()
	return strings.Join(e.log, "\n") + "\n--\n" + e.sent()
}

// checkPieces feeds in to fresh ends in pieces of several sizes, and wants the
// same result.
func checkPieces(tb testing.TB, fresh func() *end, in []byte, sizes ...int) *end {
	tb.Helper()
	whole := fresh().feed(in, len(in)+1)
	want := whole.result()
	for _, size := range sizes {
		if got := fresh().feed(in, size).result(); got != want {
			tb.Fatalf("in pieces of %d:\ngot\n%s\nwant\n%s", size, got, want)
		}
	}
	return whole
}

// checkCuts feeds in cut in two at every byte.
func checkCuts(tb testing.TB, fresh func() *end, in []byte) *end {
	tb.Helper()
	e := checkPieces(tb, fresh, in, 1, 2, 3, 5, 7, 9, 16, 100)
	want := e.result()
	for cut := 1; cut < len(in); cut++ {
		two := fresh()
		two.feed(in[:cut], cut)
		// DATA is told as it comes, and joined again for the comparison.
		two.joined(in[cut:])
		if got := two.result(); got != want {
			tb.Fatalf("cut at %d:\ngot\n%s\nwant\n%s", cut, got, want)
		}
	}
	return e
}

// joined is feed for what follows a feed that may have ended within DATA.
func (e *end) joined(in []byte) {
	e.tb.Helper()
	before := len(e.log)
	if e.err == nil {
		e.feed(in, len(in))
	}
	if before == 0 || before == len(e.log) {
		return
	}
	var a, b uint32
	var first, second, tail string
	last, next := e.log[before-1], e.log[before]
	if n, _ := fmt.Sscanf(last, "data %d %q", &a, &first); n != 2 || strings.Contains(first, " bytes") {
		return
	}
	if n, _ := fmt.Sscanf(next, "data %d %q", &b, &second); n != 2 {
		if n, _ = fmt.Sscanf(next, "data %d end %q", &b, &second); n != 2 {
			return
		}
		tail = " end"
	}
	if a == b {
		e.log[before-1] = fmt.Sprintf("data %d%s %q", a, tail, first+second)
		e.log = append(e.log[:before], e.log[before+1:]...)
	}
}
