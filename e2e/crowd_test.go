package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// cpu is the time that a process has used, in all its threads.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	const user, system, tick = 11, 12, 10 * time.Millisecond
	var ticks int
	for _, i := range []int{user, system} {
		n, err := strconv.Atoi(fields[i])
		must(t, err)
		ticks += n
	}
	return time.Duration(ticks) * tick
}

// counts is a series of the data plane's metrics; 0 where it is not there.
func (w *windrose) counts(series string) int {
	w.t.Helper()
	_, page, _ := fetch("http://" + w.stats + "/metrics")
	n, _ := strconv.ParseFloat(sample(page, series), 64)
	return int(n)
}

// crowd opens n connections, from several addresses of this machine, and has
// each begin; they are closed when the test ends.
func crowd(t *testing.T, n int, addr string, begin func(c net.Conn) error) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	places := make(chan struct{}, 32)
	for i := range n {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			from := net.IPv4(127, 0, 1, byte(1+i%8))
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 20 * time.Second}
			if conns[i], errs[i] = dialer.Dial("tcp", addr); errs[i] == nil {
				errs[i] = begin(conns[i])
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	must(t, errors.Join(errs...))
	return conns
}

// TestTenThousandIdleConnections costs little memory for each, and nobody else
// anything.
func TestTenThousandIdleConnections(t *testing.T) {
	t.Parallel()
	plain, secure := freeAddr(t), freeAddr(t)
	w := up(t, map[string]string{
		"gateway.yaml": gatewayOf("{name: http, protocol: HTTP, port: "+portOf(plain)+"}", httpsListener("https", secure, "", "web")),
		"secret.yaml":  secret(t, "web", ecdsaKey, 1, "a.example"), "a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/", "a"),
	})
	ask := func(c net.Conn) error {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"); err != nil {
			return err
		}
		got := make([]byte, 12)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "HTTP/1.1 200" {
			return fmt.Errorf("%q %w", got, err)
		}
		return nil
	}
	config := tlsConfig(t, "a.example")
	n, few := 10_000, 500
	if long() {
		few = 2000 // all together stay under the usual limit of descriptors
	}
	plane := w.dataplane()
	for _, tt := range []struct {
		name  string
		n     int
		addr  string
		begin func(net.Conn) error
		most  int // bytes for one
	}{
		{"that said nothing", few, plain, func(net.Conn) error { return nil }, 4 << 10},
		{"that were served", n, plain, ask, 4 << 10},
		{"under TLS", few, secure, func(c net.Conn) error { return ask(tls.Client(c, config)) }, 64 << 10},
	} {
		before := memory(t, plane, "VmRSS")
		crowd(t, tt.n, tt.addr, tt.begin)
		start := time.Now()
		if code, body, _ := fetch("http://" + plain); code != 200 {
			t.Fatalf("another client meets with %d %s", code, body)
		}
		took := time.Since(start)
		// Handshakes leave garbage for a while. What the kernel keeps is not counted.
		var each int
		w.eventually("a connection "+tt.name+" takes little", func() error {
			if each = (memory(t, plane, "VmRSS") - before) << 10 / tt.n; each > tt.most {
				return fmt.Errorf("%d bytes, want at most %d", each, tt.most)
			}
			return nil
		})
		t.Logf("%d connections %s: %d bytes for each; another client is served in %v", tt.n, tt.name, each, took)
	}
	before := cpu(t, plane)
	<-time.After(time.Second)
	if used := cpu(t, plane) - before; used > 200*time.Millisecond {
		t.Errorf("idle connections take %v of CPU time in a second", used)
	}
}

// drip sends text a byte at a time, until it ends or the other side has had
// enough; then it waits for the end of the connection.
func drip(c net.Conn, text []byte) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for _, b := range text {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		<-tick.C
	}
}

// frames is what an HTTP/2 client sends first, and what write adds.
func frames(write func(f *http2.Framer, block []byte)) []byte {
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&b, nil)
	_ = f.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "a.example"}, {"x", strings.Repeat("x", 1000)}} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	write(f, block.Bytes())
	return b.Bytes()
}

