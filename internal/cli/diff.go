package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// difference is one way in which two plans behave differently.
type difference struct {
	// Sign is + for what is new, - for what is gone, ~ for what changes.
	Sign   string `json:"sign"`
	What   string `json:"what"`             // a request, or another thing that differs
	Socket string `json:"socket,omitempty"` // where the request comes in
	Old    string `json:"old,omitempty"`
	New    string `json:"new,omitempty"`
}

func (a *app) diffCommand() *cobra.Command {
	var against []string
	var output string
	var limit int
	c := &cobra.Command{
		Use:   "diff PATH...",
		Short: "Tell how manifests would change where requests land",
		Long: `Compares how the manifests at PATH would behave with how the running windrose
behaves, or with the manifests of --against. It sends sample requests for every
rule of both through the code that routes requests, and writes where each lands
differently:

  ~ [::]:443 GET shop.example/cart: HTTPRoute default/a rule 0 -> default/v1:80  =>  HTTPRoute ...

What such requests do not show is told as well: listeners, whom they ask for
certificates, TLS to services, tracing and settings that come, go or change. PATH
is all manifests, not only the changed ones. Every workload is taken as ready.

The exit code is 0 if nothing differs, 3 if something does or if a manifest has
an error.`,
		Example: "  windrose diff ./windrose.d\n  windrose diff --against ./windrose.d ./next",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("-o", output, "text", "json", "yaml"); err != nil {
				return err
			}
			return a.diff(cmd.Context(), args, against, output, limit)
		},
	}
	c.Flags().StringArrayVar(&against, "against", nil, "file or folder to compare with instead of the running windrose; may be given several times")
	c.Flags().StringVarP(&output, "output", "o", "text", "form: text, json or yaml")
	c.Flags().IntVar(&limit, "limit", 200, "lines of text to write at most; 0 for all")
	return c
}

func (a *app) diff(ctx context.Context, paths, against []string, output string, limit int) error {
	var old []*plan.Part
	var known ages
	var err error
	if len(against) > 0 {
		old, known, _, err = a.partsOf(against, nil)
	} else {
		old, known, err = a.running(ctx)
	}
	if err != nil {
		return err
	}
	next, _, wrong, err := a.partsOf(paths, known)
	if err != nil {
		return err
	}
	if len(against) == 0 {
		old = assumeReady(old, next)
	}
	all := compare(old, next)
	if output != "text" {
		if err := writeValue(a.stdout, output, listOf(all)); err != nil {
			return err
		}
	} else {
		a.printDifferences(all, limit)
	}
	fmt.Fprintln(a.stderr, count(len(all), "difference"))
	if len(all) > 0 || wrong {
		return errSilent
	}
	return nil
}

// running gives the parts of the running windrose and how old its objects are.
func (a *app) running(ctx context.Context) ([]*plan.Part, ages, error) {
	client, ctx, cancel := a.client(ctx)
	defer cancel()
	sum, err := client.Plan(ctx)
	if err != nil {
		return nil, nil, err
	}
	items, err := client.Objects(ctx, admin.Selection{})
	if err != nil {
		return nil, nil, err
	}
	known := make(ages, len(items))
	for _, item := range items {
		var o struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
		}
		if err := json.Unmarshal(item.Object, &o); err != nil {
			return nil, nil, fmt.Errorf("read the age of %s: %w", item.Key, err)
		}
		known[item.Key] = o.Metadata.CreationTimestamp
	}
	return sum.All, known, nil
}

// partsOf gives the parts that manifests become, how old their objects are, and
// whether there are errors, which are told.
func (a *app) partsOf(paths []string, known ages) (parts []*plan.Part, found ages, wrong bool, err error) {
	set, result, findings, err := read(paths, known)
	if err != nil {
		return nil, nil, false, err
	}
	bad := slices.DeleteFunc(findings, func(f object.Finding) bool { return f.Severity != object.Error })
	a.renderFindings(a.stderr, a.colorsOf(a.stderr), bad)
	return result.Parts, agesIn(set), len(bad) > 0, nil
}

// assumeReady gives the running plan's services without endpoints those that
// the manifests would give them: that a workload is not ready just now is no
// difference of the manifests.
func assumeReady(running, next []*plan.Part) []*plan.Part {
	would := map[plan.Key]*plan.Part{}
	for _, p := range next {
		would[p.Key] = p
	}
	out := make([]*plan.Part, 0, len(running))
	for _, p := range running {
		if w := would[p.Key]; p.Service != nil && len(p.Service.Endpoints) == 0 && w != nil && w.Service != nil && p.Service.Hostname == w.Service.Hostname {
			p = w
		}
		out = append(out, p)
	}
	return out
}

