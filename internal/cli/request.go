package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/tap"
)

// This file is explain --request: what happened to a request that has ended.

// happened is what explain --request tells. Objects are those of now: what the
// request met may have changed since.
type happened struct {
	Request  tap.Event          `json:"request"`
	SameID   int                `json:"sameID,omitempty"` // older requests with this id
	Listener *explainedListener `json:"listener,omitempty"`
	Rule     *happenedRule      `json:"rule,omitempty"`
	Backend  *explainedBackend  `json:"backend,omitempty"`
	Phases   []phase            `json:"phases"`
	Changed  []string           `json:"changed,omitempty"` // what is not there any more
}

// happenedRule is the rule that took a request.
type happenedRule struct {
	Route string       `json:"route"`
	Rule  int          `json:"rule"`
	Name  string       `json:"name,omitempty"`
	Place object.Place `json:"place,omitzero"`
}

func (m *happenedRule) name() string { return ruleName(m.Route, m.Rule, m.Name) }

// phase is a moment of a request.
type phase struct {
	At      tap.Millis `json:"at_ms"`
	Attempt int        `json:"attempt,omitempty"`
	What    string     `json:"what"`
}

func (a *app) explainRequest(ctx context.Context, id, output string) error {
	client, ctx, cancel := a.client(ctx)
	defer cancel()
	found, err := client.Request(ctx, id)
	if err != nil {
		return err
	}
	if len(found.Items) == 0 {
		return unknownRequest(id, found.Reach)
	}
	parts, places, err := a.explained(ctx, nil)
	if err != nil {
		return err
	}
	h := &happened{Request: found.Items[0], SameID: len(found.Items) - 1}
	h.decide(parts, places)
	h.Phases = phasesOf(&h.Request)
	if output != "text" {
		return writeValue(a.stdout, output, h)
	}
	return a.printHappened(h)
}

// unknownRequest says how far back the memory reaches.
func unknownRequest(id string, reach tap.Reach) error {
	since := func(t time.Time) string {
		if t.IsZero() {
			return "since the data plane started"
		}
		return fmt.Sprintf("since %s (%s)", t.Local().Format(time.TimeOnly), time.Since(t).Round(time.Second))
	}
	return &failure{exitNotFound, fmt.Errorf("no request with the id %q is remembered", id), fmt.Sprintf(
		"a request is remembered when it has ended: all ordinary ones %s, all faults, errors, retried and slow ones %s; the access log reaches further back",
		since(reach.Ordinary), since(reach.Favoured))}
}

// decide finds the objects that decided.
func (h *happened) decide(parts []*plan.Part, places map[object.Key]object.Place) {
	r := &h.Request
	place := func(name string) object.Place {
		key, _ := keyOf(name)
		return places[key]
	}
	find := func(kind plan.Kind, name string) *plan.Part {
		for _, p := range parts {
			if p.Key.Kind == kind && p.Key.Name == name {
				return p
			}
		}
		return nil
	}
	if r.Listener != "" {
		h.Listener = &explainedListener{Name: listenerName(r.Listener), Place: place(r.Listener)}
		if p := find(plan.KindListener, r.Listener); p != nil {
			h.Listener.Protocol, h.Listener.Hostname = string(p.Listener.Protocol), p.Listener.Hostname
		} else {
			h.Changed = append(h.Changed, h.Listener.Name)
		}
	}
	if r.Route == "" || r.Rule == nil {
		return
	}
	h.Rule = &happenedRule{Route: objectName(r.Route), Rule: *r.Rule, Place: place(r.Route)}
	h.Backend = &explainedBackend{Service: r.Service, Place: places[serviceKey(r.Service)]}
	if r.Service == "" {
		h.Backend = nil
	}
	p := find(plan.KindRoute, r.Route)
	if p == nil || *r.Rule >= len(p.Route.Rules) {
		h.Changed = append(h.Changed, h.Rule.name())
		return
	}
	rule := &p.Route.Rules[*r.Rule]
	h.Rule.Name = rule.Name
	if h.Backend == nil {
		return
	}
	var total, common, weight uint64
	for i := range rule.Backends {
		w := uint64(max(rule.Backends[i].Weight, 0))
		total, common = total+w, commonDivisor(common, w)
		if rule.Backends[i].Service == r.Service {
			weight += w
		}
	}
	if common > 0 {
		h.Backend.Share, h.Backend.Of = weight/common, total/common
	}
	if weight == 0 {
		h.Changed = append(h.Changed, fmt.Sprintf("backend %s of %s", r.Service, h.Rule.name()))
	}
}

