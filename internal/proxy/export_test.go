package proxy

import "windrose.dev/windrose/internal/record"

// Hold has f run on an event loop, which meanwhile sees nothing.
func (p *Proxy) Hold(loop int, f func()) { p.on(p.workers[loop], f) }

// Watch has f told of each record of every loop.
func (p *Proxy) Watch(f func(*record.Record)) { p.everywhere(func(w *worker) { w.tel.Watch = f }) }

// Held is how many connections of clients each loop has.
func (p *Proxy) Held() (held []int) {
	for _, w := range p.workers {
		held = append(held, int(w.held.Load()))
	}
	return held
}

// Gated is how many bytes of requests wait for authorisers.
func (p *Proxy) Gated() int {
	n := 0
	p.everywhere(func(w *worker) { n += w.gated })
	return n
}

// Unwritten is how many bytes are to be written to clients of HTTP/3.
func (p *Proxy) Unwritten() int {
	n := 0
	p.everywhere(func(w *worker) {
		w.h3streams.each(func(s *h3stream) {
			s.mu.Lock()
			n += s.size
			s.mu.Unlock()
		})
	})
	return n
}
