package h2

import (
	"encoding/binary"
	"strconv"

	"windrose.dev/windrose/internal/h1"
)

// headKind is what kind of head is being written.
type headKind uint8

const (
	requestHead headKind = iota + 1
	responseHead
	interimHead
	trailerHead
)

// Line is what HTTP/2 has in place of a request line.
type Line struct {
	Method    []byte
	Scheme    []byte // not for CONNECT
	Authority []byte
	Path      []byte // with the query; not for CONNECT
	Protocol  []byte // for extended CONNECT alone, which has Scheme and Path too
}

// Room is how many streams may be opened now: as the peer allows and the Config,
// none after a GOAWAY. Before the peer's SETTINGS it is what the Config allows.
func (c *Conn) Room() int {
	if !c.client || c.away || c.leaving || c.failed != nil {
		return 0
	}
	ids := (maxWindow-int64(c.lastID+2))/2 + 1
	return int(max(0, min(int64(c.maxOpen-c.streams.n), ids)))
}

// TakesConnect says whether the peer takes extended CONNECT.
func (c *Conn) TakesConnect() bool { return c.connectOK }

// BeginRequest opens a stream and begins the head of its request: Add fields,
// then EndHead. It is false if there is no Room, or for extended CONNECT if the
// peer does not take that.
func (c *Conn) BeginRequest(l *Line, value any) (stream uint32, ok bool) {
	if c.Room() == 0 || len(l.Protocol) > 0 && !c.connectOK {
		return 0, false
	}
	c.lastID += 2
	s := c.open(c.lastID)
	s.value = value
	s.known, s.headSent = true, true
	s.headRequest = string(l.Method) == "HEAD"
	s.connect = string(l.Method) == "CONNECT"
	c.beginHead(s.id, requestHead)
	c.pseudo(":method", l.Method, mayKeep)
	if !s.connect || len(l.Protocol) > 0 {
		c.pseudo(":scheme", l.Scheme, mayKeep)
	}
	c.pseudo(":authority", l.Authority, mayKeep)
	if !s.connect || len(l.Protocol) > 0 {
		c.pseudo(":path", l.Path, wontKeep)
	}
	if len(l.Protocol) > 0 {
		c.pseudo(":protocol", l.Protocol, mayKeep)
	}
	return s.id, true
}

func (c *Conn) pseudo(name string, value []byte, keep keeping) {
	c.s.text = append(c.s.text[:0], name...)
	c.out = c.enc.append(c.out, c.s.text, value, keep)
}

// BeginResponse begins the head of a response, which is an interim one if the
// status is below 200: Add fields, then EndHead. It is false if the stream is
// gone or has had its response, and for 101, which HTTP/2 does not have.
func (c *Conn) BeginResponse(stream uint32, status int) bool {
	s := c.streams.find(stream)
	if s == nil || c.client || s.headSent || status == 101 || c.failed != nil {
		return false
	}
	kind := responseHead
	if status < 200 {
		kind = interimHead
	}
	c.beginHead(stream, kind)
	s.headSent = status >= 200
	var digits [8]byte
	c.pseudo(":status", strconv.AppendInt(digits[:0], int64(status), 10), mayKeep)
	return true
}

// BeginTrailers begins the trailers that end a stream: Add fields, then EndHead.
// It is false if the stream is gone or has ended.
func (c *Conn) BeginTrailers(stream uint32) bool {
	s := c.streams.find(stream)
	if s == nil || s.ownDone || !s.headSent || c.failed != nil {
		return false
	}
	c.beginHead(stream, trailerHead)
	return true
}

func (c *Conn) beginHead(stream uint32, kind headKind) {
	c.grow()
	c.head.at, c.head.stream, c.head.kind = len(c.out), stream, kind
	c.appendFrame(0, frameHeaders, flagEndHeaders, stream)
	c.out = c.enc.begin(c.out)
}

