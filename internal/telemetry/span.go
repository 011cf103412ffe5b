package telemetry

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"windrose.dev/windrose/internal/record"
)

// This file makes spans of a record: one for the request, of kind SERVER, and
// below it one for each attempt at an endpoint, of kind CLIENT. Attributes are
// those of OpenTelemetry's semantic conventions for HTTP, and windrose's own,
// which begin with "windrose.". A span says no more of a request than the access
// log does, but for the tags that somebody asked for by name.

// The longest values of attributes; what is longer is cut.
const maxAttribute = 1024

// spans encodes spans for one collector, in its language. It is used by one
// event loop.
type spans struct {
	zipkin  bool
	service string // name of the service that windrose passes for
	name    string // of the spans of requests; "" for method and route

	attrs []byte // of the span in the making, encoded
	notes []byte // its events, encoded
	span  []byte // OTLP: the span, before its length is known
	text  []byte // of a value
}

// append appends the spans of a request, and says how many they are.
func (e *spans) append(dst []byte, r *record.Record) ([]byte, int) {
	dst = e.request(dst, r)
	for i := range r.Tries {
		dst = e.attempt(dst, r, i)
	}
	return dst, 1 + len(r.Tries)
}

// shape is what a span is beside its attributes and events.
type shape struct {
	id, parent [8]byte
	client     bool // the kind is CLIENT
	begun, end time.Time
	erred      bool
	remote     netip.AddrPort
	peer       string // the name of who is at the other end
}

func (e *spans) reset() { e.attrs, e.notes = e.attrs[:0], e.notes[:0] }

// request appends the span of the request itself.
func (e *spans) request(dst []byte, r *record.Record) []byte {
	e.reset()
	for _, key := range requestKeys {
		e.standard(key, key, r)
	}
	e.bytes("windrose.request_id", r.ID)
	e.str("windrose.listener", r.Listener)
	if r.Route != "" {
		e.str("windrose.route", r.Route)
		e.num("windrose.rule", int64(r.Rule))
	}
	e.str("windrose.service", r.Service)
	e.fault(r.Fault, r.Reason)
	e.tags(r)
	s := shape{
		id: r.Trace.Span, parent: r.Trace.Parent, begun: r.Start, end: r.Start.Add(r.Duration), remote: r.Client,
		erred: r.Erred(),
	}
	e.text = e.text[:0]
	switch {
	case e.name != "":
		e.text = append(e.text, e.name...)
	case r.Route != "":
		e.text = append(append(append(e.text, method(r.Method)...), ' '), r.Route...)
	default:
		e.text = append(e.text, method(r.Method)...)
	}
	return e.finish(dst, r, &s, r.Reason)
}

// attempt appends the span of one attempt.
func (e *spans) attempt(dst []byte, r *record.Record, i int) []byte {
	e.reset()
	a := &r.Tries[i]
	e.standard("http.request.method", "http.request.method", r)
	e.addr("server.address", "server.port", a.Endpoint)
	e.addr("network.peer.address", "network.peer.port", a.Endpoint)
	if a.Status > 0 {
		e.num("http.response.status_code", int64(a.Status))
	}
	if i > 0 {
		e.num("http.request.resend_count", int64(i))
	}
	e.errorType(a.Fault, a.Status, 400)
	e.str("windrose.service", a.Service)
	e.flag("windrose.connection.reused", a.Reused)
	e.fault(a.Fault, a.Reason)
	e.tags(r)
	begun := r.Start.Add(a.Begun)
	if !a.Reused {
		e.event("connected", r.Start, a.Connected)
	}
	e.event("sent", r.Start, a.Sent)
	e.event("answered", r.Start, a.Answered)
	end := r.Start.Add(max(a.Ended, a.Begun))
	if a.Ended == 0 {
		end = r.Start.Add(r.Duration)
	}
	s := shape{id: a.Span, parent: r.Trace.Span, client: true, begun: begun, end: end, erred: a.Fault != 0 || a.Status >= 400, remote: a.Endpoint, peer: a.Service}
	e.text = append(e.text[:0], method(r.Method)...)
	return e.finish(dst, r, &s, a.Reason)
}

// finish appends the span whose name is in e.text.
func (e *spans) finish(dst []byte, r *record.Record, s *shape, reason string) []byte {
	if e.zipkin {
		return e.zipkinSpan(dst, r, s)
	}
	return e.otlpSpan(dst, r, s, reason)
}

func (e *spans) fault(flag record.Flag, reason string) {
	if flag == 0 {
		return
	}
	e.str("windrose.fault", flag.String())
	e.str("windrose.side", flag.Side().String())
	e.str("windrose.reason", reason)
}

func (e *spans) tags(r *record.Record) {
	for i := range r.Trace.Tags {
		t := &r.Trace.Tags[i]
		if t.Key != "" {
			e.standard(t.Name, t.Key, r)
			continue
		}
		e.bytes(t.Name, t.Value)
	}
}

// requestKeys are the attributes of the conventions that the span of a request
// has, where there is a value.
var requestKeys = []string{
	"http.request.method", "http.request.method_original", "url.scheme", "url.path", "http.response.status_code", "error.type",
	"server.address", "server.port", "client.address", "client.port", "network.peer.address", "network.peer.port",
	"network.protocol.name", "network.protocol.version", "tls.protocol.version", "user_agent.original",
	"http.request.body.size", "http.response.body.size",
}

