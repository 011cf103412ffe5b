package proxy

import (
	"errors"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/upstream"
)

// exchange is one request and its answer. It belongs to a client's connection
// from the request's head until its record is emitted, and is used again for
// another request afterwards.
type exchange struct {
	w    *worker
	c    *client
	view *view

	rule     *plan.BoundRule
	prefix   int // of the path, that the match took
	backend  *plan.BoundBackend
	service  *upstream.Service
	s        *server
	tried    []*upstream.Endpoint
	attempts int
	raced    bool // the one repetition after a pooled connection turned out closed

	// sent is all that the endpoint was given, for as long as it can be given to
	// another: head and, if it came along and is small, body.
	sent       []byte
	whole      bool
	method     methodKind
	minor      uint8
	idempotent bool
	upgrade    bool
	chunked    bool // the request's body, towards the endpoint

	answer      h1.Body
	answered    bool // the final head went to the client
	rechunk     bool // the answer's body, towards the client
	untilClose  bool // the answer ends with its connection
	reuse       bool // the endpoint keeps its connection open
	deaf        bool // the endpoint takes no more of the request
	upEnd       bool // tunnel: the client sends no more
	downEnd     bool // tunnel: the endpoint sends no more
	begun       int64
	attempt     int64 // when the last attempt began
	activity    int64 // when bytes last moved
	deadline    int64 // timeouts.request; 0 none
	backendLine int64 // timeouts.backendRequest of this attempt; 0 none
	drainLine   int64 // when a draining windrose gives up; 0 none
	timer       loop.Timer

	rec  record.Record
	meta []byte // what rec points at
}

type methodKind uint8

const (
	otherMethod methodKind = iota
	headMethod
	connectMethod
)

const (
	// maxAttempts bounds the endpoints that are asked for a connection.
	maxAttempts = 3
	// replayBytes is how much of a request is kept for another attempt.
	replayBytes = 64 << 10
	// gatherBytes is up to what size pieces are copied together for one write.
	gatherBytes = 16 << 10
	// turnReads bounds the reads from one connection in one turn.
	turnReads = 16
)

var (
	errConnectTimeout = errors.New("no connection within the connect timeout")
	errStale          = errors.New("it was done with the connection before the request was sent")
)

// reset makes x ready for another request, keeping its memory unless it grew.
func (x *exchange) reset() {
	w, timer, meta, tried := x.w, x.timer, x.meta[:0], x.tried[:0]
	w.loop.Buffers.Give(x.sent)
	if cap(meta) > 4<<10 {
		meta = nil
	}
	clear(tried[:cap(tried)])
	*x = exchange{w: w, timer: timer, meta: meta, tried: tried}
}

// begin starts the request in w.req. rest is what follows its head in what was
// read; begin returns what of it belongs to the next request.
func (x *exchange) begin(c *client, rest []byte) []byte {
	w, req := x.w, &x.w.req
	x.c, x.view = c, w.view
	x.begun = c.started
	x.activity = w.loop.Now()
	x.minor = req.Minor
	x.upgrade = req.Upgrade != nil
	if !req.KeepAlive || w.view.draining {
		c.last = true
	}
	w.tel.RequestsActive++
	w.loop.Stop(&c.timer)
	c.trusted = trusted(x.view.settings.TrustedProxies, c.peer.Addr())
	x.remember()
	x.classify()
	if !x.resolve() {
		return rest // answered already
	}
	x.sent = x.appendRequest(w.loop.Buffers.Take(4 << 10))
	x.whole = true
	rest, ok := x.firstBody(rest)
	if !ok {
		return rest
	}
	if t := x.rule.Timeouts.Request; t > 0 {
		x.deadline = x.begun + int64(t)
	}
	x.arm()
	x.try()
	return rest
}

// classify looks at the method (RFC 9110, 9.2.2).
func (x *exchange) classify() {
	switch string(x.w.req.Method) {
	case "GET", "PUT", "DELETE", "OPTIONS", "TRACE":
		x.idempotent = true
	case "HEAD":
		x.idempotent = true
		x.method = headMethod
	case "CONNECT":
		x.method = connectMethod
	}
}

