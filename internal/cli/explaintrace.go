package cli

import (
	"fmt"
	"strings"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// explainedTracing says whether a request would be traced, and by whose word.
type explainedTracing struct {
	By        string       `json:"by"`       // the object that asks for it
	Sampled   string       `json:"sampled"`  // which requests are
	Protocol  string       `json:"protocol"` // that the collector speaks
	Collector string       `json:"collector"`
	Place     object.Place `json:"place,omitzero"`
}

func (x *explainer) tracing(l *plan.BoundListener) {
	t := l.Tracing
	if t == nil {
		return
	}
	x.out.Tracing = &explainedTracing{
		By: objectName(t.Name), Sampled: sampledText(&t.Tracing, x.traceCame()), Protocol: string(t.Protocol), Collector: x.collectorText(t), Place: x.place(t.Name),
	}
}

// traceCame says whether the request that was asked about brings a trace, as far
// as its headers say.
func (x *explainer) traceCame() bool {
	for _, h := range x.q.probe.Headers {
		if h.Name == "traceparent" || h.Name == "b3" || h.Name == "x-b3-traceid" {
			return true
		}
	}
	return false
}

// sampledText says which requests are exported.
func sampledText(t *plan.Tracing, came bool) string {
	var b strings.Builder
	b.WriteString(shareText(t.Sampling) + " of the traces that begin here")
	switch t.Parents {
	case plan.ParentsAll:
		b.WriteString(", and " + shareText(t.ParentSampling) + " of those that come sampled, from anybody")
	case plan.ParentsIgnored:
		b.WriteString(" or go on, whoever sampled them")
	case plan.ParentsTrusted, "":
		b.WriteString(", and " + shareText(t.ParentSampling) + " of those that come sampled from trusted proxies")
		if came {
			b.WriteString("; what others say of a trace, as this request does, is dropped")
		}
	}
	if t.Errors {
		b.WriteString("; and every request that ends in an error")
	}
	return b.String()
}

func shareText(s plan.Share) string {
	switch s.Num {
	case 0:
		return "none"
	case s.Den:
		return "all"
	}
	return s.String()
}

// collectorText says where spans go.
func (x *explainer) collectorText(t *plan.BoundTracing) string {
	s := x.plan.Service(t.Service)
	switch {
	case s == nil:
		return t.Tracing.Service + ", which does not exist"
	case s.Hostname != "":
		return fmt.Sprintf("%s (%s:%d)", t.Tracing.Service, s.Hostname, s.Port)
	case len(s.Endpoints) == 0:
		return t.Tracing.Service + ", which has no ready endpoint: spans are lost"
	}
	list := make([]string, 0, len(s.Endpoints))
	for _, e := range s.Endpoints {
		list = append(list, e.Addr.String())
	}
	return t.Tracing.Service + " (" + strings.Join(list, ", ") + ")"
}
