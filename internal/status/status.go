// Package status completes what translation says about each object with what
// the data plane says: whether its listeners stand, and when each condition
// last changed.
package status

import (
	"reflect"
	"slices"
	"strconv"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
)

// Ack is the last word of the data plane.
type Ack struct {
	// Version of the plan that it uses; 0 if it uses none.
	Version uint64
	// Problems it has with that plan.
	Problems []Problem
}

// Problem is a socket or a listener that does not stand.
type Problem struct {
	Socket   string // name of a socket, as in object.Status
	Listener string // name of a listener part: KIND/NAMESPACE/NAME/LISTENER
	Message  string // a sentence without the name
	Partly   bool   // the socket stands all the same
}

// Tracker makes the final statuses. It is used by one goroutine; what it gives
// is immutable.
type Tracker struct {
	now   func() time.Time
	known []entry // ordered by object
}

// entry is an object with what was made of it.
type entry struct {
	in, out *object.Status
	// version of the plan that first had this object as it is now.
	version uint64
	trouble trouble
}

// trouble is what keeps an object from being programmed.
type trouble struct {
	pending  bool   // the data plane has not taken the newest version
	down     bool   // it uses no plan at all
	problems string // all messages that concern it
}

// New makes a Tracker; now is asked when a condition changes.
func New(now func() time.Time) *Tracker { return &Tracker{now: now} }

// Update gives the final status of each object, ordered as statuses is: by
// object. A status that says the same as before keeps its pointer. The version
// is that of the plan made along with the statuses.
func (t *Tracker) Update(statuses []*object.Status, version uint64, ack Ack) []*object.Status {
	index := indexProblems(ack.Problems)
	next, out, old := make([]entry, 0, len(statuses)), make([]*object.Status, 0, len(statuses)), t.known
	for _, in := range statuses {
		for len(old) > 0 && old[0].in.Object.Compare(in.Object) < 0 {
			old = old[1:]
		}
		var was entry
		if len(old) > 0 && old[0].in.Object == in.Object {
			was, old = old[0], old[1:]
		}
		e := t.entry(in, was, version, ack, index)
		next, out = append(next, e), append(out, e.out)
	}
	t.known = next
	return out
}

func (t *Tracker) entry(in *object.Status, was entry, version uint64, ack Ack, index problems) entry {
	e := entry{in: in, version: version}
	if was.in != nil && was.in.Generation == in.Generation && reflect.DeepEqual(was.in.Sockets, in.Sockets) {
		e.version = was.version
	}
	if len(in.Sockets) > 0 {
		e.trouble = trouble{pending: ack.Version < e.version, down: ack.Version == 0, problems: index.about(in)}
	}
	if was.in == in && was.trouble == e.trouble {
		e.out = was.out
		return e
	}
	made := clone(in)
	before := was.out
	if e.trouble.down {
		before = nil
	}
	overlay(made, before, e.trouble.pending, index)
	t.date(made, was.out)
	if was.out != nil && reflect.DeepEqual(made, was.out) {
		made = was.out
	}
	e.out = made
	return e
}

// date gives each condition the time since when it is as it is.
func (t *Tracker) date(made, was *object.Status) {
	now := metav1.NewTime(t.now().UTC().Truncate(time.Second))
	var before [][]metav1.Condition
	var names []string
	if was != nil {
		before, names = lists(was)
	}
	after, keys := lists(made)
	for i, list := range after {
		var old []metav1.Condition
		if j := slices.Index(names, keys[i]); j >= 0 {
			old = before[j]
		}
		for k := range list {
			c := &list[k]
			c.LastTransitionTime = now
			for _, o := range old {
				if o.Type == c.Type && o.Status == c.Status {
					c.LastTransitionTime = o.LastTransitionTime
				}
			}
		}
	}
}

// lists gives every list of conditions in a status with a name for it.
func lists(s *object.Status) (all [][]metav1.Condition, names []string) {
	add := func(name string, list []metav1.Condition) {
		all, names = append(all, list), append(names, name)
	}
	switch {
	case s.GatewayClass != nil:
		add("", s.GatewayClass.Conditions)
	case s.Gateway != nil:
		add("", s.Gateway.Conditions)
		for i := range s.Gateway.Listeners {
			add(string(s.Gateway.Listeners[i].Name), s.Gateway.Listeners[i].Conditions)
		}
	case s.ListenerSet != nil:
		add("", s.ListenerSet.Conditions)
		for i := range s.ListenerSet.Listeners {
			add(string(s.ListenerSet.Listeners[i].Name), s.ListenerSet.Listeners[i].Conditions)
		}
	case s.Route != nil:
		for i := range s.Route.Parents {
			add(parentName(&s.Route.Parents[i].ParentRef), s.Route.Parents[i].Conditions)
		}
	case s.Policy != nil:
		for i := range s.Policy.Ancestors {
			add(parentName(&s.Policy.Ancestors[i].AncestorRef), s.Policy.Ancestors[i].Conditions)
		}
	case s.Backend != nil:
		for i := range s.Backend.Ancestors {
			add(parentName(&s.Backend.Ancestors[i].AncestorRef), s.Backend.Ancestors[i].Conditions)
		}
	case s.Mesh != nil:
		add("", s.Mesh.Conditions)
	}
	return all, names
}

// clone copies a status as far as it is changed here.
func clone(s *object.Status) *object.Status {
	c := *s
	switch {
	case s.GatewayClass != nil:
		c.GatewayClass = s.GatewayClass.DeepCopy()
	case s.Gateway != nil:
		c.Gateway = s.Gateway.DeepCopy()
	case s.ListenerSet != nil:
		c.ListenerSet = s.ListenerSet.DeepCopy()
	case s.Route != nil:
		// Parents and their conditions are dated; the references are shared.
		c.Route = &gatewayv1.RouteStatus{Parents: slices.Clone(s.Route.Parents)}
		for i := range c.Route.Parents {
			c.Route.Parents[i].Conditions = slices.Clone(c.Route.Parents[i].Conditions)
		}
	case s.Policy != nil:
		c.Policy = s.Policy.DeepCopy()
	case s.Backend != nil:
		c.Backend = s.Backend.DeepCopy()
	case s.Mesh != nil:
		c.Mesh = s.Mesh.DeepCopy()
	case s.Ingress != nil:
		c.Ingress = &networkingv1.IngressStatus{LoadBalancer: *s.Ingress.LoadBalancer.DeepCopy()}
	}
	return &c
}

// parentName tells the parents of a route apart.
func parentName(ref *gatewayv1.ParentReference) string {
	kind, namespace, section := "Gateway", "", ""
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace) + "/"
	}
	if ref.SectionName != nil && *ref.SectionName != "" {
		section = ", listener " + string(*ref.SectionName)
	}
	if ref.Port != nil {
		section += ", port " + strconv.Itoa(int(*ref.Port))
	}
	return kind + " " + namespace + string(ref.Name) + section
}