// resolve finds the rule and the backend; it says whether the request is to be
// forwarded. If not, it has been answered.
func (x *exchange) resolve() bool {
	w, req, c := x.w, &x.w.req, x.c
	if x.method == connectMethod {
		x.fail(record.NotSupported, "CONNECT is not served here")
		return false
	}
	path, err := plan.Normalize(w.path, req.Path)
	if err != nil {
		x.fail(record.BadRequest, err.Error())
		return false
	}
	if len(path) > 0 && len(req.Path) > 0 && &path[0] != &req.Path[0] {
		w.path = path[:0] // the scratch space may have grown
	}
	bound := x.view.plan.Bound(c.sock.name)
	if bound == nil {
		x.fail(record.Draining, "the listener was removed")
		return false
	}
	listener := bound.Listener(req.Host)
	if c.secure && c.sni != "" {
		if own := bound.Listener([]byte(c.sni)); own != listener {
			x.fail(record.Misdirected, "the connection was made for "+c.sni+", which another listener serves")
			return false
		}
	}
	if listener == nil {
		x.fail(record.NoRoute, "no listener serves this host")
		return false
	}
	x.rec.Listener = listener.Name
	w.match.Method, w.match.Host, w.match.Path, w.match.Query = req.Method, req.Host, path, req.Query
	hit, ok := listener.Match(x.view.plan, &w.match)
	if !ok {
		x.fail(record.NoRoute, "no rule of listener "+listener.Name+" takes this request")
		return false
	}
	x.rule, x.prefix = hit.Rule, hit.Prefix
	x.rec.Route, x.rec.Rule, x.rec.RuleSlot = hit.Rule.RouteName, hit.Rule.Index, hit.Rule.Slot
	return x.choose(path)
}

// choose does what the rule says short of forwarding, and picks the backend.
func (x *exchange) choose(path []byte) bool {
	r := x.rule
	if r.Broken != nil {
		x.failStatus(record.RuleBroken, r.Broken.Status, r.Broken.Reason)
		return false
	}
	for i := range r.Filters {
		if r.Filters[i].Kind == plan.StepRedirect {
			x.redirect(r.Filters[i].Redirect, path)
			return false
		}
	}
	i := 0
	if len(r.Backends) != 1 || r.Backends[0].Weight <= 0 {
		if i = r.Pick(x.w.proxy.splits.next(r.Slot)); i < 0 {
			x.fail(record.NoBackend, "the rule has no backend with a weight above zero")
			return false
		}
	}
	x.backend = &r.Backends[i]
	x.rec.Service, x.rec.ServiceSlot = x.backend.ServiceName, x.backend.Service
	if b := x.backend.Broken; b != nil {
		x.failStatus(record.BackendMissing, b.Status, b.Reason)
		return false
	}
	x.service = x.view.up.Service(x.backend.Service)
	if x.service == nil || len(x.service.Endpoints()) == 0 {
		x.fail(record.NoEndpoint, "service "+x.backend.ServiceName+" has no ready endpoint")
		return false
	}
	w := x.w
	w.match.Path = path
	return true
}

// firstBody takes what of the body came along with the head. It returns what
// belongs to the next request, and whether the request goes on.
func (x *exchange) firstBody(rest []byte) ([]byte, bool) {
	for len(rest) > 0 && !x.c.body.Done() {
		data, n, done, err := x.c.body.Next(rest)
		if err != nil {
			x.fail(record.BadRequest, err.Reason)
			return nil, false
		}
		x.sent = x.appendBody(x.sent, data)
		rest = rest[n:]
		if done {
			x.sent = x.appendBodyEnd(x.sent)
		}
	}
	return rest, true
}

func (x *exchange) appendBody(dst, data []byte) []byte {
	if len(data) == 0 {
		return dst
	}
	x.rec.BytesIn += int64(len(data))
	if x.chunked {
		dst = x.grow(dst, len(data)+16)
		return h1.AppendChunk(dst, data)
	}
	return x.w.loop.Buffers.Append(dst, data)
}

func (x *exchange) appendBodyEnd(dst []byte) []byte {
	if !x.chunked {
		return dst
	}
	return h1.AppendLastChunk(dst, x.c.body.Trailers())
}

// grow makes room in a buffer of the loop's store.
func (x *exchange) grow(dst []byte, n int) []byte {
	if len(dst)+n <= cap(dst) {
		return dst
	}
	q := append(x.w.loop.Buffers.Take(len(dst)+n), dst...)
	x.w.loop.Buffers.Give(dst)
	return q
}

// forget gives up what was kept for another attempt.
func (x *exchange) forget() {
	x.whole = false
	x.w.loop.Buffers.Give(x.sent)
	x.sent = nil
}

