package cli

import (
	"fmt"
	"net/http"
	"strings"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
)

// explanation is what becomes of a request, and why.
type explanation struct {
	Request     explainedRequest    `json:"request"`
	Socket      string              `json:"socket,omitempty"`
	SocketNote  string              `json:"socketNote,omitempty"`
	Listener    *explainedListener  `json:"listener,omitempty"`
	Others      []explainedListener `json:"otherListeners,omitempty"` // of the socket
	MoreOthers  int                 `json:"moreOtherListeners,omitempty"`
	Certificate string              `json:"certificate,omitempty"`
	Clients     string              `json:"clients,omitempty"` // what clients have to show
	From        string              `json:"from,omitempty"`    // who the client is, and who hears of it
	Asked       []string            `json:"asked,omitempty"`   // before the rule is looked for
	Rule        *explainedMatch     `json:"rule,omitempty"`
	NearMisses  []explainedMatch    `json:"nearMisses,omitempty"`
	Filters     []string            `json:"filters,omitempty"`
	Timeouts    string              `json:"timeouts,omitempty"`
	Retries     string              `json:"retries,omitempty"`
	Tracing     *explainedTracing   `json:"tracing,omitempty"`
	Session     string              `json:"session,omitempty"` // of the rule
	Backends    []explainedBackend  `json:"backends,omitempty"`
	Answer      *explainedAnswer    `json:"answer,omitempty"` // of windrose, without fault
	Fault       *explainedFault     `json:"fault,omitempty"`
}

type explainedRequest struct {
	Method     string        `json:"method"`
	URL        string        `json:"url"`
	Host       string        `json:"host"`
	Path       string        `json:"path"` // normalised, as rules see it
	Query      string        `json:"query,omitempty"`
	Headers    []plan.Header `json:"headers,omitempty"`
	ServerName string        `json:"serverName,omitempty"`
}

// explainedListener is a listener, and why it does not get the request.
type explainedListener struct {
	Name     string       `json:"name"` // KIND NAMESPACE/NAME, listener NAME
	Protocol string       `json:"protocol"`
	Hostname string       `json:"hostname,omitempty"`
	Why      string       `json:"why,omitempty"`
	Place    object.Place `json:"place,omitzero"`
}

// explainedMatch is a match of a rule, and why it does not get the request.
type explainedMatch struct {
	Route string       `json:"route"`
	Rule  int          `json:"rule"`
	Name  string       `json:"name,omitempty"` // of the rule
	Match int          `json:"match"`
	Host  string       `json:"host,omitempty"` // pattern under which the route is attached
	Takes string       `json:"takes"`          // what the match asks for
	Why   string       `json:"why,omitempty"`
	Place object.Place `json:"place,omitzero"`
}

type explainedBackend struct {
	Service   string              `json:"service,omitempty"`
	Protocol  string              `json:"protocol,omitempty"`
	TLS       string              `json:"tls,omitempty"`     // what is asked of endpoints, and shown to them
	Session   string              `json:"session,omitempty"` // of the backend, where the rule has none
	Budget    string              `json:"budget,omitempty"`  // of its retries
	Share     uint64              `json:"share"`             // of Of requests in a row
	Of        uint64              `json:"of"`
	Filters   []string            `json:"filters,omitempty"`
	Host      string              `json:"host,omitempty"` // forwarded
	Target    string              `json:"target,omitempty"`
	Endpoints []explainedEndpoint `json:"endpoints,omitempty"`
	Hostname  string              `json:"hostname,omitempty"` // whose addresses are the endpoints
	Fault     *explainedFault     `json:"fault,omitempty"`
	Place     object.Place        `json:"place,omitzero"`
}

type explainedEndpoint struct {
	Address string `json:"address"`
	Name    string `json:"name,omitempty"`
}

type explainedAnswer struct {
	Status   int           `json:"status"`
	Location string        `json:"location,omitempty"`
	Headers  []plan.Header `json:"headers,omitempty"`
}

