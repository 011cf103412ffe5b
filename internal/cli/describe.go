package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/object"
)

func (a *app) describeCommand() *cobra.Command {
	namespace := metav1.NamespaceDefault
	c := &cobra.Command{
		Use:   "describe KIND NAME",
		Short: "Tell everything about one object",
		Long: `Tells about one object: where it was written, what it says, its conditions,
parents and listeners, what stands behind a Service, the last output of a
Workload, and findings with the place in the file.`,
		Example: "  windrose describe httproute shop\n  windrose describe workload/api",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, name, err := kindAndName(args)
			if err != nil {
				return err
			}
			if name == "" {
				return usage("describe needs the name of an object: windrose describe %s NAME", args[0])
			}
			if k.name == viewFindings || k.name == viewListeners {
				return usage("describe needs a kind of objects; %s are part of several", k.name)
			}
			if ns, n, ok := strings.Cut(name, "/"); ok { // as names are printed
				namespace, name = ns, n
			}
			return a.describe(cmd.Context(), k, object.Name{Namespace: namespace, Name: name})
		},
		ValidArgsFunction: a.completeObject,
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", namespace, "namespace of the object")
	return c
}

func (a *app) describe(ctx context.Context, k *kind, n object.Name) error {
	client, ctx, cancel := a.client(ctx)
	defer cancel()
	items, err := client.Objects(ctx, admin.Selection{Kinds: k.objectKinds(), Namespace: n.Namespace, Name: n.Name, Details: true})
	if err != nil {
		return err
	}
	if len(items) == 0 {
		all, err := client.Objects(ctx, admin.Selection{Kinds: k.objectKinds()})
		if err != nil {
			return err
		}
		return notFound(k, n, false, all)
	}
	for i, it := range items {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		if err := a.describeItem(a.stdout, it); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) describeItem(w io.Writer, it admin.Item) error {
	o, err := decode(it)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, a.colors.bold(object.Printable(it.Key.String())))
	facts := &table{indent: "  "}
	fact := func(name, value string) {
		if value != "" {
			facts.add(plain(name+":"), plain(value))
		}
	}
	fact("Place", it.Place.String())
	if created := o.GetCreationTimestamp(); !created.IsZero() {
		fact("Created", fmt.Sprintf("%s (%s ago)", created.UTC().Format(time.RFC3339), age(o)))
	}
	fact("Generation", fmt.Sprint(o.GetGeneration()))
	fact("Labels", pairs(o.GetLabels()))
	fact("Annotations", pairs(o.GetAnnotations()))
	if wl, ok := o.(*v1alpha1.Workload); ok {
		fact("Address", wl.Status.Address)
		if wl.Status.PID != 0 {
			fact("PID", fmt.Sprint(wl.Status.PID))
		}
		fact("Restarts", fmt.Sprint(wl.Status.Restarts))
	}
	if g, ok := o.(*gatewayv1.Gateway); ok {
		fact("Addresses", addressesOf(g))
	}
	if err := facts.write(w); err != nil {
		return err
	}
	if err := a.describeSpec(w, it); err != nil {
		return err
	}
	a.describeStatus(w, it, o)
	a.describeDetails(w, it)
	if len(it.Findings) > 0 {
		fmt.Fprintln(w, a.colors.bold("Findings"))
		a.renderFindings(indented{w}, a.colors, it.Findings)
	}
	return nil
}

