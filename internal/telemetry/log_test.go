package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/telemetry"
)

// sink is a writer that can be held up and can fail.
type sink struct {
	mu    sync.Mutex
	text  bytes.Buffer
	fail  error
	held  chan struct{} // nil: not held; else writes wait until it is closed
	began chan struct{} // gets a value when a write begins
}

func (s *sink) Write(text []byte) (int, error) {
	if s.began != nil {
		s.began <- struct{}{}
	}
	if s.held != nil {
		<-s.held
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return 0, s.fail
	}
	return s.text.Write(text)
}

func (s *sink) lines() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Count(s.text.Bytes(), []byte("\n"))
}

// logged runs f on a loop that logs to w and returns the hub when all is
// written.
func logged(t *testing.T, w *sink, g telemetry.Logging, f func(l *telemetry.Loop)) *telemetry.Hub {
	t.Helper()
	log := telemetry.NewLog(w, 0)
	h := telemetry.NewHub(telemetry.Config{Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := log.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	l := h.Attach(now)
	l.Use(g)
	f(l)
	l.Flush()
	cancel()
	running.Wait()
	return h
}

func TestLogModes(t *testing.T) {
	fault := answer("", "", 404)
	fault.Fault = record.NoRoute
	for _, c := range []struct {
		name    string
		logging telemetry.Logging
		want    int // of 10 answers and 2 faults
	}{
		{"not set is on", telemetry.Logging{}, 12},
		{"on", telemetry.Logging{Mode: telemetry.LogOn}, 12},
		{"off", telemetry.Logging{Mode: telemetry.LogOff}, 0},
		{"one in five, and every fault", telemetry.Logging{Mode: telemetry.LogSampled, Every: 5}, 4},
		{"one in one", telemetry.Logging{Mode: telemetry.LogSampled, Every: 1}, 12},
		{"one in none", telemetry.Logging{Mode: telemetry.LogSampled}, 12},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := new(sink)
			logged(t, w, c.logging, func(l *telemetry.Loop) {
				for range 10 {
					l.Emit(answer("r", "s", 200))
				}
				l.Emit(fault)
				l.Emit(fault)
			})
			wantLines(t, w.text.Bytes(), c.want)
			if got := strings.Count(w.text.String(), `"fault":"no-route"`); c.want > 0 && got != 2 {
				t.Errorf("got %d lines with a fault, want 2", got)
			}
			if strings.Contains(w.text.String(), "secret") {
				t.Error("the query is in the log")
			}
		})
	}
}

func TestEveryLineArrivesWholeAndInOrder(t *testing.T) {
	const n = 500 // several buffers
	w := new(sink)
	logged(t, w, telemetry.Logging{}, func(l *telemetry.Loop) {
		for i := range n {
			r := answer("r", "s", 200)
			r.BytesIn = int64(i)
			l.Emit(r)
		}
	})
	i := 0
	for line := range bytes.Lines(w.text.Bytes()) {
		var got struct {
			In int `json:"bytes_in"`
		}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
		if got.In != i {
			t.Fatalf("line %d is of request %d", i, got.In)
		}
		i++
	}
	if i != n {
		t.Errorf("got %d lines, want %d", i, n)
	}
}

func TestALoopWithoutALogWritesNothing(t *testing.T) {
	l := telemetry.NewHub(telemetry.Config{}).Attach(now)
	l.Emit(answer("r", "s", 200))
	l.Flush()
	if wait := l.Tick(time.Now()); wait != 0 {
		t.Errorf("a line waits %v, want none", wait)
	}
}

func TestALineWaitsATenthOfASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(sink)
		logged(t, w, telemetry.Logging{}, func(l *telemetry.Loop) {
			if wait := l.Tick(time.Now()); wait != 0 {
				t.Errorf("nothing waits, but %v is left", wait)
			}
			l.Emit(answer("r", "s", 200))
			if wait := l.Tick(time.Now()); wait != 100*time.Millisecond {
				t.Errorf("%v is left, want 100ms", wait)
			}
			time.Sleep(60 * time.Millisecond)
			l.Emit(answer("r", "s", 200))
			if wait := l.Tick(time.Now()); wait != 40*time.Millisecond {
				t.Errorf("%v is left, want 40ms", wait)
			}
			time.Sleep(40 * time.Millisecond)
			if wait := l.Tick(time.Now()); wait != 0 {
				t.Errorf("%v is left, want 0", wait)
			}
			synctest.Wait()
			if got := w.lines(); got != 2 {
				t.Errorf("got %d lines, want 2", got)
			}
			l.Emit(answer("r", "s", 200))
			if wait := l.Tick(time.Now()); wait != 100*time.Millisecond {
				t.Errorf("%v is left for the next line, want 100ms", wait)
			}
		})
	})
}

func TestASlowWriterCostsLinesThatAreCounted(t *testing.T) {
	w := &sink{held: make(chan struct{}), began: make(chan struct{}, 100)}
	log := telemetry.NewLog(w, 2)
	h := telemetry.NewHub(telemetry.Config{Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = log.Run(ctx) })
	l := h.Attach(now)
	send := func(n int) {
		for range n {
			l.Emit(answer("r", "s", 200))
		}
		l.Flush()
	}
	send(1)
	<-w.began // and hangs
	send(2)
	send(3) // the queue is full
	send(4)
	send(5)
	scrape(t, h).want(t, `windrose_access_log_lines_dropped_total{reason="queue"}`, 9)

	close(w.held)
	for range 2 {
		<-w.began
	}
	cancel()
	running.Wait()
	if got := w.lines(); got != 6 {
		t.Errorf("got %d lines, want 6", got)
	}
}

func TestAWriterThatFailsCostsItsLines(t *testing.T) {
	w := &sink{fail: errors.New("disk is full")}
	h := logged(t, w, telemetry.Logging{}, func(l *telemetry.Loop) {
		for range 3 {
			l.Emit(answer("r", "s", 200))
		}
	})
	scrape(t, h).want(t, `windrose_access_log_lines_dropped_total{reason="write"}`, 3)
}

func TestAWriterThatHangsIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &sink{held: make(chan struct{})}
		log := telemetry.NewLog(w, 0)
		l := telemetry.NewHub(telemetry.Config{Log: log}).Attach(now)
		l.Emit(answer("r", "s", 200))
		l.Flush()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		start := time.Now()
		if err := log.Run(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("took %v, want 2s", took)
		}
		close(w.held)
	})
}

func TestIDs(t *testing.T) {
	first, second := telemetry.NewIDs(), telemetry.NewIDs()
	seen := map[string]bool{}
	for range 1000 {
		for _, ids := range []*telemetry.IDs{first, second} {
			id := ids.Append(nil)
			if len(id) != telemetry.IDLen || strings.Trim(string(id), "0123456789abcdef") != "" {
				t.Fatalf("%q is not %d hexadecimal digits", id, telemetry.IDLen)
			}
			if !telemetry.ValidID(id) {
				t.Fatalf("%q is refused", id)
			}
			if seen[string(id)] {
				t.Fatalf("%q came twice", id)
			}
			seen[string(id)] = true
		}
	}
	buf := make([]byte, 0, telemetry.IDLen)
	if got := testing.AllocsPerRun(100, func() { buf = first.Append(buf[:0]) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func TestValidID(t *testing.T) {
	for _, c := range []struct {
		name, id string
		want     bool
	}{
		{"empty", "", false},
		{"UUID", "8d5f6a1e-5d0a-7c1e-9b58-0f1b2c3d4e5f", true},
		{"trace root", "Root=1-67891233-abcdef012345678912345678", true},
		{"longest", strings.Repeat("a", 128), true},
		{"too long", strings.Repeat("a", 129), false},
		{"space", "a b", false},
		{"line end", "a\r\nx: y", false},
		{"NUL", "a\x00", false},
		{"DEL", "a\x7f", false},
		{"not ASCII", "ä", false},
		{"quote", `a"`, false},
		{"backslash", `a\`, false},
	} {
		if got := telemetry.ValidID([]byte(c.id)); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
