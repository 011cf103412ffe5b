// Package h2 is the HTTP/2 codec (RFC 9113, HPACK of RFC 7541, extended CONNECT
// of RFC 8441), for both ends of a connection: bytes in, events and bytes out.
// It has no sockets, goroutines, clock or locks.
//
// A Conn is one connection. What came from the peer goes through Next, which
// gives one Event at a time; what is to be sent is gathered in Out until it is
// taken, so that everything of one turn leaves in one write:
//
//	scratch := h2.NewScratch(h2.Config{}) // one for each loop
//	c := h2.NewServer(scratch)
//	...
//	c.Tick(now)
//	for {
//		ev, n, err := c.Next(buf)
//		buf = buf[n:]
//		if err != nil {
//			break // send Out, which says why, and close
//		}
//		switch ev.Kind {
//		case 0: // buf is used up
//			...
//		case h2.Head:
//			c.BeginResponse(ev.Stream, 200)
//			c.AddString("content-type", "text/plain")
//			c.EndHead(false)
//			c.WriteData(ev.Stream, []byte("hello\n"), true)
//		case h2.Data:
//			c.Consumed(ev.Stream, len(ev.Data)) // once it is passed on
//		}
//	}
//	conn.Write(c.Out())
//	c.Sent()
//
// Next takes frames as they come, cut anywhere. DATA is given in the pieces in
// which it arrives and is never gathered. A head is gathered, in bounded space,
// only if it does not arrive whole. Next is done when it gives an Event without
// a Kind; it may give events without taking bytes.
//
// Back pressure goes both ways. The peer may send what its windows allow, and
// they open as Consumed tells that data has been passed on. WriteData takes what
// the peer's windows allow and tells how much that was; when there is room for
// the rest, a Writable event comes, to one stream after another. Out must be
// sent before Next is called again if it has grown: its growth in one call is
// bounded only by what a call may answer.
//
// # Strictness
//
// A message that is malformed in the sense of RFC 9113 8.1.1 never becomes an
// event: the stream is reset. What breaks the connection is an *Error, and Out
// ends in a GOAWAY with its code and reason. Requests are held to the same rules
// as by package h1, and come as an h1.Request: the rest of the proxy does not
// care how they came.
//
// # Floods
//
// Everything that costs windrose more than the peer is paid from two budgets.
// Glitches pays for frames that carry nothing: PING, SETTINGS, PRIORITY, empty
// DATA, WINDOW_UPDATE, CONTINUATION beyond need, unknown and stray frames.
// Resets pays for streams that end before their answer, whether the client
// resets them (rapid reset, CVE-2023-44487) or makes windrose reset them
// (CVE-2025-8671). Both are refilled by useful work and by time, which Tick
// tells. A peer that overdraws is sent away with ENHANCE_YOUR_CALM.
//
// # Memory
//
// What is needed only during a call lies in the Scratch. A Conn owns its two
// compression tables, which take the bytes that are in them, an entry for each
// open stream, and the fragments of a head that has not arrived whole.
package h2

import "windrose.dev/windrose/internal/h1"

// Config bounds a connection. A value that is zero is its default.
type Config struct {
	// MaxStreams is how many streams may be open: those of the client on the
	// server's side; on the client's side its own, if the server allows as many.
	// 100.
	MaxStreams int

	MaxHeadBytes   int // a head, decoded, with 32 bytes for each field: 64 KiB
	MaxFields      int // 100
	MaxTargetBytes int // 8 KiB

	// StreamWindow and ConnWindow are how many bytes the peer may send beyond
	// what was Consumed: 256 KiB and 1 MiB. Less than 64 KiB is not possible.
	StreamWindow, ConnWindow int

	MaxFrameBytes int // what the peer may put into one frame: 16 KiB, the least

	// DecodeTable is the size of the compression table that the peer may fill,
	// EncodeTable what is used of the peer's: 4 KiB, 2 KiB; at most 32 KiB.
	DecodeTable, EncodeTable int

	// Connect offers extended CONNECT to clients.
	Connect bool

	// The budgets, and what comes back in a second: 1000 and 100, 250 and 25.
	Glitches, GlitchesBack int
	Resets, ResetsBack     int
}

const (
	minWindow     = 1<<16 - 1 // RFC 9113 6.9.2
	maxWindow     = 1<<31 - 1
	minFrameBytes = 1 << 14
	maxFrameBytes = 1<<24 - 1
	maxTable      = 32 << 10
	initialTable  = 4 << 10 // RFC 9113 6.5.2
)

