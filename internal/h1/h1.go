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
	RequestID      // X-Request-Id
	ForwardedFor   // X-Forwarded-For
	ForwardedProto // X-Forwarded-Proto
	ForwardedHost  // X-Forwarded-Host
	Forwarded      // RFC 7239
	FaultFlag      // X-Windrose-Fault
	HTTP2Settings  // hop by hop (RFC 7540 3.2.1)
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

// Limits bound what is parsed.
type Limits struct {
	HeadBytes   int // first line and fields together
	TargetBytes int // request target
	Fields      int
}

// Error is a message that is refused.
type Error struct {
	Status int    // 400, 414, 431, 501, 505 for requests; 502 for responses
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
	Continue  bool   // Expect: 100-continue
	Upgrade   []byte // protocol of a valid Upgrade request (Connection: upgrade), else nil
	Trailers  bool   // TE: trailers
	// HopByHop has a bit for each of the first 64 fields that Connection names.
	HopByHop uint64
}

// Response is the head of a response.
type Response struct {
	Status int
	Reason []byte
	Minor  uint8
	Fields []Field

	Body      Coding
	Length    int64
	KeepAlive bool
	Upgrade   []byte // for 101
	HopByHop  uint64
}

// Parse reads a request head from the start of buf. It returns the number of
// bytes the head takes, or 0 if buf does not hold all of it yet; from tells how
// many bytes of buf an earlier call has already seen without finding the end,
// so that a head that arrives in small pieces costs linear time. An empty line
// before the request line is skipped (RFC 9112 2.2). r is reset first; its
// Fields slice is reused.
func (r *Request) Parse(buf []byte, from int, lim Limits) (n int, err *Error) {
	panic("h1: being written")
}

// Parse reads a response head like Request.Parse. method is the request's: a
// response to HEAD or to a successful CONNECT has no body. Interim responses
// (1xx) are heads without a body, 101 has Upgrade set.
func (r *Response) Parse(buf []byte, from int, method []byte, lim Limits) (n int, err *Error) {
	panic("h1: being written")
}

// Body decodes a message body. The zero value is at the end of an empty one.
type Body struct {
	coding Coding
	left   int64
	state  uint8
}

// Reset starts a body of the given coding.
func (b *Body) Reset(c Coding, length int64) {}

// Next takes bytes from the start of buf: n were consumed, of which data (a
// slice of buf, possibly empty) is content. It stops at the end of the first
// piece of content, at the end of the body (done), or when buf is used up, so
// call it with buf[n:] until n == len(buf) or done; bytes after done belong to
// the next message. Framing that is split over calls is remembered inside, in
// bounded space. A body UntilClose is never done: the connection's end is.
func (b *Body) Next(buf []byte) (data []byte, n int, done bool, err *Error) { return }

// Done says whether the end of the body was seen.
func (b *Body) Done() bool { return true }

// Trailers are the trailer fields of a chunked body that is done, without
// those that must not be trailers (framing, routing, authentication: RFC 9110
// 6.5.1). They live until the next Reset.
func (b *Body) Trailers() []Field { return nil }

// AppendChunk appends data as one chunk; data must not be empty.
func AppendChunk(dst, data []byte) []byte { return dst }

// AppendLastChunk appends the end of a chunked body, with trailers if any.
func AppendLastChunk(dst []byte, trailers []Field) []byte { return dst }