// addressesOf are the addresses of a Gateway, each with its routability where it
// is not any.
func addressesOf(g *gatewayv1.Gateway) string {
	var all []string
	for _, ad := range g.Status.Addresses {
		text := ad.Value
		if ad.Routability != nil && *ad.Routability != "" {
			text += " (" + string(*ad.Routability) + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// describeSpec writes what the object says, as YAML.
func (a *app) describeSpec(w io.Writer, it admin.Item) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(it.Object, &all); err != nil {
		return err
	}
	for _, field := range []string{"apiVersion", "kind", "metadata", "status"} {
		delete(all, field)
	}
	if len(all) == 0 {
		return nil
	}
	var value any = all
	title := "Content"
	if spec, ok := all["spec"]; ok && len(all) == 1 {
		title, value = "Spec", spec
	}
	data, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, a.colors.bold(title))
	_, err = io.WriteString(indented{w}, object.Printable(string(data)))
	return err
}

func (a *app) describeStatus(w io.Writer, it admin.Item, o metav1.Object) {
	var status struct {
		Status struct {
			Conditions []metav1.Condition `json:"conditions"`
			Ancestors  []struct {
				Conditions []metav1.Condition `json:"conditions"`
			} `json:"ancestors"`
		} `json:"status"`
	}
	if err := json.Unmarshal(it.Object, &status); err == nil {
		conditions := status.Status.Conditions
		for _, an := range status.Status.Ancestors {
			conditions = append(conditions, an.Conditions...)
		}
		a.conditions(w, "", "Conditions", conditions)
	}
	if r, ok := routeOf(o); ok {
		fmt.Fprintln(w, a.colors.bold("Parents"))
		for _, p := range r.parents() {
			var conditions []metav1.Condition
			if p.status != nil {
				conditions = p.status.Conditions
			}
			fmt.Fprintf(w, "  %s: %s\n", object.Printable(p.name), a.verdict(p))
			a.conditions(w, "  ", "", conditions)
		}
	}
	if ls := listenersOf(o); len(ls) > 0 {
		fmt.Fprintln(w, a.colors.bold("Listeners"))
		for _, l := range ls {
			fmt.Fprintf(w, "  %s\n", object.Printable(fmt.Sprintf("%s: %s %s, port %d, %d routes attached", l.name, l.protocol, l.host, l.port, l.attached)))
			a.conditions(w, "  ", "", l.conditions)
		}
	}
}

func (a *app) verdict(p parent) string {
	switch {
	case !p.known:
		return a.colors.red("not attached") + ": windrose found no such parent of its own"
	case !p.accepted:
		return a.colors.red("not attached")
	case p.why != "":
		return a.colors.yellow("attached") + ", but some of its requests fail"
	}
	return a.colors.green("attached")
}

func (a *app) conditions(w io.Writer, indent, title string, all []metav1.Condition) {
	if len(all) == 0 {
		return
	}
	if title != "" {
		fmt.Fprintln(w, a.colors.bold(title))
	}
	t := &table{indent: indent + "  "}
	for _, c := range all {
		since := "-"
		if !c.LastTransitionTime.IsZero() {
			since = duration.HumanDuration(time.Since(c.LastTransitionTime.Time))
		}
		t.add(plain(c.Type), a.truth(c.Status), plain(c.Reason), plain(since), plain(c.Message))
	}
	_ = t.write(w) // as with all that describe prints
}

func (a *app) describeDetails(w io.Writer, it admin.Item) {
	if it.Kind == "Service" || it.Kind == "XBackend" {
		fmt.Fprintln(w, a.colors.bold("Endpoints"))
		if len(it.Endpoints) == 0 {
			fmt.Fprintln(w, "  <none>: no route uses this "+it.Kind)
		}
		for _, e := range it.Endpoints {
			list := strings.Join(e.Endpoints, ", ")
			switch {
			case e.Hostname != "":
				list = "the addresses of " + e.Hostname
			case list == "":
				list = "<none>: no ready workload and no EndpointSlice; windrose get workloads -n " + it.Namespace + " says why one is not ready"
			}
			fmt.Fprintf(w, "  %s\n", object.Printable(e.Service+": "+list))
		}
	}
	if len(it.Output) > 0 {
		fmt.Fprintln(w, a.colors.bold("Output"))
		for _, l := range it.Output {
			fmt.Fprintf(w, "  %s %s  %s\n", l.Time.Local().Format("15:04:05"), l.Stream, object.Printable(l.Text))
		}
	}
}

func pairs(m map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, k+"="+m[k])
	}
	return strings.Join(all, ", ")
}

// indented writes lines with two blanks before them; what is written ends with
// a line feed.
type indented struct{ w io.Writer }

func (i indented) Write(p []byte) (int, error) {
	text := strings.TrimSuffix(string(p), "\n")
	_, err := io.WriteString(i.w, "  "+strings.ReplaceAll(text, "\n", "\n  ")+"\n")
	return len(p), err
}

// renderFindings writes findings for people.
func (a *app) renderFindings(w io.Writer, c colors, all []object.Finding) {
	for _, f := range all {
		text := object.Render(f.Public())
		if c.on {
			paint := c.yellow
			if f.Severity == object.Error {
				paint = c.red
			}
			word := string(f.Severity) + ":"
			text = strings.Replace(text, word, paint(word), 1)
		}
		io.WriteString(w, text)
	}
}

// readyReason is the reason of a workload's Ready condition.
func readyReason(w *v1alpha1.Workload) string {
	if c := meta.FindStatusCondition(w.Status.Conditions, "Ready"); c != nil {
		return c.Reason
	}
	return ""
}
