package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/tap"
)

// topRun is one run of the command top.
type topRun struct {
	*app
	once     bool
	interval time.Duration
	output   string
}

// load is what top shows of one interval.
type load struct {
	Time        time.Time  `json:"time"`
	Interval    tap.Millis `json:"interval_ms"`
	DataPlane   bool       `json:"data_plane"` // it answered
	Rate        float64    `json:"requests_per_second"`
	Active      int        `json:"requests_active"`
	Connections int        `json:"connections_active"`
	Routes      []loadLine `json:"routes"`
	Services    []loadLine `json:"services"`
}

// loadLine is a route or a service, the busiest first.
type loadLine struct {
	Name   string     `json:"name"`
	Rate   float64    `json:"requests_per_second"`
	Errors float64    `json:"errors"`           // share of answers with a status of 5xx
	P50    *seconds   `json:"p50_ms,omitempty"` // without requests there is none
	P99    *seconds   `json:"p99_ms,omitempty"`
	Of     *placeLoad `json:"endpoints,omitempty"` // of services
}

type placeLoad struct {
	Active  int `json:"requests_active"`
	Ready   int `json:"ready"`
	LeftOut int `json:"left_out"`
}

// seconds is a time that can be beyond all buckets.
type seconds float64

// MarshalJSON writes milliseconds; a time beyond the last bucket is null.
func (s seconds) MarshalJSON() ([]byte, error) {
	if math.IsInf(float64(s), 1) {
		return []byte("null"), nil
	}
	return json.Marshal(math.Round(float64(s)*1e6) / 1e3)
}

func (s *seconds) text() string {
	switch {
	case s == nil:
		return "-"
	case math.IsInf(float64(*s), 1):
		return ">10s" // the last bucket's bound
	}
	return took(time.Duration(float64(*s) * float64(time.Second)))
}

