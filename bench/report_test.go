package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSummarise(t *testing.T) {
	got := summarise([]sample{
		{Requests: 100, Seconds: 2, ProxyCPU: 30, P50: 10, P99: 900},
		{Requests: 300, Seconds: 2, ProxyCPU: 10, P50: 30, P99: 100},
		{Requests: 200, Seconds: 2, ProxyCPU: 20, P50: 20, P99: 200},
	})
	want := figures{cpu: 20, cpuBest: 10, rate: 100, p50: 20, p99: 200, p99Best: 100}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestWriteKeepsTheTextAroundTheTables(t *testing.T) {
	dir := t.TempDir()
	doc := filepath.Join(dir, "performance.md")
	if err := os.WriteFile(doc, []byte("above\n"+beginMark+"\nold\n"+endMark+"\nbelow\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &results{Routes: 5000, Changes: &changes{Routes: 5000, Count: 100, P99: 12.3}}
	r.add(scenarios[0].Name, "windrose", sample{Requests: 1, Seconds: 1, ProxyCPU: 15})
	r.add(scenarios[0].Name, "nginx", sample{Requests: 1, Seconds: 1, ProxyCPU: 20})
	if err := r.write(doc, filepath.Join(dir, "results", "latest.json")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	if !strings.HasPrefix(got, "above\n") || !strings.HasSuffix(got, endMark+"\nbelow\n") || strings.Contains(got, "old") {
		t.Errorf("the text around the tables changed: %s", got)
	}
	for _, want := range []string{"0.75 of it", "p99 12.3 ms"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in: %s", want, got)
		}
	}
}

func TestTheTargetRouteHangsOnTheTargetHost(t *testing.T) {
	for _, routes := range []int{1, 50, 1000, 5000} {
		got := string(route(targetRoute(routes), routes, 0))
		if !strings.Contains(got, `hostnames: ["`+targetHost+`"]`) {
			t.Errorf("with %d routes the target is %s", routes, got)
		}
	}
}
