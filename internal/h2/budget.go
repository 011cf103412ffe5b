package h2

import "math"

// budget is how much a peer may still cost. The costs are small numbers of
// glitches; what a frame costs is said where it is handled.
type budget struct {
	glitches, resets int
	ticked           int64 // when time last refilled
}

const (
	second = int64(1e9)
	// What useful work gives back.
	rewardStream = 8    // a stream that ended well
	rewardBytes  = 1024 // of DATA sent, so many for a glitch: the peer answers each frame with WINDOW_UPDATEs
	rewardData   = 256  // DATA frames below this earn nothing: a peer may ask for them with tiny windows
	// maxReplies bounds the bytes of answers that pile up in Out until Sent.
	maxReplies = 16 << 10
)

// Tick tells the time, in nanoseconds from anywhere, which refills the budgets.
func (c *Conn) Tick(now int64) {
	if c.ticked == 0 {
		c.ticked = now
		return
	}
	// The budgets grow by whole steps, so that no part of a step is lost.
	cfg := &c.s.cfg
	steps := min((now-c.ticked)/(second/10), math.MaxInt32)
	if steps <= 0 {
		return
	}
	c.ticked += steps * (second / 10)
	c.glitches = min(cfg.Glitches, c.glitches+int(steps)*cfg.GlitchesBack/10)
	c.resets = min(cfg.Resets, c.resets+int(steps)*cfg.ResetsBack/10)
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

// spoiled pays for a stream that ended before its answer. Of servers nobody
// needs protection: they cannot open streams.
func (c *Conn) spoiled() *Error {
	if c.client {
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
