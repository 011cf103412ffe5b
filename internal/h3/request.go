package h3

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Request is a request and its answer. One goroutine may read it while another
// writes.
type Request struct {
	Conn *Conn
	// Head is the head as HTTP/1.1 text. Of an extended CONNECT it is that of a GET,
	// and Protocol the :protocol.
	Head     []byte
	Protocol string
	Empty    bool // there is no body

	w       writer
	r       *http.Request
	body    io.Reader
	first   []byte // of the body, that was read while looking for its end
	tunnel  *http3.Stream
	ended   bool
	aborted atomic.Bool
}

// writer is what http3 gives to answer with.
type writer interface {
	http.ResponseWriter
	http3.HTTPStreamer
	FlushError() error
	SetReadDeadline(at time.Time) error
	SetWriteDeadline(at time.Time) error
}

// Field is a field of a head.
type Field struct{ Name, Value string }

// Done is closed when the client has gone, or has reset the stream.
func (r *Request) Done() <-chan struct{} { return r.r.Context().Done() }

// read settles what is known of the body, and writes Head. It says whether there
// is a request.
func (r *Request) read(patience time.Duration) bool {
	connect := r.r.Method == http.MethodConnect
	if connect && r.r.ProtoMajor == 3 && r.r.Proto != "HTTP/3.0" {
		r.Protocol = r.r.Proto
	}
	chunked := false
	switch {
	case connect:
	case r.r.ContentLength == 0:
		r.Empty = true
	case r.r.ContentLength < 0 && bodyless(r.r.Method):
		if !r.lookForEnd(patience) {
			return false
		}
		chunked = !r.Empty
	case r.r.ContentLength < 0:
		chunked = true
	}
	return r.write(chunked)
}

// bodyless says whether requests with a method hardly ever have a body: then it
// is worth to wait for the end of the stream, which comes with the head. In
// HTTP/1 only a length can say that there is none.
func bodyless(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

func (r *Request) lookForEnd(patience time.Duration) bool {
	_ = r.w.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 512)
	n, err := r.body.Read(buf)
	_ = r.w.SetReadDeadline(time.Time{})
	switch {
	case n > 0 || err == nil:
		r.first = buf[:n]
		return true
	case errors.Is(err, io.EOF):
		r.Empty = true
		return true
	}
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// write makes the text of the head. It says whether nothing in it could be read
// as more than it is.
func (r *Request) write(chunked bool) bool {
	h := r.r
	method := h.Method
	if r.Protocol != "" {
		method = http.MethodGet
	}
	if !clean(method, true) || !clean(h.RequestURI, true) || !clean(h.Host, true) {
		return false
	}
	b := make([]byte, 0, 1<<10)
	b = append(b, method+" "+h.RequestURI+" HTTP/1.1\r\nhost: "+h.Host+"\r\n"...)
	for name, values := range h.Header {
		if name == "Host" {
			continue // it says the same
		}
		name = strings.ToLower(name)
		for _, v := range values {
			if !clean(name, true) || !clean(v, false) {
				return false
			}
			b = append(b, name+": "+v+"\r\n"...)
		}
	}
	for name := range h.Trailer { // that is announced
		if !clean(name, true) {
			return false
		}
		b = append(b, "trailer: "+strings.ToLower(name)+"\r\n"...)
	}
	if chunked {
		b = append(b, "transfer-encoding: chunked\r\n"...)
	}
	b = append(b, "\r\n"...)
	r.Head = b
	return true
}

// clean says whether a text ends neither a line nor, for a word, a part of one.
func clean(text string, word bool) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' && (c != '\t' || word) || c == 0x7f || c == ' ' && word {
			return false
		}
	}
	return true
}

// Read reads the body, or what comes through a tunnel.
func (r *Request) Read(p []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(p, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.body.Read(p) //nolint:wrapcheck // an end is io.EOF
}

// Trailers are what came after the body, once Read has given its end.
func (r *Request) Trailers() []Field {
	var all []Field
	for name, values := range r.r.Trailer {
		for _, v := range values {
			if clean(name, true) && clean(v, false) {
				all = append(all, Field{strings.ToLower(name), v})
			}
		}
	}
	return all
}

func (r *Request) fields(fields []Field) {
	h := r.w.Header()
	clear(h)
	// Nothing is guessed or added.
	h["Content-Type"], h["Date"] = nil, nil
	for _, f := range fields {
		h.Add(f.Name, f.Value)
	}
}

// Interim sends an interim head.
func (r *Request) Interim(status int, fields []Field) error {
	r.fields(fields)
	r.w.WriteHeader(status)
	return r.Err()
}

// Respond sends the final head.
func (r *Request) Respond(status int, fields []Field) error {
	r.fields(fields)
	r.w.WriteHeader(status)
	return r.w.FlushError() //nolint:wrapcheck // what matters is that it failed
}

// Tunnel sends the head of a CONNECT's good answer. What is read and written from
// then on is the tunnel's.
func (r *Request) Tunnel(fields []Field) error {
	r.fields(fields)
	r.w.WriteHeader(http.StatusOK)
	s, err := r.w.HTTPStream()
	if err != nil {
		return err //nolint:wrapcheck // as above
	}
	r.tunnel = s
	return nil
}

// Write sends a piece of the body.
func (r *Request) Write(p []byte) error {
	var err error
	if r.tunnel != nil {
		_, err = r.tunnel.Write(p)
	} else if _, err = r.w.Write(p); err == nil {
		err = r.w.FlushError()
	}
	return err //nolint:wrapcheck // as above
}

// End ends the answer.
func (r *Request) End(trailers []Field) error {
	r.ended = true
	if r.tunnel != nil {
		return r.tunnel.Close() //nolint:wrapcheck // as above
	}
	for _, f := range trailers {
		r.w.Header().Add(http.TrailerPrefix+f.Name, f.Value)
	}
	return nil
}

// Err says why no more can be sent.
func (r *Request) Err() error { return context.Cause(r.r.Context()) }

// Abort ends the stream so that the client cannot take what it has for the
// whole. Calls that block return. It may be called from anywhere, more than once,
// until Serve has returned.
func (r *Request) Abort() {
	r.aborted.Store(true)
	past := time.Unix(1, 0)
	_ = r.w.SetReadDeadline(past)
	_ = r.w.SetWriteDeadline(past)
}

// Leave ends a tunnel for good; where it has not ended by itself, the client sees
// it cut off.
func (r *Request) Leave() {
	if r.tunnel == nil {
		return
	}
	code := quic.StreamErrorCode(http3.ErrCodeRequestCanceled)
	r.tunnel.CancelRead(code)
	if !r.ended {
		r.tunnel.CancelWrite(code)
	}
}