// Standard says whether an attribute of OpenTelemetry's conventions is one that
// windrose knows the value of.
func Standard(key string) bool { return slices.Contains(requestKeys, key) }

// standard adds an attribute with the value that the conventions have under key.
func (e *spans) standard(name, key string, r *record.Record) {
	switch key {
	case "http.request.method":
		e.str(name, method(r.Method))
	case "http.request.method_original":
		if method(r.Method) == otherMethod {
			e.bytes(name, r.Method)
		}
	case "url.scheme":
		if r.TLS != "" {
			e.str(name, "https")
		} else {
			e.str(name, "http")
		}
	case "url.path":
		e.bytes(name, r.ShownPath())
	case "http.response.status_code":
		if r.Status > 0 {
			e.num(name, int64(r.Status))
		}
	case "error.type":
		e.errorTypeAs(name, r.Fault, r.Status, 500)
	case "server.address":
		host, _ := hostPort(r.Host)
		e.bytes(name, host)
	case "server.port":
		if _, port := hostPort(r.Host); port > 0 {
			e.num(name, port)
		}
	case "client.address", "network.peer.address":
		e.addr(name, "", r.Client)
	case "client.port", "network.peer.port":
		e.addr("", name, r.Client)
	case "network.protocol.name":
		e.str(name, "http")
	case "network.protocol.version":
		_, version, _ := strings.Cut(r.Protocol, "/")
		e.str(name, version)
	case "tls.protocol.version":
		e.str(name, strings.TrimPrefix(r.TLS, "TLS"))
	case "user_agent.original":
		e.bytes(name, r.Agent)
	case "http.request.body.size":
		e.num(name, r.BytesIn)
	case "http.response.body.size":
		e.num(name, r.BytesOut)
	}
}

func (e *spans) errorType(flag record.Flag, status, least int) {
	e.errorTypeAs("error.type", flag, status, least)
}

// errorTypeAs adds what kind of error it was: the fault, or a status from least
// on.
func (e *spans) errorTypeAs(name string, flag record.Flag, status, least int) {
	switch {
	case flag != 0:
		e.str(name, flag.String())
	case status >= least:
		e.text = strconv.AppendInt(e.text[:0], int64(status), 10)
		e.bytes(name, e.text)
	}
}

// addr adds an address, and its port as an attribute of its own; "" leaves one
// out.
func (e *spans) addr(address, port string, a netip.AddrPort) {
	if !a.IsValid() {
		return
	}
	if address != "" {
		e.text = a.Addr().Unmap().WithZone("").AppendTo(e.text[:0])
		e.bytes(address, e.text)
	}
	if port != "" {
		e.num(port, int64(a.Port()))
	}
}

// hostPort takes a Host apart; 0 where it names no port.
func hostPort(host []byte) (name []byte, port int64) {
	i := bytes.LastIndexByte(host, ':')
	if i < 0 || bytes.IndexByte(host[i:], ']') >= 0 {
		return bytes.Trim(host, "[]"), 0
	}
	for _, c := range host[i+1:] {
		if c < '0' || c > '9' || port > 65535 {
			return host, 0
		}
		port = port*10 + int64(c-'0')
	}
	return bytes.Trim(host[:i], "[]"), port
}

// otherMethod stands for every method that the conventions do not name.
const otherMethod = "_OTHER"

func method(m []byte) string {
	switch string(m) {
	case "GET":
		return "GET"
	case "HEAD":
		return "HEAD"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "PATCH":
		return "PATCH"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	case "CONNECT":
		return "CONNECT"
	case "TRACE":
		return "TRACE"
	case "QUERY":
		return "QUERY"
	}
	return otherMethod
}

// The attributes of the span in the making. An empty one is left out.

func (e *spans) str(key, value string) {
	switch {
	case value == "":
	case e.zipkin:
		e.attrs = zipkinTag(e.attrs, key, value)
	default:
		e.attrs = otlpString(e.attrs, key, value)
	}
}

func (e *spans) bytes(key string, value []byte) {
	switch {
	case len(value) == 0:
	case e.zipkin:
		e.attrs = zipkinTag(e.attrs, key, value)
	default:
		e.attrs = otlpString(e.attrs, key, value)
	}
}

func (e *spans) num(key string, value int64) {
	if e.zipkin {
		e.attrs = zipkinNumber(e.attrs, key, value)
		return
	}
	e.attrs = otlpInt(e.attrs, key, value)
}

func (e *spans) flag(key string, value bool) {
	if e.zipkin {
		text := "false"
		if value {
			text = "true"
		}
		e.attrs = zipkinTag(e.attrs, key, text)
		return
	}
	e.attrs = otlpBool(e.attrs, key, value)
}

// event adds a moment of the span; one at 0 did not happen.
func (e *spans) event(name string, start time.Time, at time.Duration) {
	switch {
	case at == 0:
	case e.zipkin:
		e.notes = zipkinNote(e.notes, name, start.Add(at))
	default:
		e.notes = otlpEvent(e.notes, name, start.Add(at))
	}
}
