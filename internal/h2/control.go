package h2

import "encoding/binary"

// The settings (RFC 9113 6.5.2, RFC 8441 3).
const (
	settingTable   = 0x1
	settingPush    = 0x2
	settingStreams = 0x3
	settingWindow  = 0x4
	settingFrame   = 0x5
	settingHead    = 0x6
	settingConnect = 0x8
)

// openSmall looks at the header of a control frame.
func (c *Conn) openSmall(ev *Event) *Error {
	c.at, c.have = inSmall, 0
	wantsStream := c.kind == framePriority || c.kind == frameReset
	switch {
	case wantsStream && c.frame == 0:
		return broken("a frame about a stream has none")
	case !wantsStream && c.kind != frameWindow && c.frame != 0:
		return broken("a frame about the connection has a stream")
	}
	switch c.kind {
	case frameReset, frameWindow:
		c.unit = 4
		if c.left != 4 {
			return badSize("a frame is not 4 bytes long")
		}
		if c.frame != 0 && c.idle(c.frame) {
			return broken("there is a frame about a stream that was never opened")
		}
	case framePing:
		c.unit = 8
		if c.left != 8 {
			return badSize("PING is not 8 bytes long")
		}
	case frameGoaway:
		c.unit = 8
		if c.left < 8 {
			return badSize("GOAWAY is too short")
		}
	case framePriority:
		c.unit = 5
		if c.left != 5 {
			return c.badPriority(FrameSizeError, "PRIORITY is not 5 bytes long", ev)
		}
	default:
		return c.openSettings()
	}
	return nil
}

func (c *Conn) openSettings() *Error {
	c.unit = 6
	if c.flags&flagAck != 0 {
		if c.left != 0 {
			return badSize("the acknowledgement of SETTINGS has a payload")
		}
		return nil
	}
	if c.left%6 != 0 {
		return badSize("SETTINGS does not consist of whole settings")
	}
	if !c.gotFirst {
		return nil
	}
	return c.glitch(4+c.left/60, "SETTINGS")
}

// badPriority is a mistake of a single stream; where there is none to reset, it
// is one of the connection.
func (c *Conn) badPriority(code Code, reason string, ev *Event) *Error {
	s := c.streams.find(c.frame)
	if s == nil {
		return &Error{Code: code, Reason: reason}
	}
	if c.left > 0 {
		c.at = inSkipped
	}
	return c.streamError(s, code, reason, ev)
}

// takeUnit takes a setting, or the payload of another control frame.
func (c *Conn) takeUnit(p []byte, ev *Event) *Error {
	switch c.kind {
	case frameSettings:
		return c.takeSetting(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:]))
	case framePing:
		return c.takePing(p, ev)
	case frameWindow:
		return c.takeWindow(int64(binary.BigEndian.Uint32(p)&maxWindow), ev)
	case frameReset:
		return c.takeReset(Code(binary.BigEndian.Uint32(p)), ev)
	case framePriority:
		if binary.BigEndian.Uint32(p)&maxWindow == c.frame {
			return c.badPriority(ProtocolError, dependsOnItself, ev)
		}
		return c.glitch(1, "PRIORITY")
	case frameGoaway:
		return c.takeGoaway(binary.BigEndian.Uint32(p)&maxWindow, Code(binary.BigEndian.Uint32(p[4:])), ev)
	case frameData, frameHeaders, framePush, frameContinuation:
	}
	return nil
}

func (c *Conn) takeSetting(id uint16, v uint32) *Error {
	switch id {
	case settingTable:
		c.enc.resize(int(min(v, maxTable)))
	case settingPush:
		if v > 1 || v == 1 && c.client {
			return broken("SETTINGS_ENABLE_PUSH has a value that is not allowed")
		}
	case settingStreams:
		c.maxOpen = int(min(v, uint32(c.s.cfg.MaxStreams)))
	case settingWindow:
		return c.setInitial(v)
	case settingFrame:
		if v < minFrameBytes || v > maxFrameBytes {
			return broken("SETTINGS_MAX_FRAME_SIZE is not between 16384 and 16777215")
		}
		// Larger frames gain nothing, and make others wait.
		c.maxSend = int(min(v, 64<<10))
	case settingConnect:
		if v > 1 || v == 0 && c.connectOK {
			return broken("SETTINGS_ENABLE_CONNECT_PROTOCOL has a value that is not allowed")
		}
		c.connectOK = v == 1
	}
	return nil
}

