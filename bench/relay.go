package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// relayScenario is a number of byte streams that flow through at a time.
type relayScenario struct {
	Name  string
	Conns int
}

var relays = []relayScenario{
	{"TCP relay, 1 connection", 1},
	{"TCP relay, 8 connections", 8},
}

// relayPort is one way of a contender to carry bytes to the sink.
type relayPort struct {
	label string
	port  int
}

// relayOrder is how the ways are listed.
var relayOrder = []string{"windrose", "nginx", "haproxy", "haproxy, splice-auto", "haproxy, splice-request", "envoy"}

// stream is what one measurement of a relay gave.
type stream struct {
	Bytes   int64   `json:"bytes"` // that arrived in the measured time
	Seconds float64 `json:"seconds"`
	Lost    int64   `json:"lost"`   // sent, and not arrived when all had ended
	Broken  int     `json:"broken"` // connections that failed or did not end
	CPU     []int64 `json:"cpu"`    // nanoseconds, by process

	ProxyCPU float64 `json:"proxyCPU"` // seconds for a GiB
}

const gib = 1 << 30

func (m *machine) relayRound(ctx context.Context, o options, s relayScenario, round int, up []*running, res *results) error {
	for i := range up {
		r := up[(i+round)%len(up)]
		for _, p := range r.relays {
			// Throughput settles soon: half the time is enough.
			one, err := m.relay(ctx, r, p.port, s.Conns, o.duration/2)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", p.label, s.Name, err)
			}
			res.addStream(s.Name, p.label, one)
			fmt.Fprintf(os.Stderr, "round %d  %-31s %-23s %6.3f s CPU/GiB %6.2f GiB/s\n",
				round+1, s.Name, p.label, one.ProxyCPU, float64(one.Bytes)/gib/one.Seconds)
		}
	}
	return nil
}

func (m *machine) relay(ctx context.Context, r *running, port, conns int, d time.Duration) (stream, error) {
	ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	cmd := m.command(ctx, m.upstreamCPU, true, filepath.Join(m.dir, "relay"),
		"-a", strconv.Itoa(port), "-s", strconv.Itoa(sinkPort), "-c", strconv.Itoa(conns),
		"-d", fmt.Sprint(d.Seconds()), "-w", "0.3", "-p", join(r.proxy))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return stream{}, fmt.Errorf("%w: %s", err, errs.String())
	}
	return parseStream(out.Bytes())
}

// parseStream reads what bench/c/relay.c prints, and refuses a run in which a
// byte was lost.
func parseStream(line []byte) (stream, error) {
	var one stream
	if err := json.Unmarshal(line, &one); err != nil {
		return one, err
	}
	if one.Bytes <= 0 || one.Seconds <= 0 {
		return one, fmt.Errorf("nothing came through: %s", line)
	}
	if one.Lost != 0 || one.Broken != 0 {
		return one, fmt.Errorf("%d bytes were lost, %d connections broke", one.Lost, one.Broken)
	}
	for _, ns := range one.CPU {
		one.ProxyCPU += float64(ns) / 1e9 / (float64(one.Bytes) / gib)
	}
	return one, nil
}

func (r *results) printRelay(w io.Writer, s relayScenario) {
	by := r.Relay[s.Name]
	if by == nil {
		return
	}
	fmt.Fprintf(w, "\n### %s\n\nBytes one way, from the client to the service, as fast as they go.\n\n", s.Name)
	fmt.Fprintln(w, "| | CPU s/GiB (best) | windrose is | GiB/s | core busy |\n|---|---|---|---|---|")
	cpu := func(one stream) float64 { return one.ProxyCPU }
	rate := func(one stream) float64 { return float64(one.Bytes) / gib / one.Seconds }
	base := 0.0
	if own := by["windrose"]; own != nil {
		base = median(sortedBy(own, cpu))
	}
	for _, name := range relayOrder {
		if by[name] == nil {
			continue
		}
		used := sortedBy(by[name], cpu)
		busy := median(sortedBy(by[name], func(one stream) float64 { return 100 * cpu(one) * rate(one) }))
		fmt.Fprintf(w, "| %s | %.3f (%.3f) | %s | %.2f | %.0f %% |\n",
			name, median(used), used[0], ratio(name, base, median(used)), median(sortedBy(by[name], rate)), busy)
	}
}
