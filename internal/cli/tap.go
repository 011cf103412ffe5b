package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/tap"
)

// tapping is one run of the command tap.
type tapping struct {
	*app
	filter  tap.Filter
	output  string
	limit   int
	last    int
	lasting time.Duration

	line    tapLine
	shown   int
	dropped uint64
	known   map[string]bool // what --last has shown
}

// errEnough ends a tap that has shown all that it was to show.
var errEnough = errors.New("enough")

func (a *app) tapCommand() *cobra.Command {
	t := &tapping{app: a}
	c := &cobra.Command{
		Use:   "tap",
		Short: "Show requests as they end",
		Long: `Shows the requests, connections and flows that end from now on, one line each,
until it is interrupted. The flags choose which; a request is shown that all of
them take. Filtering happens in the data plane: what is not asked for costs
nothing.

A name of a route, listener or service is one as metrics and the access log show
it, or a part of it: HTTPRoute/default/shop, default/shop and shop are the same
here.

Queries are left out, as in the access log, because tokens travel there. --query
shows them, to root and to the user that windrose runs as.

The data plane never waits for a tap. It passes on up to 2,000 requests a second;
what it could not is counted, and the count is told.`,
		Example: `  windrose tap --code 5xx
  windrose tap --route shop --slow 200ms
  windrose tap --fault any --last 20
  windrose tap --path /api -o json --limit 100 | jq .duration_ms`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("-o", t.output, "text", "json"); err != nil {
				return err
			}
			if _, err := t.filter.Compile(); err != nil {
				return usage("%w", err)
			}
			if t.last < 0 || t.last > tap.MaxRecent {
				return usage("--last %d is not a number from 0 to %d", t.last, tap.MaxRecent)
			}
			if t.limit < 0 || t.lasting < 0 {
				return usage("--limit and --for are not negative")
			}
			return t.run(cmd.Context())
		},
	}
	flags := c.Flags()
	filterFlags(c, &t.filter)
	flags.BoolVar(&t.filter.Query, "query", false, "show queries")
	flags.IntVar(&t.last, "last", 0, "begin with so many of the newest requests that the data plane remembers")
	flags.IntVar(&t.limit, "limit", 0, "end after so many requests")
	flags.DurationVar(&t.lasting, "for", 0, "end after so long")
	flags.StringVarP(&t.output, "output", "o", "text", "form: text or json, one line each")
	return c
}

// filterFlags are the flags that choose requests.
func filterFlags(c *cobra.Command, f *tap.Filter) {
	flags := c.Flags()
	flags.StringVar(&f.Route, "route", "", "that this route took")
	flags.StringVar(&f.Listener, "listener", "", "that came in through this listener")
	flags.StringVar(&f.Service, "service", "", "that went to this service; without a port to any of its ports")
	flags.StringVar(&f.Code, "code", "", "with this status, as 404, or of this class, as 5xx")
	flags.StringVar(&f.Path, "path", "", "whose path begins so")
	flags.StringVar(&f.Host, "host", "", "for this host, or with *.NAME for one below it")
	flags.StringVar(&f.Method, "method", "", "with this method")
	flags.StringVar(&f.Fault, "fault", "", "that ended in this fault, or in any")
	flags.StringVar(&f.Client, "client", "", "from this address or prefix")
	flags.DurationVar(&f.Slow, "slow", 0, "that took at least so long, as 200ms")
}

func (t *tapping) run(ctx context.Context) error {
	client := admin.NewClient(t.admin)
	ctx, stop := untilInterrupted(ctx)
	defer stop()
	if t.lasting > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.lasting)
		defer cancel()
	}
	return t.end(ctx, client.Tap(ctx, t.filter, func(e admin.TapEvent) error {
		if e.Type == admin.TapBegun && t.last > 0 {
			// Not before: nothing that ends in between is missed.
			if err := t.recall(ctx, client); err != nil {
				return err
			}
		}
		return t.tell(e)
	}))
}

