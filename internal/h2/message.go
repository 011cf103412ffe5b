package h2

import "windrose.dev/windrose/internal/h1"

// endBlock is called with a whole field block.
func (c *Conn) endBlock(block []byte, ev *Event) *Error {
	id := c.frame
	c.gathering, c.fragmentStart = 0, 0
	h := &c.s.head
	h.reset(&c.s.cfg)
	if err := c.dec.decode(block, h); err != nil {
		return err
	}
	s := c.streams.find(id)
	switch {
	case s != nil:
		if c.self {
			return c.streamError(s, ProtocolError, dependsOnItself, ev)
		}
		return c.laterHead(s, ev)
	case c.client, id <= c.lastID, c.leaving:
		return c.stray("HEADERS", ev)
	}
	return c.firstHead(id, ev)
}

const dependsOnItself = "a stream depends on itself"

// firstHead opens a stream for a request.
func (c *Conn) firstHead(id uint32, ev *Event) *Error {
	if id > c.lastID+2 {
		c.gone.skippedFrom, c.gone.skippedTo = c.lastID+2, id-2
		if c.lastID == 0 {
			c.gone.skippedFrom = 1
		}
	}
	c.lastID = id
	full := c.streams.n >= c.s.cfg.MaxStreams
	s := c.open(id)
	s.peerDone = c.ends
	h, r := &c.s.head, &c.s.req
	switch {
	case full:
		return c.streamError(s, RefusedStream, "the client opens more streams than are allowed", ev)
	case c.self:
		return c.streamError(s, ProtocolError, dependsOnItself, ev)
	}
	reason, refused := h.request(r, &c.s.cfg, c.ends)
	if reason != "" {
		return c.streamError(s, ProtocolError, reason, ev)
	}
	s.known, s.headSeen = true, true
	s.connect = string(r.Method) == "CONNECT"
	s.headRequest = string(r.Method) == "HEAD"
	s.tunnel = s.connect
	if r.Body == h1.Length {
		s.want = r.Length
	}
	*ev = Event{Kind: Head, Stream: id, Request: r, Refused: refused, End: c.ends}
	return nil
}

// laterHead is a response, interim or final, or trailers.
func (c *Conn) laterHead(s *stream, ev *Event) *Error {
	switch {
	case s.peerDone:
		return c.streamError(s, StreamClosed, "there are HEADERS after the end of the stream", ev)
	case !s.headSeen:
		return c.responseHead(s, ev)
	case s.tunnel:
		return c.streamError(s, ProtocolError, "there are HEADERS in a tunnel", ev)
	case !c.ends:
		return c.streamError(s, ProtocolError, "there are trailers that do not end the stream", ev)
	}
	h := &c.s.head
	reason := h.trailer()
	if reason == "" && s.want >= 0 && s.got < s.want {
		reason = "there is less DATA than the Content-Length says"
	}
	if reason != "" {
		return c.streamError(s, ProtocolError, reason, ev)
	}
	*ev = Event{Kind: Trailers, Stream: s.id, Value: s.value, Fields: h.fields, End: true}
	s.peerDone = true
	c.closeIfDone(s)
	return nil
}

func (c *Conn) responseHead(s *stream, ev *Event) *Error {
	r := &c.s.resp
	if reason := c.s.head.response(r, s, c.ends); reason != "" {
		return c.streamError(s, ProtocolError, reason, ev)
	}
	*ev = Event{Kind: Head, Stream: s.id, Value: s.value, Response: r, End: c.ends}
	if r.Status < 200 {
		ev.Kind = Interim
		return c.glitch(1, "interim responses")
	}
	s.headSeen = true
	s.tunnel = s.connect && r.Status < 300
	switch {
	case s.tunnel:
	case r.Body == h1.Length:
		s.want = r.Length
	case r.Body == h1.NoBody:
		s.want = 0
	}
	if c.ends {
		s.peerDone = true
		c.closeIfDone(s)
	}
	return nil
}

// streamError resets a stream because of what the peer did.
func (c *Conn) streamError(s *stream, code Code, reason string, ev *Event) *Error {
	*ev = Event{Kind: Reset, Stream: s.id, Value: s.value, Local: true, Code: code, Reason: reason}
	c.appendReset(s.id, code)
	opened := s.opened
	c.close(s, resetHere)
	if err := c.spoiled(opened); err != nil {
		return err
	}
	return c.reply(frameHeader + 4)
}
