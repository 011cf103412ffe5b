package plan

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// The parts of a plan are what crosses the plan stream: plain data, one part
// for each thing a user wrote (a listener, a route, a service, a certificate).
// Children point at parents by key, so that one changed object is one small
// message. Builder compiles parts into a Plan.
//
// A part is immutable once it was handed to a Builder or a feed: whoever
// changes something makes a new one.

// Kind says what a Part holds.
type Kind string

// The kinds of parts.
const (
	KindSettings    Kind = "settings"
	KindSocket      Kind = "socket"
	KindListener    Kind = "listener"
	KindRoute       Kind = "route"
	KindService     Kind = "service"
	KindCertificate Kind = "certificate"
	KindTracing     Kind = "tracing"
)

// Key names a part for its whole life. Name is unique within Kind.
type Key struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
}

func (k Key) String() string { return string(k.Kind) + "/" + k.Name }

// Part is one of the pointers below, chosen by Key.Kind; the others are nil.
type Part struct {
	Key         Key          `json:"key"`
	Settings    *Settings    `json:"settings,omitempty"`
	Socket      *Socket      `json:"socket,omitempty"`
	Listener    *Listener    `json:"listener,omitempty"`
	Route       *Route       `json:"route,omitempty"`
	Service     *Service     `json:"service,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Tracing     *Tracing     `json:"tracing,omitempty"`
}

// Settings are the limits and habits of one data plane. There is one, named
// "default"; a zero field means the default that DefaultSettings gives.
type Settings struct {
	AccessLog AccessLog `json:"accessLog"`
	// FaultDetail says how much of a fault's sentence the client sees.
	FaultDetail FaultDetail `json:"faultDetail,omitempty"`
	// TrustedProxies are the peers whose X-Forwarded-* headers are kept.
	TrustedProxies []netip.Prefix `json:"trustedProxies,omitempty"`
	// HTTP3 has sockets with HTTPS listeners served over QUIC too.
	HTTP3 bool `json:"http3,omitempty"`

	MaxHeaderBytes   int           `json:"maxHeaderBytes,omitempty"`   // request line and headers together
	MaxURIBytes      int           `json:"maxURIBytes,omitempty"`      // request target
	MaxHeaders       int           `json:"maxHeaders,omitempty"`       // number of fields
	MaxConnections   int           `json:"maxConnections,omitempty"`   // downstream, whole process
	MaxBufferedBytes int           `json:"maxBufferedBytes,omitempty"` // per connection and direction
	HeaderTimeout    time.Duration `json:"headerTimeout,omitempty"`    // first byte of a request to end of its headers
	IdleTimeout      time.Duration `json:"idleTimeout,omitempty"`      // downstream keep-alive
	BodyTimeout      time.Duration `json:"bodyTimeout,omitempty"`      // longest silence inside a message
	TunnelTimeout    time.Duration `json:"tunnelTimeout,omitempty"`    // longest silence of an upgraded connection
	AuthTimeout      time.Duration `json:"authTimeout,omitempty"`      // an authoriser's answer
	HandshakeTimeout time.Duration `json:"handshakeTimeout,omitempty"` // TLS
	DrainTimeout     time.Duration `json:"drainTimeout,omitempty"`     // what is in flight when a listener or the process ends
	ConnectTimeout   time.Duration `json:"connectTimeout,omitempty"`   // upstream TCP and TLS
	UpstreamIdle     time.Duration `json:"upstreamIdle,omitempty"`     // pooled upstream connection
	MaxUpstreamIdle  int           `json:"maxUpstreamIdle,omitempty"`  // pooled connections per endpoint and loop
	MaxInFlight      int           `json:"maxInFlight,omitempty"`      // requests in flight per endpoint, whole process
	FlowTimeout      time.Duration `json:"flowTimeout,omitempty"`      // longest silence of a UDP flow

	// SessionKey seals the tokens of sessions; without one there are no sessions.
	SessionKey Secret `json:"sessionKey,omitempty"`
}

// Secret is what is never shown: printed, it says no more than that.
type Secret []byte

// Format is for every verb the same.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("(secret)")) }

// LogMode says which requests are written to the access log.
type LogMode string

// The access log's modes.
const (
	LogOn      LogMode = "on"
	LogSampled LogMode = "sampled" // one in Every, and all that windrose answered with a fault
	LogOff     LogMode = "off"
)

// AccessLog configures the access log.
type AccessLog struct {
	Mode  LogMode `json:"mode,omitempty"`
	Every int     `json:"every,omitempty"` // for LogSampled: one in Every requests
}

// FaultDetail says how much of a fault's sentence the client sees. The access
// log always has all of it.
type FaultDetail string

// The levels of detail.
const (
	DetailFull  FaultDetail = "full"  // flag, sentence with object names, request id
	DetailBrief FaultDetail = "brief" // flag and request id
)

// Protocol of a listener or of what a service speaks.
type Protocol string

// The protocols known to the data plane.
const (
	HTTP  Protocol = "http"  // in cleartext: HTTP/1.1, and of clients HTTP/2 too
	HTTPS Protocol = "https" // TLS, then HTTP as ALPN says
	H2C   Protocol = "h2c"   // of a service: HTTP/2 in cleartext with prior knowledge
	TLS   Protocol = "tls"   // TLS, then bytes; see Listener.Passthrough
	TCP   Protocol = "tcp"   // bytes
	UDP   Protocol = "udp"   // datagrams
)

// Socket is one bound address. Its key's name is "tcp/ADDR:PORT" or
// "udp/ADDR:PORT".
type Socket struct {
	Addr netip.AddrPort `json:"addr"`
	UDP  bool           `json:"udp,omitempty"`
}

// SocketName is the name of the key of the TCP socket at addr.
func SocketName(addr netip.AddrPort) string { return "tcp/" + addr.String() }

// UDPSocketName is the name of the key of the UDP socket at addr.
func UDPSocketName(addr netip.AddrPort) string { return "udp/" + addr.String() }

// Listener is one listener of a Gateway, a ListenerSet or an Ingress class.
// Its key's name is "KIND/NAMESPACE/NAME/LISTENER".
type Listener struct {
	Sockets  []string `json:"sockets"` // names of Socket keys
	Protocol Protocol `json:"protocol"`
	// Hostname is "" for all, an exact name, or "*.suffix"; lower case.
	Hostname string `json:"hostname,omitempty"`
	// Certificates are the names of Certificate keys, in the order written.
	Certificates []string `json:"certificates,omitempty"`
	// Passthrough, for protocol TLS, leaves the handshake to the service: only
	// the server name is read.
	Passthrough bool `json:"passthrough,omitempty"`
	// Clients, for protocol HTTPS, has clients asked for certificates.
	Clients *ClientCheck `json:"clients,omitempty"`
	// Shows is the name of a Certificate key: an endpoint that is spoken to under
	// TLS and asks who connects is shown it.
	Shows string `json:"shows,omitempty"`
	// Tracing is the name of a Tracing key; empty: requests are not traced.
	Tracing string `json:"tracing,omitempty"`
	// Filters are done to a request before its rule is looked for. Those of an HTTP
	// listener can be Auth.
	Filters []Filter `json:"filters,omitempty"`
	// Broken, when set, makes every request of the listener a fault.
	Broken *Broken `json:"broken,omitempty"`
}

// ClientCheck says which clients are believed to be who they say.
type ClientCheck struct {
	// Authorities are the certificates, as PEM, that the client's must come from.
	Authorities []byte `json:"authorities"`
	// Optional serves a client without a certificate too, and one that is not
	// believed.
	Optional bool `json:"optional,omitempty"`
}

// Same says whether two ask for the same.
func (c *ClientCheck) Same(other *ClientCheck) bool {
	if c == nil || other == nil {
		return c == other
	}
	return c.Optional == other.Optional && bytes.Equal(c.Authorities, other.Authorities)
}

// Route is one HTTPRoute, GRPCRoute or Ingress as far as it is accepted. Its
// key's name is "KIND/NAMESPACE/NAME".
//
// A TLSRoute, TCPRoute or UDPRoute is a Route too, with one rule whose only
// match is the prefix "/": it hangs on a listener of protocol TLS, TCP or UDP,
// and the server name of the handshake is the host.
type Route struct {
	// Created and the key's name decide between equal matches: the older wins,
	// then the alphabetically first (Gateway API, HTTPRouteRule.matches).
	Created int64        `json:"created"` // Unix seconds
	Attach  []Attachment `json:"attach"`
	Rules   []Rule       `json:"rules"`
}

// Attachment hangs a route on a listener under one hostname.
type Attachment struct {
	Listener string `json:"listener"` // name of a Listener key
	// Host is the intersection of the route's and the listener's hostname: ""
	// for all, an exact name, or "*.suffix"; lower case.
	Host string `json:"host,omitempty"`
	// Original is the hostname as the route wrote it ("" if it wrote none). It
	// decides between routes whose Host is the same.
	Original string `json:"original,omitempty"`
	// OneLabel makes a wildcard Host stand for exactly one label, as Ingress
	// has it; without, it stands for one or more, as Gateway API has it.
	OneLabel bool `json:"oneLabel,omitempty"`
}

// Rule says which requests it takes and what becomes of them.
type Rule struct {
	Name string `json:"name,omitempty"` // as the user named it; may be empty
	// GRPC says that the rule takes gRPC requests, which want a fault told as a
	// gRPC status.
	GRPC bool `json:"grpc,omitempty"`
	// Matches are alternatives; translation never leaves it empty.
	Matches  []Match   `json:"matches"`
	Filters  []Filter  `json:"filters,omitempty"`
	Backends []Backend `json:"backends,omitempty"`
	Timeouts Timeouts  `json:"timeouts,omitzero"`
	// Retry says what is tried again. Without it that is only what no endpoint has
	// seen, and the idempotent requests that an ended connection took with it.
	Retry *Retry `json:"retry,omitempty"`
	// Session has a client's requests stay with an endpoint of the backend that is
	// picked; it goes before the service's own.
	Session *Session `json:"session,omitempty"`
	// Broken, when set, makes every request of the rule a fault: the rule stays
	// where it is so that its requests do not fall through to another.
	Broken *Broken `json:"broken,omitempty"`
}

// Broken says why a rule or a backend cannot serve.
type Broken struct {
	Status int    `json:"status"` // 500 for what the author must mend, 503 for what may pass
	Reason string `json:"reason"` // a sentence that names the object
}

// Timeouts of a rule; zero is none.
type Timeouts struct {
	Request time.Duration `json:"request,omitempty"` // HTTPRoute timeouts.request
	Backend time.Duration `json:"backend,omitempty"` // HTTPRoute timeouts.backendRequest
}

// Retry says which requests a rule has tried again. Within Timeouts.Request, each
// attempt within Timeouts.Backend.
type Retry struct {
	Codes    []int         `json:"codes,omitempty"`   // statuses of answers that are not the last word
	Attempts int           `json:"attempts"`          // after the first; 0 for none at all
	Backoff  time.Duration `json:"backoff,omitempty"` // before the second attempt; 0: windrose chooses
}

// Session says how a client tells which endpoint its requests belong to: by a
// cookie, or by a header that it sends back as it was given.
type Session struct {
	Cookie string `json:"cookie,omitempty"` // name; either this or Header
	Header string `json:"header,omitempty"` // name
	Path   string `json:"path,omitempty"`   // of the cookie; empty: "/"
	// Timeout is how long a session lasts from its first request on; 0: no end. With
	// Permanent the cookie lasts as long, else until the browser ends.
	Timeout   time.Duration `json:"timeout,omitempty"`
	Permanent bool          `json:"permanent,omitempty"`
}

// PathType says how a path is compared.
type PathType string

// The path types. Prefix compares whole segments. An Ingress path of type
// ImplementationSpecific is a prefix.
const (
	PathExact  PathType = "exact"
	PathPrefix PathType = "prefix"
	PathRegex  PathType = "regex" // RE2, anchored at both ends
)

// Match is one alternative of a rule: every field given must fit.
type Match struct {
	PathType PathType    `json:"pathType"` // never empty
	Path     string      `json:"path"`     // never empty; "/" prefix for all
	Method   string      `json:"method,omitempty"`
	Headers  []NameMatch `json:"headers,omitempty"` // names lower case, no name twice
	Query    []NameMatch `json:"query,omitempty"`   // no name twice
}

// NameMatch compares the value of a header or a query parameter.
type NameMatch struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Regex bool   `json:"regex,omitempty"` // RE2, anchored at both ends
}

// Filter is one step done to a request; exactly one field is set.
type Filter struct {
	RequestHeaders  *HeaderEdit `json:"requestHeaders,omitempty"`
	ResponseHeaders *HeaderEdit `json:"responseHeaders,omitempty"`
	Redirect        *Redirect   `json:"redirect,omitempty"`
	Rewrite         *Rewrite    `json:"rewrite,omitempty"`
	CORS            *CORS       `json:"cors,omitempty"` // of a rule, not of a backend
	Mirror          *Mirror     `json:"mirror,omitempty"`
	Auth            *Auth       `json:"auth,omitempty"`
}

// HeaderEdit changes headers: Set, then Add, then Remove. Names keep the
// user's case in Set and Add and compare without case.
type HeaderEdit struct {
	Set    []Header `json:"set,omitempty"`
	Add    []Header `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"` // lower case
}