// recall shows what is remembered, the oldest first.
func (t *tapping) recall(ctx context.Context, client *admin.Client) error {
	f := t.filter
	f.Query = false // it is not remembered
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	found, err := client.Recent(ctx, f, t.last)
	if err != nil {
		return err
	}
	t.known = map[string]bool{}
	slices.Reverse(found.Items)
	for i := range found.Items {
		t.known[sameRequest(&found.Items[i])] = true
		if err := t.show(&found.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

func sameRequest(e *tap.Event) string { return e.ID + e.Time.String() }

func (t *tapping) tell(e admin.TapEvent) error {
	switch e.Type {
	case admin.TapBegun:
		if t.output == "text" && !t.filter.Query {
			fmt.Fprintln(t.stderr, "Requests are shown as they end, without their queries. Ctrl-C ends.")
		}
	case admin.TapRequest:
		if !t.known[sameRequest(e.Request)] {
			return t.show(e.Request)
		}
	case admin.TapDropped:
		t.dropped += e.Dropped
		fmt.Fprintf(t.stderr, "dropped %d: more requests end than a tap passes on; choose fewer\n", e.Dropped)
	case admin.TapAlive:
	}
	return nil
}

func (t *tapping) show(e *tap.Event) error {
	var err error
	if t.output == "json" {
		err = json.NewEncoder(t.stdout).Encode(e)
	} else {
		err = t.line.write(t.app, e)
	}
	if err != nil {
		return err
	}
	if t.shown++; t.limit > 0 && t.shown >= t.limit {
		return errEnough
	}
	return nil
}

// end says how the tap went. That its time is over, or that it is interrupted,
// is no error.
func (t *tapping) end(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil && !errors.Is(err, errEnough) {
		return err
	}
	if t.output == "text" {
		fmt.Fprintf(t.stderr, "%d requests, %d dropped\n", t.shown, t.dropped)
	}
	return nil
}

// tapLine lays out the lines of a tap. What has no room on a terminal is left
// out: first the service, then the route.
type tapLine struct{ headed bool }

// The widths of columns; the target takes what is left.
const (
	tapTime    = 12
	tapCode    = 4
	tapTook    = 8
	tapMethod  = 7
	tapRoute   = 30
	tapService = 34
	tapTarget  = 30 // at least
)

func (l *tapLine) write(a *app, e *tap.Event) error {
	columns, _, terminal := sizeOf(a.stdout)
	rest := columns - tapTime - tapCode - tapTook - tapMethod - 4
	route := !terminal || rest >= tapTarget+tapRoute+1
	if route {
		rest -= tapRoute + 1
	}
	service := !terminal || rest >= tapTarget+tapService+1
	if service {
		rest -= tapService + 1
	}
	var b strings.Builder
	if !l.headed {
		l.headed = true
		fmt.Fprintf(&b, "%-*s %-*s %*s %-*s ", tapTime, "TIME", tapCode, "CODE", tapTook, "TOOK", tapMethod, "METHOD")
		if route {
			fmt.Fprintf(&b, "%-*s ", tapRoute, "ROUTE")
		}
		if service {
			fmt.Fprintf(&b, "%-*s ", tapService, "SERVICE")
		}
		b.WriteString("TARGET\n")
	}
	fmt.Fprintf(&b, "%s %s %*s %s ", e.Time.Local().Format("15:04:05.000"), a.code(e), tapTook, took(time.Duration(e.Duration)),
		padded(fit(clean(cmp.Or(e.Method, e.Protocol)), tapMethod), tapMethod))
	if route {
		b.WriteString(padded(fit(clean(routeText(e)), tapRoute), tapRoute) + " ")
	}
	if service {
		b.WriteString(padded(fit(clean(serviceText(e)), tapService), tapService) + " ")
	}
	target := clean(e.Host + e.Path)
	fault := ""
	if e.Fault != "" {
		fault = "  " + clean(e.Fault)
	}
	if !terminal {
		rest = 0
	} else {
		rest = max(rest-len(fault), 1)
	}
	b.WriteString(fit(cmp.Or(target, "-"), rest) + a.colors.red(fault) + "\n")
	_, err := a.stdout.Write([]byte(b.String()))
	return err
}

// code is the status in its colour and column.
func (a *app) code(e *tap.Event) string {
	text := padded("-", tapCode)
	if e.Status != 0 {
		text = padded(strconv.Itoa(e.Status), tapCode)
	}
	switch {
	case e.Status >= 500 || e.Status == 0 && e.Fault != "":
		return a.colors.red(text)
	case e.Status >= 400:
		return a.colors.yellow(text)
	case e.Status >= 200 && e.Status < 300:
		return a.colors.green(text)
	}
	return text
}

// routeText names the route's rule without its kind.
func routeText(e *tap.Event) string {
	if e.Route == "" || e.Rule == nil {
		return "-"
	}
	_, name, _ := strings.Cut(e.Route, "/")
	return fmt.Sprintf("%s rule %d", name, *e.Rule)
}

func serviceText(e *tap.Event) string {
	text := cmp.Or(e.Service, "-")
	if e.Endpoint != "" {
		text += " " + e.Endpoint
	}
	if e.Attempts > 1 {
		text += fmt.Sprintf(" (%d attempts)", e.Attempts)
	}
	return text
}

// took is a time with three digits that matter.
func took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2fms", float64(d)/1e6)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
