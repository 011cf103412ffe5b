package node

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/status"
)

// greet tells, once, what windrose has read and where it serves.
func (p *pipeline) greet(w word) {
	if p.greeted || p.set == nil {
		return
	}
	p.greeted = true
	urls := listening(p.result.Parts, w)
	if p.node.cfg.JSON {
		p.log.Info("windrose runs", "version", p.node.cfg.Version.Version, "objects", len(p.list), "findings", len(p.findings),
			"listeners", urls, "admin", "http://"+p.node.admin.Addr(), "state", p.node.state.dir)
		p.tellFindings()
		return
	}
	p.tellFindings()
	var b strings.Builder
	line := func(name, text string) { fmt.Fprintf(&b, "  %-9s %s\n", name, text) }
	fmt.Fprintf(&b, "windrose %s, process %d\n", p.node.cfg.Version.Version, os.Getpid())
	line("config", strings.Join(p.node.cfg.Paths, " "))
	line("objects", p.census())
	if n := countFindings(p.findings); n != "" {
		line("findings", n+": see above, or windrose get findings")
	}
	if len(urls) == 0 {
		line("listens", "nowhere: write a GatewayClass and a Gateway; windrose get gateways -A says why one does not serve")
	}
	for i, url := range urls {
		name := "listens"
		if i > 0 {
			name = ""
		}
		line(name, url)
	}
	if w.ack.Version < p.version {
		line("waits", "the data plane has not applied the configuration yet")
	}
	line("admin", "http://"+p.node.admin.Addr())
	if addr := p.node.admin.Addr(); addr != admin.DefaultAddr {
		line("", "commands find it with --admin "+addr+" or WINDROSE_ADMIN="+addr)
	}
	line("state", p.node.state.dir)
	fmt.Fprint(p.node.cfg.Stderr, b.String())
}

// census counts the objects by kind.
func (p *pipeline) census() string {
	counts := map[string]int{}
	for _, o := range p.list {
		counts[object.KindOf(o)]++
	}
	var words []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%d %s", counts[kind], kind))
	}
	if len(words) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d: %s", len(p.list), strings.Join(words, ", "))
}

func countFindings(all []object.Finding) string {
	counts := map[object.Severity]int{}
	for i := range all {
		counts[all[i].Severity]++
	}
	var words []string
	for _, s := range []object.Severity{object.Error, object.Warning, object.Info} {
		if n := counts[s]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, s))
		}
	}
	return strings.Join(words, ", ")
}

// maxListening bounds the list of URLs for people.
const maxListening = 20

// listening gives a line for each listener: its URL, where it listens, and
// whether that failed.
func listening(parts []*plan.Part, w word) []string {
	trouble := map[string]string{}
	for _, problem := range w.ack.Problems {
		trouble[problem.Key.Name] = problem.Message
	}
	var lines []string
	for _, part := range parts {
		l := part.Listener
		if l == nil {
			continue
		}
		for _, name := range l.Sockets {
			_, at, _ := strings.Cut(name, "/")
			addr, err := netip.ParseAddrPort(at)
			if err != nil {
				continue
			}
			line := fmt.Sprintf("%s on %s (%s)", url(l, addr), addr, strings.Join(strings.FieldsFunc(part.Key.Name, func(r rune) bool { return r == '/' }), " "))
			if why := cmp.Or(trouble[name], trouble[part.Key.Name]); why != "" {
				line += ": FAILED: " + why
			}
			lines = append(lines, line)
		}
	}
	if more := len(lines) - maxListening; more > 0 {
		lines = append(lines[:maxListening], fmt.Sprintf("and %d more: windrose get listeners -A", more))
	}
	return lines
}

func url(l *plan.Listener, addr netip.AddrPort) string {
	scheme, usual := string(l.Protocol), uint16(0)
	switch l.Protocol {
	case plan.HTTP:
		usual = 80
	case plan.HTTPS:
		usual = 443
	case plan.TLS, plan.TCP, plan.UDP, plan.H2C:
	}
	host := l.Hostname
	switch {
	case host != "":
	case addr.Addr().IsUnspecified():
		host = "localhost"
	case addr.Addr().Is6():
		host = "[" + addr.Addr().String() + "]"
	default:
		host = addr.Addr().String()
	}
	if addr.Port() != usual {
		host += fmt.Sprintf(":%d", addr.Port())
	}
	if usual == 0 {
		return scheme + "://" + host // bytes have no path
	}
	return scheme + "://" + host + "/"
}

// maxTold bounds how many findings one change writes.
const maxTold = 50

// troubleOf gives the message of each socket and listener that has one.
func troubleOf(problems []status.Problem) map[string]string {
	all := make(map[string]string, len(problems))
	for _, problem := range problems {
		all[cmp.Or(problem.Socket, problem.Listener)] = problem.Message
	}
	return all
}

// tellTrouble tells what cannot be bound and what can be at last. No file is to
// blame for it, so that it is told by socket and not as a finding.
func (p *pipeline) tellTrouble(now map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if p.trouble[name] != now[name] {
			p.log.Warn("a listener does not serve: windrose tries again", "at", name, "error", now[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.trouble)) {
		if _, still := now[name]; !still {
			p.log.Info("the trouble of a listener is over", "at", name)
		}
	}
	p.trouble = now
}

// tellFindings writes the findings that were not there before.
func (p *pipeline) tellFindings() {
	known := make(map[object.Finding]struct{}, len(p.findings))
	told := 0
	for _, f := range p.findings {
		known[f] = struct{}{}
		if _, ok := p.known[f]; ok {
			continue
		}
		if told++; told <= maxTold {
			p.tellFinding(f)
		}
	}
	if told > maxTold {
		p.log.Warn("there are more findings: windrose get findings", "more", told-maxTold)
	}
	if fixed := countGone(p.known, known); fixed > 0 && len(known) == 0 {
		p.log.Info("no findings are left")
	}
	p.known = known
}

func countGone(old, next map[object.Finding]struct{}) int {
	n := 0
	for f := range old {
		if _, ok := next[f]; !ok {
			n++
		}
	}
	return n
}

func (p *pipeline) tellFinding(f object.Finding) {
	if !p.node.cfg.JSON {
		fmt.Fprint(p.node.cfg.Stderr, object.Render(f.Public()))
		return
	}
	args := []any{"object", f.Object.String(), "field", f.Field, "place", f.Place.String(), "reason", f.Reason, "mend", f.Mend}
	switch f.Severity {
	case object.Error:
		p.log.Error(f.Message, args...)
	case object.Warning:
		p.log.Warn(f.Message, args...)
	case object.Info:
		p.log.Info(f.Message, args...)
	}
}