// Header is a header field.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// PathEdit replaces a path. At most one field is set.
type PathEdit struct {
	Full *string `json:"full,omitempty"`
	// Prefix replaces the prefix that matched (the path of the match).
	Prefix *string `json:"prefix,omitempty"`
}

// Redirect answers with a Location.
type Redirect struct {
	Scheme string    `json:"scheme,omitempty"`
	Host   string    `json:"host,omitempty"`
	Port   uint16    `json:"port,omitempty"`
	Path   *PathEdit `json:"path,omitempty"`
	Status int       `json:"status"` // 301, 302, 303, 307, 308
}

// Rewrite changes what is forwarded.
type Rewrite struct {
	Host string    `json:"host,omitempty"`
	Path *PathEdit `json:"path,omitempty"`
}

// CORS answers the preflights of browsers, and tells them which pages may see
// the rule's answers. "*" in a list stands for all.
type CORS struct {
	Origins     []string `json:"origins,omitempty"` // SCHEME://HOST[:PORT]; "*" in HOST stands for any text
	Methods     []string `json:"methods,omitempty"`
	Headers     []string `json:"headers,omitempty"`
	Expose      []string `json:"expose,omitempty"`
	Credentials bool     `json:"credentials,omitempty"`
	MaxAge      int32    `json:"maxAge,omitempty"` // seconds; 0: 5
}

