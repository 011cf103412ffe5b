package proxy

import (
	"net/netip"

	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/telemetry"
)

// The kernel spreads connections over the loops by a hash of their addresses.
// That is even where there are many. Of four that last, all are on one of two
// loops every eighth time, and the other does nothing as long as they last. So a
// loop that accepts a connection hands it to the one that holds the fewest, if
// that are fewer by a quarter: before anything was read, when a connection is
// nothing but a descriptor. Afterwards it stays where it is.

// lightest is the loop that a new connection of s belongs to.
func (w *worker) lightest(s *socket) *worker {
	if s.leaving.Load() {
		return w
	}
	best, fewest := w, w.held.Load()
	most := fewest
	for _, o := range w.proxy.workers {
		if n := o.held.Load(); n < fewest {
			best, fewest = o, n
		}
	}
	if most <= fewest+fewest/4 {
		return w
	}
	return best
}

// hand gives a new connection to another loop; it says whether that took it.
func (w *worker) hand(to *worker, s *socket, fd int, peer netip.AddrPort) bool {
	to.held.Add(1) // at once, so that no more are sent there than should be
	err := to.loop.Post(func() {
		to.held.Add(-1)
		to.take(s, fd, peer)
	})
	if err != nil {
		to.held.Add(-1)
		return false
	}
	w.tel.Handed++
	return true
}

// take takes over a new connection of s.
func (w *worker) take(s *socket, fd int, peer netip.AddrPort) {
	counts := w.countsOf(s)
	counts.Accepted++
	if w.full() && !w.makeRoom() {
		counts.Refused++
		closeFD(fd)
		return
	}
	switch {
	case s.class == plan.ClassTCP:
		w.acceptTCP(s, counts, fd, peer)
	case s.shared.Load():
		w.acceptShared(s, counts, fd, peer)
	default:
		w.accept(s, counts, fd, peer)
	}
	if s.leaving.Load() {
		w.lameDuck(s) // it was on its way when the loop's others were asked
	}
}

// countsOf gives the loop's counters of a socket.
func (w *worker) countsOf(s *socket) *telemetry.Socket {
	if s.counts[w.at] == nil {
		s.counts[w.at] = w.tel.Socket(s.name)
	}
	return s.counts[w.at]
}

// opened and ended count a connection of the loop.
func (w *worker) opened() {
	w.held.Add(1)
	w.proxy.conns.Add(1)
}

func (w *worker) ended() {
	w.held.Add(-1)
	w.proxy.conns.Add(-1)
}

// listen accepts on a bound socket.
func (w *worker) listen(s *socket, fd int) *loop.Listener {
	w.countsOf(s)  // shows it before its first connection
	var told int64 // when the log was told last
	ln, err := w.loop.Listen(fd, func(fd int, peer netip.AddrPort) {
		if to := w.lightest(s); to == w || !w.hand(to, s, fd, peer) {
			w.take(s, fd, peer)
		}
	}, func(err error) {
		if now := w.loop.Now(); told == 0 || now-told >= tellEvery {
			told = now
			w.proxy.cfg.Log("cannot accept connections for now", "socket", s.name, "error", err)
		}
	})
	if err != nil {
		w.proxy.cfg.Log("cannot accept connections", "socket", s.name, "error", err)
		return nil
	}
	return ln
}
