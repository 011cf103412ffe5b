package proxy

import (
	"errors"
	"io"

	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/record"
)

// This file moves the bytes of a stream. A side is read only when the other has
// taken all that it was given before, so that a direction holds at most one
// read, or one pipe.

// lane is one direction of a stream, or of a large body.
type lane struct {
	bytes  int64
	pipe   *loop.Pipe // only while there is something in it, or in the middle of a move
	bulk   bool       // much comes at once: splicing is worth its calls
	copied bool       // nothing is spliced here, because the kernel does not
	ended  bool       // the end was passed on
}

const (
	// bulkRead is how much one read must give for the lane to be spliced from then
	// on: small pieces are cheaper to copy than to send through a pipe.
	bulkRead = 32 << 10
	// thinSplice is how little one splice must give for the lane to be copied
	// again.
	thinSplice = 4 << 10
)

// progress is how one step of a lane went.
type progress uint8

const (
	moved   progress = iota + 1 // bytes moved; there may be more
	dry                         // the source has nothing now
	blocked                     // the destination takes no more
	ended                       // the source said that it is done
	lost                        // the source's connection is gone
	stuck                       // the destination's connection is gone
)

// relay is called when something can be done at one end: into is the lane whose
// bytes go to it, from the one whose bytes come from it.
func (st *stream) relay(r loop.Ready, into, from *lane) {
	if r.Drained && !st.move(into) {
		return
	}
	if r.Read || r.Hangup || r.Err != nil {
		st.move(from)
	}
}

// ends gives the connections that a lane leads from and to.
func (st *stream) ends(l *lane) (from, to *loop.Conn) {
	if l == &st.sent {
		return &st.down, st.up
	}
	return st.up, &st.down
}

// move moves bytes along a lane for as long as that goes, within bounds; it says
// whether the stream goes on.
func (st *stream) move(l *lane) bool {
	if l.ended {
		return st.endless(l)
	}
	from, to := st.ends(l)
	for range turnReads {
		switch st.step(l, from, to) {
		case moved:
			st.activity = st.w.loop.Now()
			continue
		case dry, blocked:
			st.rest(l)
			return true
		case ended:
			return st.end(l, to)
		case lost:
			st.gone(l)
			return false
		case stuck:
			// What its end had sent before is still worth passing on.
			l.ended = true
			other := &st.sent
			if l == other {
				other = &st.answered
			}
			if other.ended {
				st.gone(other)
				return false
			}
			return st.move(other)
		}
	}
	st.rest(l)
	from.Again()
	return true
}

// endless looks whether the source of a lane that has ended is lost since.
func (st *stream) endless(l *lane) bool {
	from, _ := st.ends(l)
	if from.Broken() {
		st.gone(l)
		return false
	}
	return true
}

// step moves bytes once.
func (st *stream) step(l *lane, from, to *loop.Conn) progress {
	if to.Buffered() > 0 {
		return blocked
	}
	if l.open(st.w) {
		p := l.splice(st.w, from, to, loop.PipeSize)
		if l.copied {
			st.rest(l)
		}
		return p
	}
	n, err := from.Read(st.w.loop.In)
	if err != nil {
		return ending(err)
	}
	l.bytes += int64(n)
	l.bulk = n >= bulkRead && !st.secure && !st.veiled
	if err := to.Write(st.w.loop.In[:n]); err != nil {
		return stuck
	}
	return moved
}

// empty says that nothing is on its way in the pipe.
func (l *lane) empty() bool { return l.pipe == nil || l.pipe.Len() == 0 }

// open says whether there is a pipe to splice through.
func (l *lane) open(w *worker) bool {
	if l.pipe == nil && l.bulk && !l.copied {
		l.pipe = w.loop.TakePipe() // nil if there is none to be had
	}
	return l.pipe != nil
}

// splice sends what is in the pipe, then moves bytes once, so many at most.
func (l *lane) splice(w *worker, from, to *loop.Conn, most int64) progress {
	if l.pipe.Len() > 0 {
		if p := drained(to.SpliceFrom(l.pipe)); p != moved {
			return p
		}
	}
	if most == 0 {
		return moved
	}
	n, err := from.SpliceTo(l.pipe, int(min(most, loop.PipeSize)))
	if errors.Is(err, loop.ErrNoSplice) {
		l.copied = true
		return moved
	}
	if err != nil {
		return ending(err)
	}
	l.bytes += int64(n)
	l.bulk = n >= thinSplice
	w.spliced += uint64(n)
	return drained(to.SpliceFrom(l.pipe))
}

// ending says what an error of reading means.
func ending(err error) progress {
	switch {
	case err == loop.ErrAgain: //nolint:errorlint // see client.read
		return dry
	case errors.Is(err, io.EOF):
		return ended
	}
	return lost
}

// drained says what came of emptying a pipe.
func drained(err error) progress {
	if err == nil {
		return moved
	}
	if err == loop.ErrAgain { //nolint:errorlint // see client.read
		return blocked
	}
	return stuck
}

// rest gives the pipe back if it is empty.
func (st *stream) rest(l *lane) { l.rest(st.w) }

func (l *lane) rest(w *worker) {
	if l.pipe != nil && l.empty() {
		w.loop.GivePipe(l.pipe)
		l.pipe = nil
	}
}

// end passes the end of a lane on. All that came before has been taken.
func (st *stream) end(l *lane, to *loop.Conn) bool {
	l.ended = true
	st.rest(l)
	if st.sent.ended && st.answered.ended {
		st.close()
		return false
	}
	to.CloseWrite()
	return true
}

// gone ends the stream because the source of a lane was lost: the other end
// sees it lost too.
func (st *stream) gone(l *lane) {
	if l == &st.sent {
		st.fail(record.ClientGone, "the client reset the connection")
		return
	}
	st.fail(record.UpstreamReset, "endpoint "+st.rec.Endpoint.String()+" reset the connection")
}
