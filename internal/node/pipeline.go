package node

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/feed"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/source"
	"windrose.dev/windrose/internal/status"
	"windrose.dev/windrose/internal/translate"
	"windrose.dev/windrose/internal/wait"
	"windrose.dev/windrose/internal/workload"
)

// accountPatience is how long the first account waits for the data plane.
const accountPatience = 3 * time.Second

// pipeline turns Sets into what the data plane serves. Its methods offer, ack
// and peer may be called from any goroutine; all else is run's.
type pipeline struct {
	node       *node
	log        *slog.Logger
	sets       chan *object.Set // size 1, the latest wins
	news       chan struct{}    // size 1: something of said changed
	translator *translate.Translator
	tracker    *status.Tracker

	mu   sync.Mutex // guards said
	said map[string]word

	merger   merger
	set      *object.Set // the last one, with the statuses of workloads
	list     []metav1.Object
	result   *translate.Result
	findings []object.Finding
	standing standing
	located  map[object.Finding]located
	known    map[object.Finding]struct{}
	version  uint64
	since    time.Time
	changes  uint64
	busy     time.Duration
	waiting  []announcement // of versions that were not acked yet
	greeted  bool
	trouble  map[string]string // why what cannot be bound cannot, as far as told
}

// word is the last that a data plane said.
type word struct {
	joined bool
	ack    feed.Ack
}

// announcement is a change to be told once the data plane has it.
type announcement struct {
	version uint64
	began   time.Time
	changes []string
}

// located is a finding of translation with its place.
type located struct {
	at      object.Place // of the object, when the finding was located
	earlier bool         // it was about a last good version
	full    object.Finding
}

func newPipeline(n *node, sessionKey []byte) *pipeline {
	now := time.Now
	return &pipeline{
		node: n, log: n.log,
		sets: make(chan *object.Set, 1), news: make(chan struct{}, 1),
		translator: translate.New(translate.Env{Addresses: machineAddresses(), Now: now, Placeholder: translate.SelfSigned(now), SessionKey: sessionKey}),
		tracker:    status.New(now),
		said:       map[string]word{},
		located:    map[object.Finding]located{},
		known:      map[object.Finding]struct{}{},
	}
}

// machineAddresses are those at which a gateway that listens on all addresses
// is reached: at most what a Gateway's status may hold.
func machineAddresses() []string {
	const most = 16
	all, err := net.InterfaceAddrs()
	if err != nil {
		return []string{"127.0.0.1"}
	}
	var v4, v6, loopback []string
	for _, a := range all {
		ip, ok := a.(*net.IPNet)
		switch {
		case !ok || ip.IP.IsLinkLocalUnicast():
		case ip.IP.IsLoopback():
			loopback = append(loopback, ip.IP.String())
		case ip.IP.To4() != nil:
			v4 = append(v4, ip.IP.String())
		default:
			v6 = append(v6, ip.IP.String())
		}
	}
	found := slices.Concat(v4, v6)
	if len(found) == 0 {
		found = loopback
	}
	return found[:min(len(found), most)]
}

// offer takes a Set; one that waits is replaced. Only the source calls it.
func (p *pipeline) offer(set *object.Set) {
	wait.Latest(p.sets, set)
}

// ack takes what a data plane says about a version.
func (p *pipeline) ack(peer feed.Peer, a feed.Ack) {
	p.mu.Lock()
	p.said[peer.Node] = word{joined: true, ack: a}
	p.mu.Unlock()
	wait.Signal(p.news)
}

// peer takes note that a data plane has come or gone.
func (p *pipeline) peer(peer feed.Peer, err error) {
	p.mu.Lock()
	if err == nil {
		p.said[peer.Node] = word{joined: true}
	} else {
		delete(p.said, peer.Node)
	}
	p.mu.Unlock()
	if err != nil {
		p.log.Debug("a data plane has left the plan stream", "node", peer.Node, "error", err)
	}
	wait.Signal(p.news)
}

// heard is the last word of the data plane in charge.
func (p *pipeline) heard() word {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said[DataPlaneName(int(p.node.plane.pid.Load()))]
}

