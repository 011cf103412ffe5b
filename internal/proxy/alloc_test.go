package proxy_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/plan"
)

// exchanger asks and answers without allocating, so that what is counted is the
// gateway's.
type exchanger struct {
	fd  int
	buf []byte
}

// until reads until what came ends with end.
func (e *exchanger) until(end []byte) error {
	e.buf = e.buf[:0]
	for !bytes.HasSuffix(e.buf, end) {
		n, err := unix.Read(e.fd, e.buf[len(e.buf):cap(e.buf)])
		if err != nil {
			return err
		}
		if n == 0 {
			return io.EOF
		}
		e.buf = e.buf[:len(e.buf)+n]
	}
	return nil
}

// descriptor takes a connection out of the runtime's hands, blocking.
func descriptor(tb testing.TB, c net.Conn) *exchanger {
	tb.Helper()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	c.Close()
	fd, err := unix.Dup(int(f.Fd())) // Fd makes it blocking
	if err != nil {
		tb.Fatal(err)
	}
	unix.CloseOnExec(fd)
	return &exchanger{fd: fd, buf: make([]byte, 0, 64<<10)}
}

func TestNoAllocationsPerRequest(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: Tue, 24 Nov 2026 18:00:00 GMT\r\ncontent-length: 1024\r\n\r\n"
	full := []byte(answer + strings.Repeat("x", 1023) + "\n")
	chunked := []byte("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	const head = " HTTP/1.1\r\nhost: shop.example\r\nuser-agent: test\r\naccept: */*\r\n"
	for _, c := range []struct {
		name         string
		request      string
		answer, ends []byte
		mode         plan.LogMode
		tracing      *plan.Tracing
	}{
		{"GET", "GET /cart?x=1" + head + "\r\n", full, []byte("x\n"), plan.LogOff, nil},
		{"GET, logged", "GET /cart?x=1" + head + "\r\n", full, []byte("x\n"), plan.LogOn, nil},
		{"POST", "POST /cart" + head + "content-length: 2\r\n\r\n\r\n", full, []byte("x\n"), plan.LogOff, nil},
		{"chunked both ways", "POST /cart" + head + "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", chunked, []byte("0\r\n\r\n"), plan.LogOff, nil},
		{
			"GET, traced", "GET /cart?x=1" + head + "traceparent: 00-" + traceID + "-" + parentID + "-00\r\n\r\n", full, []byte("x\n"), plan.LogOn,
			&plan.Tracing{Sampling: plan.Share{Num: 0, Den: 1}, Errors: true, Parents: plan.ParentsAll, B3: true},
		},
		{
			"GET, sampled", "GET /cart?x=1" + head + "\r\n", full, []byte("x\n"), plan.LogOff,
			&plan.Tracing{Sampling: plan.Share{Num: 9, Den: 10}, Attributes: []plan.TraceAttribute{{Name: "long", Literal: strings.Repeat("x", 1024)}, {Name: "a", Header: "accept"}}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			r := all(plan.Backend{Service: "s", Weight: 1}, plan.Backend{Service: "s", Weight: 2})
			r.Filters = []plan.Filter{{RequestHeaders: &plan.HeaderEdit{Set: []plan.Header{{Name: "x-set", Value: "1"}}, Remove: []string{"x-gone"}}}}
			g := startWith(t, 1, deadEnd(t), route("r", r), service("s", ln.Addr().String()), settings(plan.Settings{AccessLog: plan.AccessLog{Mode: c.mode}}))
			if c.tracing != nil {
				g.trace(*c.tracing)
			}
			g.log.grow(32 << 20)
			client := descriptor(t, g.dial().Conn)
			defer unix.Close(client.fd)
			request := []byte(c.request)
			go func() { _, _ = unix.Write(client.fd, request) }()
			conn, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			server := descriptor(t, conn)
			defer unix.Close(server.fd)

			requestEnds := request[len(request)-4:]
			serve := func() {
				if err := server.until(requestEnds); err != nil {
					t.Error(err)
				}
				_, _ = unix.Write(server.fd, c.answer)
				if err := client.until(c.ends); err != nil {
					t.Error(err)
				}
			}
			serve()
			ask := func() { _, _ = unix.Write(client.fd, request); serve() }
			for range 2000 {
				ask() // fills what is kept for reuse
			}
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
			const n = 10_000
			turns := g.metric("windrose_loop_turns_total")
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range n {
				ask()
			}
			runtime.ReadMemStats(&after)
			// A thread that the runtime starts, a buffer of the log, or a batch of spans
			// on its way to the collector is not a request's.
			if per := float64(after.Mallocs-before.Mallocs) / n; per > 0.02 {
				t.Errorf("%.3f allocations for each request, want none", per)
			}
			// One for the request and one for the answer: no event is for nothing.
			if per := (g.metric("windrose_loop_turns_total") - turns) / n; per > 2.1 {
				t.Errorf("%.2f turns of the loop for each request, want 2", per)
			}
		})
	}
}

// TestMain looks whether the tests left descriptors or goroutines behind.
func TestMain(m *testing.M) {
	files, goroutines := openFiles(), runtime.NumGoroutine()
	code := m.Run()
	for deadline := time.Now().Add(5 * time.Second); code == 0; {
		// A descriptor for the directory itself, and the runtime's own.
		if openFiles() <= files+4 && runtime.NumGoroutine() <= goroutines+2 {
			break
		}
		if time.Now().After(deadline) {
			stacks := make([]byte, 64<<10)
			os.Stderr.Write(stacks[:runtime.Stack(stacks, true)])
			println("left behind: descriptors before", files, "after", openFiles(), "goroutines before", goroutines, "after", runtime.NumGoroutine())
			code = 1
		}
		pause(10 * time.Millisecond)
	}
	os.Exit(code)
}

func openFiles() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(list)
}
