// Package record says what became of a request or connection: one Record for
// each, filled along its way and given to telemetry exactly once, and why it
// could not be served, as a flag of the closed set that clients, logs and metrics
// show.
package record

import (
	"bytes"
	"net/netip"
	"time"
)

// Side says whose fault it was.
type Side uint8

// The sides; the zero value is not set.
const (
	Client   Side = iota + 1 // the caller sent what cannot be served
	Config                   // an object that somebody wrote
	Upstream                 // the service behind
	Windrose                 // a limit of windrose, or its own mistake
)

func (s Side) String() string {
	switch s {
	case Client:
		return "client"
	case Config:
		return "config"
	case Upstream:
		return "upstream"
	case Windrose:
		return "windrose"
	}
	return "unset"
}

// Flag names a kind of fault. It is the value of x-windrose-fault, a field of
// the access log and a label of metrics.
type Flag uint8

// The flags; the zero value means no fault.
const (
	BadRequest       Flag = iota + 1 // malformed or ambiguous message
	HeaderTimeout                    // headers did not arrive in time
	HeadersTooLarge                  // more or larger header fields than allowed
	URITooLong                       // request target longer than allowed
	NotSupported                     // a protocol or method that windrose does not serve
	ClientGone                       // the client left before the answer ended
	BodyTimeout                      // the client's body fell silent
	NoRoute                          // no rule takes the request
	Misdirected                      // the TLS connection is for another host
	TooLarge                         // the body is larger than what an authoriser is told of it
	Denied                           // an authoriser said no
	RuleBroken                       // the rule cannot serve until its author mends it
	BackendMissing                   // the backend that was picked does not exist
	NoBackend                        // the rule has no backend, or only backends of weight zero
	NoEndpoint                       // the service has no endpoint
	ConnectFailed                    // no endpoint accepted a connection
	UpstreamReset                    // the endpoint closed before its answer ended
	UpstreamProtocol                 // the endpoint's answer is malformed
	RequestTimeout                   // the rule's time for the whole request ran out
	BackendTimeout                   // the rule's time for the backend ran out
	AuthFailed                       // an authoriser could not be asked, or gave no answer that can be used
	Overload                         // a limit on connections, requests or memory was met
	Draining                         // windrose is going away
	Internal                         // a mistake of windrose
)

// Flags lists every flag, for exhaustive tables.
func Flags() []Flag {
	all := make([]Flag, 0, Internal)
	for f := BadRequest; f <= Internal; f++ {
		all = append(all, f)
	}
	return all
}

func (f Flag) String() string {
	switch f {
	case BadRequest:
		return "bad-request"
	case HeaderTimeout:
		return "header-timeout"
	case HeadersTooLarge:
		return "headers-too-large"
	case URITooLong:
		return "uri-too-long"
	case NotSupported:
		return "not-supported"
	case ClientGone:
		return "client-gone"
	case BodyTimeout:
		return "body-timeout"
	case NoRoute:
		return "no-route"
	case Misdirected:
		return "misdirected"
	case TooLarge:
		return "body-too-large"
	case Denied:
		return "denied"
	case RuleBroken:
		return "rule-broken"
	case BackendMissing:
		return "backend-missing"
	case NoBackend:
		return "no-backend"
	case NoEndpoint:
		return "no-endpoint"
	case ConnectFailed:
		return "connect-failed"
	case UpstreamReset:
		return "upstream-reset"
	case UpstreamProtocol:
		return "upstream-protocol"
	case RequestTimeout:
		return "request-timeout"
	case BackendTimeout:
		return "backend-timeout"
	case AuthFailed:
		return "auth-failed"
	case Overload:
		return "overload"
	case Draining:
		return "draining"
	case Internal:
		return "internal"
	}
	return ""
}

// Side is whose fault a flag is.
func (f Flag) Side() Side {
	switch f {
	case BadRequest, HeaderTimeout, HeadersTooLarge, URITooLong, NotSupported, ClientGone, BodyTimeout, NoRoute, Misdirected, TooLarge, Denied:
		return Client
	case RuleBroken, BackendMissing, NoBackend:
		return Config
	case NoEndpoint, ConnectFailed, UpstreamReset, UpstreamProtocol, RequestTimeout, BackendTimeout, AuthFailed:
		return Upstream
	case Overload, Draining, Internal:
		return Windrose
	}
	return 0
}