func (c Config) withDefaults() Config {
	set := func(p *int, def, least, most int) {
		if *p == 0 {
			*p = def
		}
		*p = min(max(*p, least), most)
	}
	set(&c.MaxStreams, 100, 1, 1<<20)
	set(&c.MaxHeadBytes, h1.DefaultHeadBytes, 1<<10, 1<<20)
	set(&c.MaxFields, h1.DefaultFields, 1, 1<<16)
	set(&c.MaxTargetBytes, h1.DefaultTargetBytes, 1, 1<<20)
	set(&c.StreamWindow, 256<<10, minWindow, maxWindow)
	set(&c.ConnWindow, 1<<20, minWindow, maxWindow)
	set(&c.MaxFrameBytes, minFrameBytes, minFrameBytes, maxFrameBytes)
	set(&c.DecodeTable, initialTable, 0, maxTable)
	set(&c.EncodeTable, 2<<10, 0, maxTable)
	set(&c.Glitches, 1000, 1, 1<<30)
	set(&c.GlitchesBack, 100, 1, 1<<20)
	set(&c.Resets, 250, 1, 1<<30)
	set(&c.ResetsBack, 25, 1, 1<<20)
	return c
}

// Code says why a stream or a connection ends (RFC 9113 7).
type Code uint32

// The codes.
const (
	NoError            Code = 0x0
	ProtocolError      Code = 0x1
	InternalError      Code = 0x2
	FlowControlError   Code = 0x3
	SettingsTimeout    Code = 0x4
	StreamClosed       Code = 0x5
	FrameSizeError     Code = 0x6
	RefusedStream      Code = 0x7
	Cancel             Code = 0x8
	CompressionError   Code = 0x9
	ConnectError       Code = 0xa
	EnhanceYourCalm    Code = 0xb
	InadequateSecurity Code = 0xc
	HTTP11Required     Code = 0xd
)

func (c Code) String() string {
	names := [...]string{
		"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
		"STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR",
		"CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
	}
	if int(c) < len(names) {
		return names[c]
	}
	return "an unknown code"
}

// Error ends a connection. A GOAWAY that says so is the end of Out.
type Error struct {
	Code   Code
	Reason string // a sentence
}

func (e *Error) Error() string { return e.Code.String() + ": " + e.Reason }

// Kind is what an Event tells.
type Kind uint8

// The kinds; the zero value is no event.
const (
	// Head is the head of a request (Request) or the final one of a response
	// (Response). If Refused is set, the request is to be answered with its
	// status: of the head is there what was understood. End says that no body
	// follows.
	Head     Kind = iota + 1
	Interim       // a 1xx head, in Response
	Data          // a piece of the body, possibly empty; End with the last one
	Trailers      // Fields came after the body; End is set
	// Reset says that the stream is gone. With Local it was reset from here,
	// because of a mistake of the peer that Reason tells; Value is nil if its head
	// has never been an event. With Untouched the peer has done nothing for the
	// request, which may be sent again elsewhere.
	Reset
	Writable    // WriteData has room again on the stream
	Goaway      // the peer takes no more streams: Code
	Settings    // the peer's settings have come, and hold
	SettingsAck // the peer knows ours
	PingAck     // the answer to Ping
)

