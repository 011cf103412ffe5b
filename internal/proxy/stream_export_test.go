package proxy

// Spliced is how many bytes of streams went through pipes.
func (p *Proxy) Spliced() (n uint64) {
	p.everywhere(func(w *worker) { n += w.spliced })
	return n
}

// Streams is how many streams there are.
func (p *Proxy) Streams() (n int) {
	p.everywhere(func(w *worker) { w.streams.each(func(*stream) { n++ }) })
	return n
}
