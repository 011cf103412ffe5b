package admin

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"windrose.dev/windrose/internal/object"
)

// writeMetrics writes the control part's numbers in Prometheus' text format.
func writeMetrics(w io.Writer, version Version, v *View, up int) {
	var b bytes.Buffer
	family := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	c := v.Control
	family("windrose_control_info", "gauge", "Version of the control part.")
	fmt.Fprintf(&b, "windrose_control_info{version=%s,go=%s} 1\n", strconv.Quote(version.Version), strconv.Quote(version.Go))

	family("windrose_control_objects", "gauge", "Objects that are in use.")
	objects := map[string]int{}
	for o := range v.Set.All {
		objects[object.KindOf(o)]++
	}
	for _, kind := range slices.Sorted(maps.Keys(objects)) {
		fmt.Fprintf(&b, "windrose_control_objects{kind=%q} %d\n", kind, objects[kind])
	}
	family("windrose_control_findings", "gauge", "Findings about objects.")
	findings := map[object.Severity]int{}
	for i := range v.Findings {
		findings[v.Findings[i].Severity]++
	}
	for _, s := range []object.Severity{object.Error, object.Warning, object.Info} {
		fmt.Fprintf(&b, "windrose_control_findings{severity=%q} %d\n", s, findings[s])
	}
	one := func(name, kind, help string, value any) {
		family(name, kind, help)
		fmt.Fprintf(&b, "%s %v\n", name, value)
	}
	one("windrose_control_plan_version", "gauge", "Version of the plan that was made last.", c.Version)
	one("windrose_control_plan_applied_version", "gauge", "Version of the plan that the data plane uses.", c.Applied)
	if !c.Since.IsZero() {
		one("windrose_control_plan_timestamp_seconds", "gauge", "When the plan was made last.", float64(c.Since.UnixMilli())/1000)
	}
	one("windrose_control_changes_total", "counter", "Times that the configuration was translated.", c.Changes)
	one("windrose_control_busy_seconds_total", "counter", "Time spent on translating the configuration.", c.Busy.Seconds())
	one("windrose_control_dataplane_up", "gauge", "Whether the data plane answered for this page.", up)
	one("windrose_control_dataplane_restarts_total", "counter", "Times that the data plane was started again.", c.Restarts)
	family("windrose_control_workloads", "gauge", "Workloads by readiness.")
	fmt.Fprintf(&b, "windrose_control_workloads{ready=\"true\"} %d\nwindrose_control_workloads{ready=\"false\"} %d\n", c.WorkloadsUp, c.WorkloadsDown)
	if n := residentBytes(); n > 0 {
		one("windrose_control_resident_memory_bytes", "gauge", "Resident memory of the control part.", n)
	}
	_, _ = w.Write(b.Bytes()) // an error means that the client has gone
}

func residentBytes() int {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(data)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0
	}
	return pages * os.Getpagesize()
}
