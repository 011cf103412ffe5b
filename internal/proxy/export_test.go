package proxy

// Hold has f run on an event loop, which meanwhile sees nothing.
func (p *Proxy) Hold(loop int, f func()) { p.on(p.workers[loop], f) }
