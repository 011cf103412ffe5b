package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// results of one run.
type results struct {
	Machine description `json:"machine"`
	Routes  int         `json:"routes"`
	Rounds  int         `json:"rounds"`
	Seconds float64     `json:"seconds"`
	// Load is by scenario and contender, one sample for each round.
	Load    map[string]map[string][]sample `json:"load,omitempty"`
	Relay   map[string]map[string][]stream `json:"relay,omitempty"`
	Memory  map[string]*memory             `json:"memory,omitempty"`
	Changes *changes                       `json:"changes,omitempty"`
}

func (r *results) add(scenario, contender string, s sample) {
	put(&r.Load, scenario, contender, s)
}

func (r *results) addStream(scenario, contender string, s stream) {
	put(&r.Relay, scenario, contender, s)
}

func put[T any](to *map[string]map[string][]T, scenario, contender string, one T) {
	if *to == nil {
		*to = map[string]map[string][]T{}
	}
	by := (*to)[scenario]
	if by == nil {
		by = map[string][]T{}
		(*to)[scenario] = by
	}
	by[contender] = append(by[contender], one)
}

func (r *results) memory(contender string) *memory {
	if r.Memory == nil {
		r.Memory = map[string]*memory{}
	}
	if r.Memory[contender] == nil {
		r.Memory[contender] = &memory{}
	}
	return r.Memory[contender]
}

// order is how contenders are listed.
var order = []string{"windrose", oneRoute, "windrose-1000", "nginx", "haproxy", "envoy"}

// figures of one contender in one scenario: medians over the rounds, and the
// best round of what noise can only make worse.
type figures struct {
	cpu, cpuBest, control, rate, p50, p99, p99Best float64
}

// sortedBy gives one figure of every sample, the smallest first.
func sortedBy[T any](samples []T, get func(T) float64) []float64 {
	all := make([]float64, len(samples))
	for i, s := range samples {
		all[i] = get(s)
	}
	slices.Sort(all)
	return all
}