func (k Kind) String() string {
	names := [...]string{
		"none", "head", "interim", "data", "trailers", "reset", "writable", "goaway", "settings", "settings ack", "ping ack",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Event is what has come from the peer. What its slices and pointers lead to
// lives until Next is called again, on any Conn of the same Scratch; Data lies
// in the buffer that Next was given.
type Event struct {
	Kind      Kind
	End       bool // the peer sends no more on the stream
	Local     bool
	Untouched bool
	Stream    uint32
	Code      Code
	Value     any // what SetValue or BeginRequest gave the stream
	Data      []byte
	Fields    []h1.Field
	Request   *Request
	Response  *h1.Response
	Refused   *h1.Error
	Reason    string
}

// Request is the head of a request. Names of fields are in lower case. The body
// of a request without Content-Length is h1.Chunked: it ends with the stream.
// Host is :authority, or the Host field if there is none.
//
// For CONNECT the Body is h1.NoBody, and what comes as Data is the tunnel's. For
// extended CONNECT Upgrade is :protocol, and Path is set.
type Request struct {
	h1.Request
	Scheme []byte
}

// Conn is one end of a connection. Make one with NewServer or NewClient.
type Conn struct {
	s      *Scratch
	out    []byte
	failed *Error

	client    bool
	gotFirst  bool // the peer's first SETTINGS
	gotAck    bool
	connectOK bool // the peer takes extended CONNECT
	leaving   bool // a GOAWAY was sent that says what is the last stream
	away      bool // the peer sent a GOAWAY

	reader
	dec decoder
	enc encoder

	streams table
	ready   queue  // streams that may write as far as their own window goes
	lastID  uint32 // the peer's newest stream; on the client's side our own
	last    uint32 // with leaving: the last stream that is served
	kept    uint32 // with away: the peer serves none after this one
	orphans bool   // there are streams after kept
	gone    memory

	recv    int64 // what the peer may still send
	credit  int64 // Consumed, and not yet told
	send    int64 // what may still be sent
	initial int64 // window of new streams, from the peer's settings
	maxSend int   // bytes of a frame to the peer
	maxOpen int   // streams that the peer lets us open

	budget
	replies int // bytes of Out that the peer asked for

	head struct { // the head that is being written
		at     int // of its frame in out, or -1
		stream uint32
		kind   headKind
	}
}

// Scratch holds what the Conns of one loop need only during a call. It is not
// safe for concurrent use, and neither are Conns that share one.
type Scratch struct {
	cfg  Config
	head head
	req  Request
	resp h1.Response
	text []byte // a field in lower case

	streams []*stream // free ones
	buffers [][]byte  // free ones
	spare   int       // bytes of buffers
}

// NewScratch makes a Scratch for Conns with the given bounds.
func NewScratch(cfg Config) *Scratch { return &Scratch{cfg: cfg.withDefaults()} }

// The bounds of what a Scratch keeps for later.
const (
	maxFreeStreams = 256
	maxFreeBuffers = 256
	maxFreeBytes   = 512 << 10 // of buffers
	maxFreeBuffer  = 128 << 10
)

func (s *Scratch) buffer() []byte {
	if n := len(s.buffers); n > 0 {
		b := s.buffers[n-1]
		s.buffers = s.buffers[:n-1]
		s.spare -= cap(b)
		return b
	}
	return make([]byte, 0, 2<<10) // an answer of 1 KiB with its head
}

func (s *Scratch) giveBuffer(b []byte) {
	if cap(b) > 0 && cap(b) <= maxFreeBuffer && len(s.buffers) < maxFreeBuffers && s.spare+cap(b) <= maxFreeBytes {
		s.buffers = append(s.buffers, b[:0])
		s.spare += cap(b)
	}
}

// Preface is what a client sends first.
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// NewServer makes the server's end of a connection. The first bytes that Next
// is given are the client's preface.
func NewServer(s *Scratch) *Conn {
	c := newConn(s)
	c.at = atPreface
	c.sendSettings()
	return c
}

// NewClient makes the client's end of a connection.
func NewClient(s *Scratch) *Conn {
	c := newConn(s)
	c.client = true
	c.enc.plain = true
	c.lastID = ^uint32(0) // the first is 1
	c.grow()
	c.out = append(c.out, Preface...)
	c.sendSettings()
	return c
}

func newConn(s *Scratch) *Conn {
	c := &Conn{
		s: s, recv: int64(s.cfg.ConnWindow), send: minWindow, initial: minWindow,
		maxSend: minFrameBytes, maxOpen: s.cfg.MaxStreams,
	}
	c.head.at = -1
	c.dec.size = initialTable
	c.dec.allowed = max(initialTable, s.cfg.DecodeTable)
	c.enc.limit, c.enc.told, c.enc.lowest = s.cfg.EncodeTable, initialTable, initialTable
	c.enc.resize(initialTable)
	c.glitches, c.resets = s.cfg.Glitches, s.cfg.Resets
	return c
}

// Close gives back what the connection holds. It must not be used any more.
func (c *Conn) Close() {
	c.failed = &Error{Code: NoError, Reason: "the connection is closed"}
	c.streams.each(func(s *stream) { c.s.freeStream(s) })
	c.streams, c.ready = table{}, queue{}
	c.s.giveBuffer(c.out)
	c.s.giveBuffer(c.block)
	c.out, c.block = nil, nil
	c.dec.entries, c.enc.entries = entries{}, entries{}
}

// Out is what must be sent. It lives until the next call that is not Sent.
func (c *Conn) Out() []byte { return c.out }

// Sent forgets Out.
func (c *Conn) Sent() {
	c.s.giveBuffer(c.out)
	c.out = nil
	c.replies = 0
}

// grow makes sure that out has a buffer.
func (c *Conn) grow() {
	if c.out == nil {
		c.out = c.s.buffer()
	}
}

// Streams is how many streams are open.
func (c *Conn) Streams() int { return c.streams.n }

// Partial says whether a head has begun to arrive and not ended: the time that
// may take is the caller's to bound.
func (c *Conn) Partial() bool { return c.gathering != 0 || c.at == inBlock }

// Standing says whether the peer's settings have come. The time that may take,
// and the one until SettingsAck, is the caller's to bound.
func (c *Conn) Standing() bool { return c.gotFirst }

// Value is what the stream was given; nil if it is not open.
func (c *Conn) Value(stream uint32) any {
	if s := c.streams.find(stream); s != nil {
		return s.value
	}
	return nil
}

// SetValue gives an open stream a value that comes with each of its events.
func (c *Conn) SetValue(stream uint32, value any) {
	if s := c.streams.find(stream); s != nil {
		s.value = value
	}
}
