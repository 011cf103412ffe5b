package plan

import (
	"fmt"
	"slices"
)

// Tracing says which requests are traced, and where their spans go. Listeners
// name it. Its key's name is that of the object that asks for it,
// "KIND/NAMESPACE/NAME".
type Tracing struct {
	Protocol  TraceProtocol `json:"protocol"`
	Service   string        `json:"service"`             // name of a Service key: the collector
	Authority string        `json:"authority,omitempty"` // that requests to it name; empty: its address
	Path      string        `json:"path,omitempty"`      // where it takes spans; empty: as the protocol has it
	Headers   []Header      `json:"headers,omitempty"`   // of requests to it; may hold secrets
	// ServiceName is what windrose passes for in traces; empty: windrose.
	ServiceName string `json:"serviceName,omitempty"`
	// SpanName names the spans of requests; empty: by method and route.
	SpanName string `json:"spanName,omitempty"`
	// Sampling is the share of the traces that begin here.
	Sampling Share `json:"sampling"`
	// Parents says whose word counts about requests that already have a trace, and
	// ParentSampling which share of what they had sampled is sampled.
	Parents        TraceParents `json:"parents,omitempty"`
	ParentSampling Share        `json:"parentSampling"`
	// Errors has what ends in an error exported although it was not sampled.
	Errors bool `json:"errors,omitempty"`
	// B3 and B3Multi write B3 in one field or in several beside traceparent, also
	// for requests that did not bring it.
	B3         bool             `json:"b3,omitempty"`
	B3Multi    bool             `json:"b3Multi,omitempty"`
	Attributes []TraceAttribute `json:"attributes,omitempty"`
}

// TraceProtocol is what a collector speaks.
type TraceProtocol string

// The protocols of collectors.
const (
	OTLPGRPC TraceProtocol = "otlp-grpc"
	OTLPHTTP TraceProtocol = "otlp-http" // protobuf
	Zipkin   TraceProtocol = "zipkin"    // JSON, version 2
)

// TraceParents says whose word counts about requests that already have a trace.
type TraceParents string

// Whose word counts.
const (
	// ParentsTrusted: what trusted proxies say counts, and their traces go on. What
	// anybody else says is dropped, and a trace begins.
	ParentsTrusted TraceParents = "trusted"
	ParentsAll     TraceParents = "all"     // what anybody says counts
	ParentsIgnored TraceParents = "ignored" // traces of all go on, and Sampling decides
)

// Share is Num of every Den.
type Share struct {
	Num int32 `json:"num"`
	Den int32 `json:"den"`
}

func (s Share) clean() bool { return s.Den > 0 && s.Num >= 0 && s.Num <= s.Den }

// Takes says whether the one with that number is among the share. As with a
// split, each Den positions in a row hold Num of them, as evenly as can be.
func (s Share) Takes(position uint64) bool {
	if s.Num == s.Den {
		return true
	}
	num, den := uint64(s.Num), uint64(s.Den)
	position %= den
	return scale(position+1, num, den) != scale(position, num, den)
}

// Always says that all are taken, or none: no number is needed.
func (s Share) Always() bool { return s.Num == s.Den || s.Num == 0 }

func (s Share) String() string { return fmt.Sprintf("%d of %d", s.Num, s.Den) }

// TraceAttribute is an attribute of spans that somebody asked for. Its value is
// Literal, or that of a header field of the request or else the answer, or that
// of the attribute Key of OpenTelemetry's conventions; exactly one is set.
type TraceAttribute struct {
	Name    string `json:"name"`
	Literal string `json:"literal,omitempty"`
	Header  string `json:"header,omitempty"` // lower case
	Key     string `json:"key,omitempty"`
}

// TraceKeys are the attributes of OpenTelemetry's conventions that a
// TraceAttribute can name.
func TraceKeys() []string {
	return []string{
		"client.address", "client.port", "error.type", "http.request.body.size", "http.request.method", "http.request.method_original",
		"http.response.body.size", "http.response.status_code", "network.peer.address", "network.peer.port", "network.protocol.name",
		"network.protocol.version", "server.address", "server.port", "tls.protocol.version", "url.path", "url.scheme", "user_agent.original",
	}
}

// BoundTracing is a Tracing as it serves. Its slot stays while its key lives.
type BoundTracing struct {
	Tracing
	Name    string // of the Tracing's key
	Slot    int
	Service int // slot of the collector
}

// Tracings are those of the plan by slot; some are nil.
func (p *Plan) Tracings() []*BoundTracing { return p.tracings }

func (t *Tracing) clean() bool {
	switch t.Protocol {
	case OTLPGRPC, OTLPHTTP, Zipkin:
	default:
		return false
	}
	switch t.Parents {
	case "", ParentsTrusted, ParentsAll, ParentsIgnored:
	default:
		return false
	}
	return t.Service != "" && t.Sampling.clean() && t.ParentSampling.clean()
}

// changeTracing puts a part into the plan, with the listeners that name it.
func (b *Builder) changeTracing(c *change, name string, part *Tracing) {
	slot, ok := b.tracings.at[name]
	if !ok && part == nil {
		return
	}
	if !ok {
		slot = b.tracings.of(name)
	}
	b.plan.tracings = slices.Clone(b.plan.tracings)
	for len(b.plan.tracings) <= slot {
		b.plan.tracings = append(b.plan.tracings, nil)
	}
	old := b.plan.tracings[slot]
	b.plan.tracings[slot] = nil
	switch {
	case part == nil:
		b.tracings.drop(name)
	case part.clean():
		made := &BoundTracing{Tracing: *part, Name: name, Slot: slot, Service: b.ask(part.Service)}
		if made.Parents == "" {
			made.Parents = ParentsTrusted
		}
		b.plan.tracings[slot] = made
	}
	if old != nil { // after the new one took its service: what stays keeps its slot
		b.unask(old.Tracing.Service)
	}
	for listener, part := range b.listenerParts {
		if part.Tracing == name {
			c.listeners[listener] = true
		}
	}
}

// tracingOf finds a Tracing by its name; nil if there is none that serves.
func (b *Builder) tracingOf(name string) *BoundTracing {
	slot, ok := b.tracings.at[name]
	if !ok {
		return nil
	}
	return b.plan.tracings[slot]
}
