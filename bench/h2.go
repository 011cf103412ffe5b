package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// requestHeaders are what bench/c/load.c sends, in HTTP/2's spelling.
var requestHeaders = []string{
	"user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	"accept: application/json, text/plain, */*",
	"accept-language: en-GB,en;q=0.7,de;q=0.3",
	"accept-encoding: gzip, deflate, br",
	"referer: https://" + targetHost + "/",
	"cookie: session=4f2a9c1de8b7406c9a53; theme=dark",
	"cache-control: no-cache",
}

// grpcHeaders are what a gRPC client sends.
var grpcHeaders = []string{
	"content-type: application/grpc",
	"te: trailers",
	"user-agent: grpc-go/1.80.0",
	"grpc-timeout: 10S",
}

// grpcMessage is the file with the body of a call.
const grpcMessage = "message.grpc"

// writeMessage writes a call's body: a message of 123 bytes, not compressed.
func (m *machine) writeMessage() error {
	body := append([]byte{0, 0, 0, 0, 123}, bytes.Repeat([]byte("x"), 123)...)
	return os.WriteFile(filepath.Join(m.dir, grpcMessage), body, 0o600)
}

// loadH2 measures with h2load, which reads no clocks of others. So they are
// read before it starts and after it ended: outside of its run the proxy does
// nothing, and the figure holds however late this process gets to run.
func (m *machine) loadH2(ctx context.Context, r *running, s scenario, d time.Duration) (sample, error) {
	if _, err := m.h2load(ctx, r, s, 400*time.Millisecond); err != nil {
		return sample{}, fmt.Errorf("warming up: %w", err)
	}
	pids := append(append([]int{}, r.proxy...), r.control...)
	before, err := cpuTimes(pids)
	if err != nil {
		return sample{}, err
	}
	one, err := m.h2load(ctx, r, s, d)
	if err != nil {
		return one, err
	}
	after, err := cpuTimes(pids)
	if err != nil {
		return one, err
	}
	for i := range pids {
		one.CPU = append(one.CPU, after[i]-before[i])
	}
	one.share(r)
	return one, nil
}

func (m *machine) h2load(ctx context.Context, r *running, s scenario, d time.Duration) (sample, error) {
	args := []string{
		"h2load", "-t", "1", "-c", strconv.Itoa(s.Conns), "-m", strconv.Itoa(s.Streams),
		"-D", strconv.FormatInt(d.Milliseconds(), 10) + "ms",
		"--connect-to=" + net.JoinHostPort("127.0.0.1", strconv.Itoa(r.h2c)),
	}
	host, headers := targetHost, requestHeaders
	if s.GRPC {
		host, headers = grpcHost, grpcHeaders
		args = append(args, "-d", filepath.Join(m.dir, grpcMessage))
	}
	for _, h := range headers {
		args = append(args, "-H", h)
	}
	args = append(args, "http://"+host+s.path(&r.contender))
	ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	out, err := m.command(ctx, m.upstreamCPU, true, args...).CombinedOutput()
	if err != nil {
		return sample{}, fmt.Errorf("h2load: %w: %s", err, out)
	}
	return parseH2load(string(out), d)
}

var (
	h2Protocol = regexp.MustCompile(`(?m)^Application protocol: (\S+)$`)
	h2Requests = regexp.MustCompile(`(?m)^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout$`)
	h2Codes    = regexp.MustCompile(`(?m)^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$`)
)

// parseH2load reads the summary of a run that was to last d. Requests still in
// flight at its end count nowhere.
func parseH2load(out string, d time.Duration) (sample, error) {
	protocol, requests, codes := h2Protocol.FindStringSubmatch(out), h2Requests.FindStringSubmatch(out), h2Codes.FindStringSubmatch(out)
	if protocol == nil || requests == nil || codes == nil {
		return sample{}, fmt.Errorf("h2load printed no summary: %s", out)
	}
	if protocol[1] != "h2c" {
		return sample{}, fmt.Errorf("h2load spoke %s", protocol[1])
	}
	var n []int
	for _, word := range append(requests[1:], codes[1:]...) {
		v, err := strconv.Atoi(word)
		if err != nil {
			return sample{}, err
		}
		n = append(n, v)
	}
	done, succeeded, failed, errored, timeout, ok := n[0], n[1], n[2], n[3], n[4], n[5]
	if done == 0 {
		return sample{}, errors.New("no request was answered")
	}
	// h2load counts an errored request as failed too, and a 404 as a failure;
	// what is neither succeeded nor a 2xx is bad by any count.
	bad := max(failed, errored, timeout, done-succeeded, done-ok)
	return sample{Requests: done, Seconds: d.Seconds(), Bad: bad}, nil
}

// cpuTimes reads the CPU clock of each process, all its threads included, in
// nanoseconds.
func cpuTimes(pids []int) ([]int64, error) {
	times := make([]int64, len(pids))
	for i, pid := range pids {
		var t unix.Timespec
		// What clock_getcpuclockid(3) makes of a pid: CPUCLOCK_SCHED is 2.
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return nil, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		times[i] = t.Nano()
	}
	return times, nil
}

func (r *results) printH2(w io.Writer, s scenario) {
	by := r.Load[s.Name]
	if by == nil {
		return
	}
	fmt.Fprintf(w, "\n### %s\n\n%s Core busy: how much of its core the proxy took; far below 100 %%, the load generator was the limit.\n\n", s.Name, s.About)
	table(w, by, "CPU us/request (best) | windrose is | requests/s | core busy", func(f figures, all []sample) string {
		busy := median(sortedBy(all, func(s sample) float64 { return s.ProxyCPU * float64(s.Requests) / s.Seconds / 1e4 }))
		return fmt.Sprintf("%.0f | %.0f %%", f.rate, busy)
	})
}
