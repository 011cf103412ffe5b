package h1

import "bytes"

// The bounds of chunked framing.
const (
	maxChunkLine    = 1 << 10  // size and extensions
	maxSizeDigits   = 16       // leading zeros included
	maxOverhead     = 16 << 10 // framing beyond what chunks of their size may have
	maxTrailerBytes = 8 << 10
	maxTrailers     = 32
	keptTail        = 1 << 10 // trailer space that a Body keeps for its next message
)

// state is where in the framing of a chunked body the next byte is.
type state uint8

const (
	atEnd        state = iota // the zero value is at the end of an empty body
	inData                    // left bytes of content follow; the only one for Length
	sizeStart                 // the first digit of a chunk size
	size                      // a further digit, or what ends the size
	sizeSpace                 // white space after the size: an extension must follow
	extStart                  // after ";"
	extName                   //
	extNamed                  // white space after the name of an extension
	extEquals                 // after "="
	extValue                  //
	extQuoted                 // in a quoted string
	extEscape                 // after a backslash in one
	extQuotedEnd              // after the closing quote
	extValued                 // white space after a value
	lineLF                    // the LF of a chunk line
	dataCR                    // the CR after data
	dataLF                    // its LF
	trailerLine               // the first byte of a trailer line or of the last CRLF
	trailerRest               // in a trailer line
	lastLF                    // the LF that ends the body
	failed
)

// Body decodes a message body. The zero value is at the end of an empty one.
type Body struct {
	coding   Coding
	state    state
	digits   uint8 // of the chunk size
	line     int   // bytes of the chunk line
	left     int64 // content of the body or the chunk
	overhead int64
	tail     []byte // trailer lines
	trailers []Field
	err      *Error
}

// Reset starts a body of the given coding.
func (b *Body) Reset(c Coding, length int64) {
	tail, trailers := b.tail[:0], b.trailers[:0]
	if cap(tail) > keptTail {
		tail, trailers = nil, nil
	}
	*b = Body{coding: c, tail: tail, trailers: trailers}
	switch {
	case c == Chunked:
		b.state = sizeStart
	case c == UntilClose, c == Length && length > 0:
		b.state, b.left = inData, length
	}
}

// Next takes bytes from the start of buf: n were consumed, of which data (a
// slice of buf, possibly empty) is content. It stops at the end of the first
// piece of content, at the end of the body (done), or when buf is used up, so
// call it with buf[n:] until n == len(buf) or done; bytes after done belong to
// the next message. Framing that is split over calls is remembered inside, in
// bounded space. A body UntilClose is never done: the connection's end is.
//
// A malformed body is an *Error with status 400, also when it is a response's;
// every later call returns it again.
func (b *Body) Next(buf []byte) (data []byte, n int, done bool, err *Error) {
	if b.coding == Chunked {
		return b.nextChunked(buf)
	}
	if b.state == atEnd {
		return nil, 0, true, nil
	}
	if b.coding == UntilClose {
		return buf, len(buf), false, nil
	}
	data = b.take(buf)
	if b.left == 0 {
		b.state = atEnd
	}
	return data, len(data), b.left == 0, nil
}

// Left is how many bytes of content are known to follow without anything
// between them; 0 if that cannot be told.
func (b *Body) Left() int64 {
	if b.coding != Length {
		return 0
	}
	return b.left
}

// Skip takes n bytes of content that went another way; there must be as many
// Left.
func (b *Body) Skip(n int64) {
	if b.left -= n; b.left == 0 {
		b.state = atEnd
	}
}

// Done says whether the end of the body was seen.
func (b *Body) Done() bool { return b.state == atEnd }

// Trailers are the trailer fields of a chunked body that is done, without
// those that must not be trailers (framing, routing, authentication: RFC 9110
// 6.5.1). They live until the next Reset.
func (b *Body) Trailers() []Field { return b.trailers }

// take cuts content from the start of buf.
func (b *Body) take(buf []byte) []byte {
	if int64(len(buf)) > b.left {
		buf = buf[:b.left:b.left]
	}
	b.left -= int64(len(buf))
	return buf
}

func (b *Body) nextChunked(buf []byte) (data []byte, n int, done bool, err *Error) {
	for n < len(buf) {
		switch b.state {
		case atEnd:
			return nil, n, true, nil
		case failed:
			return nil, n, false, b.err
		case inData:
			data = b.take(buf[n:])
			if b.left == 0 {
				b.state = dataCR
			}
			return data, n + len(data), false, nil
		case trailerRest:
			k, err := b.trailer(buf[n:])
			if err != nil {
				return nil, n, false, b.fail(err)
			}
			n += k
		default:
			if err := b.step(buf[n]); err != nil {
				return nil, n, false, b.fail(err)
			}
			// The first byte of a trailer line is kept with the rest of it.
			if b.state != trailerRest {
				n++
			}
		}
	}
	return nil, n, b.state == atEnd, b.err
}

func (b *Body) fail(err *Error) *Error {
	b.state, b.err = failed, err
	return err
}

// step takes one byte of framing.
func (b *Body) step(c byte) *Error {
	switch b.state {
	case sizeStart, size:
		return b.stepSize(c)
	case lineLF:
		return b.endLine(c)
	case dataCR:
		b.state = dataLF
		return expect(c, '\r', "a chunk is longer than its size, or not followed by CRLF")
	case dataLF:
		b.state = sizeStart
		b.line, b.digits = 0, 0
		return expect(c, '\n', "a chunk is not followed by CRLF")
	case trailerLine:
		b.state = trailerRest
		if c == '\r' {
			b.state = lastLF
		}
		return nil
	case lastLF:
		if err := expect(c, '\n', bareCR); err != nil {
			return err
		}
		return b.endTrailers()
	default:
		return b.stepExtension(c)
	}
}