// AddField adds a field to the head that was begun, under its name in lower
// case. Fields that HTTP/2 does not have, those about the connection and Host in
// a request, are left out. The name must not be one of a pseudo-header field.
func (c *Conn) AddField(f *h1.Field) {
	if c.head.at < 0 {
		return
	}
	switch f.Known {
	case h1.Connection, h1.KeepAlive, h1.ProxyConnection, h1.TransferEncoding, h1.Upgrade, h1.HTTP2Settings:
		return
	case h1.Host:
		if c.head.kind == requestHead {
			return
		}
	case h1.TE:
		if !h1.EqualFold(f.Value, "trailers") {
			return
		}
	}
	name := f.Name
	for i, b := range name {
		if b-'A' < 26 {
			name = c.lower(name, i)
			break
		}
	}
	keep := neverKeep
	if !f.Sensitive {
		keep = keepingOf(name, f.Known)
	}
	c.out = c.enc.append(c.out, name, f.Value, keep)
}

// lower copies a name in lower case; it is so before i already.
func (c *Conn) lower(name []byte, i int) []byte {
	c.s.text = append(c.s.text[:0], name...)
	text := c.s.text
	for ; i < len(text); i++ {
		text[i] = lower(text[i])
	}
	return text
}

// Add adds a field like AddField.
func (c *Conn) Add(name, value []byte) {
	c.AddField(&h1.Field{Name: name, Value: value, Known: h1.Classify(name)})
}

// AddString adds a field like AddField.
func (c *Conn) AddString(name, value string) {
	c.s.text = append(append(c.s.text[:0], name...), value...)
	text, n := c.s.text, len(name)
	for i := range n {
		text[i] = lower(text[i])
	}
	c.Add(text[:n:n], text[n:])
}

// EndHead ends the head that was begun. With end the stream ends too, as it
// always does after trailers.
func (c *Conn) EndHead(end bool) {
	at := c.head.at
	if at < 0 {
		return
	}
	c.head.at = -1
	s := c.streams.find(c.head.stream)
	end = end && c.head.kind != interimHead || c.head.kind == trailerHead
	n := len(c.out) - at - frameHeader
	if end {
		c.out[at+4] |= flagEndStream
	}
	if n == 0 && c.head.kind == trailerHead {
		// No fields: the end alone, as some peers do not expect an empty block.
		c.out[at+3], c.out[at+4] = byte(frameData), flagEndStream
	}
	putLength(c.out[at:], min(n, c.maxSend))
	if n > c.maxSend {
		c.split(at, n)
	}
	if s != nil && end {
		c.endOwn(s)
	}
}

// split makes CONTINUATION frames of what is beyond the size of a frame.
func (c *Conn) split(at, n int) {
	c.out[at+4] &^= flagEndHeaders
	frames := (n - 1) / c.maxSend
	stream := c.head.stream
	c.out = append(c.out, make([]byte, frames*frameHeader)...)
	// From the last fragment to the second, each moves by the headers before it.
	for i := frames; i > 0; i-- {
		from := at + frameHeader + i*c.maxSend
		size := min(c.maxSend, n-i*c.maxSend)
		to := from + i*frameHeader
		copy(c.out[to:to+size], c.out[from:from+size])
		h := c.out[to-frameHeader : to]
		flags := uint8(0)
		if i == frames {
			flags = flagEndHeaders
		}
		putHeader(h, size, frameContinuation, flags, stream)
	}
}

// WriteData sends as much of p as the windows of the peer allow, and says how
// much that was. If it is not all, a Writable event comes when there is room for
// more. With end, the stream ends once all of p is sent. What is written on a
// stream that is gone counts as sent.
func (c *Conn) WriteData(stream uint32, p []byte, end bool) (n int) {
	s := c.streams.find(stream)
	if s == nil || s.ownDone || !s.headSent || c.failed != nil {
		return len(p)
	}
	for n < len(p) {
		size := int(min(int64(len(p)-n), int64(c.maxSend), s.send, c.send))
		if size <= 0 {
			s.wants = true
			if s.send > 0 {
				c.ready.push(s)
			}
			return n
		}
		flags := uint8(0)
		if end && n+size == len(p) {
			flags = flagEndStream
		}
		c.appendFrame(size, frameData, flags, stream)
		c.out = append(c.out, p[n:n+size]...)
		s.send -= int64(size)
		c.send -= int64(size)
		n += size
		if size >= tinyWindow || n == len(p) {
			c.reward(rewardData + size/rewardBytes)
		}
	}
	if end {
		if len(p) == 0 {
			c.appendFrame(0, frameData, flagEndStream, stream)
		}
		c.endOwn(s)
	}
	return n
}