// serves says whether the data plane with this pid has acked a version.
func (p *pipeline) serves(pid int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.said[DataPlaneName(pid)]
	return w.ack.Version > 0 && w.ack.Refused == ""
}

// DataPlaneName is how the data plane with a pid calls itself on the plan stream.
func DataPlaneName(pid int) string { return fmt.Sprintf("dataplane-%d", pid) }

// run applies what comes until ctx ends.
func (p *pipeline) run(ctx context.Context) error {
	patience, again := time.NewTimer(time.Hour), time.NewTimer(math.MaxInt64)
	defer patience.Stop()
	defer again.Stop()
	looked := p.result
	for {
		select {
		case <-ctx.Done():
			return nil
		case set := <-p.sets:
			if p.set == nil {
				patience.Reset(accountPatience)
			}
			if err := p.apply(p.take(set)); err != nil {
				return err
			}
		case <-p.node.engine.Changes():
			if p.merger.raw == nil {
				continue
			}
			if err := p.apply(p.merger.merge(p.merger.raw, p.node.engine.Statuses())); err != nil {
				return err
			}
		case <-p.news:
			if p.set != nil {
				p.show(p.heard())
			}
		case <-patience.C:
			p.greet(p.heard())
		case <-again.C:
			p.again()
		}
		if p.result != looked {
			looked = p.result
			again.Reset(untilAgain(time.Now(), p.result.Again))
		}
	}
}

// longestLook is how long at most nobody looks whether a moment has come: the
// machine's clock may be set.
const longestLook = time.Hour

// untilAgain is how long to wait for a moment; zero never comes.
func untilAgain(now, moment time.Time) time.Duration {
	if moment.IsZero() {
		return math.MaxInt64
	}
	return min(max(moment.Sub(now), time.Second), longestLook)
}

// again looks at what time alone changes: the traffic stays as it is.
func (p *pipeline) again() {
	p.result = p.translator.Plan(p.set)
	p.findings = p.locate(nil)
	if p.greeted {
		p.tellFindings()
	}
	p.show(p.heard())
}

// take hands the workloads of a new Set to the engine, if they are others, and
// gives the Set with their statuses.
func (p *pipeline) take(set *object.Set) *object.Set {
	if p.merger.sameWorkloads(set) {
		return p.merger.carry(set)
	}
	p.node.engine.Use(set)
	return p.merger.merge(set, p.node.engine.Statuses())
}

// apply makes a plan of a Set and hands it on. Traffic goes first: places of
// findings, statuses and words come after the data plane has the change.
func (p *pipeline) apply(set *object.Set) error {
	if set == p.set {
		return nil
	}
	began := time.Now()
	result := p.translator.Plan(set)
	if p.result == nil || !slices.Equal(p.result.Parts, result.Parts) {
		p.version++
		p.since = began
		p.node.plane.drain.Store(int64(drainTimeout(result.Parts)))
		if err := p.node.feed.Use(p.version, result.Parts); err != nil {
			return fmt.Errorf("hand the plan to the data plane: %w", err)
		}
	}
	list := slices.Collect(set.All)
	changes := compare(p.list, list)
	p.set, p.list, p.result = set, list, result
	p.findings = p.locate(changes)
	p.changes++
	p.busy += time.Since(began)
	if p.greeted {
		p.announce(announcement{version: p.version, began: began, changes: words(changes)})
	}
	p.show(p.heard())
	return nil
}

// drainTimeout is that of the plan.
func drainTimeout(parts []*plan.Part) time.Duration {
	for _, part := range parts {
		if part.Settings != nil && part.Settings.DrainTimeout > 0 {
			return part.Settings.DrainTimeout
		}
	}
	return plan.DefaultSettings().DrainTimeout
}

