package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// changes says how soon a changed route was live: from the moment its file was
// replaced to the first answer that shows the change.
type changes struct {
	Routes int       `json:"routes"`
	Count  int       `json:"count"`
	P50    float64   `json:"p50"` // milliseconds
	P99    float64   `json:"p99"`
	Max    float64   `json:"max"`
	All    []float64 `json:"all"`
}

func measureChange(ctx context.Context, m *machine, o options, contenders []contender, res *results) error {
	for _, c := range contenders {
		if c.name != "windrose" {
			continue
		}
		ch, err := m.change(ctx, c, o)
		if err != nil {
			return err
		}
		res.Changes = ch
	}
	return nil
}

func (m *machine) change(ctx context.Context, c contender, o options) (*changes, error) {
	r, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	defer r.process.stop()
	if err := pause(ctx, 2*time.Second); err != nil {
		return nil, err
	}
	// Repeatable choices of routes.
	choose := rand.New(rand.NewPCG(1, 2))
	ch := &changes{Routes: o.routes, Count: o.changes}
	for n := range o.changes {
		i := choose.IntN(o.routes)
		took, err := m.changeOne(ctx, r, i, n+1, o.routes)
		if err != nil {
			return nil, err
		}
		ch.All = append(ch.All, float64(took.Microseconds())/1000)
		// Not in step with any timer of windrose.
		if err := pause(ctx, time.Duration(20+choose.IntN(100))*time.Millisecond); err != nil {
			return nil, err
		}
	}
	sorted := slices.Sorted(slices.Values(ch.All))
	// The nearest rank: 99 of 100 were not slower than the p99 of 100.
	at := func(p int) float64 { return sorted[(len(sorted)*p+99)/100-1] }
	ch.P50, ch.P99, ch.Max = at(50), at(99), sorted[len(sorted)-1]
	fmt.Fprintf(os.Stderr, "route change among %d: p50 %.1f ms, p99 %.1f ms, max %.1f ms\n", o.routes, ch.P50, ch.P99, ch.Max)
	return ch, nil
}

// changeOne replaces a route's file as editors and configuration tools do, by
// a rename, and asks until the answer shows it.
func (m *machine) changeOne(ctx context.Context, r *running, i, revision, routes int) (time.Duration, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.plain)))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return 0, err
	}
	reader := bufio.NewReader(conn)
	ask := func() (string, error) {
		if _, err := fmt.Fprintf(conn, "GET /s%d HTTP/1.1\r\nHost: h%d.bench.example\r\n\r\n", i, i%hosts); err != nil {
			return "", err
		}
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return "", err
		}
		if resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("route %d answers %s", i, resp.Status)
		}
		return resp.Header.Get("X-Revision"), nil
	}
	if _, err := ask(); err != nil {
		return 0, err
	}
	file := routeFile(filepath.Join(m.dir, "windrose"), i)
	temp := file + ".tmp"
	if err := os.WriteFile(temp, route(i, routes, revision), 0o644); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := os.Rename(temp, file); err != nil {
		return 0, err
	}
	want := strconv.Itoa(revision)
	for {
		got, err := ask()
		if err != nil {
			return 0, fmt.Errorf("change of route %d: %w", i, err)
		}
		if got == want {
			return time.Since(began), nil
		}
		if err := pause(ctx, 200*time.Microsecond); err != nil {
			return 0, err
		}
	}
}