func median(sorted []float64) float64 {
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func summarise(samples []sample) figures {
	of := func(get func(sample) float64) []float64 { return sortedBy(samples, get) }
	cpu := of(func(s sample) float64 { return s.ProxyCPU })
	p99 := of(func(s sample) float64 { return s.P99 })
	return figures{
		cpu: median(cpu), cpuBest: cpu[0],
		control: median(of(func(s sample) float64 { return s.ControlCPU })),
		rate:    median(of(func(s sample) float64 { return float64(s.Requests) / s.Seconds })),
		p50:     median(of(func(s sample) float64 { return s.P50 })),
		p99:     median(p99), p99Best: p99[0],
	}
}

// print writes the tables as Markdown.
func (r *results) print(w io.Writer) {
	d := r.Machine
	fmt.Fprintf(w, "%s, %d CPUs of %s, Linux %s, load average %s at the start", d.Date, d.CPUs, d.CPU, d.Kernel, d.Load)
	if !d.Realtime {
		fmt.Fprint(w, ", **without real-time priority: expect noise**")
	}
	fmt.Fprint(w, ". ")
	var versions []string
	for _, name := range order {
		if v := d.Versions[name]; v != "" && (name == "windrose" || !strings.HasPrefix(name, "windrose")) {
			versions = append(versions, name+" "+v)
		}
	}
	fmt.Fprintf(w, "%s.\n%d rounds of %g s; windrose with %d routes, the others with one.\n", strings.Join(versions, ", "), r.Rounds, r.Seconds, r.Routes)
	for _, s := range scenarios {
		if s.Streams > 0 {
			r.printH2(w, s)
			continue
		}
		r.printLoad(w, s)
	}
	for _, s := range relays {
		r.printRelay(w, s)
	}
	r.printMemory(w)
	if c := r.Changes; c != nil {
		fmt.Fprintf(w, "\n### A changed route among %d\n\nFrom replacing its file to the first answer that shows it, %d changes: p50 %.1f ms, p99 %.1f ms, longest %.1f ms.\n",
			c.Routes, c.Count, c.P50, c.P99, c.Max)
	}
}

func (r *results) printLoad(w io.Writer, s scenario) {
	by := r.Load[s.Name]
	if by == nil {
		return
	}
	fmt.Fprintf(w, "\n### %s\n\n%s\n\n", s.Name, s.About)
	if s.Handshake != kept {
		table(w, by, "CPU us/connection (best) | windrose is | connections/s", func(f figures, _ []sample) string {
			return fmt.Sprintf("%.0f", f.rate)
		})
		return
	}
	table(w, by, "CPU us/request (best) | windrose is | requests/s | p50 us | p99 us (best)", func(f figures, _ []sample) string {
		return fmt.Sprintf("%.0f | %.0f | %.0f (%.0f)", f.rate, f.p50, f.p99, f.p99Best)
	})
}

// table prints a line for each contender: what its CPU is, and windrose's of it,
// then what rest gives for the columns that follow.
func table(w io.Writer, by map[string][]sample, columns string, rest func(figures, []sample) string) {
	fmt.Fprintf(w, "| | %s |\n|---|%s\n", columns, strings.Repeat("---|", strings.Count(columns, "|")+1))
	base := 0.0
	if own := by["windrose"]; own != nil {
		base = summarise(own).cpu
	}
	for _, name := range order {
		if by[name] == nil {
			continue
		}
		f := summarise(by[name])
		digits := 1
		if f.cpu >= 100 {
			digits = 0
		}
		fmt.Fprintf(w, "| %s | %.*f (%.*f) | %s | %s |\n", f.label(name), digits, f.cpu, digits, f.cpuBest, ratio(name, base, f.cpu), rest(f, by[name]))
	}
}

// label names a contender, with what its processes that carry no traffic used.
func (f figures) label(name string) string {
	if routes, ok := strings.CutPrefix(name, "windrose-"); ok {
		name = "windrose, routes: " + routes
	}
	if f.control > 0.05 {
		name += fmt.Sprintf(" (control part: %.1f more)", f.control)
	}
	return name
}

// ratio says what windrose needs of what a peer does.
func ratio(name string, own, peer float64) string {
	if own == 0 || peer == 0 || strings.HasPrefix(name, "windrose") {
		return ""
	}
	return fmt.Sprintf("%.2f of it", own/peer)
}

func (r *results) printMemory(w io.Writer) {
	if len(r.Memory) == 0 {
		return
	}
	fmt.Fprint(w, "\n### Memory\n\nResident, MiB; summed over processes (nginx: what master and worker share counts twice). ")
	fmt.Fprint(w, "An idle connection has had one request answered; KiB of process memory for each.\n\n")
	fmt.Fprintln(w, "| | idle | after the load | 1,000 connections | 10,000 connections | 1,000 TLS connections |\n|---|---|---|---|---|---|")
	mib := func(kib int) string {
		if kib == 0 {
			return ""
		}
		return fmt.Sprintf("%.1f", float64(kib)/1024)
	}
	for _, name := range order {
		m := r.Memory[name]
		if m == nil || name != "windrose" && strings.HasPrefix(name, "windrose") {
			continue
		}
		label := name
		if name == "windrose" {
			label = fmt.Sprintf("windrose data plane, %d routes", r.Routes)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %.2f | %.2f | %.2f |\n", label, mib(m.Idle), mib(m.AfterLoad), m.Plain1000, m.Plain10000, m.TLS1000)
		if name == "windrose" {
			fmt.Fprintf(w, "| windrose control part, %d routes | %s | | | | |\n", r.Routes, mib(m.IdleControl))
			fmt.Fprintf(w, "| windrose data plane, 1 route | %s | | | | |\n| windrose control part, 1 route | %s | | | | |\n", mib(m.OneRoute), mib(m.OneControl))
		}
	}
}

// The markers in docs/performance.md between which the tables go.
const (
	beginMark = "<!-- bench:begin -->"
	endMark   = "<!-- bench:end -->"
)

func (r *results) write(doc, raw string) error {
	text, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(beginMark))
	_, after, ok2 := bytes.Cut(rest, []byte(endMark))
	if !ok || !ok2 {
		return errors.New(doc + " has lost its bench markers")
	}
	var tables bytes.Buffer
	r.print(&tables)
	text = slices.Concat(before, []byte(beginMark+"\n"), tables.Bytes(), []byte(endMark), after)
	if err := os.WriteFile(doc, text, 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(raw), 0o755); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(raw, append(data, '\n'), 0o644)
}