func expect(got, want byte, reason string) *Error {
	if got != want {
		return bad(reason)
	}
	return nil
}

// stepSize takes a byte of a chunk size or the one after it.
func (b *Body) stepSize(c byte) *Error {
	if class[c]&isHex != 0 {
		if b.digits++; b.digits > maxSizeDigits {
			return bad("a chunk size has too many digits")
		}
		d := c - '0'
		if d > 9 {
			d = c | 0x20 - 'a' + 10
		}
		if b.left > (1<<63-1)>>4 {
			return bad("a chunk size is too large")
		}
		b.left = b.left<<4 | int64(d)
		b.line++
		b.state = size
		return nil
	}
	if b.state == sizeStart {
		return bad("a chunk size is not a hexadecimal number")
	}
	b.line++
	switch c {
	case '\r':
		b.state = lineLF
	case ';':
		b.state = extStart
	default:
		// Also white space before an extension, which the grammar allows and
		// net/http refuses: only those who try things send it.
		return bad("a chunk size is not a hexadecimal number")
	}
	return nil
}

// stepExtension takes a byte of the chunk extensions, which are dropped. They
// are read by the grammar (RFC 9112 7.1.1), quoted strings too, so that nobody
// finds the end of the line elsewhere.
func (b *Body) stepExtension(c byte) *Error {
	if b.line++; b.line > maxChunkLine {
		return bad("a chunk extension is too long")
	}
	next := b.extension(c)
	if next == failed {
		if c == '\n' {
			return bad(bareLF)
		}
		return bad("a chunk extension is malformed")
	}
	b.state = next
	return nil
}

// extension is the transition from the current state with c.
func (b *Body) extension(c byte) state {
	token, space := class[c]&isToken != 0, isSpace(c)
	switch s := b.state; {
	case s == extQuoted && c == '"':
		return extQuotedEnd
	case s == extQuoted && c == '\\':
		return extEscape
	case s == extQuoted && class[c]&isQuoted != 0,
		s == extEscape && class[c]&isText != 0:
		return extQuoted
	case s == extQuoted, s == extEscape:
		return failed

	case space && (s == extStart || s == extEquals || s == extNamed || s == extValued):
		return s
	case token && (s == extStart || s == extName):
		return extName
	case token && (s == extEquals || s == extValue):
		return extValue
	case s == extEquals && c == '"':
		return extQuoted
	case s == extStart, s == extEquals:
		return failed

	case c == ';':
		return extStart
	case c == '=' && (s == extName || s == extNamed):
		return extEquals
	case space && s == extName:
		return extNamed
	case space:
		return extValued
	case c == '\r' && (s == extName || s == extValue || s == extQuotedEnd):
		return lineLF
	}
	return failed
}

// endLine takes the LF of a chunk line.
//
// A sender may wrap each byte into a long line, so that much is read for little
// content. Each chunk is allowed a small line and a part of its size; what goes
// beyond adds up.
func (b *Body) endLine(c byte) *Error {
	if err := expect(c, '\n', bareCR); err != nil {
		return err
	}
	const ends = 3 // LF here, CRLF after the data
	b.overhead = max(0, b.overhead+int64(b.line)+ends-16-2*min(b.left, maxOverhead))
	if b.overhead > maxOverhead {
		return bad("the chunks have more framing than content")
	}
	b.state = inData
	if b.left == 0 {
		b.state = trailerLine
	}
	return nil
}

// trailer takes bytes of a trailer line, up to its LF.
func (b *Body) trailer(buf []byte) (n int, err *Error) {
	n = bytes.IndexByte(buf, '\n') + 1
	ended := n > 0
	if !ended {
		n = len(buf)
	}
	if len(b.tail)+n > maxTrailerBytes {
		return 0, &Error{Status: 431, Reason: "the trailer fields are larger than is allowed"}
	}
	b.tail = append(b.tail, buf[:n]...)
	if !ended {
		return n, nil
	}
	if len(b.tail) < 2 || b.tail[len(b.tail)-2] != '\r' {
		return 0, bad(bareLF)
	}
	b.state = trailerLine
	return n, nil
}

// endTrailers parses the trailer fields.
func (b *Body) endTrailers() *Error {
	b.state = atEnd
	if len(b.tail) == 0 {
		return nil
	}
	b.tail = append(b.tail, "\r\n"...)
	all, _, err := parseFields(b.trailers, b.tail, maxTrailers)
	b.trailers = all[:0]
	if err != nil {
		return err
	}
	for _, f := range all {
		if trailerAllowed(&f) {
			b.trailers = append(b.trailers, f)
		}
	}
	return nil
}

// trailerAllowed refuses the fields that a message must have before its body:
// those that frame, route, authenticate or control it, or say what its content
// is. Whoever merges trailers into the head would be deceived by them.
func trailerAllowed(f *Field) bool {
	switch f.Known {
	case 0:
	default:
		return false
	}
	for _, n := range forbiddenTrailers {
		if EqualFold(f.Name, n) {
			return false
		}
	}
	return !hasPrefixFold(f.Name, "x-forwarded-") && !hasPrefixFold(f.Name, "x-windrose-") &&
		!hasPrefixFold(f.Name, "content-") && !hasPrefixFold(f.Name, "if-") &&
		!hasPrefixFold(f.Name, "proxy-")
}

var forbiddenTrailers = [...]string{
	"accept-encoding", "age", "authorization", "cache-control", "cookie", "expires",
	"location", "max-forwards", "pragma", "range", "retry-after", "set-cookie",
	"vary", "warning", "www-authenticate", "authentication-info", "x-real-ip",
}