// phasesOf puts the moments of a request in order.
func phasesOf(r *tap.Event) []phase {
	var all []phase
	add := func(at tap.Millis, attempt int, format string, args ...any) {
		all = append(all, phase{at, attempt, fmt.Sprintf(format, args...)})
	}
	stream := r.Method == "" && r.Status == 0
	switch {
	case stream && r.Received > 0:
		add(r.Received, 0, "the client's TLS handshake named a server")
	case stream:
		add(0, 0, "the client connected")
	case r.Received > 0:
		add(r.Received, 0, "the head was whole")
	default:
		add(0, 0, "the head came, all at once")
	}
	switch {
	case r.Asked > 0 && (r.Fault == "denied" || r.Fault == "auth-failed"):
		add(r.Asked, 0, "an authoriser did not say yes")
	case r.Asked > 0:
		add(r.Asked, 0, "the authorisers had said yes")
	}
	for i := range r.Tries {
		t := &r.Tries[i]
		n := i + 1
		if i == len(r.Tries)-1 {
			if left := r.Attempts - len(r.Tries); left > 0 {
				add(t.Begun, 0, "%d more attempts are not remembered", left)
			}
			n = r.Attempts
		}
		triesPhases(t, n, stream, add)
	}
	switch {
	case stream:
		add(r.Duration, 0, "it ended, after %d bytes of the client and %d bytes back", r.BytesIn, r.BytesOut)
		return all
	case r.Answered > 0 && (len(r.Tries) == 0 || r.Answered > r.Tries[len(r.Tries)-1].Ended || r.Tries[len(r.Tries)-1].Status == 0):
		add(r.Answered, 0, "windrose answered %d itself", r.Status)
	case r.Answered > 0:
		add(r.Answered, 0, "the client was given the head of the answer, %d", r.Status)
	}
	add(r.Duration, 0, "it ended, after %d bytes of the client's body and %d bytes of the answer's", r.BytesIn, r.BytesOut)
	return all
}

func triesPhases(t *tap.Try, n int, stream bool, add func(at tap.Millis, attempt int, format string, args ...any)) {
	connection := "a new connection"
	if t.Reused {
		connection = "a connection that was there"
	}
	add(t.Begun, n, "%s of %s was picked, on %s", t.Endpoint, t.Service, connection)
	if t.Connected > 0 && !t.Reused {
		add(t.Connected, n, "the connection stood")
	}
	if t.Sent > 0 {
		add(t.Sent, n, "the end of the request was sent")
	}
	if t.Answered > 0 && stream {
		add(t.Answered, n, "it answered")
	} else if t.Answered > 0 {
		add(t.Answered, n, "it answered %d", t.Status)
	}
	if t.Fault != "" {
		add(t.Ended, n, "%s: %s", t.Fault, t.Reason)
	}
}

