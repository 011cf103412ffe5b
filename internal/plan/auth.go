package plan

import (
	"fmt"
	"strings"
)

// BoundAuth is an authoriser as it serves: a service that is asked whether a
// request may go on.
type BoundAuth struct {
	Service     int // slot
	ServiceName string
	GRPC        bool
	Path        string // before the request's; without a slash at its end
	MaxBody     int64

	headers []string
	// guarded takes away what only the service may say.
	guarded HeaderEdit
}

// newBoundAuth is without slot, which bindSteps gives.
func newBoundAuth(a *Auth) *BoundAuth {
	return &BoundAuth{
		ServiceName: a.Service, GRPC: a.GRPC, Path: strings.TrimSuffix(a.Path, "/"), MaxBody: a.MaxBody,
		headers: a.Headers, guarded: HeaderEdit{Remove: a.Grants},
	}
}

// String says who is asked, and how.
func (a *BoundAuth) String() string {
	if a.GRPC {
		return "ask " + a.ServiceName + " by gRPC"
	}
	return "ask " + a.ServiceName + a.Path + " by HTTP"
}

// Tells says whether the service is told a field of the request.
func (a *BoundAuth) Tells(name []byte) bool {
	if len(a.headers) == 0 && a.GRPC || !a.GRPC && equalFold(name, "authorization") {
		return true
	}
	for _, h := range a.headers {
		if equalFold(name, h) {
			return true
		}
	}
	return false
}

// Grants says whether a field of an answer by HTTP that says yes goes into the
// request. Those that say what the answer itself is do so only if they are named.
func (a *BoundAuth) Grants(name []byte) bool {
	if len(a.guarded.Remove) == 0 {
		return !describes(name)
	}
	for _, h := range a.guarded.Remove {
		if equalFold(name, h) {
			return true
		}
	}
	return false
}

// Guarded takes away from a request what only the service may say in it.
func (a *BoundAuth) Guarded() *HeaderEdit { return &a.guarded }

// describes says whether a field is about the message that it is in, so that it
// means something else in a request than in the answer that it came with; or
// about its server.
func describes(name []byte) bool {
	const content = "content-"
	if len(name) > len(content) && equalFold(name[:len(content)], content) {
		return true
	}
	for _, other := range [...]string{"date", "server", "etag", "last-modified", "vary", "alt-svc", "authority"} {
		if equalFold(name, other) {
			return true
		}
	}
	return false
}

func (a *Auth) clean() bool {
	if a == nil {
		return true
	}
	if a.Service == "" || a.MaxBody < 0 || a.GRPC && (a.Path != "" || len(a.Grants) > 0) {
		return false
	}
	for _, list := range [2][]string{a.Headers, a.Grants} {
		for _, name := range list {
			if name == "" || !cleanWord(name) || strings.ToLower(name) != name {
				return false
			}
		}
	}
	if a.Path == "" {
		return true
	}
	path, err := Normalize(nil, []byte(a.Path))
	return err == nil && string(path) == a.Path && a.Path[0] == '/'
}

func asks(steps []Step) bool {
	for i := range steps {
		if steps[i].Kind == StepAuth {
			return true
		}
	}
	return false
}

// bindSteps gives the services that steps name their slots.
func (b *Builder) bindSteps(steps []Step) {
	for i := range steps {
		if m := steps[i].Mirror; m != nil {
			m.Service = b.services.at[m.ServiceName]
		}
		if a := steps[i].Auth; a != nil {
			a.Service = b.services.at[a.ServiceName]
		}
	}
}

// guardListener gives a listener its authorisers. One whose filters cannot all be
// carried out serves nothing.
func (b *Builder) guardListener(l *BoundListener, part *Listener) {
	l.Broken = part.Broken
	steps, ok := compileSteps(part.Filters)
	b.bindSteps(steps)
	for i := range steps {
		ok = ok && steps[i].Kind == StepAuth
		l.Auths = append(l.Auths, steps[i].Auth)
	}
	if !ok && l.Broken == nil {
		l.Auths, l.Broken = nil, &Broken{Status: 500, Reason: fmt.Sprintf("listener %s has a filter that this windrose does not know or must not carry out", l.Name)}
	}
}

// eachService calls f with the services that filters name, once for each time.
func eachService(list []Filter, f func(name string)) {
	for i := range list {
		if m := list[i].Mirror; m != nil && m.Service != "" {
			f(m.Service)
		}
		if a := list[i].Auth; a != nil && a.Service != "" {
			f(a.Service)
		}
	}
}

// eachService calls f with the services that a listener names, once for each time.
func (l *Listener) eachService(f func(name string)) {
	if l != nil {
		eachService(l.Filters, f)
	}
}

// eachService calls f with the services that a route names, once for each time.
func (r *Route) eachService(f func(name string)) {
	for i := range r.Rules {
		eachService(r.Rules[i].Filters, f)
		for j := range r.Rules[i].Backends {
			if name := r.Rules[i].Backends[j].Service; name != "" {
				f(name)
			}
			eachService(r.Rules[i].Backends[j].Filters, f)
		}
	}
}
