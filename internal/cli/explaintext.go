package cli

import (
	"bytes"
	"fmt"
	"strings"

	"windrose.dev/windrose/internal/object"
)

// maxEndpoints bounds the endpoints of a backend that text shows.
const maxEndpoints = 20

// printExplanation writes an explanation for people: what was chosen in the
// request's order, then what becomes of it.
func (a *app) printExplanation(e *explanation) error {
	var b bytes.Buffer
	p := explanationText{a: a, b: &b}
	p.choice(e)
	p.effects(e)
	for i := range e.Backends {
		p.backend(&e.Backends[i])
	}
	p.end(e)
	_, err := a.stdout.Write(b.Bytes())
	return err
}

type explanationText struct {
	a *app
	b *bytes.Buffer
}

// fact writes a line with its name in front, or what belongs to the one before.
func (p explanationText) fact(name, text string) {
	if name != "" {
		name += ":"
	}
	fmt.Fprintf(p.b, "%s%s%s\n", p.a.colors.bold(name), strings.Repeat(" ", 13-len(name)), object.Printable(text))
}

func (p explanationText) optional(name, text string) {
	if text != "" {
		p.fact(name, text)
	}
}

// at is a place behind what was written there.
func at(place object.Place) string {
	if place.File == "" {
		return ""
	}
	return "  (" + place.String() + ")"
}

func (p explanationText) choice(e *explanation) {
	p.fact("Request", e.Request.Method+" "+e.Request.URL)
	for _, h := range e.Request.Headers {
		p.fact("", h.Name+": "+h.Value)
	}
	p.optional("Server name", e.Request.ServerName)
	p.optional("Socket", e.Socket)
	p.optional("", e.SocketNote)
	if l := e.Listener; l != nil {
		p.fact("Listener", fmt.Sprintf("%s: %s for %s%s", l.Name, l.Protocol, hostText(l.Hostname), at(l.Place)))
	} else if len(e.Others) > 0 {
		p.fact("Listener", "none")
	}
	for _, l := range e.Others {
		p.fact("", fmt.Sprintf("not %s: %s%s", l.Name, l.Why, at(l.Place)))
	}
	if e.MoreOthers > 0 {
		p.fact("", fmt.Sprintf("and not %d more", e.MoreOthers))
	}
	p.optional("Certificate", e.Certificate)
	p.optional("Clients", e.Clients)
	p.optional("Client", e.From)
	p.steps("Asked first", e.Asked)
	if len(e.Asked) > 0 {
		p.fact("", "what they say is matched as if the client had sent it: give it with -H")
	}
	if m := e.Rule; m != nil {
		p.fact("Rule", m.name()+at(m.Place))
		p.fact("", fmt.Sprintf("match %d for %s: %s", m.Match, hostText(m.Host), m.Takes))
	}
	name := "Near misses"
	for _, m := range e.NearMisses {
		p.fact(name, m.name()+at(m.Place))
		p.fact("", fmt.Sprintf("match %d for %s: %s", m.Match, hostText(m.Host), m.Takes))
		p.fact("", "not taken: "+m.Why)
		name = ""
	}
}

func hostText(host string) string {
	if host == "" {
		return "every host"
	}
	return host
}

func (m *explainedMatch) name() string { return ruleName(m.Route, m.Rule, m.Name) }

func ruleName(route string, rule int, name string) string {
	s := fmt.Sprintf("%s rule %d", route, rule)
	if name != "" {
		s += " (" + name + ")"
	}
	return s
}

func (p explanationText) effects(e *explanation) {
	p.steps("Filters", e.Filters)
	p.optional("Timeouts", e.Timeouts)
	p.optional("Retries", e.Retries)
	if t := e.Tracing; t != nil {
		p.fact("Tracing", t.By+": "+t.Sampled+at(t.Place))
		p.fact("Spans to", t.Collector+", "+t.Protocol)
	}
	if e.Session != "" {
		p.fact("Session", "a client stays with its endpoint of each backend, by "+e.Session)
	}
}

func (p explanationText) steps(name string, list []string) {
	for i, step := range list {
		p.fact(name, fmt.Sprintf("%d. %s", i+1, step))
		name = ""
	}
}

func (p explanationText) backend(b *explainedBackend) {
	name := b.Service
	if name == "" {
		name = "<none>"
	}
	share := "no request"
	if b.Share > 0 {
		share = fmt.Sprintf("%d of %d requests", b.Share, b.Of)
	}
	if b.Share == b.Of && b.Of > 0 {
		share = "every request"
	}
	p.fact("Backend", name+" gets "+share+at(b.Place))
	p.steps("", b.Filters)
	if b.Target != "" {
		p.fact("", fmt.Sprintf("forwarded: %s, host %s", b.Target, b.Host))
	}
	if b.Session != "" {
		p.fact("", "a client stays with its endpoint, by "+b.Session)
	}
	if b.Budget != "" {
		p.fact("", "may be retries: "+b.Budget)
	}
	if b.TLS != "" {
		p.fact("", "under TLS: "+b.TLS)
	}
	if b.Hostname != "" {
		p.fact("", "endpoints: the addresses of "+b.Hostname)
	}
	for i, e := range b.Endpoints {
		if i == maxEndpoints {
			p.fact("", fmt.Sprintf("and %d endpoints more", len(b.Endpoints)-maxEndpoints))
			break
		}
		text := "endpoint " + e.Address + " speaks " + b.Protocol
		if e.Name != "" {
			text += ", " + e.Name
		}
		p.fact("", text)
	}
	if b.Fault != nil {
		p.fault("", b.Fault)
	}
}

func (p explanationText) fault(name string, f *explainedFault) {
	text := "no answer: "
	if f.Status != 0 {
		text = fmt.Sprintf("%d %s: ", f.Status, f.Flag)
	}
	p.fact(name, text+f.Reason)
	p.optional("", f.Mend)
}

func (p explanationText) end(e *explanation) {
	switch {
	case e.Fault != nil:
		p.fault("Fault", e.Fault)
	case e.Answer != nil:
		text := fmt.Sprintf("%d, from windrose itself", e.Answer.Status)
		if e.Answer.Location != "" {
			text = fmt.Sprintf("%d to %s, from windrose itself", e.Answer.Status, e.Answer.Location)
		}
		p.fact("Answer", text)
		for _, h := range e.Answer.Headers {
			p.fact("", h.Name+": "+h.Value)
		}
	}
}
