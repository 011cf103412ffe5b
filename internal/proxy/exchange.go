package proxy

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/trace"
	"windrose.dev/windrose/internal/upstream"
)

// exchange is one request and its answer, from the request's head until its
// record is emitted; it is used again for another afterwards.
type exchange struct {
	w    *worker
	c    *client // the connection it came on
	down clientSide
	view *view

	listener *plan.BoundListener
	rule     *plan.BoundRule
	prefix   int // of the path, that the match took
	backend  *plan.BoundBackend
	service  *upstream.Service
	protocol plan.Protocol // of the service
	s        serverSide    // nil while there is none
	stay     *stay         // nil without a session
	tried    []*upstream.Endpoint
	attempts int
	retries  int         // of those the rule's retries
	broke    bool        // the service's own budget has no retry left
	second   bool        // the next attempt may go where one has been
	cause    error       // why the last endpoint was not reached
	mirrors  []*exchange // copies that are not whole yet
	shadow   bool        // this is a copy
	check    *check      // this asks an authoriser
	gate     *gate       // while the request waits for its authorisers
	// steps is what is done to the request and its answer, if authorisers have a
	// word in that; nil: the filters of the rule and the backend.
	steps *[2][]plan.Step
	raced bool // the one repetition after a connection turned out closed

	// sent is all that the endpoint was given, for as long as it can be given to
	// another: the head as HTTP/1.1, headLen bytes, and, if it came along and is
	// small, body, framed as the service's protocol asks. sentEnd says that it is
	// the whole request.
	sent       []byte
	trailers   []h1.Field // after sent, towards an HTTP/2 endpoint
	headLen    int
	sentEnd    bool
	whole      bool // nothing was sent that is not in sent
	method     methodKind
	minor      uint8
	idempotent bool
	upgrade    bool
	extended   bool       // the client asks for the upgrade by an extended CONNECT
	ws         *webSocket // of a WebSocket that HTTP/2 has a part in
	grpc       bool       // faults are told in gRPC's way
	chunked    bool       // the request's body, towards an HTTP/1 endpoint

	cors    *plan.BoundCORS    // the rule's filter
	tracing *plan.BoundTracing // of the listener; nil: nobody traces
	spanAt  [traceParts]int    // in sent, where the span's id stands; 0 nowhere
	b3      trace.Form         // in which the request came
	state   bool               // tracestate goes on
	newID   bool               // the request's id is windrose's own

	origin    []byte // of the page that asks, if the filter allows it
	preflight bool   // the request is one

	asks    lane // the request's body, while it is large and passes the process by
	answers lane // and the answer's

	interims    uint16 // interim answers that were passed on
	answered    bool   // the final head went to the client
	own         bool   // the answer is windrose's own
	deaf        bool   // the endpoint takes no more of the request
	tunnel      bool
	upEnd       bool // tunnel: the client sends no more
	downEnd     bool // tunnel: the endpoint sends no more
	begun       int64
	attempt     int64 // when the last attempt began
	activity    int64 // when bytes last moved
	deadline    int64 // timeouts.request; 0 none
	backendLine int64 // timeouts.backendRequest of this attempt; 0 none
	retryLine   int64 // when the next attempt begins; 0 none waits
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
	// gatherBytes is up to what size pieces are copied together for one write.
	gatherBytes = 16 << 10
	// turnReads bounds the reads from one connection in one turn.
	turnReads = 16
	// maxInterims bounds the interim answers to one request, each of which counts
	// as a sign of life.
	maxInterims = 256
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
	clear(x.rec.Tries)
	tries := x.rec.Tries[:0]
	clear(x.rec.Trace.Tags)
	tags := x.rec.Trace.Tags[:0]
	*x = exchange{w: w, timer: timer, meta: meta, tried: tried}
	x.rec.Tries, x.rec.Trace.Tags = tries, tags
}