// explainedFault is a fault. Without status the client gets no answer: the
// connection or the handshake fails.
type explainedFault struct {
	Flag   string `json:"flag,omitempty"`
	Status int    `json:"status,omitempty"`
	Reason string `json:"reason"`
	Mend   string `json:"mend,omitempty"`
}

// faulty says whether a request like this can end in a fault.
func (e *explanation) faulty() bool {
	for i := range e.Backends {
		if e.Backends[i].Fault != nil && e.Backends[i].Share > 0 {
			return true
		}
	}
	return e.Fault != nil
}

// explainer finds out what a data plane with the plan would do.
type explainer struct {
	plan    *plan.Plan
	parts   []*plan.Part
	places  map[object.Key]object.Place
	q       *question
	request *plan.Request
	bound   *plan.Bound
	taken   *plan.BoundListener // that the request comes to
	hit     plan.Hit
	out     explanation
}

func newFault(flag record.Flag, reason string) *explainedFault {
	return &explainedFault{Flag: flag.String(), Status: flag.Status(), Reason: reason, Mend: flag.Mend()}
}

// broken is the fault of a rule or a backend that cannot serve.
func broken(flag record.Flag, b *plan.Broken) *explainedFault {
	f := newFault(flag, b.Reason)
	f.Status = b.Status
	return f
}

func (x *explainer) fail(flag record.Flag, reason string) {
	x.out.Fault = newFault(flag, reason)
}

// refuse notes that the connection ends without an answer.
func (x *explainer) refuse(reason, mend string) {
	x.out.Fault = &explainedFault{Reason: reason, Mend: mend}
}

// explain goes the way of a request, in the data plane's order.
func (x *explainer) explain() {
	probe := x.q.probe
	x.out.Request = explainedRequest{
		Method: probe.Method, URL: x.q.url, Host: probe.Host, Path: probe.Path, Query: probe.Query, Headers: probe.Headers, ServerName: x.q.sni,
	}
	bound, note := x.q.socket(x.plan)
	if bound == nil {
		x.refuse(note, "choose another port, or give a Gateway a listener on this one: windrose get listeners -A")
		return
	}
	x.bound = bound
	x.out.Socket, x.out.SocketNote = bound.Addr.String(), note
	l := x.connect()
	if l == nil {
		return
	}
	x.taken = l
	if l.Protocol == plan.TCP || l.Protocol == plan.TLS {
		x.stream(l)
		return
	}
	if probe.Method == http.MethodConnect {
		x.fail(record.NotSupported, "CONNECT is not served here")
		return
	}
	r, err := probe.Request()
	if err != nil {
		x.fail(record.BadRequest, err.Error())
		return
	}
	x.request, x.out.Request.Path = r, string(r.Path)
	if l.Broken != nil {
		x.out.Fault = broken(record.RuleBroken, l.Broken)
		return
	}
	if part := x.listenerPart(l.Name); part != nil {
		x.out.Asked = x.filters(part.Filters)
		if x.out.Fault = x.unasked(part.Filters); x.out.Fault != nil {
			return
		}
	}
	x.match(l)
}

// listenerPart is the part that a listener was made of.
func (x *explainer) listenerPart(name string) *plan.Listener {
	for _, p := range x.parts {
		if p.Key.Kind == plan.KindListener && p.Key.Name == name {
			return p.Listener
		}
	}
	return nil
}

