package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

const h2Summary = `starting benchmark...
Application protocol: h2c
Main benchmark duration is over for thread #0. Stopping all clients.

finished in 2.00s, 86906.00 req/s, 93.90MB/s
requests: 900 total, 964 started, 900 done, 900 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 900 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 93.90MB (98464618) total, 7.54MB (7908446) headers (space savings 33.09%), 84.87MB (88991744) data
`

func TestParseH2load(t *testing.T) {
	got, err := parseH2load(h2Summary, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got.Requests != 900 || got.Seconds != 2 || got.Bad != 0 {
		t.Errorf("got %+v, want 900 requests in 2 s, none bad", got)
	}
}

func TestParseH2loadSeesWhatWentWrong(t *testing.T) {
	tests := []struct {
		name, old, new string
		bad            int // 0: refused
	}{
		{"failed", "900 succeeded, 0 failed", "897 succeeded, 3 failed", 3},
		{"errored", "0 errored", "4 errored", 4},
		{"timed out", "0 timeout", "5 timeout", 5},
		{"redirected", "900 2xx, 0 3xx", "898 2xx, 2 3xx", 2},
		{"faulted", "900 2xx, 0 3xx, 0 4xx, 0 5xx", "0 2xx, 0 3xx, 0 4xx, 900 5xx", 900},
		{"nothing done", "900 done", "0 done", 0},
		{"HTTP/1", "protocol: h2c", "protocol: http/1.1", 0},
		{"no summary", "status codes", "codes", 0},
		{"never connected", "Application protocol: h2c\n", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := strings.Replace(h2Summary, tt.old, tt.new, 1)
			got, err := parseH2load(out, time.Second)
			if refused := err != nil; refused != (tt.bad == 0) || got.Bad != tt.bad {
				t.Errorf("got %d bad and %v, want %d", got.Bad, err, tt.bad)
			}
		})
	}
}

func TestCPUTimes(t *testing.T) {
	first, err := cpuTimes([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if first[0] <= 0 {
		t.Errorf("this process has used %d ns", first[0])
	}
	// It cannot go back, and work shows.
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		later, err := cpuTimes([]int{os.Getpid()})
		if err != nil {
			t.Fatal(err)
		}
		if later[0] < first[0] {
			t.Fatalf("the clock went from %d to %d", first[0], later[0])
		}
		if later[0] > first[0] {
			return
		}
	}
	t.Error("the clock stands still")
}

func TestCPUTimesOfNobody(t *testing.T) {
	// Above every pid that Linux gives out.
	if got, err := cpuTimes([]int{1 << 23}); err == nil {
		t.Errorf("got %v, want an error", got)
	}
}

func TestPrintH2(t *testing.T) {
	r := &results{}
	s := scenario{Name: "h2c, some", Conns: 4, Streams: 16}
	for _, cpu := range []float64{10, 12, 11} {
		r.add(s.Name, "windrose", sample{Requests: 80000, Seconds: 1, ProxyCPU: cpu})
		r.add(s.Name, "envoy", sample{Requests: 20000, Seconds: 1, ProxyCPU: 4 * cpu})
	}
	var out strings.Builder
	r.printH2(&out, s)
	for _, want := range []string{"### h2c, some\n", "| windrose | 11.0 (10.0) |  | 80000 | 88 % |\n", "| envoy | 44.0 (40.0) | 0.25 of it | 20000 | 88 % |\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in: %s", want, out.String())
		}
	}
}
