package admin

import (
	"maps"
	"slices"
	"time"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/telemetry"
)

// controlFamily is one of the control part's own metrics.
type controlFamily struct {
	telemetry.Metric
	show func(p *telemetry.Page, v *View, up bool)
}

// controlFamilies are all of them, sorted by name.
var controlFamilies = []controlFamily{
	{
		telemetry.Metric{Name: "windrose_control_busy_seconds_total", Type: telemetry.Counter, Help: "Time spent on translating the configuration."},
		func(p *telemetry.Page, v *View, _ bool) { p.Value(v.Control.Busy.Seconds()) },
	},
	{
		telemetry.Metric{Name: "windrose_control_changes_total", Type: telemetry.Counter, Help: "Times that the configuration was translated."},
		func(p *telemetry.Page, v *View, _ bool) { p.Count(v.Control.Changes) },
	},
	{
		telemetry.Metric{Name: "windrose_control_dataplane_restarts_total", Type: telemetry.Counter, Help: "Times that the data plane was started again."},
		func(p *telemetry.Page, v *View, _ bool) { p.Count(v.Control.Restarts) },
	},
	{
		telemetry.Metric{Name: "windrose_control_dataplane_up", Type: telemetry.Gauge, Help: "Whether the data plane answered for this page."},
		func(p *telemetry.Page, _ *View, up bool) {
			if up {
				p.Count(1)
				return
			}
			p.Count(0)
		},
	},
	{
		telemetry.Metric{Name: "windrose_control_findings", Type: telemetry.Gauge, Help: "Findings about objects.", Labels: []string{"severity"}},
		func(p *telemetry.Page, v *View, _ bool) {
			findings := map[object.Severity]uint64{}
			for i := range v.Findings {
				findings[v.Findings[i].Severity]++
			}
			for _, s := range []object.Severity{object.Error, object.Warning, object.Info} {
				p.Count(findings[s], string(s))
			}
		},
	},
	{
		telemetry.Metric{Name: "windrose_control_objects", Type: telemetry.Gauge, Help: "Objects that are in use.", Labels: []string{"kind"}},
		func(p *telemetry.Page, v *View, _ bool) {
			objects := map[string]uint64{}
			for o := range v.Set.All {
				objects[object.KindOf(o)]++
			}
			for _, kind := range slices.Sorted(maps.Keys(objects)) {
				p.Count(objects[kind], kind)
			}
		},
	},
	{
		telemetry.Metric{Name: "windrose_control_plan_applied_version", Type: telemetry.Gauge, Help: "Version of the plan that the data plane uses."},
		func(p *telemetry.Page, v *View, _ bool) { p.Count(v.Control.Applied) },
	},
	{
		telemetry.Metric{Name: "windrose_control_plan_timestamp_seconds", Type: telemetry.Gauge, Help: "When the plan was made last, in Unix time; 0 before the first."},
		func(p *telemetry.Page, v *View, _ bool) {
			if v.Control.Since.IsZero() {
				p.Count(0)
				return
			}
			p.Value(float64(v.Control.Since.UnixMilli()) / 1000)
		},
	},
	{
		telemetry.Metric{Name: "windrose_control_plan_version", Type: telemetry.Gauge, Help: "Version of the plan that was made last."},
		func(p *telemetry.Page, v *View, _ bool) { p.Count(v.Control.Version) },
	},
	{
		telemetry.Metric{Name: "windrose_control_workloads", Type: telemetry.Gauge, Help: "Workloads by readiness.", Labels: []string{"ready"}},
		func(p *telemetry.Page, v *View, _ bool) {
			p.Count(uint64(v.Control.WorkloadsUp), "true")
			p.Count(uint64(v.Control.WorkloadsDown), "false")
		},
	},
}

// DescribeMetrics lists the control part's own metrics, sorted by name.
func DescribeMetrics() []telemetry.Metric {
	all := make([]telemetry.Metric, len(controlFamilies))
	for i := range controlFamilies {
		all[i] = controlFamilies[i].Metric
	}
	return all
}

// controlPage is the control part's page of metrics: what every process of
// windrose shows of itself, and its own numbers.
func controlPage(version Version, started time.Time, v *View, up bool) []byte {
	var p telemetry.Page
	for i := range controlFamilies {
		p.Family(controlFamilies[i].Metric)
		controlFamilies[i].show(&p, v, up)
	}
	return telemetry.AppendProcess(p.Bytes(), telemetry.Config{Process: "control", Version: version.Version}, started)
}
