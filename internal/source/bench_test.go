package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"windrose.dev/windrose/internal/object"
)

const routeText = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: route-%[1]d
  namespace: team-%[2]d
  labels: {app: shop-%[1]d}
spec:
  parentRefs:
  - name: web
    namespace: infra
  hostnames: ["host-%[1]d.example.com"]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /v%[3]d}
    - path: {type: PathPrefix, value: /cart}
      headers:
      - name: x-canary
        value: "1"
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set:
        - name: x-shop
          value: "yes"
    backendRefs:
    - name: svc-%[1]d
      port: 80
      weight: 99
    - name: svc-canary
      port: 80
      weight: 1
`

const serviceText = `---
apiVersion: v1
kind: Service
metadata:
  name: svc-%[1]d
  namespace: team-%[2]d
spec:
  selector: {app: shop-%[1]d}
  ports:
  - name: http
    port: 80
    targetPort: 8080
`

// many writes n files with a route and a service each.
func many(tb testing.TB, n int) string {
	tb.Helper()
	dir := tb.TempDir()
	for i := range n {
		text := fmt.Sprintf(routeText, i, i%50, 1) + fmt.Sprintf(serviceText, i, i%50)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("r%05d.yaml", i)), []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// BenchmarkRead reads 5,000 files once, and says what the objects weigh.
func BenchmarkRead(b *testing.B) {
	dir := many(b, 5000)
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		set, err := Read([]string{dir})
		if err != nil || len(set.Findings) > 0 {
			b.Fatal(err, set.Findings)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MB-kept")
		runtime.KeepAlive(set)
	}
}

// BenchmarkChange measures from the write of one file among 5,000 to the Set
// that has it.
func BenchmarkChange(b *testing.B) {
	dir := many(b, 5000)
	ctx, cancel := context.WithCancel(b.Context())
	sets := make(chan *object.Set, 1)
	done := make(chan error, 1)
	go func() {
		done <- New(Config{Paths: []string{dir}, StateDir: b.TempDir()}).Run(ctx, func(s *object.Set) { sets <- s })
	}()
	<-sets
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	var took []time.Duration
	i := 0
	for b.Loop() {
		i++
		text := fmt.Sprintf(routeText, i%5000, i%5000%50, i+1) + fmt.Sprintf(serviceText, i%5000, i%5000%50)
		start := time.Now()
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("r%05d.yaml", i%5000)), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		<-sets
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MB-heap")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
