// Package h1 is the HTTP/1 codec: bytes in, messages out (RFC 9110, 9112). It
// has no sockets, goroutines or clock.
//
// Heads are parsed in place: every slice of a Request or Response points into
// the buffer that was parsed and lives as long as it. Parsing a head allocates
// nothing once the Fields slice has grown.
//
// The codec is strict, because what two programs read differently can be
// smuggled past one of them: a message with both lengths, two differing
// lengths, obs-fold, a bare LF or CR, white space before a colon, an unknown
// transfer coding or a malformed chunk is an *Error, never a guess.
package h1

// Field is a header field: Name without the colon, Value without surrounding
// white space.
type Field struct {
	Name, Value []byte
	// Known classifies the name once, at parse time, so that later steps need no
	// comparison of names.
	Known Known
	// Sensitive says that the sender wants the field in no compression table
	// (RFC 7541 7.1.3). HTTP/1 cannot say it.
	Sensitive bool
}

// Known is a header that windrose itself looks at.
type Known uint8

// The known headers; the zero value is any other.
const (
	Host Known = iota + 1
	ContentLength
	TransferEncoding
	Connection
	KeepAlive
	ProxyConnection
	TE
	Trailer
	Upgrade
	Expect
	UserAgent
	RequestID           // X-Request-Id
	ForwardedFor        // X-Forwarded-For
	ForwardedProto      // X-Forwarded-Proto
	ForwardedHost       // X-Forwarded-Host
	ForwardedClientCert // X-Forwarded-Client-Cert
	Forwarded           // RFC 7239
	FaultFlag           // X-Windrose-Fault
	HTTP2Settings       // hop by hop (RFC 7540 3.2.1)
	ProxyAuthenticate
	ProxyAuthorization
	Date
	Server
)

// Coding says how the end of a message body is found.
type Coding uint8

// The codings; the zero value is a message without a body.
const (
	NoBody     Coding = iota
	Length            // Content-Length bytes
	Chunked           // chunked transfer coding
	UntilClose        // a response that ends with its connection
)

// Limits bound what is parsed. A limit that is zero is its default.
type Limits struct {
	HeadBytes   int // first line and fields together
	TargetBytes int // request target
	Fields      int
}

// Error is a message that is refused. What follows it on the connection has no
// known beginning, so the connection must be closed after the answer.
type Error struct {
	Status int    // 400, 414, 417, 431, 501, 505 for requests; 502 for responses
	Reason string // a sentence
}

func (e *Error) Error() string { return e.Reason }

// Request is the head of a request.
type Request struct {
	Method []byte
	Target []byte // as received
	// Path and Query split Target; Path begins with "/" ("*" for OPTIONS *,
	// empty for CONNECT). Query is without the "?"; HasQuery tells "/a?" from "/a".
	Path, Query []byte
	HasQuery    bool
	// Host is the authority: of an absolute-form target if there is one (RFC 9112
	// 3.2.2), else of the Host field. It is empty where HTTP/1.0 gave none.
	Host   []byte
	Minor  uint8 // HTTP/1.Minor: 0 or 1
	Fields []Field

	Body   Coding
	Length int64 // for Length
	// KeepAlive says whether the client wants the connection to stay.
	KeepAlive bool
	Continue  bool // Expect: 100-continue, and there is a body to wait for
	// Upgrade is the protocol of a valid Upgrade request: HTTP/1.1, named by
	// Connection, one protocol, no body, and not h2c. Else it is nil.
	Upgrade  []byte
	Trailers bool // TE: trailers
	// HopByHop has a bit for each of the first 64 fields that Connection names;
	// later ones that it names are not in Fields. Connection cannot name a field
	// that frames, routes, authenticates or traces the message (RFC 9110 7.6.1).
	HopByHop uint64
}

// Response is the head of a response.
type Response struct {
	Status int
	Reason []byte
	Minor  uint8
	Fields []Field

	// Body is NoBody for answers to HEAD and for 1xx, 204 and 304, whatever their
	// fields say. With HEAD and 304 a Content-Length tells what a GET would have
	// given. With 1xx and 204 it is a mistake that must not be forwarded; if it, or
	// a Transfer-Encoding, promises a body, KeepAlive is false.
	Body      Coding
	Length    int64
	KeepAlive bool
	Upgrade   []byte // for 101
	HopByHop  uint64
}
