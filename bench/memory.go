package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// memory of one contender, in KiB, the sum over its processes.
type memory struct {
	Idle        int     `json:"idle"`
	IdleControl int     `json:"idleControl,omitempty"`
	AfterLoad   int     `json:"afterLoad"`
	OneRoute    int     `json:"oneRoute,omitempty"` // windrose with one route: data plane
	OneControl  int     `json:"oneControl,omitempty"`
	Plain1000   float64 `json:"plain1000"` // for one idle connection
	Plain10000  float64 `json:"plain10000"`
	TLS1000     float64 `json:"tls1000"`
}

// measureMemory reads idle memory, then what idle connections add. Every
// figure is of a process that has done nothing else.
func measureMemory(ctx context.Context, m *machine, o options, contenders []contender, res *results) error {
	if err := idleMemory(ctx, o, contenders, res); err != nil {
		return err
	}
	cases := []struct {
		conns int
		tls   bool
		put   func(*memory, float64)
	}{
		{1000, false, func(x *memory, v float64) { x.Plain1000 = v }},
		{10000, false, func(x *memory, v float64) { x.Plain10000 = v }},
		{1000, true, func(x *memory, v float64) { x.TLS1000 = v }},
	}
	for _, c := range contenders {
		if c.extra {
			continue
		}
		for _, k := range cases {
			kib, err := m.connection(ctx, c, k.tls, k.conns)
			if err != nil {
				return err
			}
			k.put(res.memory(c.name), kib)
			fmt.Fprintf(os.Stderr, "%-9s %5d idle connections, TLS %-5v %6.2f KiB each\n", c.name, k.conns, k.tls, kib)
		}
	}
	return nil
}

// warmConns are opened and closed before the count, so that what a process
// needs for its first connections is not counted as theirs.
const warmConns = 100

// calm is how long nothing happens before memory is read: a process may give
// some back meanwhile.
const calm = 3 * time.Second

// connection is what one idle connection adds to a process, in KiB.
func (m *machine) connection(ctx context.Context, c contender, tls bool, conns int) (float64, error) {
	r, err := c.start(ctx)
	if err != nil {
		return 0, err
	}
	defer r.process.stop()
	if err := pause(ctx, 2*time.Second); err != nil {
		return 0, err
	}
	release, err := m.hold(ctx, r, tls, warmConns)
	if err != nil {
		return 0, err
	}
	release()
	if err := pause(ctx, calm); err != nil {
		return 0, err
	}
	before := r.memory(r.proxy)
	if release, err = m.hold(ctx, r, tls, conns); err != nil {
		return 0, err
	}
	defer release()
	if err := pause(ctx, calm); err != nil {
		return 0, err
	}
	return float64(r.memory(r.proxy)-before) / float64(conns), nil
}

// idleMemory starts all of them, and windrose with one route as well, waits
// and reads.
func idleMemory(ctx context.Context, o options, contenders []contender, res *results) error {
	var up []*running
	defer func() {
		for _, r := range up {
			r.process.stop()
		}
	}()
	start := func(c contender) error {
		r, err := c.start(ctx)
		if err == nil {
			up = append(up, r)
		}
		return err
	}
	for _, c := range contenders {
		if c.extra && c.name != oneRoute {
			continue
		}
		if err := start(c); err != nil {
			return err
		}
	}
	if err := pause(ctx, o.settle); err != nil {
		return err
	}
	for _, r := range up {
		proxy, control := r.memory(r.proxy), r.memory(r.control)
		fmt.Fprintf(os.Stderr, "%-10s idle %.1f MiB, control %.1f MiB\n", r.name, float64(proxy)/1024, float64(control)/1024)
		if r.name == oneRoute {
			x := res.memory("windrose")
			x.OneRoute, x.OneControl = proxy, control
			continue
		}
		x := res.memory(r.name)
		x.Idle, x.IdleControl = proxy, control
	}
	return nil
}
