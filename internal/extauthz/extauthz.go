// Package extauthz is Envoy's protocol for asking a service whether a request may
// go on (envoy.service.auth.v3.Authorization, method Check), as far as it is used
// here: it writes a CheckRequest and reads a CheckResponse. The messages are few
// and small, so that they are written and read by hand; the generated types would
// be the heaviest thing in the data plane.
//
// The package is pure: bytes in, bytes out. What it reads points into the bytes it
// was given. It bounds nothing: the caller does.
package extauthz

import (
	"net/netip"
	"time"
	"unicode/utf8"
)

// Path is the path that Check is called under.
const Path = "/envoy.service.auth.v3.Authorization/Check"

// Header is a field of a request.
type Header struct{ Name, Value []byte }

// Request is what a service is told of a request.
type Request struct {
	Time        time.Time
	Source      netip.AddrPort // the client
	Destination netip.AddrPort // where it came in
	ServerName  string         // of the TLS handshake
	ID          []byte
	Method      []byte
	Path        []byte // with the query
	Host        []byte
	Scheme      string
	Protocol    string
	Size        int64    // of the body, as the client says; -1 if it does not
	Headers     []Header // names in lower case; the values of a name are joined
	Body        []byte
}

// Append appends the message.
func (r *Request) Append(dst []byte) []byte {
	return appendMessage(dst, 1, func(dst []byte) []byte { // attributes
		dst = appendPeer(dst, 1, r.Source)
		dst = appendPeer(dst, 2, r.Destination)
		dst = appendMessage(dst, 4, func(dst []byte) []byte { // request
			dst = appendMessage(dst, 1, func(dst []byte) []byte { // time
				dst = appendVarint(dst, 1, uint64(r.Time.Unix()))
				return appendVarint(dst, 2, uint64(r.Time.Nanosecond()))
			})
			return appendMessage(dst, 2, r.appendHTTP)
		})
		if r.ServerName == "" {
			return dst
		}
		return appendMessage(dst, 12, func(dst []byte) []byte { return appendText(dst, 1, r.ServerName) }) // tls_session
	})
}

func (r *Request) appendHTTP(dst []byte) []byte {
	dst = appendText(dst, 1, r.ID)
	dst = appendText(dst, 2, r.Method)
	for i := range r.Headers {
		h := &r.Headers[i]
		dst = appendMessage(dst, 3, func(dst []byte) []byte {
			dst = appendText(dst, 1, h.Name)
			return appendText(dst, 2, h.Value)
		})
	}
	dst = appendText(dst, 4, r.Path)
	dst = appendText(dst, 5, r.Host)
	dst = appendText(dst, 6, r.Scheme)
	dst = appendVarint(dst, 9, uint64(r.Size))
	dst = appendText(dst, 10, r.Protocol)
	if utf8.Valid(r.Body) {
		return appendText(dst, 11, r.Body)
	}
	return appendBytes(dst, 12, r.Body) // raw_body
}

func appendPeer(dst []byte, field uint64, at netip.AddrPort) []byte {
	if !at.IsValid() {
		return dst
	}
	return appendMessage(dst, field, func(dst []byte) []byte {
		return appendMessage(dst, 1, func(dst []byte) []byte { // address
			return appendMessage(dst, 1, func(dst []byte) []byte { // socket_address
				dst = appendText(dst, 2, at.Addr().Unmap().String())
				return appendVarint(dst, 3, uint64(at.Port()))
			})
		})
	})
}

// Action says what becomes of a field that an answer names.
type Action uint8

// The actions.
const (
	Set         Action = iota + 1 // it takes the place of all of its name
	Add                           // it stands beside them
	SetIfAbsent                   // it is set if there is none of its name
	SetIfThere                    // it is set if there is one
)

// Edit is a change of a field that an answer asks for.
type Edit struct {
	Name, Value []byte
	Action      Action
}

// Parameter is a parameter of a query.
type Parameter struct{ Name, Value []byte }

// Answer is what a service says.
type Answer struct {
	Allowed bool
	// Message is why, for people; it may be empty.
	Message []byte

	// Of an answer that says no: what the client gets. Status 0 is the caller's
	// to choose.
	Status int
	Body   []byte
	Deny   []Edit

	// Of one that says yes: what becomes of the request, and of its answer.
	Request  []Edit
	Remove   [][]byte
	Response []Edit
	// QuerySet and QueryRemove change the request's query: parameters by their names,
	// neither encoded.
	QuerySet    []Parameter
	QueryRemove [][]byte
}