// Status is the HTTP status of an answer that windrose makes for the flag.
func (f Flag) Status() int {
	switch f {
	case BadRequest:
		return 400
	case HeaderTimeout, BodyTimeout:
		return 408
	case HeadersTooLarge:
		return 431
	case URITooLong:
		return 414
	case NotSupported:
		return 501
	case ClientGone:
		return 499 // never sent: nobody is there
	case NoRoute:
		return 404
	case Misdirected:
		return 421
	case TooLarge:
		return 413
	case Denied:
		return 403 // or what the authoriser says
	case RuleBroken, BackendMissing, NoBackend, Internal:
		return 500
	case UpstreamReset, UpstreamProtocol:
		return 502
	case NoEndpoint, ConnectFailed, AuthFailed, Overload, Draining:
		return 503
	case RequestTimeout, BackendTimeout:
		return 504
	}
	return 500
}

// Mend is a sentence on what to do about a flag, for logs and the reference.
func (f Flag) Mend() string {
	switch f {
	case BadRequest:
		return "the client must send a valid HTTP message"
	case HeaderTimeout:
		return "send the headers faster, or raise timeouts.header of GatewayParameters"
	case HeadersTooLarge:
		return "send fewer or smaller headers, or raise limits.headerBytes and limits.headers of GatewayParameters"
	case URITooLong:
		return "send a shorter URI, or raise limits.uriBytes of GatewayParameters"
	case NotSupported:
		return "use a method and protocol that the listener serves"
	case ClientGone:
		return "nothing to do here; look at the client's timeout"
	case BodyTimeout:
		return "send the body without long pauses, or raise timeouts.body of GatewayParameters"
	case NoRoute:
		return "attach a route for this host and path: windrose get routes says why one is not attached"
	case Misdirected:
		return "open a new connection for this host"
	case TooLarge:
		return "send a smaller body, or raise forwardBody.maxSize of the ExternalAuth filter"
	case Denied:
		return "send what the authoriser wants to see; its log says why it refused"
	case RuleBroken:
		return "mend what the conditions of the route, or of the Gateway, say: windrose describe shows them"
	case BackendMissing:
		return "create the backend, correct its name or port, or let a ReferenceGrant allow it: windrose describe httproute says which"
	case NoBackend:
		return "give the rule a backend with a weight above zero"
	case NoEndpoint:
		return "start a workload that the Service selects, or correct the selector: windrose get workloads -A says why one is not ready"
	case ConnectFailed:
		return "look whether the endpoint runs, listens on that port and, where TLS is spoken to it, shows the certificate that its BackendTLSPolicy asks for"
	case UpstreamReset:
		return "look into the endpoint's log: it closed the connection early"
	case UpstreamProtocol:
		return "the endpoint must speak on this port what the Service says in appProtocol; without it HTTP/1.1"
	case RequestTimeout:
		return "make the service faster, or raise timeouts.request of the route's rule"
	case BackendTimeout:
		return "make the service faster, or raise timeouts.backendRequest of the route's rule"
	case AuthFailed:
		return "look whether the authoriser that the sentence names runs, and speaks what the ExternalAuth filter says"
	case Overload:
		return "add capacity, or raise the limit that the sentence names"
	case Draining:
		return "retry: another listener or instance serves"
	case Internal:
		return "please report this with the access log line"
	}
	return ""
}

// MaxTries is how many attempts a record tells apart: of more, the first ones
// and the last.
const MaxTries = 8

