package dataplane

import (
	"testing"

	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/telemetry"
)

// What configuration may name, telemetry has a value for.
func TestTraceKeysAreKnown(t *testing.T) {
	for _, key := range plan.TraceKeys() {
		if !telemetry.Standard(key) {
			t.Errorf("attribute %s of the plan has no value", key)
		}
	}
}