// TestSlowClientsAreEnded: those who trickle what should come at once are ended
// in time and counted; the others are served meanwhile.
func TestSlowClientsAreEnded(t *testing.T) {
	t.Parallel()
	plain, secure := freeAddr(t), freeAddr(t)
	w := up(t, map[string]string{
		"gateway.yaml": withParameters(gatewayOf("{name: http, protocol: HTTP, port: "+portOf(plain)+"}", httpsListener("https", secure, "", "web")),
			"{timeouts: {header: 1s, handshake: 1s, body: 1s}}"),
		"secret.yaml": secret(t, "web", ecdsaKey, 1, "a.example"), "a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/", "a"),
	})
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	l := newLoad(t)
	l.run(2, func() error { return get(client, "http://"+plain) })

	const n = 200
	hello := []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 500))
	head := frames(func(f *http2.Framer, block []byte) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: true})
	})
	open := frames(func(f *http2.Framer, block []byte) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:10], EndStream: true})
	})
	handshakes := `windrose_tls_handshakes_total{result="timeout"}`
	heads := `windrose_faults_total{flag="header-timeout",side="client"}`
	bodies := `windrose_faults_total{flag="body-timeout",side="client"}`
	slow := `windrose_connections_cut_total{reason="slow"}`
	wants := map[string]int{}
	var conns []net.Conn
	for _, tt := range []struct {
		addr    string
		first   string // at once
		then    []byte // slowly
		counted string
	}{
		{plain, "", nil, slow}, // says nothing
		{plain, "GET / HTTP/1.1\r\n", []byte("Host: a" + strings.Repeat("x", 1000)), heads},
		{plain, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", []byte("x"), bodies},
		{plain, "", []byte(http2.ClientPreface), heads},
		{plain, string(head[:60]), head[60:], slow},
		{plain, string(open), nil, slow}, // no CONTINUATION comes
		{secure, "", hello, handshakes},
		{secure, "", nil, handshakes},
	} {
		wants[tt.counted] += n
		conns = append(conns, crowd(t, n, tt.addr, func(c net.Conn) error {
			_, err := io.WriteString(c, tt.first)
			if err == nil && len(tt.then) > 0 {
				go drip(c, tt.then)
			}
			return err
		})...)
	}
	deadline := time.Now().Add(30 * time.Second)
	for i, c := range conns {
		_ = c.SetReadDeadline(deadline)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d of %d to %v is not ended", i, len(conns), c.RemoteAddr())
		}
	}
	l.end(t)
	for series, want := range wants {
		// The timeouts are so short here that one of the honest, on a busy machine, may
		// have been slow for once, and have come again.
		w.eventually("the slow are counted", func() error {
			if got := w.counts(series); got < want || got > want+want/20 {
				return fmt.Errorf("%s is %d, want %d", series, got, want)
			}
			return nil
		})
	}
}

// TestFloodsOfHTTP2 are cut short and counted, in little memory; the others are
// served meanwhile.
func TestFloodsOfHTTP2(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/", "a")})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	l := newLoad(t)
	l.run(2, func() error { return get(client, "http://"+addr) })
	floods := map[string]func(f *http2.Framer, block []byte, i uint32) error{
		"SETTINGS": func(f *http2.Framer, _ []byte, _ uint32) error { return f.WriteSettings() },
		"PING":     func(f *http2.Framer, _ []byte, _ uint32) error { return f.WritePing(false, [8]byte{}) },
		"rapid reset": func(f *http2.Framer, block []byte, i uint32) error {
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block, EndHeaders: true, EndStream: true})
			return errors.Join(err, f.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
		},
		"CONTINUATION": func(f *http2.Framer, block []byte, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block})
			}
			return f.WriteContinuation(1, false, bytes.Repeat([]byte{0}, 1000))
		},
		"empty DATA": func(f *http2.Framer, block []byte, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
			}
			return f.WriteData(1, false, nil)
		},
		"PRIORITY": func(f *http2.Framer, _ []byte, i uint32) error {
			return f.WritePriority(2*i+1, http2.PriorityParam{})
		},
	}
	before := memory(t, w.dataplane(), "VmRSS")
	const n = 8 // connections for each flood
	var wg sync.WaitGroup
	for name, flood := range floods {
		for _, c := range crowd(t, n, addr, func(net.Conn) error { return nil }) {
			wg.Go(func() {
				_ = c.SetDeadline(time.Now().Add(30 * time.Second))
				var reads sync.WaitGroup
				reads.Go(func() { _, _ = io.Copy(io.Discard, c) })
				const most, batch = 1_000_000, 100
				preface := len(frames(func(*http2.Framer, []byte) {}))
				sent := 0
				for sent < most {
					text := frames(func(f *http2.Framer, block []byte) {
						for range batch {
							_ = flood(f, block, uint32(sent))
							sent++
						}
					})
					if sent > batch {
						text = text[preface:]
					}
					if _, err := c.Write(text); err != nil {
						break
					}
				}
				reads.Wait()
				if sent >= most {
					t.Errorf("%s: %d frames were taken", name, sent)
				}
			})
		}
	}
	wg.Wait()
	l.end(t)
	w.eventually("the floods are counted", func() error {
		if got, want := w.counts(`windrose_connections_cut_total{reason="protocol"}`), n*len(floods); got != want {
			return fmt.Errorf("%d, want %d", got, want)
		}
		return nil
	})
	if grown := memory(t, w.dataplane(), "VmHWM") - before; grown > 32<<10 {
		t.Errorf("the data plane grew by %d KiB", grown)
	}
}
