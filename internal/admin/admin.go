// Package admin is the JSON API through which people and tools look into a
// running windrose, and the client for it.
//
//	/api/v1/objects?kind=&namespace=&name=&details=   objects with status, place and findings
//	/api/v1/watch?kind=&namespace=&name=              the same as JSON lines, one for each change
//	/api/v1/findings                                  what is wrong, of all objects
//	/api/v1/plan?parts=                               what the data plane was given
//	/api/v1/version                                   of the running windrose
//	/api/v1/tap?FILTER                                requests as they end, as JSON lines or server-sent events
//	/api/v1/requests?FILTER&limit=                    the newest requests that the data plane remembers
//	/api/v1/requests/ID                               those with this id
//	/healthz/live, /healthz/ready                     ready: the configuration is applied
//	/metrics                                          of both processes
//
// The API only reads. It listens on a loopback address, answers only requests
// whose Host names such an address (a web page of somebody else that had its
// name rebound to 127.0.0.1 gets nothing), and sends no CORS headers. Whoever
// has an account on the machine may ask, so secrets never leave: the values of
// a Secret, private keys and the text around findings of Secrets are left out.
// Single requests are shown without the query of their path; with it only to root
// and to the user that windrose runs as, by the kernel's word on who asks.
//
// What is served is a View, an immutable picture that the node replaces. All
// limits are fixed: connections, header sizes, times, watchers.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/tap"
)

// DefaultAddr is where the API listens unless told otherwise.
const DefaultAddr = "127.0.0.1:15000"

// The API's limits.
const (
	maxConnections = 128
	maxWatchers    = 32
	readTimeout    = 10 * time.Second
	writeTimeout   = time.Minute
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 16 << 10
	// watchPause is between two looks of a watcher at the View; it bounds what a
	// burst of changes costs.
	watchPause = 100 * time.Millisecond
	// metricsTimeout is how long the data plane may take for its page.
	metricsTimeout = 3 * time.Second
)

// View is what windrose knows at one moment. It and all it holds are immutable.
type View struct {
	Set      *object.Set
	Statuses []*object.Status // ordered by object
	Findings []object.Finding // of reading and of translating, ordered
	Parts    []*plan.Part     // ordered by key
	Control  Control
}

// Control is how the control part does, in numbers.
type Control struct {
	Version       uint64        // of the plan, growing with each change
	Applied       uint64        // the version that the data plane has said it uses
	Since         time.Time     // when Version was made
	Changes       uint64        // Sets that were translated
	Busy          time.Duration // spent on them in all
	DataPlaneUp   bool          // it is connected
	DataPlanePID  int
	Restarts      uint64 // of the data plane
	WorkloadsUp   int
	WorkloadsDown int
}

// Ready says whether the data plane uses the newest configuration.
func (c Control) Ready() bool { return c.DataPlaneUp && c.Version > 0 && c.Applied == c.Version }

// Line is a line of a workload's output.
type Line struct {
	Time   time.Time `json:"time"`
	Stream string    `json:"stream"`
	Text   string    `json:"text"`
}

// Config says what a Server serves besides its View.
type Config struct {
	// Addr is where it listens; a loopback address and a port. Empty is
	// DefaultAddr.
	Addr string
	// Version of this windrose.
	Version Version
	// Metrics is the URL of the data plane's metrics; empty for none.
	Metrics string
	// Output gives the last lines of a workload; nil for none.
	Output func(object.Name) []Line
	// Ask asks the data planes about single requests and has their answers told; a
	// tap ends with ctx. Nil for none.
	Ask func(ctx context.Context, q *tap.Question, tell func(*tap.Answer) error) error
}

// ErrNoDataPlane is what Config.Ask returns where nobody is there to be asked.
var ErrNoDataPlane = errors.New("no data plane is connected")

// Server serves the API.
type Server struct {
	cfg     Config
	started time.Time
	ln      net.Listener
	http    *http.Server
	view    atomic.Pointer[View]

	mu       sync.Mutex // guards what follows
	watchers map[chan struct{}]struct{}
}

// Listen opens the address. Until Use is called the API answers that windrose
// is starting.
func Listen(cfg Config) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = DefaultAddr
	}
	if err := checkLoopback(cfg.Addr); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("open the admin address: %w", err)
	}
	s := &Server{cfg: cfg, started: time.Now(), ln: limit(ln, maxConnections), watchers: map[chan struct{}]struct{}{}}
	s.http = &http.Server{
		Handler:           s.guard(s.routes()),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
	return s, nil
}

// checkLoopback refuses to serve the network: the API asks nobody who they are.
func checkLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("the admin address %q is not HOST:PORT: %w", addr, err)
	}
	ip, err := netip.ParseAddr(host)
	if host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return fmt.Errorf("the admin address %q is not a loopback address; the admin API asks nobody for a password, so it serves this machine only", addr)
	}
	return nil
}

// Close gives the address back where Run was never called.
func (s *Server) Close() { s.ln.Close() }

// Addr is the address that was opened.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Use replaces what is served and tells the watchers.
func (s *Server) Use(v *View) {
	s.view.Store(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	// Handlers see the end of ctx, so that watches end.
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(s.ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve the admin API: %w", err)
	case <-ctx.Done():
	}
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if s.http.Shutdown(wait) != nil {
		s.http.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the admin API: %w", err)
	}
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/objects", s.objects)
	mux.HandleFunc("GET /api/v1/watch", s.watch)
	mux.HandleFunc("GET /api/v1/findings", s.findings)
	mux.HandleFunc("GET /api/v1/plan", s.plan)
	mux.HandleFunc("GET /api/v1/version", s.version)
	mux.HandleFunc("GET /api/v1/tap", s.tap)
	mux.HandleFunc("GET /api/v1/requests", s.recent)
	mux.HandleFunc("GET /api/v1/requests/{id}", s.request)
	mux.HandleFunc("GET /healthz/live", s.live)
	mux.HandleFunc("GET /healthz/ready", s.ready)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "there is nothing at "+r.URL.Path, "see /api/v1/objects, findings, plan, version, watch, tap and requests, /metrics, /healthz/live and /healthz/ready")
	})
	return mux
}

// guard lets through what a tool on this machine may ask.
func (s *Server) guard(next http.Handler) http.Handler {
	own, _, _ := net.SplitHostPort(s.ln.Addr().String())
	hosts := []string{"localhost", "127.0.0.1", "::1", own}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.Trim(host, "[]")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case !slices.Contains(hosts, host):
			fail(w, http.StatusMisdirectedRequest, "the Host header does not name this machine", "ask for "+s.Addr())
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			fail(w, http.StatusMethodNotAllowed, "the admin API only reads", "change the manifests instead")
		case crossSite(r):
			fail(w, http.StatusForbidden, "a web page of another site asks", "")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// crossSite says whether a browser asks for a page of somebody else.
func crossSite(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	if site != "" {
		return site != "none" && site != "same-origin"
	}
	origin := r.Header.Get("Origin")
	return origin != "" && origin != "http://"+r.Host
}

// limited is a listener that has at most so many connections open.
type limited struct {
	net.Listener
	slots chan struct{}
}

func limit(ln net.Listener, n int) net.Listener {
	return &limited{Listener: ln, slots: make(chan struct{}, n)}
}

// Accept closes at once what is over the limit: a waiting client would not
// know why it waits.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &limitedConn{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			c.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	free func()
}

func (c *limitedConn) Close() error {
	c.free()
	return c.Conn.Close()
}