// locate gives findings their places. Reading files is slow, so what is known
// is kept as long as its object stays as and where it is.
func (p *pipeline) locate(changes []change) []object.Finding {
	touched := map[object.Key]bool{}
	for _, c := range changes {
		touched[c.key] = true
	}
	all := slices.Clone(p.set.Findings)
	var lost []object.Finding
	earlier := source.Earlier(p.set)
	next := make(map[object.Finding]located, len(p.result.Findings))
	for _, f := range p.result.Findings {
		l, ok := p.located[f]
		if ok && !touched[f.Object] && l.at == p.set.Places[f.Object] && l.earlier == earlier[f.Object] {
			next[f] = l
			all = append(all, l.full)
			continue
		}
		lost = append(lost, f)
	}
	found := source.Locate(p.set, slices.Clone(lost))
	for i, f := range lost {
		next[f] = located{at: p.set.Places[f.Object], earlier: earlier[f.Object], full: found[i]}
	}
	p.located = next
	all = append(all, found...)
	object.SortFindings(all)
	return all
}

// show completes the statuses with what the data plane says, serves the view,
// and tells what is new.
func (p *pipeline) show(w word) {
	ack := status.Ack{Version: w.ack.Version}
	for _, problem := range w.ack.Problems {
		s := status.Problem{Message: problem.Message, Partly: problem.Reason == plan.PartlyServed}
		switch problem.Key.Kind {
		case plan.KindSocket:
			s.Socket = problem.Key.Name
		case plan.KindListener:
			s.Listener = problem.Key.Name
		default:
			continue // translation has told it to its author
		}
		ack.Problems = append(ack.Problems, s)
	}
	if w.ack.Refused != "" {
		p.log.Error("the data plane does not take the plan", "version", w.ack.Version, "error", w.ack.Refused)
		ack.Version = 0
	}
	statuses := p.tracker.Update(p.result.Statuses, p.version, ack)
	up, down := p.merger.ready()
	p.node.admin.Use(&admin.View{
		Set: p.set, Statuses: statuses, Findings: p.standing.with(p, ack.Problems), Parts: p.result.Parts,
		Control: admin.Control{
			Version: p.version, Applied: ack.Version, Since: p.since, Changes: p.changes, Busy: p.busy,
			DataPlaneUp: w.joined, DataPlanePID: int(p.node.plane.pid.Load()), Restarts: p.node.plane.restarts.Load(),
			WorkloadsUp: up, WorkloadsDown: down,
		},
	})
	if !p.greeted {
		if ack.Version == p.version {
			p.greet(w)
			p.trouble = troubleOf(ack.Problems)
		}
		return
	}
	p.tell(ack.Version)
	if w.joined && ack.Version > 0 {
		p.tellTrouble(troubleOf(ack.Problems))
	}
}

// merger puts the statuses of workloads into a Set. A workload whose status
// did not change keeps its pointer.
type merger struct {
	raw    *object.Set
	merged *object.Set
	made   map[object.Name]mergedWorkload
}

type mergedWorkload struct {
	raw, out *v1alpha1.Workload
}

// sameWorkloads says whether a Set has the workloads of the last one, in the
// same places: a relative working directory starts there.
func (m *merger) sameWorkloads(raw *object.Set) bool {
	if m.raw == nil {
		return false
	}
	old, next := m.raw.Workloads.All(), raw.Workloads.All()
	if len(old) != len(next) || len(old) > 0 && &old[0] != &next[0] {
		return false
	}
	for _, w := range next {
		if key := object.KeyOf(w); len(w.Spec.Command) > 0 && m.raw.Places[key].File != raw.Places[key].File {
			return false
		}
	}
	return true
}

// carry gives a Set that has the same workloads the statuses of the last one.
// It is what most changes need, and costs nothing.
func (m *merger) carry(raw *object.Set) *object.Set {
	if m.raw == raw {
		return m.merged
	}
	next := *raw
	next.Workloads = m.merged.Workloads
	m.raw, m.merged = raw, &next
	return m.merged
}