// begin starts the request in w.req, whose first byte came at begun. It says
// whether the request is to be forwarded: then the caller gives what of the body
// came along to keep, and calls launch. If not, it has been answered.
func (x *exchange) begin(c *client, down clientSide, begun int64) bool {
	w, req := x.w, x.w.req
	x.c, x.down, x.view = c, down, w.view
	x.begun = begun
	x.activity = w.loop.Now()
	x.rec.Received = time.Duration(max(x.activity-begun, 0))
	x.minor = req.Minor
	x.upgrade = req.Upgrade != nil
	w.tel.RequestsActive++
	c.trusted = trusted(x.view.settings.TrustedProxies, c.peer.Addr())
	x.remember()
	x.classify()
	if !x.resolve() {
		return false
	}
	if w.short != "" {
		x.fail(record.Overload, w.short)
		return false
	}
	if x.gate == nil {
		x.compose()
	}
	return true
}

// compose writes the head for the endpoint, and has the copies for mirrors begin.
func (x *exchange) compose() {
	x.sent = x.appendRequest(x.w.loop.Buffers.Take(4<<10), x.filters())
	x.headLen = len(x.sent)
	x.whole = true
	x.mirror()
}

// filters is what is done to the request: steps of the rule, then of the backend.
func (x *exchange) filters() [2][]plan.Step {
	if x.steps != nil {
		return *x.steps
	}
	return [2][]plan.Step{x.rule.Filters, x.backend.Steps}
}

// launch sends the request on its way, or its authorisers are asked first.
func (x *exchange) launch() {
	x.limit()
	if x.gate != nil {
		x.arm()
		x.gate.start()
		return
	}
	x.proceed()
}

// limit takes up the rule's timeout, once there is a rule.
func (x *exchange) limit() {
	if x.rule == nil {
		return
	}
	if t := x.rule.Timeouts.Request; t > 0 {
		x.deadline = x.begun + int64(t)
	}
}

func (x *exchange) proceed() {
	w := x.w
	if b := x.service.Budget; b != nil {
		b.Request(w.loop.Now())
	} else {
		w.budget(x.backend).request(w.loop.Now())
	}
	x.arm()
	x.try()
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
		x.grpc = false // its answer has status 200
		if x.extended = x.upgrade && x.c.streams(); x.extended {
			x.idempotent = true // until the endpoint has agreed, as the GET of an Upgrade is
			return
		}
		x.method = connectMethod
	}
}

// resolve finds the rule and the backend; it says whether the request is to be
// forwarded. If not, it has been answered.
func (x *exchange) resolve() bool {
	w, req, c := x.w, x.w.req, x.c
	if x.method == connectMethod {
		x.fail(record.NotSupported, "CONNECT is not served here")
		return false
	}
	if x.extended && !h1.EqualFold(req.Upgrade, webSocketProtocol) {
		x.fail(record.NotSupported, "the :protocol of the CONNECT is not websocket, the one that is served")
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
		x.fail(record.NoRoute, "no listener serves this host: one whose hostname takes it must be there")
		return false
	}
	if c.misplaced(listener) {
		// Another connection, with another handshake, may do.
		if !c.h3 && (c.h2 == nil || c.h2.soon == 0) {
			c.leave(w.loop.Now()+lameDuckTime, w.loop.Now()+int64(x.view.settings.DrainTimeout))
		}
		x.fail(record.Misdirected, "the connection was not made under the check of client certificates that listener "+listener.Name+" asks for")
		return false
	}
	x.listener, x.rec.Listener = listener, listener.Name
	if t := listener.Tracing; t != nil {
		x.traceBegins(t)
	}
	if listener.Broken != nil {
		x.failStatus(record.RuleBroken, listener.Broken.Status, listener.Broken.Reason)
		return false
	}
	if len(listener.Auths) > 0 {
		x.hold(stageListener, path)
		return true
	}
	return x.route(path)
}

