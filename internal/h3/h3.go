// Package h3 is the server's end of HTTP/3 (RFC 9114) over QUIC (RFC 9000): a UDP
// socket in, requests out. It is the one package that knows quic-go, whose
// goroutines do the work of QUIC: a Server has some of its own, and each
// connection and request has too. There are none before Listen.
//
// A request's head is given as the HTTP/1.1 text that says the same, so that it
// is read, and refused, by the parser that reads every other. What that text
// cannot say is beside it. Bodies are read and written by calls that block, which
// is the back-pressure of QUIC; Abort ends them from anywhere.
//
// There is no 0-RTT: who records such a request can send it again.
package h3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Config of a Server.
type Config struct {
	TLS *tls.Config // its NextProtos are not looked at

	MaxHeadBytes int
	MaxStreams   int           // requests of one connection at the same time
	Handshake    time.Duration // what a handshake may take
	Head         time.Duration // how long a request that is not to have a body may leave its end open
	Idle         time.Duration // of a connection without requests

	// Begin is told of each connection before its handshake; false refuses it. TLS's
	// callbacks find it with ConnOf.
	Begin func(c *Conn) bool
	// Open is told of a connection once its handshake has ended; false sends it away.
	// Closed is told when one is gone that Open took.
	Open   func(c *Conn) bool
	Closed func(c *Conn)
	// Serve answers a request, which is over when it returns. These are called on
	// goroutines of the connection.
	Serve func(r *Request)
}

// Conn is a connection of a client.
type Conn struct {
	Peer       netip.AddrPort
	ServerName string // that the client asked for
	State      any    // the caller's

	quic    *quic.Conn
	active  atomic.Int64 // requests
	shaking atomic.Bool  // its handshake goes on
}

type connKey struct{}

// ConnOf gives the connection that a handshake or a request is of; nil if ctx is
// none of those.
func ConnOf(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// Close ends the connection because the peer costs more than it may.
func (c *Conn) Close() {
	_ = c.quic.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "")
}

// TLS is the state of the connection's handshake.
func (c *Conn) TLS() *tls.ConnectionState {
	s := c.quic.ConnectionState().TLS
	return &s
}

// Server serves one UDP socket.
type Server struct {
	cfg       Config
	conn      net.PacketConn
	transport *quic.Transport
	listener  *quic.Listener
	http      *http3.Server
	open      atomic.Int64 // connections, those whose handshake goes on included
	shaking   atomic.Int64 // those whose handshake goes on
	done      sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[*Conn]bool
}

const (
	// The windows are those of HTTP/2 here.
	streamWindow = 256 << 10
	connWindow   = 1 << 20
	// uniStreams are a client's for control and compression, with some to spare.
	uniStreams = 8
	// maxUnproven is from how many connections on a client has to prove its
	// address first, which costs it a round trip.
	maxUnproven = 1024
	// maxShaking bounds the handshakes at one time, since a connection counts among
	// the caller's only once it is open. A client that is refused has TCP.
	maxShaking = 4096
	// idleEvery is how often idle connections are looked for in a Shutdown.
	idleEvery = 50 * time.Millisecond
)

var errFull = errors.New("too many connections")

// Listen serves the UDP socket fd, which the Server closes, also where it fails.
func Listen(fd int, cfg Config) (*Server, error) {
	file := os.NewFile(uintptr(fd), "udp")
	conn, err := net.FilePacketConn(file)
	_ = file.Close() // conn has its own
	if err != nil {
		return nil, fmt.Errorf("take over socket: %w", err)
	}
	s := &Server{cfg: cfg, conn: conn, conns: map[*Conn]bool{}}
	s.transport = &quic.Transport{
		Conn:                conn,
		VerifySourceAddress: func(net.Addr) bool { return s.open.Load() >= maxUnproven },
		ConnContext:         s.begin,
	}
	s.listener, err = s.transport.Listen(http3.ConfigureTLSConfig(cfg.TLS), &quic.Config{
		HandshakeIdleTimeout:           cfg.Handshake / 2, // in all it may take twice as long
		MaxIdleTimeout:                 cfg.Idle,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: connWindow,
		MaxConnectionReceiveWindow:     connWindow,
		MaxIncomingStreams:             int64(cfg.MaxStreams),
		MaxIncomingUniStreams:          uniStreams,
	})
	if err != nil {
		_ = s.transport.Close()
		_ = conn.Close()
		return nil, fmt.Errorf("listen for QUIC: %w", err)
	}
	s.http = &http3.Server{
		Handler:        http.HandlerFunc(s.serve),
		MaxHeaderBytes: cfg.MaxHeadBytes,
		IdleTimeout:    cfg.Idle,
		ConnContext:    s.opened,
		Logger:         slog.New(slog.DiscardHandler),
	}
	s.done.Go(func() { _ = s.http.ServeListener(s.listener) })
	return s, nil
}