// try sends the request to an endpoint. Everything it has so far is in sent.
func (x *exchange) try() {
	w := x.w
	for {
		e := x.service.Pick(w.loop.Now(), w.rng.Uint64(), x.tried)
		if e == nil {
			x.fail(record.ConnectFailed, x.unreachable(""))
			return
		}
		if e.Active() >= x.view.settings.MaxPending {
			x.fail(record.Overload, "the limit of requests in flight to "+e.Addr.String()+" (pending) is reached")
			return
		}
		x.attempts++
		x.attempt = w.loop.Clock()
		x.rec.Endpoint = e.Addr
		s, err := w.connect(x, e)
		if err != nil {
			if exhausted(err) {
				x.fail(record.Overload, "windrose cannot open another connection ("+err.Error()+")")
				return
			}
			e.Refused(w.loop.Now())
			x.tried = append(x.tried, e)
			if x.attempts >= maxAttempts {
				x.fail(record.ConnectFailed, x.unreachable(err.Error()))
				return
			}
			continue
		}
		e.Begin()
		x.s = s
		x.backendLine = 0
		if t := x.rule.Timeouts.Backend; t > 0 {
			x.backendLine = w.loop.Now() + int64(t)
			x.arm()
		}
		if err := s.conn.Write(x.sent); err != nil {
			x.serverLost(err)
			return
		}
		if len(x.sent) > x.view.settings.MaxBufferedBytes {
			x.forget()
		}
		if !x.c.body.Done() && x.c.conn.Readable() {
			// More of the body came while nobody wanted it: nobody tells again.
			x.c.conn.Again()
		}
		return
	}
}

// exhausted says that windrose itself lacks what a connection needs: it is no
// fault of the endpoint.
func exhausted(err error) bool {
	for _, e := range [...]error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (x *exchange) unreachable(why string) string {
	text := "no endpoint of service " + x.backend.ServiceName + " accepted a connection"
	if x.rec.Endpoint.IsValid() {
		text += "; the last was " + x.rec.Endpoint.String()
	}
	if why != "" {
		text += " (" + why + ")"
	}
	return text
}

// pumpRequest moves what the client sends to the endpoint, as long as that
// takes it.
func (x *exchange) pumpRequest() {
	c := x.c
	if c.body.Done() || x.s == nil {
		return
	}
	for range turnReads {
		if x.s.conn.Connecting() || x.s.conn.Buffered() > 0 || x.deaf {
			return // serverDrained goes on; or nobody listens any more
		}
		n, err := c.conn.Read(x.w.loop.In)
		if err == loop.ErrAgain { //nolint:errorlint // see client.read
			return
		}
		if err != nil {
			x.clientLost()
			return
		}
		if !x.upload(x.w.loop.In[:n]) {
			return
		}
	}
	c.conn.Again()
}

// upload forwards a piece of the request's body; it says whether more is
// wanted.
func (x *exchange) upload(p []byte) bool {
	c, w := x.c, x.w
	x.activity = w.loop.Now()
	x.forget() // what is sent from here on is not kept
	out := w.out[:0]
	for len(p) > 0 && !c.body.Done() {
		data, n, done, err := c.body.Next(p)
		if err != nil {
			x.fail(record.BadRequest, err.Reason)
			return false
		}
		p = p[n:]
		var tail []byte
		x.rec.BytesIn += int64(len(data))
		switch {
		case len(data) == 0:
		case x.chunked:
			out = h1.AppendChunkSize(out, len(data))
			out, tail = append(out, data...), nil
			out = append(out, '\r', '\n')
		case len(out)+len(data) <= gatherBytes:
			out = append(out, data...)
		default:
			tail = data
		}
		if done {
			out = x.appendBodyEnd(out)
		}
		if len(tail) > 0 || len(out) > replayBytes {
			if err := x.s.conn.Write2(out, tail); err != nil {
				x.serverBroken()
				return false
			}
			out = out[:0]
		}
	}
	w.out = out[:0]
	if len(out) > 0 {
		if err := x.s.conn.Write(out); err != nil {
			x.serverBroken()
			return false
		}
	}
	if c.body.Done() {
		c.rest(p) // the beginning of the next request
		return false
	}
	return true
}

// serverDrained is called when the endpoint has taken what it was given.
func (x *exchange) serverDrained() {
	if x.c.phase == tunnel {
		x.pumpUp()
		return
	}
	x.pumpRequest()
}

// clientDrained is called when the client has taken what it was given.
func (x *exchange) clientDrained() {
	x.activity = x.w.loop.Now()
	if x.s != nil {
		x.pumpResponse()
	}
}