// Try is one endpoint's part in a request. Its times count from the record's
// Start; 0 is what did not happen. They are as exact as a turn of the event loop:
// what happens within one turn may show the same time.
type Try struct {
	Service  string // name of the Service key
	Endpoint netip.AddrPort
	Begun    time.Duration // the endpoint was picked
	// Connected is when the connection stood, with its TLS handshake; for one that
	// was there already it is Begun.
	Connected time.Duration
	Sent      time.Duration // the endpoint was given the end of the request
	Answered  time.Duration // the answer's final head came
	Ended     time.Duration // the endpoint was done with, or given up
	Reused    bool          // the connection has carried something before
	Status    int           // of the answer; 0 if none came
	Fault     Flag          // why the attempt failed; 0 if it did not
	Reason    string        // a few words; "" without a fault
	Span      [8]byte       // of the attempt, if the request has a Trace
}

// Record is what became of one request. Byte slices and Tries are only valid
// until who is given the record returns.
type Record struct {
	Start    time.Time
	Duration time.Duration // first byte of the request to last byte of the answer
	// Received is when the request's head was whole, from Start; 0 if it came at
	// once. From then to the first attempt's Begun a rule was found and a backend
	// picked.
	Received time.Duration
	// Asked is when the last authoriser had answered, or was given up, from Start; 0
	// if none was asked.
	Asked time.Duration
	// Answered is when the client was given the answer's final head, from Start; 0
	// if it was given none.
	Answered time.Duration
	// Upstream is from the start of the last attempt to the answer's headers; 0
	// if there was none.
	Upstream time.Duration

	ID     []byte // x-request-id
	Trace  Trace  // the zero Trace where nobody traces
	Client netip.AddrPort
	// Protocol is "HTTP/1.0", "HTTP/1.1", "HTTP/2" or "HTTP/3"; or "TCP", "TLS" or
	// "UDP" for a connection or flow whose bytes nobody looks at: that has no method,
	// path and status, and its Host is the server name of the handshake.
	Protocol string
	TLS      string // "", "TLS1.2", "TLS1.3"
	Identity string // of a client that has proven who it is by a certificate: a URI, or else the subject
	Method   []byte
	Host     []byte
	Path     []byte // as received, with the query
	Agent    []byte // user-agent

	Listener string // name of the Listener key
	Route    string // name of the Route key; "" if none took the request
	Rule     int    // index within the route
	Service  string // name of the Service key
	// RuleSlot and ServiceSlot are the plan's numbers for the rule and the
	// service: small, and stable while their keys live. A sink may use them as a
	// short cut to what it keeps for Route and Service; the names decide, so that
	// a slot that was given to another route does no harm.
	RuleSlot    int
	ServiceSlot int
	Endpoint    netip.AddrPort
	Attempts    int
	Tries       []Try // the attempts, MaxTries at most; see Try

	Status   int
	BytesIn  int64 // body
	BytesOut int64 // body

	Fault  Flag   // 0 where the answer is the service's own
	Reason string // a sentence; "" without a fault
}

// Try adds an attempt to r and gives it. Where there are too many already, it
// takes the place of the last.
func (r *Record) Try() *Try {
	if len(r.Tries) == MaxTries {
		r.Tries = r.Tries[:MaxTries-1]
	}
	r.Tries = append(r.Tries, Try{})
	return &r.Tries[len(r.Tries)-1]
}

// LastTry is the newest attempt; nil if there is none.
func (r *Record) LastTry() *Try {
	if len(r.Tries) == 0 {
		return nil
	}
	return &r.Tries[len(r.Tries)-1]
}

// ShownPath is what of the request target is shown: the path without the query,
// where tokens, signatures and session ids travel, and without the authority of
// an absolute target, which may hold a password.
func (r *Record) ShownPath() []byte {
	path, _ := r.SplitPath()
	return path
}

// SplitPath is the request target without the authority that an absolute one
// has: its path, and its query with the question mark.
func (r *Record) SplitPath() (path, query []byte) {
	path = r.Path
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		path, query = path[:i], path[i:]
	}
	if len(path) == 0 || path[0] == '/' {
		return path, query
	}
	if i := bytes.Index(path, []byte("://")); i >= 0 {
		rest := path[i+3:]
		slash := bytes.IndexByte(rest, '/')
		if slash < 0 {
			return nil, query
		}
		return rest[slash:], query
	}
	return path, query
}