// setInitial changes the window of new streams, and of those that are open by
// the difference (RFC 9113 6.9.2).
func (c *Conn) setInitial(v uint32) *Error {
	if v > maxWindow {
		return &Error{Code: FlowControlError, Reason: "SETTINGS_INITIAL_WINDOW_SIZE is too large"}
	}
	change := int64(v) - c.initial
	c.initial = int64(v)
	over := false
	c.streams.each(func(s *stream) {
		s.send += change
		over = over || s.send > maxWindow
		if s.wants && s.send > 0 {
			c.ready.push(s)
		}
	})
	if over {
		return &Error{Code: FlowControlError, Reason: "SETTINGS_INITIAL_WINDOW_SIZE makes a window too large"}
	}
	return nil
}

// endSmall ends a control frame.
func (c *Conn) endSmall(ev *Event) *Error {
	if c.kind != frameSettings {
		return nil
	}
	if c.flags&flagAck != 0 {
		if c.gotAck {
			return c.glitch(4, "acknowledgements of nothing")
		}
		c.gotAck = true
		c.dec.allow(c.s.cfg.DecodeTable)
		*ev = Event{Kind: SettingsAck}
		return nil
	}
	c.gotFirst = true
	c.appendFrame(0, frameSettings, flagAck, 0)
	*ev = Event{Kind: Settings}
	return c.reply(frameHeader)
}

func (c *Conn) takePing(p []byte, ev *Event) *Error {
	if c.flags&flagAck != 0 {
		*ev = Event{Kind: PingAck}
		return c.glitch(1, "PING")
	}
	c.appendFrame(8, framePing, flagAck, 0)
	c.out = append(c.out, p...)
	if err := c.reply(frameHeader + 8); err != nil {
		return err
	}
	return c.glitch(1, "PING")
}

func (c *Conn) takeWindow(n int64, ev *Event) *Error {
	if err := c.glitch(1, "WINDOW_UPDATE"); err != nil {
		return err
	}
	if c.frame == 0 {
		if n == 0 {
			return broken("WINDOW_UPDATE opens the window by nothing")
		}
		if c.send += n; c.send > maxWindow {
			return &Error{Code: FlowControlError, Reason: "WINDOW_UPDATE makes the window of the connection too large"}
		}
		return nil
	}
	s := c.streams.find(c.frame)
	switch {
	case s == nil:
		return nil // on its way when the stream ended
	case n == 0:
		return c.streamError(s, ProtocolError, "WINDOW_UPDATE opens the window by nothing", ev)
	}
	if s.send += n; s.send > maxWindow {
		return c.streamError(s, FlowControlError, "WINDOW_UPDATE makes the window of the stream too large", ev)
	}
	if s.wants && s.send > 0 {
		c.ready.push(s)
	}
	return nil
}

func (c *Conn) takeReset(code Code, ev *Event) *Error {
	s := c.streams.find(c.frame)
	if s == nil {
		return c.glitch(1, "RST_STREAM on streams that have ended")
	}
	*ev = Event{
		Kind: Reset, Stream: s.id, Value: s.value, Code: code,
		Untouched: c.client && code == RefusedStream && !s.headSeen,
	}
	answered, opened := s.ownDone, s.opened
	c.close(s, resetPeer)
	if answered {
		return nil // the client does not want to send the rest of its request
	}
	return c.spoiled(opened)
}

func (c *Conn) takeGoaway(last uint32, code Code, ev *Event) *Error {
	if c.away {
		last = min(last, c.kept) // it must not take back what it said
	}
	c.away, c.kept, c.orphans = true, last, c.client
	*ev = Event{Kind: Goaway, Code: code}
	return c.glitch(1, "GOAWAY")
}

// orphan gives an event for a stream that the peer will not serve.
func (c *Conn) orphan(ev *Event) bool {
	var found *stream
	c.streams.each(func(s *stream) {
		if s.id > c.kept && (found == nil || s.id < found.id) {
			found = s
		}
	})
	if found == nil {
		c.orphans = false
		return false
	}
	*ev = Event{
		Kind: Reset, Stream: found.id, Value: found.value, Code: RefusedStream, Untouched: !found.headSeen,
	}
	c.close(found, resetHere)
	return true
}