// connect chooses the listener. For a request of HTTP that is the one of its
// Host header, but the handshake comes first.
func (x *explainer) connect() *plan.BoundListener {
	b := x.bound
	byHost := b.Listener([]byte(x.q.probe.Host))
	switch {
	case b.Class == plan.ClassTCP:
		byHost = b.Listener(nil)
		x.listener(byHost, "")
	case b.Class == plan.ClassTLS && !x.q.tls:
		x.refuse("socket "+x.out.Socket+" speaks TLS, and the URL says http", "use https")
		return nil
	case b.Class == plan.ClassHTTP && x.q.tls:
		x.refuse("socket "+x.out.Socket+" speaks HTTP without TLS, and the URL says https", "use http")
		return nil
	case b.Class == plan.ClassTLS:
		return x.handshake(byHost)
	default:
		x.listener(byHost, x.q.probe.Host)
	}
	if byHost == nil {
		x.fail(record.NoRoute, "no listener serves this host: one whose hostname takes it must be there")
	}
	return byHost
}

// handshake is connect with TLS: the server name chooses who does the handshake.
func (x *explainer) handshake(byHost *plan.BoundListener) *plan.BoundListener {
	own := x.bound.Listener([]byte(x.q.sni))
	if own == nil {
		x.listener(nil, x.q.sni)
		x.refuse("no listener serves the server name "+orNone(x.q.sni)+": the handshake fails with the alert unrecognized_name",
			"ask for a name that a listener has, or give a listener this hostname or none")
		return nil
	}
	if own.Protocol == plan.TLS && own.Passthrough {
		x.listener(own, x.q.sni)
		return own
	}
	cert := x.bound.Certificate(x.q.sni, true)
	if cert == nil {
		x.listener(own, x.q.sni)
		x.refuse("listener "+listenerName(own.Name)+" has no certificate: the handshake fails", "name a Secret in its tls.certificateRefs")
		return nil
	}
	x.out.Certificate = x.certificate(cert)
	if own.Protocol == plan.TLS {
		x.listener(own, x.q.sni)
		return own
	}
	x.listener(byHost, x.q.probe.Host)
	if own != byHost && x.q.sni != "" {
		serves := "none serves"
		if byHost != nil {
			serves = listenerName(byHost.Name) + " serves"
		}
		x.fail(record.Misdirected, fmt.Sprintf("the connection was made for %s, which %s serves; host %s %s", x.q.sni, listenerName(own.Name), x.q.probe.Host, serves))
		return nil
	}
	if byHost == nil {
		x.fail(record.NoRoute, "no listener serves this host: one whose hostname takes it must be there")
		return nil
	}
	if byHost.Clients != nil && byHost.Clients != own.Clients {
		x.fail(record.Misdirected, "the handshake, which "+listenerName(own.Name)+" makes for the server name "+orNone(x.q.sni)+", is not made under the check of client certificates that "+listenerName(byHost.Name)+" asks for")
		return nil
	}
	if !x.client(byHost.Clients) {
		return nil
	}
	return byHost
}

func orNone(name string) string {
	if name == "" {
		return `"" (none is sent)`
	}
	return name
}

func (x *explainer) certificate(cert *plan.Certificate) string {
	for _, p := range x.parts {
		if p.Certificate == cert {
			return p.Key.Name
		}
	}
	return ""
}

// maxOthers bounds the listeners that are told beside the one that is chosen.
const maxOthers = 10

// listener notes the listener of a host, and why the socket's others are not it.
func (x *explainer) listener(chosen *plan.BoundListener, host string) {
	name := string(plan.Host(nil, []byte(host)))
	for _, l := range x.bound.Listeners() {
		e := explainedListener{Name: listenerName(l.Name), Protocol: string(l.Protocol), Hostname: l.Hostname, Place: x.place(l.Name)}
		switch {
		case l == chosen:
			x.out.Listener, x.out.Clients = &e, clientsText(l.Clients)
			continue
		case len(x.out.Others) == maxOthers:
			x.out.MoreOthers++
			continue
		case !takesHost(l.Hostname, name):
			e.Why = "its hostname " + l.Hostname + " does not take " + orNone(name)
		default:
			e.Why = "it takes " + orNone(name) + " too, but the hostname of the other is closer"
		}
		x.out.Others = append(x.out.Others, e)
	}
}