// compare tells how two plans differ.
func compare(old, next []*plan.Part) []difference {
	all := compareParts(old, next)
	before, after := compile(old), compile(next)
	probes := append(before.Probes(), after.Probes()...)
	seen := map[string]bool{}
	for _, q := range probes {
		id := q.Socket + " " + q.String()
		if seen[id] {
			continue
		}
		seen[id] = true
		d := difference{Sign: "~", What: q.String(), Socket: strings.TrimPrefix(strings.TrimPrefix(q.Socket, "tcp/"), "udp/"), Old: land(before, q), New: land(after, q)}
		if d.Old == d.New || nowhere(d.Old) && nowhere(d.New) {
			continue
		}
		switch {
		case nowhere(d.Old):
			d.Sign = "+"
		case nowhere(d.New):
			d.Sign = "-"
		}
		all = append(all, d)
	}
	return all
}

func compile(parts []*plan.Part) *plan.Plan {
	list := make([]plan.Part, 0, len(parts))
	for _, p := range parts {
		list = append(list, *p)
	}
	made, _ := plan.NewBuilder().Apply(list, nil)
	return made
}

func land(p *plan.Plan, q plan.Probe) string {
	if p.Bound(q.Socket) == nil {
		return "nothing listens"
	}
	return p.Land(q)
}

// nowhere says whether a request is not served at all.
func nowhere(land string) bool { return strings.HasPrefix(land, "404 ") || land == "nothing listens" }

// compareParts tells what requests do not show: listeners, certificates and
// tracings that come, go and change, how TLS is spoken to services, and settings.
func compareParts(old, next []*plan.Part) []difference {
	before := map[plan.Key]*plan.Part{}
	for _, p := range old {
		before[p.Key] = p
	}
	var all []difference
	for _, p := range next {
		was := before[p.Key]
		delete(before, p.Key)
		what := describePart(p)
		if what == "" && was != nil {
			what = describePart(was)
		}
		switch {
		case what == "":
		case was == nil:
			all = append(all, difference{Sign: "+", What: what})
		case !samePart(was, p):
			all = append(all, difference{Sign: "~", What: what})
		}
	}
	for _, p := range before {
		if what := describePart(p); what != "" {
			all = append(all, difference{Sign: "-", What: what})
		}
	}
	slices.SortFunc(all, func(a, b difference) int { return strings.Compare(a.What, b.What) })
	return all
}

// describePart names a part that is compared as such; "" for the others.
// Placeholders are made anew each time, and settings without a word are none.
func describePart(p *plan.Part) string {
	switch {
	case p.Settings != nil && !reflect.ValueOf(*p.Settings).IsZero():
		return "settings of the gateways"
	case p.Listener != nil:
		host := p.Listener.Hostname
		if host == "" {
			host = "every host"
		}
		return fmt.Sprintf("listener %s: %s for %s", p.Key.Name, p.Listener.Protocol, host)
	case p.Certificate != nil && !strings.HasPrefix(p.Key.Name, "placeholder/"):
		return "certificate " + p.Key.Name
	case p.Service != nil && p.Service.TLS != nil:
		return "TLS to service " + p.Key.Name
	case p.Tracing != nil:
		return "tracing by " + p.Key.Name
	}
	return ""
}

// samePart compares what is told of parts. Of a running windrose no secret is
// known, so that none is looked at.
func samePart(a, b *plan.Part) bool {
	a, b = admin.WithoutSecrets(a), admin.WithoutSecrets(b)
	switch {
	case a.Settings != nil && b.Settings != nil:
		return fmt.Sprintf("%+v", *a.Settings) == fmt.Sprintf("%+v", *b.Settings)
	case a.Listener != nil && b.Listener != nil:
		a, b := a.Listener, b.Listener
		return a.Protocol == b.Protocol && a.Hostname == b.Hostname && a.Passthrough == b.Passthrough && a.Clients.Same(b.Clients) && a.Shows == b.Shows && a.Tracing == b.Tracing
	case a.Certificate != nil && b.Certificate != nil:
		return bytes.Equal(a.Certificate.Chain, b.Certificate.Chain)
	case a.Service != nil && b.Service != nil:
		return a.Service.TLS.Same(b.Service.TLS)
	case a.Tracing != nil && b.Tracing != nil:
		return reflect.DeepEqual(a.Tracing, b.Tracing)
	}
	return true
}

func (a *app) printDifferences(all []difference, limit int) {
	for i, d := range all {
		if limit > 0 && i == limit {
			fmt.Fprintf(a.stdout, "and %d more: --limit 0 writes all\n", len(all)-limit)
			return
		}
		paint := a.colors.yellow
		switch d.Sign {
		case "+":
			paint = a.colors.green
		case "-":
			paint = a.colors.red
		}
		text := d.What
		if d.Socket != "" {
			text = fmt.Sprintf("%s %s: %s  =>  %s", d.Socket, d.What, d.Old, d.New)
		}
		fmt.Fprintf(a.stdout, "%s %s\n", paint(d.Sign), object.Printable(text))
	}
}
