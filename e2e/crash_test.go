package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestControlIsKilledAgainAndAgain under load, at any moment of its life, while
// things change: no request fails, and the last word counts.
func TestControlIsKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "services.yaml": all(service("a", backend(t, "a")), service("b", backend(t, "b"))), "route.yaml": route("shop", "/", "a"),
	})
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	kept := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}
	fresh := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	l := newLoad(t)
	l.run(2, func() error { return get(kept, url) })
	l.run(2, func() error { return get(fresh, url) })
	plane := w.dataplane()
	rng := rand.New(rand.NewPCG(3, 4))
	times := 5
	if long() {
		times = 50
	}
	for i := range times {
		w.write("route.yaml", route("shop", "/", []string{"a", "b"}[i%2]))
		if i%3 == 0 {
			w.ready() // or it is killed while it starts
		} else {
			<-time.After(time.Duration(rng.IntN(300)) * time.Millisecond)
		}
		must(t, w.cmd.Process.Kill())
		<-w.done
		w.start()
	}
	w.ready()
	w.write("route.yaml", route("shop", "/", "b"))
	w.eventually("the last control part is in control", func() error {
		if code, body, _ := fetch(url); code != 200 || body != "b /" {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	l.end(t)
	if got := w.dataplane(); got != plane {
		t.Errorf("the data plane was replaced: %d, was %d", got, plane)
	}
}

// firstAnswer asks until somebody answers, and gives how. Nothing may come but
// an answer of the service, or no connection at all.
func firstAnswer(t *testing.T, addr string, deadline time.Time) {
	t.Helper()
	for {
		if time.Now().After(deadline) {
			t.Fatal("nobody answers")
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			continue
		}
		_ = c.SetDeadline(deadline)
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		line, err := bufio.NewReader(c).ReadString('\n')
		c.Close()
		if err != nil {
			continue // it went to the one that was killed
		}
		if !strings.Contains(line, "200") {
			t.Errorf("the first answer is %q", line)
		}
		return
	}
}

// TestDataPlaneIsKilled: another serves at once, from its first answer on as
// the one before. How long that takes is only reported.
func TestDataPlaneIsKilled(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	var routes []string
	for i := range 1000 {
		routes = append(routes, route(fmt.Sprintf("r%d", i), fmt.Sprintf("/r/%d", i), "a"))
	}
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "services.yaml": service("a", backend(t, "a")), "route.yaml": route("shop", "/", "a"), "more.yaml": all(routes...),
	})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	w.applied()
	old := w.dataplane()
	start := time.Now()
	must(t, syscall.Kill(old, syscall.SIGKILL))
	firstAnswer(t, addr, start.Add(30*time.Second))
	t.Logf("from the kill to the first answer: %v", time.Since(start).Round(time.Millisecond))
	if w.dataplane() == old {
		t.Errorf("it is still process %d", old)
	}
}

// TestThousandsOfRoutesAreSwapped: of 5,000 routes twenty move ten times a
// second, under load. No request fails, and neither process grows with the
// number of swaps.
func TestThousandsOfRoutesAreSwapped(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	const files, inFile = 250, 20
	text := func(file int, to string) string {
		var routes []string
		for r := range inFile {
			routes = append(routes, route(fmt.Sprintf("r%d-%d", file, r), fmt.Sprintf("/%d/%d", file, r), to))
		}
		return all(routes...)
	}
	folder := map[string]string{"gateway.yaml": gateway(port), "services.yaml": all(service("a", backend(t, "a")), service("b", backend(t, "b")))}
	for i := range files {
		folder[fmt.Sprintf("routes-%d.yaml", i)] = text(i, "a")
	}
	w := up(t, folder)
	w.applied()
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	l := newLoad(t)
	l.run(2, func() error { return get(client, fmt.Sprintf("%s/%d/%d", base, rand.IntN(files), rand.IntN(inFile))) })

	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	written, to := 0, [2]string{"b", "a"}
	swaps := func(n int) {
		for range n {
			<-tick.C
			file := written % files
			w.write(fmt.Sprintf("routes-%d.yaml", file), text(file, to[written/files%2]))
			written++
		}
	}
	plane, control := w.dataplane(), w.cmd.Process.Pid
	peak := func() [2]int { return [2]int{memory(t, plane, "VmHWM"), memory(t, control, "VmHWM")} }
	half := 40
	if long() {
		half = 300
	}
	before := w.counts("windrose_plan_changes_total")
	swaps(half)
	first := peak()
	swaps(half)
	second := peak()
	l.end(t)
	t.Logf("%d swaps written, %d taken up; peaks of memory in KiB after half of them and all: data plane %d, %d, control %d, %d",
		written, w.counts("windrose_plan_changes_total")-before, first[0], second[0], first[1], second[1])
	for i, name := range []string{"the data plane", "control"} {
		if second[i] > first[i]*5/4+8<<10 {
			t.Errorf("%s grows: %d KiB after half of the swaps, %d KiB after all", name, first[i], second[i])
		}
	}
	last := (written - 1) % files
	want := fmt.Sprintf("%s /%d/7", to[(written-1)/files%2], last)
	w.eventually("the last swap counts", func() error {
		if _, body, _ := fetch(fmt.Sprintf("%s/%d/7", base, last)); body != want {
			return fmt.Errorf("%q, want %q", body, want)
		}
		return nil
	})
}

// TestNobodyReadsTheLog: tee ends on Ctrl-C before windrose does. Lines are lost
// then, and nothing else.
func TestNobodyReadsTheLog(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := newWindrose(t, map[string]string{
		"gateway.yaml": gateway(port), "services.yaml": all(service("a", backend(t, "a")), service("b", backend(t, "b"))), "route.yaml": route("shop", "/", "a"),
	})
	reader, writer, err := os.Pipe()
	must(t, err)
	w.stderr = writer
	w.start()
	must(t, writer.Close())
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	w.ready()
	must(t, reader.Close())
	plane := w.dataplane()
	w.write("route.yaml", route("shop", "/", "b"))
	w.eventually("a change is taken up", func() error {
		if code, body, _ := fetch(fmt.Sprintf("http://127.0.0.1:%d/", port)); code != 200 || body != "b /" {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	w.signal(syscall.SIGTERM)
	if code := w.wait(); code != 0 {
		t.Errorf("windrose ended with %d, want 0", code)
	}
	if !gone(plane) {
		t.Error("the data plane was left behind")
		_ = syscall.Kill(plane, syscall.SIGKILL)
	}
}