func (a *app) topCommand() *cobra.Command {
	t := &topRun{app: a}
	c := &cobra.Command{
		Use:   "top",
		Short: "Show the load of routes and services, live",
		Long: `Shows how many requests routes and services get, how many of the answers have a
status of 5xx, how long they take, how many requests are in flight, and how many
endpoints are ready; the busiest first, and new each interval until it is
interrupted. On a terminal the table is replaced in place.

All comes from the metrics. Times are estimated from their histograms: of a route
from the first byte of the request to the last of the answer, of a service to the
head of its answer. _none are requests that no route took.`,
		Example: `  windrose top
  windrose top --once
  windrose top --once -o json | jq '.services[] | select(.errors > 0.01)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("-o", t.output, "text", "json"); err != nil {
				return err
			}
			if t.interval < 100*time.Millisecond {
				return usage("--interval %v is too short: 100ms is the shortest", t.interval)
			}
			return t.run(cmd.Context())
		},
	}
	c.Flags().BoolVar(&t.once, "once", false, "measure one interval, show it and end")
	c.Flags().DurationVar(&t.interval, "interval", 2*time.Second, "how long to measure for each table")
	c.Flags().StringVarP(&t.output, "output", "o", "text", "form: text or json, one line each interval")
	return c
}

func (t *topRun) run(ctx context.Context) error {
	client := admin.NewClient(t.admin)
	ctx, stop := untilInterrupted(ctx)
	defer stop()
	_, _, terminal := sizeOf(t.stdout)
	terminal = terminal && !t.once && t.output == "text"
	if terminal {
		// The other screen, without cursor; what was there comes back at the end.
		fmt.Fprint(t.stdout, "\x1b[?1049h\x1b[?25l")
		defer fmt.Fprint(t.stdout, "\x1b[?25h\x1b[?1049l")
	}
	err := t.loop(ctx, client, terminal)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

func (t *topRun) loop(ctx context.Context, client *admin.Client, terminal bool) error {
	before, err := t.scrape(ctx, client)
	if err != nil {
		return err
	}
	tick := time.NewTicker(t.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now, err := t.scrape(ctx, client)
		if err != nil {
			return err
		}
		if err := t.print(now.since(before), terminal); err != nil || t.once {
			return err
		}
		before = now
	}
}

func (t *topRun) scrape(ctx context.Context, client *admin.Client) (*scrape, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	page, err := client.Metrics(ctx)
	if err != nil {
		return nil, err
	}
	return parseScrape(page, time.Now()), nil
}

// since is the load between two scrapes.
func (s *scrape) since(before *scrape) *load {
	interval := s.at.Sub(before.at)
	l := &load{
		Time: s.at.UTC(), Interval: tap.Millis(interval), DataPlane: s.up, Active: int(s.active), Connections: int(s.conns),
		Routes: lines(s.routes, before.routes, interval, false), Services: lines(s.services, before.services, interval, true),
	}
	for _, r := range l.Routes {
		l.Rate += r.Rate
	}
	return l
}

func lines(now, before map[string]*counts, interval time.Duration, service bool) []loadLine {
	all := make([]loadLine, 0, len(now))
	for name, c := range now {
		d := c.since(before[name])
		l := loadLine{Name: name, Rate: d.total / interval.Seconds()}
		if d.total > 0 {
			l.Errors = d.errors / d.total
		}
		l.P50, l.P99 = timeOf(d.quantile(0.5)), timeOf(d.quantile(0.99))
		if service {
			l.Of = &placeLoad{Active: int(d.active), Ready: int(d.ready), LeftOut: int(d.out)}
		}
		if strings.HasPrefix(name, "_") && d.total == 0 {
			continue // no route, and no request either
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b loadLine) int {
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), strings.Compare(a.Name, b.Name))
	})
	return all
}

func timeOf(s float64) *seconds {
	if math.IsNaN(s) {
		return nil
	}
	return new(seconds(s))
}

func (t *topRun) print(l *load, terminal bool) error {
	if t.output == "json" {
		return json.NewEncoder(t.stdout).Encode(l)
	}
	var b bytes.Buffer
	columns, height, _ := sizeOf(t.stdout)
	rows := math.MaxInt
	if terminal {
		rows = max((height-8)/2, 1) // heads, blanks and what is left out
		b.WriteString("\x1b[H\x1b[J")
	}
	fmt.Fprintf(&b, "%s   %s requests/s   %d in flight   %d connections", l.Time.Local().Format(time.TimeOnly), rateText(l.Rate), l.Active, l.Connections)
	if !l.DataPlane {
		b.WriteString("   " + t.colors.red("the data plane does not answer"))
	}
	b.WriteString("\n\n")
	if err := t.table(&b, "ROUTE", l.Routes, rows, columns); err != nil {
		return err
	}
	b.WriteByte('\n')
	if err := t.table(&b, "SERVICE", l.Services, rows, columns); err != nil {
		return err
	}
	if !terminal && !t.once {
		b.WriteByte('\n')
	}
	_, err := t.stdout.Write(b.Bytes())
	return err
}

// nameRoom is what a line needs besides the name.
const nameRoom = 60

func (t *topRun) table(b *bytes.Buffer, what string, all []loadLine, rows, columns int) error {
	tab := &table{head: []string{what, "REQ/S", "5XX", "P50", "P99"}}
	if what == "SERVICE" {
		tab.head = append(tab.head, "IN FLIGHT", "READY")
	}
	for i, l := range all {
		if i == rows {
			break
		}
		name := clean(l.Name)
		if columns > nameRoom+10 {
			name = fit(name, columns-nameRoom)
		}
		errs := cell{text: fmt.Sprintf("%.1f%%", 100*l.Errors)}
		if l.Errors > 0 {
			errs.paint = t.colors.red
		}
		cells := []cell{plain(name), plain(rateText(l.Rate)), errs, plain(l.P50.text()), plain(l.P99.text())}
		if l.Of != nil {
			ready := cell{text: fmt.Sprintf("%d/%d", l.Of.Ready, l.Of.Ready+l.Of.LeftOut)}
			if l.Of.LeftOut > 0 || l.Of.Ready == 0 {
				ready.paint = t.colors.red
			}
			cells = append(cells, plain(fmt.Sprint(l.Of.Active)), ready)
		}
		tab.add(cells...)
	}
	if len(all) == 0 {
		tab.add(plain(""))
	}
	if err := tab.write(b); err != nil {
		return err
	}
	if more := len(all) - rows; more > 0 {
		fmt.Fprintf(b, "and %d more\n", more)
	}
	return nil
}

// rateText has three digits that matter.
func rateText(r float64) string {
	switch {
	case r == 0:
		return "0"
	case r < 10:
		return fmt.Sprintf("%.2f", r)
	case r < 100:
		return fmt.Sprintf("%.1f", r)
	}
	return fmt.Sprintf("%.0f", r)
}