// route finds the rule; it says whether the request is to be forwarded.
func (x *exchange) route(path []byte) bool {
	w, req, listener := x.w, x.w.req, x.listener
	w.match.Method, w.match.Host, w.match.Path, w.match.Query = x.methodText(), req.Host, path, req.Query
	hit, ok := listener.Match(x.view.plan, &w.match)
	if !ok {
		if w.match.Exhausted {
			x.fail(record.RuleBroken, "the regular expressions of listener "+listener.Name+"'s routes for this host cost more than one request may: fewer or simpler ones are needed")
			return false
		}
		x.fail(record.NoRoute, "no rule of listener "+listener.Name+" takes this request")
		return false
	}
	x.rule, x.prefix = hit.Rule, hit.Prefix
	x.rec.Route, x.rec.Rule, x.rec.RuleSlot = hit.Rule.RouteName, hit.Rule.Index, hit.Rule.Slot
	return x.choose(path)
}

// choose does what the rule says short of forwarding.
func (x *exchange) choose(path []byte) bool {
	r := x.rule
	if r.Broken != nil {
		x.failStatus(record.RuleBroken, r.Broken.Status, r.Broken.Reason)
		return false
	}
	if r.CORS != nil && x.crossOrigin(r.CORS) {
		return false
	}
	if r.Asks {
		x.hold(stageRule, path)
		return true
	}
	return x.pick(path)
}

// pick redirects, or picks the backend; it says whether the request is to be
// forwarded.
func (x *exchange) pick(path []byte) bool {
	r := x.rule
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
	x.service = x.view.up.Service(x.backend.Service).For(x.listener)
	if x.service == nil || len(x.service.Endpoints()) == 0 {
		x.fail(record.NoEndpoint, "service "+x.backend.ServiceName+" has no ready endpoint")
		return false
	}
	x.protocol = x.service.Protocol
	if x.upgrade && !x.begins() {
		return false
	}
	if x.rule.Session != nil || x.service.Session != nil {
		x.join()
	}
	x.w.match.Path = path
	if x.backend.Asks {
		x.hold(stageBackend, path)
	}
	return true
}

// keep adds what of the body came along with the head.
func (x *exchange) keep(data []byte) {
	if len(data) == 0 {
		return
	}
	x.rec.BytesIn += int64(len(data))
	if x.gate != nil {
		x.gate.hold(data)
		return
	}
	x.copyBody(data)
	x.retain(data)
}

// retain adds to what is kept for another attempt.
func (x *exchange) retain(data []byte) {
	if x.chunked {
		x.sent = x.grow(x.sent, len(data)+16)
		x.sent = h1.AppendChunk(x.sent, data)
		return
	}
	x.sent = x.w.loop.Buffers.Append(x.sent, data)
}

// keepEnd notes that what was kept is the whole body.
func (x *exchange) keepEnd(trailers []h1.Field) {
	if x.gate != nil {
		x.gate.end(trailers)
		return
	}
	x.copyEnd(trailers)
	x.sentEnd = true
	switch {
	case x.chunked:
		x.sent = h1.AppendLastChunk(x.sent, x.honest(trailers))
	case len(trailers) > 0:
		x.trailers = cloneFields(trailers)
	}
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
		e := x.stay.endpoint(w.loop.Now())
		if e == nil {
			e = x.service.Pick(w.loop.Now(), w.rng.Uint64(), x.tried)
		}
		if e == nil && x.second {
			x.second = false // there is no other
			x.tried = x.tried[:0]
			continue
		}
		if e == nil {
			if x.again() {
				x.pause(false)
				return
			}
			x.fail(record.ConnectFailed, x.unreachable())
			return
		}
		if e.Active() >= x.view.settings.MaxInFlight {
			x.fail(record.Overload, "the limit of requests in flight to "+e.Addr.String()+" (limits.inFlight) is reached")
			return
		}
		x.attempts++
		x.attempt = w.loop.Clock()
		x.rec.Endpoint = e.Addr
		x.tryBegins(e)
		s, err := w.connect(x, e)
		if err == nil {
			e.Begin()
			x.s, x.deaf = s, false
			x.dispatch()
			return
		}
		if exhausted(err) {
			x.fail(record.Overload, "windrose cannot open another connection ("+err.Error()+")")
			return
		}
		x.tryFailed(record.ConnectFailed, err.Error())
		x.cause = err
		e.Refused(w.loop.Now())
		x.tried = append(x.tried, e)
		if x.attempts >= maxAttempts || x.once() {
			if x.again() {
				x.pause(false)
				return
			}
			x.fail(record.ConnectFailed, x.unreachable())
			return
		}
	}
}

