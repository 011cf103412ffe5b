package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/gateway-api/pkg/features"

	"windrose.dev/windrose/internal/translate"
)

var (
	//go:embed conformance.txt
	conformanceText string
	//go:embed features.txt
	featuresText string
)

// unnamed are parts of Gateway API, and of Ingress, that no feature of its
// suite names. Tests of ours may say that they cover them.
var unnamed = []feature{
	{name: "XBackend", does: "a backend that is no Service"},
	{name: "XBackendTrafficPolicy", does: "budgets of retries, and sessions, for a Service"},
	{name: "XTelemetryPolicy", does: "traces of a Gateway's requests"},
	{name: "XMesh", does: "what the mesh carries, in a status"},
	{name: "ExternalAuth", does: "a service is asked whether a request may pass"},
	{name: "SessionPersistence", does: "requests of one session go to one endpoint"},
	{name: "IngressDefaultBackend", does: "default backends of Ingresses"},
	{name: "IngressHostRules", does: "hosts, wildcards and TLS of Ingresses"},
	{name: "IngressClass", does: "which Ingresses are served, and their addresses"},
	{name: "IngressLoadBalancing", does: "requests reach every endpoint behind an Ingress"},
	{name: "IngressPathRules", does: "exact and prefix paths of Ingresses"},
}

// A feature is one of Gateway API's, as users know it.
type feature struct {
	name, channel string
	does          string
	without       string // why windrose does not claim it
	claimed       bool
}

// mesh says whether a feature belongs to traffic between services.
func (f feature) mesh() bool { return strings.HasPrefix(f.name, "Mesh") }

// An upstreamTest is a test of Gateway API's conformance suite.
type upstreamTest struct {
	name        string
	features    []string
	provisional bool
	without     string // why no test of ours shows it
}

func (u upstreamTest) mesh() bool { return slices.Contains(u.features, "Mesh") }

// coverage is what windrose claims of Gateway API, and which tests show it.
type coverage struct {
	features []feature
	upstream []upstreamTest
	shown    map[string][]ownTest // by the name of a feature or of an upstream test
}

func readCoverage(root string) (*coverage, error) {
	c := &coverage{upstream: readConformance(conformanceText)}
	var err error
	if c.features, err = readFeatures(featuresText, claims(), channels()); err != nil {
		return nil, err
	}
	tests, err := readTests(root)
	if err != nil {
		return nil, err
	}
	c.show(tests)
	return c, errors.Join(c.gaps(tests)...)
}

// claims are the features that a GatewayClass of windrose lists.
func claims() map[string]bool {
	claimed := map[string]bool{}
	for _, f := range translate.DataPlane().Features() {
		claimed[string(f)] = true
	}
	return claimed
}

func channels() map[string]string {
	channel := map[string]string{}
	for f := range features.AllFeatures {
		channel[string(f.Name)] = string(f.Channel)
	}
	return channel
}

func readConformance(text string) []upstreamTest {
	var all []upstreamTest
	for line := range uncommented(text) {
		line, without, _ := strings.Cut(line, " | ")
		words := strings.Fields(line)
		u := upstreamTest{name: words[0], without: without}
		for _, w := range words[1:] {
			if w == "provisional" {
				u.provisional = true
				continue
			}
			u.features = append(u.features, w)
		}
		all = append(all, u)
	}
	return all
}

// readFeatures reads what each feature does, and holds the list against Gateway
// API's own and against what windrose claims.
func readFeatures(text string, claimed map[string]bool, channel map[string]string) ([]feature, error) {
	var all []feature
	var errs []error
	known := maps.Clone(channel)
	for line := range uncommented(text) {
		name, rest, _ := strings.Cut(line, ": ")
		does, without, _ := strings.Cut(rest, " | ")
		f := feature{name: name, channel: channel[name], does: does, without: without, claimed: claimed[name]}
		if f.mesh() && without == "" {
			f.without = "belongs to the mesh, which one machine's gateway does not carry"
		}
		switch _, ok := known[name]; {
		case !ok:
			errs = append(errs, fmt.Errorf("features.txt: Gateway API has no feature %s, or it is there twice", name))
		case does == "":
			errs = append(errs, fmt.Errorf("features.txt: say what %s does", name))
		case claimed[name] && without != "":
			errs = append(errs, fmt.Errorf("features.txt: %s is claimed, so drop %q", name, "| "+without))
		case !claimed[name] && f.without == "":
			errs = append(errs, fmt.Errorf("features.txt: %s is not claimed: say after a bar why not", name))
		}
		delete(known, name)
		all = append(all, f)
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		errs = append(errs, fmt.Errorf("features.txt: say what %s does", name))
	}
	return all, errors.Join(errs...)
}

func uncommented(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if line != "" && !strings.HasPrefix(line, "#") && !yield(line) {
				return
			}
		}
	}
}

// show files each test of ours under what it covers.
func (c *coverage) show(tests []ownTest) {
	c.shown = map[string][]ownTest{}
	for _, t := range tests {
		for _, word := range t.covers {
			c.shown[word] = append(c.shown[word], t)
		}
	}
}

