// Bench measures windrose beside nginx, HAProxy and stock Envoy on one machine
// in one run: CPU time for a request and for relayed bytes, requests a second,
// latency, memory, and how soon a changed route is live. It writes the tables of
// docs/performance.md and the raw figures to bench/results. How it measures,
// and how far to trust it, is said there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options of a run. The defaults take about a quarter of an hour.
type options struct {
	dir      string // what is built, fetched and written on the way
	binary   string // windrose
	only     string // contenders, comma separated; empty for all
	rounds   int
	duration time.Duration // of one measurement
	routes   int
	changes  int
	settle   time.Duration // before memory is read
	skip     string        // parts to leave out, comma separated
	scenario string        // run only those whose name holds it
	write    bool
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", ".cache/bench", "folder for what is built and fetched")
	flag.StringVar(&o.binary, "windrose", "bin/windrose", "the windrose binary")
	flag.StringVar(&o.only, "only", "", "contenders, as windrose,nginx")
	flag.IntVar(&o.rounds, "rounds", 4, "interleaved rounds")
	flag.DurationVar(&o.duration, "duration", 1500*time.Millisecond, "measured time of a contender in one scenario of one round")
	flag.IntVar(&o.routes, "routes", 5000, "HTTPRoutes loaded in windrose")
	flag.IntVar(&o.changes, "changes", 100, "route changes timed")
	flag.DurationVar(&o.settle, "settle", 20*time.Second, "idle time before idle memory is read")
	flag.StringVar(&o.skip, "skip", "", "parts to leave out: load, memory, change")
	flag.StringVar(&o.scenario, "scenario", "", "only the load whose name holds this, as h2c")
	flag.BoolVar(&o.write, "write", true, "write docs/performance.md and bench/results")
	flag.Parse()

	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	o.dir = dir
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	m, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	up, err := m.start(ctx, "upstream", m.upstreamCPU, true, filepath.Join(o.dir, "upstream"), fmt.Sprint(upstreamPort), fmt.Sprint(grpcPort))
	if err != nil {
		return err
	}
	// One that cannot bind ends at once, and whoever has its port would answer.
	select {
	case <-up.done:
		return fmt.Errorf("the service behind the proxies ended at once: see %s, and what listens on ports %d and %d", up.log.Name(), upstreamPort, grpcPort)
	case <-time.After(300 * time.Millisecond):
	}
	defer up.stop()

	contenders := pick(all(m, o), o.only)
	if len(contenders) == 0 {
		return errors.New("no such contender: " + o.only)
	}
	res := &results{Machine: m.describe(ctx, contenders), Routes: o.routes, Rounds: o.rounds, Seconds: o.duration.Seconds()}
	parts := []struct {
		name string
		run  func(context.Context, *machine, options, []contender, *results) error
	}{
		{"load", measureLoad},
		{"memory", measureMemory},
		{"change", measureChange},
	}
	for _, p := range parts {
		if strings.Contains(o.skip, p.name) {
			continue
		}
		if err := p.run(ctx, m, o, contenders, res); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	res.print(os.Stdout)
	if !o.write {
		return nil
	}
	return res.write("docs/performance.md", "bench/results/latest.json")
}