// Mirror has Num of every Den requests copied to a second service, whose answers
// nobody sees.
type Mirror struct {
	Service string `json:"service"` // name of a Service key; one that does not exist gets nothing
	Num     int32  `json:"num"`
	Den     int32  `json:"den"`
}

// Auth has a service asked whether a request may go on. What the service does not
// say yes to is not forwarded.
type Auth struct {
	Service string `json:"service"` // name of a Service key
	// GRPC asks by Envoy's ext_authz (envoy.service.auth.v3.Authorization). Without
	// it the service is asked by HTTP, and a status of 200 is its yes.
	GRPC bool `json:"grpc,omitempty"`
	// Path, of HTTP, goes before the path of the request.
	Path string `json:"path,omitempty"`
	// Headers of the request are told to the service: by HTTP beside Host and
	// Authorization; by gRPC none stands for all. Lower case.
	Headers []string `json:"headers,omitempty"`
	// Grants, of HTTP, are the headers of the service's answer that go into the
	// request: none stands for all. A client's own of these names go nowhere. Lower
	// case.
	Grants []string `json:"grants,omitempty"`
	// MaxBody is how much of a body the service is told; a request with a larger one
	// is refused. 0: the service is told nothing of it.
	MaxBody int64 `json:"maxBody,omitempty"`
}