// Window is how many bytes WriteData would take now.
func (c *Conn) Window(stream uint32) int {
	s := c.streams.find(stream)
	if s == nil || s.ownDone {
		return 0
	}
	return int(max(0, min(s.send, c.send)))
}

// Reset ends a stream at once, in both directions. A server that has answered
// and does not want the rest of the request says NoError (RFC 9113 8.1).
func (c *Conn) Reset(stream uint32, code Code) {
	if s := c.streams.find(stream); s != nil && c.failed == nil {
		c.appendReset(stream, code)
		c.close(s, resetHere)
	}
}

// Ping asks the peer for a sign of life, which comes as PingAck.
func (c *Conn) Ping(data [8]byte) {
	c.appendFrame(8, framePing, 0, 0)
	c.out = append(c.out, data[:]...)
}

// Drain tells a client that no more streams should be opened. Those that are on
// their way are served. Call Goaway when the answer to a Ping that follows has
// come, or after a while.
func (c *Conn) Drain() {
	if c.failed == nil && !c.leaving {
		c.appendGoaway(maxWindow, NoError, "")
	}
}

// Goaway tells the peer that streams beyond those it has opened are not served.
// The streams that are open go on.
func (c *Conn) Goaway(code Code) {
	if c.failed != nil || c.leaving {
		return
	}
	c.leaving = true
	c.last = c.peerLast()
	c.appendGoaway(c.last, code, "")
}

// Drained says that Goaway, or the peer's GOAWAY, was the last word, and that no
// stream is open: the connection can be closed.
func (c *Conn) Drained() bool { return (c.leaving || c.away) && c.streams.n == 0 }

// peerLast is the last stream that the peer opened.
func (c *Conn) peerLast() uint32 {
	if c.client {
		return 0
	}
	return c.lastID
}

func (c *Conn) fail(err *Error) {
	c.failed = err
	last := c.peerLast()
	if c.leaving {
		last = c.last
	}
	c.appendGoaway(last, err.Code, err.Reason)
}

func (c *Conn) appendGoaway(last uint32, code Code, reason string) {
	c.appendFrame(8+len(reason), frameGoaway, 0, 0)
	c.out = binary.BigEndian.AppendUint32(c.out, last)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(code))
	c.out = append(c.out, reason...)
}

func (c *Conn) appendReset(stream uint32, code Code) {
	c.appendFrame(4, frameReset, 0, stream)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(code))
}

func (c *Conn) appendWindow(stream uint32, n int64) {
	c.appendFrame(4, frameWindow, 0, stream)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(n))
}

func (c *Conn) appendFrame(length int, kind frameKind, flags uint8, stream uint32) {
	c.grow()
	var h [frameHeader]byte
	putHeader(h[:], length, kind, flags, stream)
	c.out = append(c.out, h[:]...)
}

func putHeader(h []byte, length int, kind frameKind, flags uint8, stream uint32) {
	putLength(h, length)
	h[3], h[4] = byte(kind), flags
	binary.BigEndian.PutUint32(h[5:], stream)
}

func putLength(h []byte, n int) {
	h[0], h[1], h[2] = byte(n>>16), byte(n>>8), byte(n)
}

// sendSettings sends the first SETTINGS, and opens the window of the connection.
func (c *Conn) sendSettings() {
	cfg := &c.s.cfg
	c.grow()
	at := len(c.out)
	c.appendFrame(0, frameSettings, 0, 0)
	set := func(id uint16, v int) {
		c.out = binary.BigEndian.AppendUint16(c.out, id)
		c.out = binary.BigEndian.AppendUint32(c.out, uint32(v))
	}
	if c.client {
		set(settingPush, 0)
	} else {
		set(settingStreams, cfg.MaxStreams)
	}
	if cfg.DecodeTable != initialTable {
		set(settingTable, cfg.DecodeTable)
	}
	set(settingWindow, cfg.StreamWindow)
	if cfg.MaxFrameBytes != minFrameBytes {
		set(settingFrame, cfg.MaxFrameBytes)
	}
	set(settingHead, cfg.MaxHeadBytes)
	if cfg.Connect && !c.client {
		set(settingConnect, 1)
	}
	putLength(c.out[at:], len(c.out)-at-frameHeader)
	if more := cfg.ConnWindow - minWindow; more > 0 {
		c.appendWindow(0, int64(more))
	}
}
