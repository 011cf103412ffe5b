package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is what is wrong with a part. The plan serves without what is wrong:
// a rule that names an absent service answers with a fault, and so on. It goes
// away when the part, or what it names, comes.
type Problem struct {
	Key     Key    `json:"key"`
	Reason  string `json:"reason"` // one of the constants below, or of the data plane's
	Message string `json:"message"`
}

// The reasons of a Builder's problems.
const (
	ServiceAbsent     = "ServiceAbsent"
	PartlyServed      = "PartlyServed" // the data plane's: a socket lacks one of its protocols
	ListenerAbsent    = "ListenerAbsent"
	CertificateAbsent = "CertificateAbsent"
	SocketAbsent      = "SocketAbsent"
	TracingAbsent     = "TracingAbsent"
	ListenerConflict  = "ListenerConflict" // same socket and hostname, or another protocol
	PartInvalid       = "PartInvalid"
)

// checkRoute keeps the problems of a route.
func (b *Builder) checkRoute(route *BoundRoute) {
	key := Key{KindRoute, route.Name}
	problems := slices.Clip(route.shape.bad)
	for i := range route.Rules {
		for j := range route.Rules[i].Backends {
			backend := &route.Rules[i].Backends[j]
			if backend.Service >= 0 && b.plan.services[backend.Service] == nil {
				problems = append(problems, Problem{Key: key, Reason: ServiceAbsent, Message: fmt.Sprintf("rule %d: service %s does not exist", i, backend.ServiceName)})
			}
		}
	}
	for _, at := range route.part.Attach {
		if b.listenerParts[at.Listener] == nil {
			problems = append(problems, Problem{Key: key, Reason: ListenerAbsent, Message: fmt.Sprintf("listener %s does not exist", at.Listener)})
		}
		if _, ok := hostPattern(at.Host); !ok {
			problems = append(problems, Problem{Key: key, Reason: PartInvalid, Message: fmt.Sprintf("host %q is not a name or *.suffix", at.Host)})
		}
	}
	b.setProblems(key, problems)
}

func (b *Builder) setProblems(key Key, problems []Problem) {
	if len(problems) == 0 {
		delete(b.problems, key)
		return
	}
	b.problems[key] = problems
}

// checkAttachments looks again at the routes of listeners that came or went.
func (b *Builder) checkAttachments(c *change) {
	if len(c.flipped) == 0 {
		return
	}
	for _, route := range b.plan.routes {
		if route != nil && slices.ContainsFunc(route.part.Attach, func(at Attachment) bool { return c.flipped[at.Listener] }) {
			b.checkRoute(route)
		}
	}
}

func (b *Builder) allProblems() []Problem {
	var all []Problem
	for _, list := range b.problems {
		all = append(all, list...)
	}
	for _, list := range b.socketProblems {
		all = append(all, list...)
	}
	slices.SortStableFunc(all, func(x, y Problem) int {
		return cmp.Or(strings.Compare(string(x.Key.Kind), string(y.Key.Kind)), strings.Compare(x.Key.Name, y.Key.Name), strings.Compare(x.Message, y.Message))
	})
	return slices.Compact(all)
}