// takesHost says whether a listener's hostname takes a host, both in lower case.
func takesHost(pattern, host string) bool {
	if suffix, wild := strings.CutPrefix(pattern, "*"); wild {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return pattern == "" || pattern == host
}

// stream is a connection whose bytes are carried as they come.
func (x *explainer) stream(l *plan.BoundListener) {
	hit, ok := l.Stream(x.plan, []byte(x.q.sni))
	if !ok {
		x.fail(record.NoRoute, "no route of listener "+listenerName(l.Name)+" takes this connection")
		x.out.Fault.Status = 0
		return
	}
	x.hit = hit
	won := x.matched(hit.Route, hit.Rule, hit.Match)
	won.Takes = "every connection"
	x.out.Rule = &won
	if hit.Rule.Broken != nil {
		x.refuse(hit.Rule.Broken.Reason, record.RuleBroken.Mend())
		return
	}
	x.backends()
}

// match finds the rule of a request.
func (x *explainer) match(l *plan.BoundListener) {
	x.tracing(l)
	hit, ok := l.Match(x.plan, x.request)
	exhausted := x.request.Exhausted
	for _, c := range l.Explain(x.plan, x.request) {
		m := x.matched(c.Route, c.Rule, c.Match)
		m.Host, m.Why = c.Host, c.Why
		if c.Won {
			x.out.Rule = &m
			continue
		}
		x.out.NearMisses = append(x.out.NearMisses, m)
	}
	switch {
	case exhausted:
		x.out.Rule = nil
		x.fail(record.RuleBroken, "the regular expressions of the routes for this host cost more than one request may: fewer or simpler ones are needed")
		return
	case !ok:
		x.fail(record.NoRoute, "no rule of listener "+listenerName(l.Name)+" takes this request")
		return
	}
	x.hit = hit
	x.rule()
}

func (x *explainer) matched(route *plan.BoundRoute, rule *plan.BoundRule, match int) explainedMatch {
	return explainedMatch{
		Route: objectName(route.Name), Rule: rule.Index, Name: rule.Name, Match: match,
		Takes: matchText(&route.Route().Rules[rule.Index].Matches[match]), Place: x.place(route.Name),
	}
}

func matchText(m *plan.Match) string {
	var s strings.Builder
	switch m.PathType {
	case plan.PathExact:
		s.WriteString("path is " + m.Path)
	case plan.PathPrefix:
		s.WriteString("path begins with " + m.Path)
	case plan.PathRegex:
		s.WriteString("path matches " + m.Path)
	}
	if m.Method != "" {
		s.WriteString(", method is " + m.Method)
	}
	write := func(what string, list []plan.NameMatch) {
		for _, n := range list {
			relation := "is"
			if n.Regex {
				relation = "matches"
			}
			fmt.Fprintf(&s, ", %s %s %s %s", what, n.Name, relation, n.Value)
		}
	}
	write("header", m.Headers)
	write("query parameter", m.Query)
	return s.String()
}

// keyOf is the object that a listener or route was made of: KIND/NAMESPACE/NAME,
// then what it is of that.
func keyOf(name string) (object.Key, string) {
	parts := strings.SplitN(name, "/", 4)
	if len(parts) < 3 {
		return object.Key{Name: name}, ""
	}
	key := object.Key{Kind: parts[0], Namespace: parts[1], Name: parts[2]}
	if len(parts) == 3 {
		return key, ""
	}
	return key, parts[3]
}

func (x *explainer) place(name string) object.Place {
	key, _ := keyOf(name)
	return x.places[key]
}

func listenerName(name string) string {
	key, part := keyOf(name)
	if key.Kind == "Ingress" && key.Namespace == "" {
		return "all Ingresses, listener " + part
	}
	return key.String() + ", listener " + part
}

// objectName is the name of a route. An Ingress is a route for each host.
func objectName(name string) string {
	key, host := keyOf(name)
	if host != "" {
		return key.String() + " host " + host
	}
	return key.String()
}