// dispatch gives the endpoint what there is of the request.
func (x *exchange) dispatch() {
	x.backendLine = 0
	if t := x.rule.Timeouts.Backend; t > 0 {
		x.backendLine = x.w.loop.Now() + int64(t)
		x.arm()
	}
	if !x.give() {
		return
	}
	if len(x.sent) > x.view.settings.MaxBufferedBytes && !x.upgrade { // that may not be sent yet
		x.forget()
	}
	if x.sentEnd {
		x.trySent()
	} else {
		// More of the body may have come while nobody wanted it: nobody tells again.
		x.down.resume()
	}
}

// give has the endpoint's side send what there is; it says whether that goes on.
func (x *exchange) give() bool {
	err := x.s.send()
	switch {
	case err == nil:
		return true
	case errors.Is(err, errNoRoom):
		x.serverLost(err, unseen)
	case errors.Is(err, errNoConnect):
		x.fail(record.NotSupported, "endpoint "+x.rec.Endpoint.String()+" speaks HTTP/2 and does not announce extended CONNECT, by which a WebSocket is carried there")
	default:
		x.serverLost(err, midway)
	}
	return false
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

// unreachable says which service cannot be reached, and what the last attempt
// met with.
func (x *exchange) unreachable() string {
	why := ""
	if x.cause != nil {
		why = x.cause.Error()
	}
	return unreachable(x.backend.ServiceName, x.rec.Endpoint, why)
}

// wants says whether more of the request's body is taken.
func (x *exchange) wants() bool {
	if x.s == nil {
		return x.gate != nil && x.gate.wants()
	}
	return !x.deaf && !x.waits() && !x.s.blocked()
}

// onBody forwards a piece of the request's body; it says whether the exchange
// goes on.
func (x *exchange) onBody(p []byte) bool {
	if x.gate != nil {
		return x.gate.onBody(p)
	}
	x.activity = x.w.loop.Now()
	x.rec.BytesIn += int64(len(p))
	x.copyBody(p)
	switch {
	case x.keeps(len(p)):
		x.retain(p)
	case x.whole:
		x.forget() // what is sent from here on is not kept
	}
	if err := x.s.data(p); err != nil {
		x.forget() // what is left of p's read is not taken any more
		return x.serverBroken()
	}
	return true
}

// onBodyEnd forwards the end of the request.
func (x *exchange) onBodyEnd(trailers []h1.Field) bool {
	if x.gate != nil {
		x.gate.onBodyEnd(trailers)
		return true
	}
	x.copyEnd(trailers)
	switch {
	case x.keeps(0):
		x.keepEnd(trailers)
	case x.whole:
		x.forget()
	}
	x.upEnd = true
	x.trySent()
	if err := x.s.end(x.honest(trailers)); err != nil {
		x.forget() // as in onBody
		return x.serverBroken()
	}
	return !x.settled()
}

// flushUp sends what was gathered for the endpoint.
func (x *exchange) flushUp() bool {
	if x.gate != nil {
		return true
	}
	if err := x.s.flush(); err != nil {
		return x.serverBroken()
	}
	return true
}

// serverDrained is called when the endpoint has taken what it was given.
func (x *exchange) serverDrained() {
	if !x.settled() {
		x.down.resume()
	}
}

// clientDrained is called when the client has taken what it was given.
func (x *exchange) clientDrained() {
	x.activity = x.w.loop.Now()
	if x.s != nil && !x.settled() {
		x.s.resume()
	}
}
