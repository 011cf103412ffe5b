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
	Name string
	// About says under the name what is asked and answered.
	About string
	TLS   bool
	Rate  int // requests a second; 0: as many as it can
	Conns int
	// Streams on each connection at a time; not 0: HTTP/2 in cleartext, with
	// prior knowledge.
	Streams int
	Bytes   int  // of an answer's body; 0: 1 KiB
	Message int  // bytes of a message; not 0: WebSockets
	H2      bool // HTTP/2 to the service too
	GRPC    bool // calls of gRPC, HTTP/2 to the service too
	// Handshake has each connection carry one request.
	Handshake handshake
	Without   string // the contender that cannot
	ByRoutes  bool   // windrose with other numbers of routes takes part too
}

// handshake says what a scenario's connections begin with.
type handshake int

const (
	kept    handshake = iota // they are kept
	full                     // a whole handshake each
	resumed                  // the session before is resumed
)

const kib = 1 << 10

var scenarios = []scenario{
	{Name: "h1, saturated", Conns: 64, About: "64 connections, 1 KiB answers.", ByRoutes: true},
	{Name: "h1, 5,000 requests/s", Rate: 5000, Conns: 32, About: "32 connections, 1 KiB answers."},
	{Name: "h1, 1 connection", Conns: 1, About: "One connection, 1 KiB answers: every request waits for the one before, so wake-ups decide."},
	{Name: "h1, 100 connections", Conns: 100, About: "100 connections, 1 KiB answers."},
	{Name: "h1, 1,000 connections", Conns: 1000, About: "1,000 connections, 1 KiB answers."},
	{Name: "h1, 100 KiB", Conns: 32, Bytes: 100 * kib, About: "32 connections, 100 KiB answers."},
	{Name: "h1, 1 MiB", Conns: 32, Bytes: 1024 * kib, About: "32 connections, 1 MiB answers."},
	{Name: "TLS h1, saturated", TLS: true, Conns: 64, About: "64 connections, 1 KiB answers."},
	{Name: "TLS h1, 5,000 requests/s", TLS: true, Rate: 5000, Conns: 32, About: "32 connections, 1 KiB answers."},
	{Name: "TLS h1, 100 KiB", TLS: true, Conns: 32, Bytes: 100 * kib, About: "32 connections, 100 KiB answers."},
	{Name: "TLS handshakes, full", TLS: true, Conns: 32, Handshake: full, About: "32 at a time; a connection, a handshake, one request, 1 KiB answered, the end."},
	{Name: "TLS handshakes, resumed", TLS: true, Conns: 32, Handshake: resumed, About: "As above, with the ticket of the connection before."},
	{Name: "h2c to h1, 4 connections x 16 streams", Conns: 4, Streams: 16, About: "1 KiB answers, HTTP/1 to the service."},
	{Name: "h2c to h1, 32 connections x 1 stream", Conns: 32, Streams: 1, About: "1 KiB answers, HTTP/1 to the service."},
	{Name: "h2c to h2c, 4 connections x 16 streams", Conns: 4, Streams: 16, H2: true, Without: "nginx", About: "1 KiB answers, HTTP/2 to the service. nginx has that for gRPC alone."},
	{Name: "h2c to h2c, 32 connections x 1 stream", Conns: 32, Streams: 1, H2: true, Without: "nginx", About: "1 KiB answers, HTTP/2 to the service. nginx has that for gRPC alone."},
	{Name: "gRPC, 4 connections x 16 streams", Conns: 4, Streams: 16, GRPC: true, About: "Unary calls in cleartext: a message of 123 bytes, one of 1 KiB back, trailers."},
	{Name: "WebSocket echo", Conns: 64, Message: 256, About: "64 connections, a message of 256 bytes there and back at a time on each."},
}

// path is what a scenario asks a contender for.
func (s *scenario) path(c *contender) string {
	switch {
	case s.GRPC:
		return "/bench.Echo/Call"
	case s.H2:
		return h2Path
	case s.Message > 0:
		return wsPath
	case s.Bytes > 0:
		return c.path + "/bytes/" + strconv.Itoa(s.Bytes)
	}
	return c.path
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
		if c.extra && o.scenario != "" && !strings.Contains(scenarios[0].Name, o.scenario) {
			continue
		}
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
		if r.name == s.Without || r.extra && !s.ByRoutes {
			continue
		}
		load := m.load
		switch {
		case s.Streams > 0:
			load = m.loadH2
		case s.Handshake != kept:
			load = m.handshakes
		}
		one, err := load(ctx, r, s, o.duration)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", r.name, s.Name, err)
		}
		if one.Bad+one.Broken > 0 {
			return fmt.Errorf("%s, %s: %d answers were not 200, %d connections broke", r.name, s.Name, one.Bad, one.Broken)
		}
		res.add(s.Name, r.name, one)
		fmt.Fprintf(os.Stderr, "round %d  %-38s %-15s %6.1f us CPU %8.0f req/s  p50 %6.0f  p99 %6.0f us\n",
			round+1, s.Name, r.name, one.ProxyCPU, float64(one.Requests)/one.Seconds, one.P50, one.P99)
	}
	return nil
}

func (m *machine) load(ctx context.Context, r *running, s scenario, d time.Duration) (sample, error) {
	args := r.loadArgs(m, "load", s.TLS, s.Conns, s.path(&r.contender))
	if s.TLS {
		args = append(args, "-t")
	}
	return m.generate(ctx, r, d, append(args, "-r", strconv.Itoa(s.Rate), "-m", strconv.Itoa(s.Message)))
}

func (m *machine) handshakes(ctx context.Context, r *running, s scenario, d time.Duration) (sample, error) {
	args := r.loadArgs(m, "handshake", true, s.Conns, s.path(&r.contender))
	if s.Handshake == resumed {
		args = append(args, "-r")
	}
	return m.generate(ctx, r, d, args)
}

// generate runs one of the bench's own load generators.
func (m *machine) generate(ctx context.Context, r *running, d time.Duration, args []string) (sample, error) {
	pids := append(append([]int{}, r.proxy...), r.control...)
	args = append(args, "-d", fmt.Sprint(d.Seconds()), "-w", "0.4", "-p", join(pids))
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

func (r *running) loadArgs(m *machine, program string, tls bool, conns int, path string) []string {
	port := r.plain
	if tls {
		port = r.tls
	}
	return []string{filepath.Join(m.dir, program), "-a", strconv.Itoa(port), "-H", targetHost, "-u", path, "-c", strconv.Itoa(conns)}
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
	args := append(r.loadArgs(m, "load", tls, conns, r.path), "-k")
	if tls {
		args = append(args, "-t")
	}
	cmd := m.command(ctx, m.upstreamCPU, false, args...)
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
