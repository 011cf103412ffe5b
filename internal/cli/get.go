package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/object"
)

// get is one run of the command get.
type get struct {
	*app
	kind          *kind
	name          string
	namespace     string
	allNamespaces bool
	output        string
	watch         bool
	table         *table // of a watch
}

func (a *app) getCommand() *cobra.Command {
	g := &get{app: a}
	c := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "List objects with what became of them",
		Long: `Lists the objects that the running windrose uses, with their status.

Kinds: ` + kindList() + `.
"routes" is every kind of route and Ingress, a line for each parent, and says
why one is not attached. "listeners" is every listener of Gateways and
ListenerSets.`,
		Example: `  windrose get routes -A
  windrose get gateway web -o yaml
  windrose get workloads -w`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := oneOf("-o", g.output, "table", "wide", "json", "yaml", "name"); err != nil {
				return err
			}
			if g.kind, g.name, err = kindAndName(args); err != nil {
				return err
			}
			if ns, n, ok := strings.Cut(g.name, "/"); ok { // as names are printed
				g.namespace, g.name = ns, n
			}
			return g.run(cmd.Context())
		},
		ValidArgsFunction: a.completeObject,
	}
	flags := c.Flags()
	flags.StringVarP(&g.namespace, "namespace", "n", metav1.NamespaceDefault, "namespace to look into")
	flags.BoolVarP(&g.allNamespaces, "all-namespaces", "A", false, "look into all namespaces")
	flags.StringVarP(&g.output, "output", "o", "table", "form: table, wide, json, yaml or name")
	flags.BoolVarP(&g.watch, "watch", "w", false, "go on and tell changes")
	return c
}