// Backend is where a share of a rule's requests goes.
type Backend struct {
	Service string   `json:"service,omitempty"` // name of a Service key
	Weight  int32    `json:"weight"`            // 0 takes nothing
	Filters []Filter `json:"filters,omitempty"` // header edits and rewrites
	Broken  *Broken  `json:"broken,omitempty"`  // its share of the requests becomes this fault
}

// Balance says how an endpoint is picked.
type Balance string

// The balancing methods.
const (
	LeastRequest Balance = "least-request" // two random choices, weighed by EWMA latency and requests in flight
	RoundRobin   Balance = "round-robin"
)

// Service is one port of a Service. Its key's name is "NAMESPACE/NAME:PORT",
// with "/tcp", "/udp" or "/h2c" after it where a route asks for that and the
// port itself does not say so: an HTTPRoute and a TCPRoute may send to one port.
// "/tls" follows where TLS is spoken to it. That of an XBackend has "XBackend/" in
// front.
type Service struct {
	Protocol  Protocol   `json:"protocol"`
	Balance   Balance    `json:"balance,omitempty"` // empty: LeastRequest
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	// Hostname is set for an ExternalName: the data plane resolves it, and its
	// addresses are the endpoints. Port goes with it.
	Hostname string `json:"hostname,omitempty"`
	Port     uint16 `json:"port,omitempty"`
	// TLS, but for protocol UDP, has what is spoken be spoken under TLS. A
	// connection that a listener passes through is the client's own business.
	TLS *BackendTLS `json:"tls,omitempty"`
	// Draining are endpoints that end and still serve: they keep the sessions that
	// they have, and get nothing else.
	Draining []Endpoint `json:"draining,omitempty"`
	// Budget is of its retries, instead of that which services have by themselves.
	Budget *RetryBudget `json:"budget,omitempty"`
	// Session is what rules that say nothing of sessions do.
	Session *Session `json:"session,omitempty"`
}