func (a *app) printHappened(h *happened) error {
	var b bytes.Buffer
	p := explanationText{a: a, b: &b}
	r := &h.Request
	p.fact("Request", clean(cmp.Or(strings.TrimSpace(r.Method+" "+r.Host+r.Path), r.Protocol)))
	from := fmt.Sprintf("%s from %s", r.Protocol, r.Client)
	if r.TLS != "" {
		from += ", " + r.TLS
	}
	if r.Identity != "" {
		from += ", who is " + r.Identity
	}
	if r.Agent != "" {
		from += ", " + r.Agent
	}
	p.fact("", clean(from))
	p.fact("", fmt.Sprintf("%s, took %s", r.Time.Local().Format("2006-01-02 15:04:05.000 -0700"), took(time.Duration(r.Duration))))
	if h.SameID > 0 {
		p.fact("", fmt.Sprintf("the newest of %d with this id", h.SameID+1))
	}
	if l := h.Listener; l != nil {
		p.fact("Listener", l.Name+at(l.Place))
	}
	if m := h.Rule; m != nil {
		p.fact("Rule", m.name()+at(m.Place))
	} else {
		p.fact("Rule", "none took it")
	}
	if s := h.Backend; s != nil {
		share := ""
		switch {
		case s.Share == s.Of && s.Of > 0:
			share = ", which gets every request of the rule"
		case s.Share > 0:
			share = fmt.Sprintf(", which gets %d of %d requests of the rule", s.Share, s.Of)
		}
		p.fact("Backend", s.Service+share+at(s.Place))
	}
	name := "Phases"
	for _, ph := range h.Phases {
		attempt := ""
		if ph.Attempt > 0 {
			attempt = fmt.Sprintf("attempt %d: ", ph.Attempt)
		}
		p.fact(name, fmt.Sprintf("%9s  %s%s", took(time.Duration(ph.At)), attempt, clean(ph.What)))
		name = ""
	}
	a.printVerdict(p, h)
	_, err := a.stdout.Write(b.Bytes())
	return err
}

// printVerdict says whose fault it was and what to do.
func (a *app) printVerdict(p explanationText, h *happened) {
	r := &h.Request
	switch {
	case r.Fault != "":
		text := r.Fault
		if r.Status != 0 {
			text = fmt.Sprintf("%d %s", r.Status, r.Fault)
		}
		p.fact("Fault", clean(text+": "+r.Reason))
		p.fact("", clean(whose(r)))
		p.fact("", clean(r.Mend))
	case r.Status >= 500 && len(r.Tries) > 0:
		p.fact("Answer", fmt.Sprintf("%d, from the service itself: look into the log of %s", r.Status, clean(r.Endpoint)))
	case r.Status >= 400 && len(r.Tries) > 0:
		p.fact("Answer", fmt.Sprintf("%d, from the service itself", r.Status))
	case r.Status != 0:
		p.fact("Answer", fmt.Sprint(r.Status))
	}
	for _, gone := range h.Changed {
		p.fact("", "since then the configuration has changed: "+gone+" is not there any more")
	}
	if r.Method != "" && plainTarget.MatchString(r.Method+r.Host+r.Path) {
		scheme := "http"
		if r.TLS != "" {
			scheme = "https"
		}
		p.fact("Now", fmt.Sprintf("windrose explain %s %s://%s%s", r.Method, scheme, r.Host, r.Path))
	}
}

// plainTarget is what a shell takes as it stands: a client may have sent
// anything, and somebody may paste the line.
var plainTarget = regexp.MustCompile(`^[A-Za-z0-9/._:%~-]+$`)

// whose says in words whose fault it was.
func whose(r *tap.Event) string {
	switch r.Side {
	case "client":
		return "the client's side: " + r.Client
	case "config":
		return "the configuration's side: the objects above"
	case "upstream":
		if r.Fault == "auth-failed" {
			return "the authoriser's side: the sentence names it"
		}
		if r.Endpoint != "" {
			return "the service's side: " + r.Service + ", last at " + r.Endpoint
		}
		return "the service's side: " + r.Service
	case "windrose":
		return "windrose's side: a limit, or a mistake of its own"
	}
	return "nobody knows whose side"
}

// checkNoQuestion refuses what does not go together with --request.
func checkNoQuestion(args, given []string) error {
	switch {
	case len(args) > 0:
		return usage("--request is about a request that was: it takes no URL")
	case len(given) > 0:
		return usage("--request and --%s do not go together", given[0])
	}
	return nil
}
