package h2

import "encoding/binary"

// frameKind is the type of a frame (RFC 9113 6).
type frameKind uint8

const (
	frameData         frameKind = 0x0
	frameHeaders      frameKind = 0x1
	framePriority     frameKind = 0x2
	frameReset        frameKind = 0x3
	frameSettings     frameKind = 0x4
	framePush         frameKind = 0x5
	framePing         frameKind = 0x6
	frameGoaway       frameKind = 0x7
	frameWindow       frameKind = 0x8
	frameContinuation frameKind = 0x9
)

// The flags of frames.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

const frameHeader = 9

// place is what the next byte belongs to.
type place uint8

const (
	atFrame   place = iota // a frame header
	atPreface              // the client's preface
	inSkipped              // the rest of a frame that is not looked at
	inSmall                // units of a control frame
	inBlock                // a fragment of a field block
	inPad                  // the length of the padding of DATA
	inData
)

// reader is where in the peer's bytes a Conn is.
type reader struct {
	at    place
	kind  frameKind
	flags uint8
	have  uint8 // bytes in small, or of the preface
	unit  uint8 // bytes of a unit inSmall
	small [frameHeader]byte

	frame uint32 // the frame's stream
	left  int    // of its payload
	pad   int    // of which padding

	// gathering is the stream whose field block has not ended, or 0. block holds
	// what has come of it.
	gathering     uint32
	ends          bool // the block's HEADERS ends the stream
	self          bool // it depends on itself
	continuations int
	block         []byte
	fragmentStart int // where in block the fragment of this frame begins
}

// Next reads from buf, of which n bytes were taken, up to the first event. A
// Kind of 0 says that all of buf is taken and nothing else has happened. After
// an error, which every later call repeats, send Out and close.
func (c *Conn) Next(buf []byte) (ev Event, n int, err *Error) {
	if c.failed != nil {
		return Event{}, 0, c.failed
	}
	for {
		if c.waiting(&ev) || n == len(buf) {
			return ev, n, nil
		}
		k, err := c.step(buf[n:], &ev)
		n += k
		if err != nil {
			c.fail(err)
			return Event{}, n, err
		}
		if ev.Kind != 0 {
			return ev, n, nil
		}
	}
}

// waiting gives the events that need no bytes.
func (c *Conn) waiting(ev *Event) bool {
	if c.orphans && c.orphan(ev) {
		return true
	}
	if s := c.ready.first; s != nil && c.send > 0 {
		c.ready.drop(s)
		s.wants = false
		*ev = Event{Kind: Writable, Stream: s.id, Value: s.value}
		return true
	}
	return false
}

// step takes at least one byte.
func (c *Conn) step(buf []byte, ev *Event) (n int, err *Error) {
	switch c.at {
	case atPreface:
		return c.readPreface(buf)
	case atFrame:
		if c.have == 0 && len(buf) >= frameHeader {
			return frameHeader, c.begin(buf[:frameHeader], ev)
		}
		n = copy(c.small[c.have:], buf)
		if c.have += uint8(n); c.have < frameHeader {
			return n, nil
		}
		c.have = 0
		return n, c.begin(c.small[:], ev)
	case inSmall:
		return c.readSmall(buf, ev)
	case inBlock:
		return c.readBlock(buf, ev)
	case inPad:
		c.left--
		return 1, c.beginData(int(buf[0]), ev)
	case inData:
		return c.readData(buf, ev)
	case inSkipped:
	}
	n = min(len(buf), c.left)
	c.skip(n)
	return n, nil
}

// skip takes n bytes of a frame that nobody looks at.
func (c *Conn) skip(n int) {
	if c.left -= n; c.left == 0 {
		c.at = atFrame
	}
}

func (c *Conn) readPreface(buf []byte) (n int, err *Error) {
	for n < len(buf) && int(c.have) < len(Preface) {
		if buf[n] != Preface[c.have] {
			return n, broken("the connection does not begin with the preface of HTTP/2")
		}
		n++
		c.have++
	}
	if int(c.have) == len(Preface) {
		c.at, c.have = atFrame, 0
	}
	return n, nil
}

func broken(reason string) *Error { return &Error{Code: ProtocolError, Reason: reason} }

func badSize(reason string) *Error { return &Error{Code: FrameSizeError, Reason: reason} }

// begin looks at a frame header.
func (c *Conn) begin(h []byte, ev *Event) *Error {
	c.left = int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	c.kind, c.flags = frameKind(h[3]), h[4]
	c.frame = binary.BigEndian.Uint32(h[5:]) & maxWindow
	c.pad = 0
	switch {
	case c.left > c.s.cfg.MaxFrameBytes:
		return badSize("a frame is larger than is allowed")
	case !c.gotFirst && (c.kind != frameSettings || c.flags&flagAck != 0):
		return broken("the first frame is not SETTINGS")
	case c.gathering != 0 && (c.kind != frameContinuation || c.frame != c.gathering):
		return broken("a field block is interrupted by another frame")
	}
	var err *Error
	switch c.kind {
	case frameData:
		err = c.openData(ev)
	case frameHeaders, frameContinuation:
		err = c.openBlock()
	case framePush:
		err = broken("the peer pushes, which is not allowed")
	case framePriority, frameReset, frameSettings, framePing, frameGoaway, frameWindow:
		err = c.openSmall(ev)
	default:
		c.at = inSkipped
		err = c.glitch(1, "frames of unknown types")
	}
	if err != nil || c.left > 0 {
		return err
	}
	return c.empty(ev)
}

