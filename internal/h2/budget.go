package h2

// budget is how much a peer may still cost. The costs are small numbers of
// glitches; what a frame costs is said where it is handled.
type budget struct {
	glitches, resets int
	now, ticked      int64 // the time, and when it last refilled
}

const (
	second = int64(1e9)
	// What useful work gives back.
	rewardStream = 8    // a stream that ended well
	rewardData   = 2    // a frame of DATA sent: honest peers answer it with WINDOW_UPDATE, and PING to measure
	rewardBytes  = 1024 // of DATA sent, so many for one more
	// tinyWindow is what makes a frame of DATA earn nothing: the peer may ask for
	// more of them than anybody needs (CVE-2019-9511).
	tinyWindow = 256
	// maxReplies bounds the bytes of answers that pile up in Out until Sent.
	maxReplies = 16 << 10
)

// Tick tells the time, in nanoseconds from anywhere, which refills the budgets.
func (c *Conn) Tick(now int64) {
	c.now = now
	if c.ticked == 0 {
		c.ticked = now
		return
	}
	// The budgets grow by whole seconds, so that no part of one is lost.
	passed := min((now-c.ticked)/second, 1<<30)
	if passed <= 0 {
		return
	}
	cfg := &c.s.cfg
	c.ticked += passed * second
	c.glitches = min(cfg.Glitches, c.glitches+int(passed)*cfg.GlitchesBack)
	c.resets = min(cfg.Resets, c.resets+int(passed)*cfg.ResetsBack)
}

func calm(reason string) *Error { return &Error{Code: EnhanceYourCalm, Reason: reason} }

// glitch pays for something that the peer did.
func (c *Conn) glitch(n int, what string) *Error {
	if c.glitches -= n; c.glitches < 0 {
		return calm("the peer sends too much that carries nothing: " + what)
	}
	return nil
}

// reward gives back what useful work earns.
func (c *Conn) reward(n int) {
	c.glitches = min(c.s.cfg.Glitches, c.glitches+n)
}

// spoiled pays for a stream, opened at a time, that ended before its answer. Of
// servers nobody needs protection: they cannot open streams. Nor of streams that
// were open for a second, as when calls run into their deadlines: there are only
// so many at a time.
func (c *Conn) spoiled(opened int64) *Error {
	if c.client || c.now-opened >= second {
		return nil
	}
	if c.resets--; c.resets < 0 {
		return calm("too many streams end before their answer")
	}
	return nil
}

// reply counts bytes of Out that the peer asked for.
func (c *Conn) reply(n int) *Error {
	if c.replies += n; c.replies > maxReplies {
		return calm("the peer asks for more answers than it reads")
	}
	return nil
}