func (m *merger) merge(raw *object.Set, statuses map[object.Name]v1alpha1.WorkloadStatus) *object.Set {
	changed := m.merged == nil || m.raw != raw
	made := make(map[object.Name]mergedWorkload, raw.Workloads.Len())
	out := make([]*v1alpha1.Workload, 0, raw.Workloads.Len())
	for _, w := range raw.Workloads.All() {
		name := object.NameOf(w)
		st := statuses[name]
		was := m.made[name]
		if was.raw != w || !sameStatus(&was.out.Status, &st) {
			next := *w
			next.Status = st
			was = mergedWorkload{raw: w, out: &next}
			changed = true
		}
		made[name] = was
		out = append(out, was.out)
	}
	m.raw, m.made = raw, made
	if !changed {
		return m.merged
	}
	next := *raw
	next.Workloads = object.NewTable(out...)
	if m.merged != nil && slices.Equal(m.merged.Workloads.All(), next.Workloads.All()) {
		next.Workloads = m.merged.Workloads
	}
	m.merged = &next
	return m.merged
}

func sameStatus(a, b *v1alpha1.WorkloadStatus) bool {
	return a.Address == b.Address && a.PID == b.PID && a.Restarts == b.Restarts && slices.Equal(a.Conditions, b.Conditions)
}

// ready counts workloads by readiness.
func (m *merger) ready() (up, down int) {
	for _, w := range m.made {
		c := w.out.Status.Conditions
		if len(c) > 0 && c[0].Type == workload.ConditionReady && c[0].Status == metav1.ConditionTrue {
			up++
		} else {
			down++
		}
	}
	return up, down
}

// change is what happened to one object.
type change struct {
	key  object.Key
	what string // new, changed, gone
}

// compare gives the objects that differ between two lists, which are in the
// order of Set.All. What is equal keeps its pointer, so beginning and end are
// passed over quickly.
func compare(old, next []metav1.Object) []change {
	for len(old) > 0 && len(next) > 0 && old[0] == next[0] {
		old, next = old[1:], next[1:]
	}
	for len(old) > 0 && len(next) > 0 && old[len(old)-1] == next[len(next)-1] {
		old, next = old[:len(old)-1], next[:len(next)-1]
	}
	was := make(map[object.Key]metav1.Object, len(old))
	for _, o := range old {
		was[object.KeyOf(o)] = o
	}
	var changes []change
	for _, o := range next {
		key := object.KeyOf(o)
		before, ok := was[key]
		delete(was, key)
		switch {
		case !ok:
			changes = append(changes, change{key, "new"})
		case before != o:
			changes = append(changes, change{key, "changed"})
		}
	}
	for key := range was {
		changes = append(changes, change{key, "gone"})
	}
	slices.SortFunc(changes, func(a, b change) int { return a.key.Compare(b.key) })
	return changes
}

// words says what changed, for a log line. Workloads speak for themselves.
func words(changes []change) []string {
	var list []string
	for _, c := range changes {
		if c.key.Kind != "Workload" || c.what != "changed" {
			list = append(list, c.key.String()+" "+c.what)
		}
	}
	return list
}

// announce notes a change to be told when the data plane has it.
func (p *pipeline) announce(a announcement) {
	if len(a.changes) == 0 {
		return
	}
	if n := len(p.waiting); n >= 32 {
		// The data plane is away: what is told later is one line.
		last := &p.waiting[n-1]
		last.version, last.changes = a.version, append(last.changes, a.changes[:min(len(a.changes), 100)]...)
		last.changes = last.changes[:min(len(last.changes), 1000)]
		return
	}
	p.waiting = append(p.waiting, a)
}

// tell writes what the data plane has, and new findings.
func (p *pipeline) tell(version uint64) {
	for len(p.waiting) > 0 && p.waiting[0].version <= version {
		a := p.waiting[0]
		p.waiting = p.waiting[1:]
		noun := "changes"
		if len(a.changes) == 1 {
			noun = "change"
		}
		text := strings.Join(a.changes[:min(len(a.changes), 3)], ", ")
		if more := len(a.changes) - 3; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		p.log.Info(fmt.Sprintf("applied %d %s in %v: %s", len(a.changes), noun, time.Since(a.began).Round(100*time.Microsecond), text))
	}
	p.tellFindings()
}