// completeObject offers kinds, and then the names of a kind's objects.
func (a *app) completeObject(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return completeKinds(), cobra.ShellCompDirectiveNoFileComp
	}
	k, err := findKind(args[0])
	if err != nil || len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client, ctx, cancel := a.client(cmd.Context())
	defer cancel()
	namespace, _ := cmd.Flags().GetString("namespace")
	items, _ := client.Objects(ctx, admin.Selection{Kinds: k.objectKinds(), Namespace: namespace})
	var names []string
	for _, it := range items {
		names = append(names, it.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (g *get) selection() admin.Selection {
	s := admin.Selection{Kinds: g.kind.objectKinds(), Namespace: g.namespace, Name: g.name}
	if g.allNamespaces {
		s.Namespace = ""
	}
	// Endpoints are shown in tables of Services.
	s.Details = g.kind.name == "Service" && (g.output == "table" || g.output == "wide")
	return s
}

func (g *get) run(ctx context.Context) error {
	if g.kind.name == viewFindings {
		return g.findings(ctx)
	}
	if g.watch {
		return g.follow(ctx)
	}
	client, ctx, cancel := g.client(ctx)
	defer cancel()
	items, err := client.Objects(ctx, g.selection())
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return g.nothing(ctx, client)
	}
	return g.print(items)
}

// nothing says that there is none. Without a name that is no error.
func (g *get) nothing(ctx context.Context, client *admin.Client) error {
	all, err := client.Objects(ctx, admin.Selection{Kinds: g.kind.objectKinds()})
	if err != nil {
		return err
	}
	if g.name != "" {
		return notFound(g.kind, object.Name{Namespace: g.namespace, Name: g.name}, g.allNamespaces, all)
	}
	if g.output == "json" || g.output == "yaml" {
		if err := g.printObjects(nil); err != nil {
			return err
		}
	}
	if len(all) > 0 {
		fmt.Fprintf(g.stderr, "No %s in namespace %s; %d elsewhere: use -A.\n", g.kind.plural, g.namespace, len(all))
		return nil
	}
	fmt.Fprintf(g.stderr, "No %s.\n", g.kind.plural)
	return nil
}

// notFound names the nearest of the objects that are there.
func notFound(k *kind, n object.Name, anywhere bool, all []admin.Item) error {
	where := " in namespace " + n.Namespace
	if k.cluster() {
		where = ""
	}
	if anywhere {
		where = " in any namespace"
	}
	f := &failure{code: exitNotFound, err: fmt.Errorf("there is no %s %q%s", k.name, n.Name, where), mend: "windrose get " + k.plural + " -A lists all"}
	for _, it := range all {
		if it.Name == n.Name {
			f.mend = fmt.Sprintf("there is one in namespace %s: use -n %s", it.Namespace, it.Namespace)
			return f
		}
	}
	near := object.Nearest(n.Name, func(yield func(string) bool) {
		for _, it := range all {
			if (k.cluster() || anywhere || it.Namespace == n.Namespace) && !yield(it.Name) {
				return
			}
		}
	})
	if near != "" {
		f.mend = "did you mean " + near + "?"
	}
	return f
}

func (g *get) print(items []admin.Item) error {
	switch g.output {
	case "json", "yaml":
		return g.printObjects(items)
	case "name":
		for _, it := range items {
			fmt.Fprintln(g.stdout, longName(it))
		}
		return nil
	}
	t := &table{head: g.head()}
	for _, it := range items {
		rows, err := g.rows(it)
		if err != nil {
			return err
		}
		t.rows = append(t.rows, rows...)
	}
	return t.write(g.stdout)
}

// longName is KIND.GROUP/NAME, as kubectl writes it.
func longName(it admin.Item) string {
	var m metav1.TypeMeta
	if err := json.Unmarshal(it.Object, &m); err != nil {
		return it.Key.String()
	}
	name := strings.ToLower(it.Kind)
	if gv, err := schema.ParseGroupVersion(m.APIVersion); err == nil && gv.Group != "" {
		name += "." + gv.Group
	}
	return object.Printable(name + "/" + it.Name)
}

// printObjects writes one object, or a List of them.
func (g *get) printObjects(items []admin.Item) error {
	var value any
	if g.name != "" && len(items) == 1 {
		value = items[0].Object
	} else {
		objects := make([]json.RawMessage, 0, len(items))
		for _, it := range items {
			objects = append(objects, it.Object)
		}
		value = map[string]any{"apiVersion": "v1", "kind": "List", "items": objects}
	}
	return writeValue(g.stdout, g.output, value)
}

// listOf is what a list is for a program: never null, also when it is empty.
func listOf[T any](items []T) map[string]any {
	return map[string]any{"items": append([]T{}, items...)}
}

// writeValue writes JSON or YAML.
func writeValue(w io.Writer, form string, value any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(value); err != nil {
		return err
	}
	data := b.Bytes()
	if form == "yaml" {
		var err error
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
	}
	_, err := w.Write(data)
	return err
}

func (g *get) head() []string {
	var head []string
	switch g.kind.name {
	case viewRoutes:
		head = []string{"KIND", "NAME", "HOSTNAMES", "PARENT", "ATTACHED", "AGE"}
	case viewListeners:
		head = []string{"PARENT", "LISTENER", "PORT", "PROTOCOL", "HOSTNAME", "PROGRAMMED", "ATTACHED", "AGE"}
	default:
		head = slices.Concat([]string{"NAME"}, heads[g.kind.name], []string{"AGE"})
	}
	if g.allNamespaces && !g.kind.cluster() {
		head = slices.Insert(head, 0, "NAMESPACE")
	}
	if g.output == "wide" {
		head = append(head, "FINDINGS", "PLACE")
	}
	if g.kind.name == viewRoutes || g.kind.name == viewListeners {
		head = append(head, "WHY NOT") // last, because it is long
	}
	return head
}

// row is one line about an object: cells, and why it is not as it should be
// where the view says so.
type row struct {
	cells []cell
	why   string
}

// rows are the lines of an item in a table.
func (g *get) rows(it admin.Item) ([][]cell, error) {
	o, err := decode(it)
	if err != nil {
		return nil, err
	}
	var list []row
	switch g.kind.name {
	case viewRoutes:
		list = g.routeRows(it, o)
	case viewListeners:
		list = g.listenerRows(o)
	default:
		list = []row{{cells: append([]cell{plain(it.Name)}, g.cells(it, o)...)}}
	}
	var rows [][]cell
	for _, r := range list {
		cells := slices.Concat(r.cells, []cell{plain(age(o))})
		if g.allNamespaces && !g.kind.cluster() {
			cells = slices.Insert(cells, 0, plain(it.Namespace))
		}
		if g.output == "wide" {
			cells = append(cells, g.findingCount(it), plain(it.Place.String()))
		}
		if r.why != "" {
			cells = append(cells, plain(r.why))
		}
		rows = append(rows, cells)
	}
	return rows, nil
}

func (g *get) findingCount(it admin.Item) cell {
	c := cell{text: fmt.Sprint(len(it.Findings))}
	for _, f := range it.Findings {
		switch {
		case f.Severity == object.Error:
			c.paint = g.colors.red
		case f.Severity == object.Warning && c.paint == nil:
			c.paint = g.colors.yellow
		}
	}
	return c
}

func (g *get) findings(ctx context.Context) error {
	client, ctx, cancel := g.client(ctx)
	defer cancel()
	all, err := client.Findings(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(f object.Finding) bool {
		return g.name != "" && f.Object.Name != g.name
	})
	if g.output == "json" || g.output == "yaml" {
		return writeValue(g.stdout, g.output, listOf(all))
	}
	if len(all) == 0 {
		fmt.Fprintln(g.stderr, "No findings.")
	}
	g.renderFindings(g.stdout, g.colors, all)
	return nil
}

// follow prints what is there and then what changes, until it is interrupted.
func (g *get) follow(ctx context.Context) error {
	g.table = &table{head: g.head()}
	var first []admin.Item
	synced := false
	err := admin.NewClient(g.admin).Watch(ctx, g.selection(), func(e admin.Event) error {
		switch {
		case e.Type == admin.Synced:
			synced = true
			return g.tell(first...)
		case !synced:
			first = append(first, e.Item)
			return nil
		case g.output == "json":
			return json.NewEncoder(g.stdout).Encode(e)
		case e.Type == admin.Deleted:
			fmt.Fprintf(g.stderr, "%s is gone\n", object.Printable(e.Item.Key.String()))
			return nil
		}
		return g.tell(e.Item)
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// tell prints items of a watch.
func (g *get) tell(items ...admin.Item) error {
	switch g.output {
	case "json":
		for _, it := range items {
			if err := json.NewEncoder(g.stdout).Encode(admin.Event{Type: admin.Added, Item: it}); err != nil {
				return err
			}
		}
		return nil
	case "yaml":
		for _, it := range items {
			fmt.Fprintln(g.stdout, "---")
			if err := writeValue(g.stdout, g.output, it.Object); err != nil {
				return err
			}
		}
		return nil
	case "name":
		return g.print(items)
	}
	for _, it := range items {
		rows, err := g.rows(it)
		if err != nil {
			return err
		}
		g.table.rows = append(g.table.rows, rows...)
	}
	return g.table.write(g.stdout)
}
