package h2

// openData looks at the header of DATA. All of its payload counts in both
// windows (RFC 9113 6.9.1).
func (c *Conn) openData(ev *Event) *Error {
	if c.frame == 0 || c.idle(c.frame) {
		return broken("there is DATA on a stream that is not open")
	}
	if c.recv -= int64(c.left); c.recv < 0 {
		return &Error{Code: FlowControlError, Reason: "the peer sends more than the window of the connection"}
	}
	padded := c.flags&flagPadded != 0
	if padded && c.left == 0 {
		return badSize("padded DATA has no length of its padding")
	}
	s := c.streams.find(c.frame)
	if s == nil {
		return c.strayData(ev)
	}
	switch {
	case s.peerDone:
		return c.spoil(s, StreamClosed, "there is DATA after the end of the stream", ev)
	case !s.headSeen:
		return c.spoil(s, ProtocolError, "there is DATA before the head of the response", ev)
	}
	if s.recv -= int64(c.left); s.recv < 0 {
		return c.spoil(s, FlowControlError, "the peer sends more than the window of the stream", ev)
	}
	if padded {
		c.at = inPad
		return nil
	}
	return c.beginData(0, ev)
}

// spoil resets a stream in the middle of DATA, of which the rest is skipped.
func (c *Conn) spoil(s *stream, code Code, reason string, ev *Event) *Error {
	c.at = inSkipped
	c.give(int64(c.left))
	if c.left == 0 {
		c.at = atFrame
	}
	return c.streamError(s, code, reason, ev)
}

// strayData skips DATA of a stream that has ended.
func (c *Conn) strayData(ev *Event) *Error {
	c.at = inSkipped
	c.give(int64(c.left))
	return c.stray("DATA", ev)
}

// stray handles DATA and HEADERS on a stream that is no more.
func (c *Conn) stray(what string, _ *Event) *Error {
	if c.leaving && !c.client && c.frame > c.last {
		return c.glitch(1, what+" after GOAWAY")
	}
	switch c.gone.find(c.frame) {
	case neverUsed:
		return broken("there is " + what + " on a stream that was left out")
	case endedBoth:
		return &Error{Code: StreamClosed, Reason: "there is " + what + " after the end of the stream"}
	case resetPeer:
		c.appendReset(c.frame, StreamClosed)
		if err := c.reply(frameHeader + 4); err != nil {
			return err
		}
		return c.glitch(4, what+" after RST_STREAM")
	case forgotten, resetHere:
	}
	// The peer may not know yet that the stream was reset.
	return c.glitch(1, what+" on streams that have ended")
}

// beginData is called when the padding is known.
func (c *Conn) beginData(pad int, ev *Event) *Error {
	s := c.streams.find(c.frame)
	if s == nil { // reset since the header of the frame
		c.at = inSkipped
		c.give(int64(c.left))
		if c.flags&flagPadded != 0 {
			c.give(1)
		}
		c.skip(0)
		return nil
	}
	if c.flags&flagPadded != 0 {
		if pad > c.left {
			return broken("the padding is larger than its frame")
		}
		s.unread++
		c.consumed(s, 1)
	}
	c.pad = pad
	if c.left == pad && c.flags&flagEndStream == 0 {
		if err := c.glitch(4, "empty DATA"); err != nil {
			return err
		}
	}
	if s.got += int64(c.left - pad); s.want >= 0 && s.got > s.want {
		return c.spoil(s, ProtocolError, "there is more DATA than the Content-Length says", ev)
	}
	c.at = inData
	if c.left == 0 && c.flags&flagPadded != 0 {
		c.at = atFrame
		return c.giveData(nil, ev)
	}
	return nil
}

// readData takes content, or padding.
func (c *Conn) readData(buf []byte, ev *Event) (n int, err *Error) {
	content := c.left - c.pad
	if content == 0 {
		n = min(len(buf), c.left)
		c.pad -= n
		c.skip(n)
		if s := c.streams.find(c.frame); s != nil {
			s.unread += int64(n)
			c.consumed(s, int64(n))
		} else {
			c.give(int64(n))
		}
		if c.left == 0 && c.flags&flagEndStream != 0 {
			err = c.giveData(nil, ev)
		}
		return n, err
	}
	n = min(len(buf), content)
	c.skip(n)
	return n, c.giveData(buf[:n:n], ev)
}

// giveData makes an event of content; at the end of the frame also of none, if
// that ends the stream.
func (c *Conn) giveData(data []byte, ev *Event) *Error {
	s := c.streams.find(c.frame)
	if s == nil { // reset in the middle of the frame
		c.give(int64(len(data)))
		return nil
	}
	s.unread += int64(len(data))
	end := c.left == 0 && c.flags&flagEndStream != 0
	if len(data) == 0 && !end {
		return nil
	}
	if end && s.want >= 0 && s.got < s.want {
		return c.streamError(s, ProtocolError, "there is less DATA than the Content-Length says", ev)
	}
	*ev = Event{Kind: Data, Stream: s.id, Value: s.value, Data: data, End: end}
	if end {
		s.peerDone = true
		c.closeIfDone(s)
	}
	return nil
}

// Consumed tells that n bytes of Data have been passed on, so that the peer may
// send as many more.
func (c *Conn) Consumed(stream uint32, n int) {
	if s := c.streams.find(stream); s != nil {
		c.consumed(s, min(int64(n), s.unread))
	}
}

func (c *Conn) consumed(s *stream, n int64) {
	s.unread -= n
	c.give(n)
	if s.credit += n; s.credit >= int64(c.s.cfg.StreamWindow)/2 && !s.peerDone {
		c.appendWindow(s.id, s.credit)
		s.recv += s.credit
		s.credit = 0
	}
}

// give gives bytes back to the window of the connection.
func (c *Conn) give(n int64) {
	if c.credit += n; c.credit >= int64(c.s.cfg.ConnWindow)/2 {
		c.appendWindow(0, c.credit)
		c.recv += c.credit
		c.credit = 0
	}
}
