package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"strconv"
	"time"

	"windrose.dev/windrose/internal/h3"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/telemetry"
)

// Where the settings ask for HTTP/3, a socket with HTTPS listeners has a UDP
// socket beside it, at the same address, and answers over TCP say so (Alt-Svc,
// RFC 7838). It has the certificates, the checks of clients and the routes of the
// listeners; that it cannot be bound is a problem of the TCP socket, which is
// served all the same.

// useQUIC opens and closes UDP sockets as the plan asks, and gives what went
// wrong. It is called by Use, when requests see the plan.
func (p *Proxy) useQUIC(v *view) (problems []Problem) {
	taken := map[uint16]bool{} // ports of UDP listeners
	for _, b := range v.plan.Sockets() {
		if b.UDP {
			taken[b.Addr.Port()] = true
		}
	}
	for _, b := range v.plan.Sockets() {
		p.mu.Lock()
		s := p.sockets[b.Name]
		p.mu.Unlock()
		if s == nil || s.tls == nil {
			continue
		}
		port := b.Addr.Port()
		var err error
		switch {
		case !v.settings.HTTP3 || !b.HTTPS() || v.draining:
			p.shutQUIC(s)
		case taken[port]:
			p.shutQUIC(s)
			err = fmt.Errorf("UDP port %d is a UDP listener's", port)
		case s.quic.Load() == nil:
			err = p.openQUIC(s, v.settings)
		}
		if err != nil {
			problems = append(problems, Problem{Socket: b.Name, Err: fmt.Errorf("HTTP/3 is not served: %w", err), Partly: true})
		}
	}
	return problems
}

func (p *Proxy) openQUIC(s *socket, settings *plan.Settings) error {
	if err := loop.FreeUDP(s.addr); err != nil && !p.shares(&plan.Bound{Addr: s.addr, UDP: true}, err) {
		return err
	}
	fd, err := loop.BindUDP(s.addr)
	if err != nil {
		return err
	}
	config := s.tls.config.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		bound := p.view.Load().plan.Bound(s.name)
		if bound == nil {
			return nil, errNoCertificate
		}
		// A TLS listener's names are not for HTTP.
		if l := bound.Listener([]byte(hello.ServerName)); l == nil || l.Protocol != plan.HTTPS {
			return nil, errNoCertificate
		}
		return s.tls.ask(bound, hello), nil
	}
	server, err := h3.Listen(fd, h3.Config{
		TLS: config, MaxHeadBytes: settings.MaxHeaderBytes, MaxStreams: h3Streams,
		Handshake: settings.HandshakeTimeout, Head: settings.HeaderTimeout, Idle: settings.IdleTimeout,
		Begin: func(c *h3.Conn) bool { return p.beginH3(s, c) },
		Open:  p.openH3, Closed: p.closedH3,
		Serve: func(r *h3.Request) {
			m := r.Conn.State.(*h3conn) //nolint:errcheck // beginH3 sets it
			m.w.serveH3(m, r)
		},
	})
	if err != nil {
		return err
	}
	s.quic.Store(server)
	alt := []byte(`h3=":` + strconv.Itoa(int(s.addr.Port())) + `"; ma=86400`)
	s.alt.Store(&alt)
	return nil
}

// shutQUIC stops HTTP/3 on a socket: clients are asked to leave, and what is in
// flight may end.
func (p *Proxy) shutQUIC(s *socket) {
	q := s.quic.Swap(nil)
	if q == nil {
		return
	}
	s.alt.Store(nil)
	d := p.view.Load().settings.DrainTimeout
	p.quics.Go(func() {
		ctx, cancel := context.WithTimeout(p.life, d)
		defer cancel()
		q.Shutdown(ctx, time.Duration(lameDuckTime))
	})
}

// endQUIC ends what is left of HTTP/3, when the loops have.
func (p *Proxy) endQUIC() {
	p.end()
	p.mu.Lock()
	open := p.sockets
	p.mu.Unlock()
	for _, s := range open {
		p.shutQUIC(s)
	}
	p.quics.Wait()
}

// beginH3 is told of a connection before its handshake.
func (p *Proxy) beginH3(s *socket, c *h3.Conn) bool {
	if p.full(p.view.Load().settings) {
		return false
	}
	c.State = &h3conn{conn: c, client: client{sock: s, peer: c.Peer, secure: true, tlsName: "TLS1.3", h3: true, phase: multiplexed}}
	return true
}

// openH3 gives a connection to the loop that holds the fewest.
func (p *Proxy) openH3(c *h3.Conn) bool {
	m := c.State.(*h3conn) //nolint:errcheck // beginH3 sets it
	if p.full(p.view.Load().settings) {
		return false
	}
	w := p.workers[0]
	for _, o := range p.workers {
		if o.held.Load() < w.held.Load() {
			w = o
		}
	}
	m.w, m.sni, m.resets = w, c.ServerName, h3Resets
	m.identify(c.TLS())
	w.opened()
	err := w.loop.Post(func() {
		m.counts = w.countsOf(m.sock)
		m.counts.Accepted++
		m.counts.Active++
		w.tel.Handshake(telemetry.HandshakeOK)
	})
	if err != nil {
		w.ended()
	}
	return err == nil
}

func (p *Proxy) closedH3(c *h3.Conn) {
	m := c.State.(*h3conn) //nolint:errcheck // beginH3 sets it
	m.w.ended()
	m.w.insist(func() { m.counts.Active-- })
}

// full says that there are as many clients as there may be. Those that are not
// configured away leave descriptors for what serves them.
func (p *Proxy) full(s *plan.Settings) bool {
	return int(p.conns.Load()) >= min(s.MaxConnections, p.most)
}

var altSvcName = []byte("alt-svc")

// altSvc says where else the listener is served; nil for nowhere.
func (x *exchange) altSvc() []byte {
	if !x.c.secure || x.c.h3 {
		return nil
	}
	if alt := x.c.sock.alt.Load(); alt != nil {
		return *alt
	}
	return nil
}