// Shutdown takes no more connections and asks clients to leave. After grace it
// closes connections without requests, and when ctx ends those that are left;
// then it closes the socket and returns.
func (s *Server) Shutdown(ctx context.Context, grace time.Duration) {
	left := make(chan struct{})
	go func() {
		defer close(left)
		_ = s.http.Shutdown(ctx)
	}()
	tick := time.NewTicker(grace)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-left:
			waiting = false
		case <-tick.C:
			tick.Reset(idleEvery)
			s.closeIdle()
		}
	}
	_ = s.listener.Close()
	_ = s.transport.Close()
	_ = s.conn.Close()
	s.done.Wait()
}

// closeIdle closes connections that have no request.
func (s *Server) closeIdle() {
	s.mu.Lock()
	var idle []*Conn
	for c := range s.conns {
		if c.active.Load() == 0 {
			idle = append(idle, c)
		}
	}
	s.mu.Unlock()
	for _, c := range idle {
		_ = c.quic.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
}

// begin is called before a handshake.
func (s *Server) begin(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	c := &Conn{}
	if addr, ok := info.RemoteAddr.(*net.UDPAddr); ok {
		at := addr.AddrPort()
		c.Peer = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	if s.shaking.Load() >= maxShaking || !s.cfg.Begin(c) {
		return nil, errFull
	}
	c.shaking.Store(true)
	s.shaking.Add(1)
	s.open.Add(1)
	context.AfterFunc(ctx, func() {
		s.shook(c)
		s.open.Add(-1)
	})
	return context.WithValue(ctx, connKey{}, c), nil
}

// shook notes that a connection's handshake goes on no longer.
func (s *Server) shook(c *Conn) {
	if c.shaking.Swap(false) {
		s.shaking.Add(-1)
	}
}

// opened is called with a connection that stands.
func (s *Server) opened(ctx context.Context, q *quic.Conn) context.Context {
	c := ConnOf(q.Context())
	if c == nil {
		return ctx
	}
	s.shook(c)
	c.quic, c.ServerName = q, q.ConnectionState().TLS.ServerName
	if !s.cfg.Open(c) {
		c.Close()
		return ctx
	}
	s.mu.Lock()
	s.conns[c] = true
	s.mu.Unlock()
	context.AfterFunc(q.Context(), func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		s.cfg.Closed(c)
	})
	return context.WithValue(ctx, takenKey{}, true)
}

// takenKey says that Open took the connection.
type takenKey struct{}

func (s *Server) serve(w http.ResponseWriter, h *http.Request) {
	c, rw := ConnOf(h.Context()), w.(writer) //nolint:errcheck // the version of quic-go is pinned
	if c == nil || h.Context().Value(takenKey{}) == nil {
		panic(http.ErrAbortHandler)
	}
	c.active.Add(1)
	defer c.active.Add(-1)
	r := &Request{Conn: c, w: rw, r: h, body: h.Body}
	if !r.read(s.cfg.Head) {
		panic(http.ErrAbortHandler)
	}
	s.cfg.Serve(r)
	if r.aborted.Load() && r.tunnel == nil {
		panic(http.ErrAbortHandler) // what http3 takes for: reset the stream
	}
}
