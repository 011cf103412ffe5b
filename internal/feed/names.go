package feed

import "windrose.dev/windrose/internal/plan"

// names makes what was decoded small, since a data plane keeps it for long.
// Equal strings of a delta become one: each of 5,000 routes names the same
// listener, and decoding gives each its own copy. And lists lose the room to
// grow that decoding leaves behind them.
type names map[string]string

func tight[E any](list *[]E) {
	if cap(*list) > len(*list) {
		exact := make([]E, len(*list))
		copy(exact, *list)
		*list = exact
	}
}

func (n names) of(s *string) {
	if *s == "" {
		return
	}
	if have, ok := n[*s]; ok {
		*s = have
		return
	}
	n[*s] = *s
}

func (n names) share(p *plan.Part) {
	shareTyped(n, &p.Key.Kind)
	n.of(&p.Key.Name)
	switch {
	case p.Route != nil:
		n.route(p.Route)
	case p.Listener != nil:
		for i := range p.Listener.Sockets {
			n.of(&p.Listener.Sockets[i])
		}
		for i := range p.Listener.Certificates {
			n.of(&p.Listener.Certificates[i])
		}
		n.of(&p.Listener.Tracing)
		shareTyped(n, &p.Listener.Protocol)
	case p.Service != nil:
		shareTyped(n, &p.Service.Protocol)
		shareTyped(n, &p.Service.Balance)
		tight(&p.Service.Endpoints)
	}
}

func (n names) route(r *plan.Route) {
	tight(&r.Attach)
	tight(&r.Rules)
	for i := range r.Attach {
		n.of(&r.Attach[i].Listener)
		n.of(&r.Attach[i].Host)
		n.of(&r.Attach[i].Original)
	}
	for i := range r.Rules {
		rule := &r.Rules[i]
		tight(&rule.Matches)
		tight(&rule.Backends)
		for j := range rule.Matches {
			shareTyped(n, &rule.Matches[j].PathType)
			n.of(&rule.Matches[j].Path)
			n.of(&rule.Matches[j].Method)
		}
		for j := range rule.Backends {
			n.of(&rule.Backends[j].Service)
		}
	}
}

func shareTyped[S ~string](n names, s *S) {
	plain := string(*s)
	n.of(&plain)
	*s = S(plain)
}
