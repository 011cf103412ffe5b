package telemetry_test

import (
	"context"
	"io"
	"testing"

	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/telemetry"
)

// busyLoop is a loop with some routes; the records know their slots.
func busyLoop(log *telemetry.Log, n int) (*telemetry.Loop, []*record.Record) {
	h := telemetry.NewHub(telemetry.Config{Log: log})
	l := h.Attach(now)
	records := make([]*record.Record, n)
	for i := range records {
		records[i] = answer(name(i), name(i), 200)
		records[i].RuleSlot, records[i].ServiceSlot = i, i
		l.Emit(records[i])
	}
	return l, records
}

func BenchmarkEmit(b *testing.B) {
	for _, c := range []struct {
		name  string
		mode  telemetry.LogMode
		slots bool
	}{
		{"log=off", telemetry.LogOff, true},
		{"log=off/no-slots", telemetry.LogOff, false},
		{"log=on", telemetry.LogOn, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			log := telemetry.NewLog(io.Discard, 0)
			go func() { _ = log.Run(b.Context()) }()
			l, records := busyLoop(log, 64)
			if !c.slots {
				for _, r := range records {
					r.RuleSlot, r.ServiceSlot = -1, -1
				}
			}
			l.Use(telemetry.Logging{Mode: c.mode})
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				l.Emit(records[i&63])
				i++
			}
		})
	}
}

func BenchmarkScrape(b *testing.B) {
	h := telemetry.NewHub(telemetry.Config{})
	l := h.Attach(now)
	for i := range 500 {
		h.Use(1, telemetry.Names{Routes: []string{name(i)}, Services: []string{name(i)}}, telemetry.Names{})
		l.Emit(answer(name(i), name(i), 200))
	}
	var text []byte
	b.ReportAllocs()
	for b.Loop() {
		text = h.AppendMetrics(context.Background(), text[:0])
	}
	b.SetBytes(int64(len(text)))
}

func BenchmarkID(b *testing.B) {
	ids := telemetry.NewIDs()
	var id []byte
	b.ReportAllocs()
	for b.Loop() {
		id = ids.Append(id[:0])
	}
}
