package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// scenario is one kind of load.
type scenario struct {
	Name  string
	TLS   bool
	Rate  int // requests a second; 0: as many as it can
	Conns int
	// Streams on each connection at a time; not 0: HTTP/2 in cleartext, with
	// prior knowledge.
	Streams int
}

var scenarios = []scenario{
	{Name: "h1, saturated", Conns: 64},
	{Name: "h1, 5,000 requests/s", Rate: 5000, Conns: 32},
	{Name: "TLS h1, saturated", TLS: true, Conns: 64},
	{Name: "TLS h1, 5,000 requests/s", TLS: true, Rate: 5000, Conns: 32},
	{Name: "h2c, 4 connections x 16 streams", Conns: 4, Streams: 16},
	{Name: "h2c, 32 connections x 1 stream", Conns: 32, Streams: 1},
}

// sample is what one measurement gave.
type sample struct {
	Requests   int     `json:"requests"`
	Seconds    float64 `json:"seconds"`
	Bad        int     `json:"bad"`           // not 200
	Broken     int     `json:"broken"`        // connections lost
	Unanswered int     `json:"unanswered"`    // due but not even sent at the end
	P50        float64 `json:"p50,omitempty"` // microseconds, as the others; not for HTTP/2
	P90        float64 `json:"p90,omitempty"`
	P99        float64 `json:"p99,omitempty"`
	P999       float64 `json:"p999,omitempty"`
	Max        float64 `json:"max,omitempty"`
	CPU        []int64 `json:"cpu,omitempty"` // nanoseconds, by process

	ProxyCPU   float64 `json:"proxyCPU"`   // microseconds for a request
	ControlCPU float64 `json:"controlCPU"` // the same, for processes that carry no traffic
}

// measureLoad runs every scenario against every contender, round by round, so
// that what the machine does meanwhile hits all alike.
func measureLoad(ctx context.Context, m *machine, o options, contenders []contender, res *results) error {
	var up []*running
	defer func() {
		for _, r := range up {
			r.process.stop()
		}
	}()
	for _, c := range contenders {
		r, err := c.start(ctx)
		if err != nil {
			return err
		}
		up = append(up, r)
	}
	for round := range o.rounds {
		for _, s := range scenarios {
			if !strings.Contains(s.Name, o.scenario) {
				continue
			}
			if err := m.loadRound(ctx, o, s, round, up, res); err != nil {
				return err
			}
		}
		for _, s := range relays {
			if !strings.Contains(s.Name, o.scenario) {
				continue
			}
			if err := m.relayRound(ctx, o, s, round, up, res); err != nil {
				return err
			}
		}
	}
	for _, r := range up {
		res.memory(r.name).AfterLoad = r.memory(r.proxy)
	}
	return nil
}

// loadRound puts one kind of load on every contender once.
func (m *machine) loadRound(ctx context.Context, o options, s scenario, round int, up []*running, res *results) error {
	for i := range up {
		// A different one goes first each round.
		r := up[(i+round)%len(up)]
		load := m.load
		if s.Streams > 0 {
			load = m.loadH2
		}
		one, err := load(ctx, r, s, o.duration)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", r.name, s.Name, err)
		}
		if one.Bad+one.Broken > 0 {
			return fmt.Errorf("%s, %s: %d answers were not 200, %d connections broke", r.name, s.Name, one.Bad, one.Broken)
		}
		res.add(s.Name, r.name, one)
		fmt.Fprintf(os.Stderr, "round %d  %-31s %-9s %6.1f us CPU %8.0f req/s  p50 %6.0f  p99 %6.0f us\n",
			round+1, s.Name, r.name, one.ProxyCPU, float64(one.Requests)/one.Seconds, one.P50, one.P99)
	}
	return nil
}

func (m *machine) load(ctx context.Context, r *running, s scenario, d time.Duration) (sample, error) {
	pids := append(append([]int{}, r.proxy...), r.control...)
	args := r.loadArgs(m, s.TLS, s.Conns)
	args = append(args, "-d", fmt.Sprint(d.Seconds()), "-w", "0.4", "-r", strconv.Itoa(s.Rate), "-p", join(pids))
	ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	cmd := m.command(ctx, m.upstreamCPU, true, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var one sample
	if err := cmd.Run(); err != nil {
		return one, fmt.Errorf("%w: %s", err, errs.String())
	}
	if err := json.Unmarshal(out.Bytes(), &one); err != nil {
		return one, err
	}
	if one.Requests == 0 {
		return one, fmt.Errorf("no request was answered: %s", out.String())
	}
	one.share(r)
	return one, nil
}

// share spreads the processes' CPU time over the requests.
func (s *sample) share(r *running) {
	for i, ns := range s.CPU {
		if i < len(r.proxy) {
			s.ProxyCPU += float64(ns) / 1e3 / float64(s.Requests)
		} else {
			s.ControlCPU += float64(ns) / 1e3 / float64(s.Requests)
		}
	}
}

func (r *running) loadArgs(m *machine, tls bool, conns int) []string {
	args := []string{filepath.Join(m.dir, "load"), "-a", strconv.Itoa(r.plain), "-H", targetHost, "-u", r.path, "-c", strconv.Itoa(conns)}
	if tls {
		args[2] = strconv.Itoa(r.tls)
		args = append(args, "-t")
	}
	return args
}

func join(pids []int) string {
	words := make([]string, len(pids))
	for i, p := range pids {
		words[i] = strconv.Itoa(p)
	}
	return strings.Join(words, ",")
}

// hold opens idle connections to a contender and keeps them until release.
func (m *machine) hold(ctx context.Context, r *running, tls bool, conns int) (release func(), err error) {
	cmd := m.command(ctx, m.upstreamCPU, false, append(r.loadArgs(m, tls, conns), "-k")...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	release = func() {
		in.Close()
		cmd.Wait() // it was only there to hold connections
	}
	line := make([]byte, 64)
	n, err := out.Read(line)
	if want := fmt.Sprintf("held %d bad 0", conns); err != nil || !strings.HasPrefix(string(line[:n]), want) {
		release()
		return nil, fmt.Errorf("%s does not hold %d connections: %s%s", r.name, conns, line[:n], errs.String())
	}
	return release, nil
}

// realtimeClass moves a running process, with its threads, to the class that the
// other contenders were started in.
func (m *machine) realtimeClass(ctx context.Context, pid int) error {
	if !m.realtime {
		return nil
	}
	out, err := exec.CommandContext(ctx, "chrt", "-a", "-r", "-p", "1", strconv.Itoa(pid)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("chrt: %w: %s", err, out)
	}
	return nil
}
