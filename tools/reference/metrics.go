package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/telemetry"
)

func metrics(b *bytes.Buffer) {
	b.WriteString(`# Metrics

The data plane serves these in Prometheus' text format at ` + "`/metrics`" + ` on 127.0.0.1:15020. The admin address (127.0.0.1:15000) serves
them too, together with the control part's: the same numbers of the process, under ` + "`process=\"control\"`" + `, and those that begin with
` + "`windrose_control_`" + `, at the end of the table.

Series are bounded: labels are names of objects, status codes and flags, never what a client sent. Beyond ` + "`windrose_metric_series_limit`" + ` routes
and services are counted under ` + "`_other`" + `; requests that no route took under ` + "`_none`" + `. The series of an object that is gone go with it.

| metric | type | labels | |
|---|---|---|---|
`)
	for _, m := range slices.Concat(telemetry.Describe(), admin.DescribeMetrics()) {
		labels := make([]string, len(m.Labels))
		for i, l := range m.Labels {
			labels[i] = "`" + l + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, strings.Join(labels, ", "), m.Help)
	}
}
