package admin

import (
	"maps"
	"slices"
	"time"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/telemetry"
)

// controlPage is the control part's page of metrics: what every process of
// windrose shows of itself, and its own numbers.
func controlPage(version Version, started time.Time, v *View, up bool) []byte {
	var p telemetry.Page
	count := func(name string, kind telemetry.Type, help string, n uint64) {
		p.Family(telemetry.Metric{Name: name, Type: kind, Help: help})
		p.Count(n)
	}
	value := func(name string, kind telemetry.Type, help string, x float64) {
		p.Family(telemetry.Metric{Name: name, Type: kind, Help: help})
		p.Value(x)
	}
	p.Family(telemetry.Metric{Name: "windrose_control_objects", Type: telemetry.Gauge, Help: "Objects that are in use.", Labels: []string{"kind"}})
	objects := map[string]uint64{}
	for o := range v.Set.All {
		objects[object.KindOf(o)]++
	}
	for _, kind := range slices.Sorted(maps.Keys(objects)) {
		p.Count(objects[kind], kind)
	}
	p.Family(telemetry.Metric{Name: "windrose_control_findings", Type: telemetry.Gauge, Help: "Findings about objects.", Labels: []string{"severity"}})
	findings := map[object.Severity]uint64{}
	for i := range v.Findings {
		findings[v.Findings[i].Severity]++
	}
	for _, s := range []object.Severity{object.Error, object.Warning, object.Info} {
		p.Count(findings[s], string(s))
	}
	c := v.Control
	count("windrose_control_plan_version", telemetry.Gauge, "Version of the plan that was made last.", c.Version)
	count("windrose_control_plan_applied_version", telemetry.Gauge, "Version of the plan that the data plane uses.", c.Applied)
	if !c.Since.IsZero() {
		value("windrose_control_plan_timestamp_seconds", telemetry.Gauge, "When the plan was made last.", float64(c.Since.UnixMilli())/1000)
	}
	count("windrose_control_changes_total", telemetry.Counter, "Times that the configuration was translated.", c.Changes)
	value("windrose_control_busy_seconds_total", telemetry.Counter, "Time spent on translating the configuration.", c.Busy.Seconds())
	answers := uint64(0)
	if up {
		answers = 1
	}
	count("windrose_control_dataplane_up", telemetry.Gauge, "Whether the data plane answered for this page.", answers)
	count("windrose_control_dataplane_restarts_total", telemetry.Counter, "Times that the data plane was started again.", c.Restarts)
	p.Family(telemetry.Metric{Name: "windrose_control_workloads", Type: telemetry.Gauge, Help: "Workloads by readiness.", Labels: []string{"ready"}})
	p.Count(uint64(c.WorkloadsUp), "true")
	p.Count(uint64(c.WorkloadsDown), "false")
	return telemetry.AppendProcess(p.Bytes(), telemetry.Config{Process: "control", Version: version.Version}, started)
}