// empty ends a frame that has no payload.
func (c *Conn) empty(ev *Event) *Error {
	switch c.at {
	case inBlock:
		return c.endFragment(nil, ev)
	case inSmall:
		c.at = atFrame
		return c.endSmall(ev)
	case inData:
		c.at = atFrame
		return c.giveData(nil, ev)
	case atFrame, atPreface, inPad, inSkipped:
	}
	c.at = atFrame
	return nil
}

// readSmall gathers the units of a control frame.
func (c *Conn) readSmall(buf []byte, ev *Event) (n int, err *Error) {
	n = min(len(buf), int(c.unit-c.have))
	unit := buf[:n]
	if c.have > 0 || n < int(c.unit) {
		copy(c.small[c.have:], unit)
		if c.have += uint8(n); c.have < c.unit {
			c.left -= n
			return n, nil
		}
		c.have = 0
		unit = c.small[:c.unit]
	}
	c.skip(n)
	if err = c.takeUnit(unit, ev); err != nil {
		return n, err
	}
	if c.left == 0 {
		return n, c.endSmall(ev)
	}
	if c.kind == frameGoaway {
		c.at = inSkipped // what it says in words
	}
	return n, nil
}

// openBlock looks at the header of HEADERS or CONTINUATION.
func (c *Conn) openBlock() *Error {
	c.at = inBlock
	cfg := &c.s.cfg
	if c.kind == frameContinuation {
		if c.gathering == 0 {
			return broken("there is a CONTINUATION without HEADERS before it")
		}
		// CVE-2024-27316. A block has as many frames as it needs; more cost.
		c.continuations++
		if len(c.block) < c.continuations*1024 {
			if err := c.glitch(c.continuations, "CONTINUATION"); err != nil {
				return err
			}
		}
	} else {
		if c.frame == 0 || c.frame%2 == 0 || c.client && c.idle(c.frame) {
			return broken("there are HEADERS on a stream that the peer may not open")
		}
		c.ends = c.flags&flagEndStream != 0
		c.continuations = 0
	}
	if len(c.block)+c.left > cfg.MaxHeadBytes+minFrameBytes {
		return calm("a field block is larger than is allowed")
	}
	return nil
}

// readBlock takes a fragment of a field block. One that is whole is decoded
// where it lies.
func (c *Conn) readBlock(buf []byte, ev *Event) (n int, err *Error) {
	n = min(len(buf), c.left)
	fragment := buf[:n]
	c.left -= n
	if c.have == 0 && c.left == 0 {
		return n, c.endFragment(fragment, ev)
	}
	c.gather(fragment)
	c.have = 1
	if c.left > 0 {
		return n, nil
	}
	return n, c.endFragment(nil, ev)
}

func (c *Conn) gather(fragment []byte) {
	if c.block == nil {
		c.block = c.s.buffer()
	}
	c.block = append(c.block, fragment...)
}

// endFragment is called at the end of HEADERS or CONTINUATION, with the payload
// if that was not gathered.
func (c *Conn) endFragment(payload []byte, ev *Event) *Error {
	whole := c.have == 0
	c.at, c.have = atFrame, 0
	start := 0
	if c.gathering != 0 {
		start = c.fragmentStart
	}
	if !whole {
		payload = c.block[start:]
	}
	if c.kind == frameHeaders {
		var err *Error
		if payload, err = c.strip(payload); err != nil {
			return err
		}
	}
	done := c.flags&flagEndHeaders != 0
	if whole && done && c.gathering == 0 {
		return c.endBlock(payload, ev)
	}
	if whole {
		c.gather(payload)
	} else {
		c.block = append(c.block[:start], payload...)
	}
	c.gathering = c.frame
	c.fragmentStart = len(c.block)
	if !done {
		return nil
	}
	err := c.endBlock(c.block, ev)
	c.s.giveBuffer(c.block)
	c.block = nil
	return err
}

// strip cuts padding and priority from the payload of HEADERS.
func (c *Conn) strip(p []byte) ([]byte, *Error) {
	pad := 0
	if c.flags&flagPadded != 0 {
		if len(p) < 1 {
			return nil, badSize("HEADERS is too short")
		}
		pad, p = int(p[0]), p[1:]
	}
	c.self = false
	if c.flags&flagPriority != 0 {
		if len(p) < 5 {
			return nil, badSize("HEADERS is too short")
		}
		c.self = binary.BigEndian.Uint32(p)&maxWindow == c.frame
		p = p[5:]
	}
	if pad > len(p) {
		return nil, broken("the padding is larger than its frame")
	}
	return p[:len(p)-pad], nil
}