// RetryBudget bounds the retries of a service, over all rules. What is beyond is
// answered with 503.
type RetryBudget struct {
	// Percent of the attempts within Interval may be retries.
	Percent  int           `json:"percent"`
	Interval time.Duration `json:"interval"`
	// Free are the retries within FreeInterval that are allowed whatever Percent
	// says.
	Free         int           `json:"free"`
	FreeInterval time.Duration `json:"freeInterval"`
}

// BackendTLS says whom windrose believes to be a service's endpoint.
type BackendTLS struct {
	// Hostname is the server name that the endpoint is told, and the name that its
	// certificate must have, unless Names is given.
	Hostname string `json:"hostname"`
	// Authorities are the certificates, as PEM, that the endpoint's must come from;
	// with System they are those of the machine.
	Authorities []byte `json:"authorities,omitempty"`
	System      bool   `json:"system,omitempty"`
	// Names are alternatives; the endpoint's certificate must have one of them.
	Names []SubjectName `json:"names,omitempty"`
	// Alone has the endpoint be shown Client or nothing, whatever the listener
	// shows.
	Alone  bool               `json:"alone,omitempty"`
	Client *ClientCertificate `json:"client,omitempty"`
}

// ClientCertificate is what an endpoint is shown that asks who connects.
type ClientCertificate struct {
	Chain []byte `json:"chain"` // PEM
	Key   Secret `json:"key"`   // PEM
}

func (c *ClientCertificate) same(other *ClientCertificate) bool {
	if c == nil || other == nil {
		return c == other
	}
	return bytes.Equal(c.Chain, other.Chain) && bytes.Equal(c.Key, other.Key)
}

// SubjectName is a name in a certificate; exactly one field is set.
type SubjectName struct {
	DNS string `json:"dns,omitempty"` // "*.suffix" is the certificate's wildcard, or any name one label longer
	URI string `json:"uri,omitempty"` // compared as it is written
}

// Same says whether two ask for the same.
func (t *BackendTLS) Same(other *BackendTLS) bool {
	if t == nil || other == nil {
		return t == other
	}
	return t.Hostname == other.Hostname && t.System == other.System && bytes.Equal(t.Authorities, other.Authorities) && slices.Equal(t.Names, other.Names) &&
		t.Alone == other.Alone && t.Client.same(other.Client)
}

// Endpoint is one address of a service.
type Endpoint struct {
	Addr netip.AddrPort `json:"addr"`
	Name string         `json:"name,omitempty"` // of the workload or pod
}

// Certificate is a chain with its key. Its key's name is "NAMESPACE/SECRET",
// or "placeholder/LISTENER" where a Secret is missing.
type Certificate struct {
	Chain []byte `json:"chain"` // PEM
	Key   Secret `json:"key"`   // PEM
	// Names are the leaf's DNS names, lower case, so that choosing by SNI needs
	// no parsing.
	Names []string `json:"names"`
	RSA   bool     `json:"rsa,omitempty"` // an ECDSA sibling goes first where the client can
}