// gaps are upstream tests and claimed features that no test of ours shows, and
// words that are neither.
func (c *coverage) gaps(tests []ownTest) []error {
	var errs []error
	needed := map[string]bool{} // features with an upstream test that is shown
	known := map[string]bool{}
	for _, u := range c.upstream {
		known[u.name] = true
		shown := len(c.shown[u.name]) > 0
		for _, f := range u.features {
			needed[f] = needed[f] || shown
		}
		switch {
		case shown && u.without != "":
			errs = append(errs, fmt.Errorf("conformance.txt: %s is shown, so drop %q", u.name, "| "+u.without))
		case !shown && u.without == "" && !u.mesh() && len(c.unclaimed(u)) == 0:
			errs = append(errs, fmt.Errorf("no test covers %s of Gateway API's suite: write one and say \"covers: %s\"", u.name, u.name))
		}
	}
	for _, f := range c.features {
		known[f.name] = true
		if f.claimed && !needed[f.name] && len(c.shown[f.name]) == 0 {
			errs = append(errs, fmt.Errorf("feature %s is claimed, and no test says \"covers: %s\"", f.name, f.name))
		}
	}
	for _, f := range unnamed {
		known[f.name] = true
	}
	for _, t := range tests {
		for _, word := range t.covers {
			if !known[word] {
				errs = append(errs, fmt.Errorf("%s covers %s, which is neither a feature nor a test of Gateway API", t.path, word))
			}
		}
	}
	return errs
}

// unclaimed are the features that an upstream test needs and windrose does not claim.
func (c *coverage) unclaimed(u upstreamTest) []string {
	return slices.DeleteFunc(slices.Clone(u.features), func(name string) bool {
		return slices.ContainsFunc(c.features, func(f feature) bool { return f.name == name && f.claimed })
	})
}

func (c *coverage) page(b *bytes.Buffer) {
	claimed, shown, mesh := 0, 0, 0
	for _, f := range c.features {
		claimed += count(f.claimed)
	}
	for _, u := range c.upstream {
		shown += count(len(c.shown[u.name]) > 0)
		mesh += count(u.mesh())
	}
	fmt.Fprintf(b, `# Gateway API

windrose reads Gateway API v1.7.0, both channels, and claims %d of its %d features in the status of a GatewayClass. The
tables say what each does, and which tests of windrose's own show it. The upstream suite has %d conformance tests: %d of
them are shown here, and %d belong to the mesh.

## Features

| feature | channel | claimed | what it does | upstream tests | shown by |
|---|---|---|---|---|---|
`, claimed, len(c.features), len(c.upstream), shown, mesh)
	for _, f := range c.features {
		says := "yes"
		if !f.claimed {
			says = "no: " + f.without
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %d | %s |\n", f.name, f.channel, says, f.does, len(c.upstreamOf(f.name)), c.shownFor(f))
	}
	b.WriteString("\n## What no feature names\n\n| | what it does | shown by |\n|---|---|---|\n")
	for _, f := range unnamed {
		if tests := c.shown[f.name]; len(tests) > 0 {
			fmt.Fprintf(b, "| %s | %s | %s |\n", f.name, f.does, links(tests))
		}
	}
	b.WriteString("\n## Conformance tests\n\nA provisional test is one that the suite may still change.\n\n| upstream test | shown by |\n|---|---|\n")
	for _, u := range c.upstream {
		name := u.name
		if u.provisional {
			name += " (provisional)"
		}
		fmt.Fprintf(b, "| %s | %s |\n", name, c.answer(u))
	}
}

// answer says what shows an upstream test, or why nothing does.
func (c *coverage) answer(u upstreamTest) string {
	if tests := c.shown[u.name]; len(tests) > 0 {
		return links(tests)
	}
	switch {
	case u.without != "":
		return u.without
	case u.mesh():
		return "belongs to the mesh"
	}
	return "needs " + strings.Join(c.unclaimed(u), ", ")
}

// upstreamOf are the upstream tests that need a feature.
func (c *coverage) upstreamOf(name string) []upstreamTest {
	return slices.DeleteFunc(slices.Clone(c.upstream), func(u upstreamTest) bool { return !slices.Contains(u.features, name) })
}

// shownFor are the tests that name a feature, or those of its upstream tests.
func (c *coverage) shownFor(f feature) string {
	tests := slices.Clone(c.shown[f.name])
	of := c.upstreamOf(f.name)
	switch {
	case !f.claimed:
		return links(tests)
	case len(of) > 4:
		return strings.TrimPrefix(links(tests)+", and those of its upstream tests below", ", and ")
	}
	for _, u := range of {
		for _, t := range c.shown[u.name] {
			if !slices.ContainsFunc(tests, func(have ownTest) bool { return have.path == t.path && have.name == t.name }) {
				tests = append(tests, t)
			}
		}
	}
	return links(tests)
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func links(tests []ownTest) string {
	list := make([]string, len(tests))
	for i, t := range tests {
		list[i] = fmt.Sprintf("[%s](../../%s)", t.name, t.path)
	}
	return strings.Join(list, ", ")
}
