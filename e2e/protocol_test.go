package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// protocol is a windrose before a backend that does what the path says.
func protocol(t *testing.T) (*windrose, string) {
	t.Helper()
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			body, _ := io.ReadAll(r.Body)
			for k, v := range r.Trailer {
				w.Header().Set("Got-"+k, v[0])
			}
			w.Header().Set("Got-Encoding", strings.Join(r.TransferEncoding, ","))
			_, _ = w.Write(body)
		case "/trailers":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			w.Header().Set("X-Sum", "42")
		case "/early":
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			_, _ = io.WriteString(w, "late")
		case "/stream":
			for i := range 3 {
				fmt.Fprintf(w, "part %d\n", i)
				w.(http.Flusher).Flush()
			}
		case "/refuse":
			w.WriteHeader(http.StatusExpectationFailed)
		case "/ws":
			webSocket(w, r)
		default:
			fmt.Fprintf(w, "%s %s", r.Method, r.URL.Path)
		}
	})
	port := freePort(t)
	w := up(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", addr), "r.yaml": route("r", "/", "a")})
	return w, fmt.Sprintf("127.0.0.1:%d", port)
}

const webSocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// webSocket accepts the handshake of RFC 6455 and echoes bytes, frames and all.
func webSocket(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + webSocketGUID))
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	_ = rw.Flush()
	_, _ = io.Copy(conn, rw)
}

// raw sends bytes and gives all that comes until the other end closes, or what
// came in 10 s.
func raw(t *testing.T, addr, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, text)
	must(t, err)
	b, err := io.ReadAll(conn)
	if err != nil {
		return string(b) + "\n" + err.Error()
	}
	return string(b)
}

func TestCurlSpeaksHTTP(t *testing.T) {
	t.Parallel()
	_, addr := protocol(t)
	big := filepath.Join(t.TempDir(), "big")
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	must(t, os.WriteFile(big, body, 0o644))
	for _, tt := range []struct {
		name string
		args []string
		want []string
		not  string
	}{
		{"HTTP/1.0", []string{"-i", "--http1.0", "/x"}, []string{"HTTP/1.1 200 OK", "GET /x"}, "chunked"},
		{"HTTP/1.0 of unknown length", []string{"-i", "--http1.0", "/stream"}, []string{"part 0\npart 1\npart 2\n"}, "chunked"},
		{"HEAD", []string{"-I", "/x"}, []string{"HTTP/1.1 200 OK"}, "HEAD /x"},
		{"chunked answer", []string{"-i", "--raw", "/stream"}, []string{"ransfer-", "chunked", "part 2\n", "\r\n0\r\n\r\n"}, "ontent-length"},
		{"trailers of the answer", []string{"--raw", "-H", "TE: trailers", "/trailers"}, []string{"X-Sum: 42"}, ""},
		{"early hints", []string{"-i", "/early"}, []string{"HTTP/1.1 103", "rel=preload", "HTTP/1.1 200 OK", "late"}, ""},
		{"chunked request", []string{"-i", "-H", "Transfer-Encoding: chunked", "-d", "hello", "/echo"}, []string{"Got-Encoding: chunked", "hello"}, ""},
		{"refused expectation", []string{"-i", "-H", "Expect: 100-continue", "-d", "hello", "/refuse"}, []string{"HTTP/1.1 417"}, "100 Continue"},
		{"OPTIONS", []string{"-X", "OPTIONS", "/x"}, []string{"OPTIONS /x"}, ""},
		{"a method of one's own", []string{"-X", "BREW", "/x"}, []string{"BREW /x"}, ""},
		{"CONNECT", []string{"-i", "-X", "CONNECT", "--request-target", "a:443", "/"}, []string{" 501 ", "x-windrose-fault: not-supported"}, ""},
	} {
		args := slices.Clone(tt.args)
		args[len(args)-1] = "http://" + addr + args[len(args)-1]
		r := curl(t, args...)
		for _, want := range tt.want {
			if !strings.Contains(r.out, want) {
				t.Errorf("%s: no %q in %+v", tt.name, want, r)
			}
		}
		if tt.not != "" && strings.Contains(r.out, tt.not) {
			t.Errorf("%s: %q in %+v", tt.name, tt.not, r)
		}
	}
	// A big body, for which curl asks with Expect first.
	r := curl(t, "-v", "-H", "Expect: 100-continue", "--data-binary", "@"+big, "http://"+addr+"/echo")
	if !strings.Contains(r.err, "HTTP/1.1 100 Continue") || r.out != string(body) {
		t.Errorf("big body with Expect: %d bytes came back of %d: %s", len(r.out), len(body), r.err)
	}
	// Two requests over one connection.
	if r := curl(t, "-v", "http://"+addr+"/1", "http://"+addr+"/2"); r.out != "GET /1GET /2" || !strings.Contains(r.err, "Re-using existing connection") {
		t.Errorf("keep-alive: %+v", r)
	}
}

func TestTrailersOfARequest(t *testing.T) {
	t.Parallel()
	_, addr := protocol(t)
	got := raw(t, addr, "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n")
	if !strings.Contains(got, "Got-X-Sum: 42") || !strings.Contains(got, "hello") {
		t.Errorf("got %q", got)
	}
}

func TestPipelinedRequests(t *testing.T) {
	t.Parallel()
	_, addr := protocol(t)
	var send strings.Builder
	const n = 50
	for i := range n {
		fmt.Fprintf(&send, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n%03d", i)
	}
	send.WriteString("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	r := bufio.NewReader(strings.NewReader(raw(t, addr, send.String())))
	for i := range n + 1 {
		want := fmt.Sprintf("%03d", i)
		if i == n {
			want = "GET /last"
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if got, err := io.ReadAll(resp.Body); string(got) != want || err != nil {
			t.Fatalf("answer %d: got %q, %v, want %q", i, got, err, want)
		}
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		t.Errorf("more came: %q", rest)
	}
}

// covers: HTTPRouteBackendProtocolWebSocket
func TestWebSocket(t *testing.T) {
	t.Parallel()
	w, addr := protocol(t)
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	// The first frame comes with the request, as an impatient client sends it.
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", key)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("got %s %v", resp.Status, resp.Header)
	}
	for i := range 100 {
		frame := append([]byte{0x82, 0x7e, 0x10, 0x00}, bytes.Repeat([]byte{byte(i)}, 0x1000)...)
		_, err := conn.Write(frame)
		must(t, err)
		got := make([]byte, len(frame))
		_, err = io.ReadFull(r, got)
		must(t, err)
		if !bytes.Equal(got, frame) {
			t.Fatalf("frame %d came back otherwise", i)
		}
		if i == 50 {
			// A tunnel outlives changes of its route.
			w.write("r.yaml", marked("r", "/", "new"))
			w.markAt("http://"+addr+"/", "new")
		}
	}
	must(t, conn.(*net.TCPConn).CloseWrite())
	if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	// curl makes the handshake too.
	out := curl(t, "-i", "--max-time", "2", "-H", "Upgrade: websocket", "-H", "Connection: Upgrade",
		"-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: "+key, "http://"+addr+"/ws").out
	if !strings.HasPrefix(out, "HTTP/1.1 101 ") {
		t.Errorf("got %q", out)
	}
}

var statusLine = regexp.MustCompile(`HTTP/1\.1 \d`)

func TestSmugglingIsRefused(t *testing.T) {
	t.Parallel()
	_, addr := protocol(t)
	const next = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, request := range map[string]string{
		"both lengths":          "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next,
		"two lengths":           "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd" + next,
		"a signed length":       "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd" + next,
		"a length list":         "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd" + next,
		"chunked twice":         "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + next,
		"chunked not last":      "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + next,
		"a disguised coding":    "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + next,
		"a space before colon":  "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length : 4\r\n\r\nabcd" + next,
		"a folded header":       "POST /echo HTTP/1.1\r\nHost: a\r\nX: y\r\n Content-Length: 4\r\n\r\n" + next,
		"a bare LF":             "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n" + next,
		"a bare CR":             "GET / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 4\r\n\r\n" + next,
		"a NUL":                 "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n" + next,
		"a bad chunk size":      "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n" + next,
		"a negative chunk size": "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + next,
		"a huge chunk size":     "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n" + next,
		"a chunk without end":   "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n" + next,
		"no host":               "GET / HTTP/1.1\r\n\r\n" + next,
		"two hosts":             "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + next,
		"a host with a path":    "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n" + next,
		"no path":               "GET x HTTP/1.1\r\nHost: a\r\n\r\n" + next,
		"no request":            "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n" + next,
	} {
		got := raw(t, addr, request)
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.1 400 ") && !strings.HasPrefix(head, "HTTP/1.1 501 ") {
			t.Errorf("%s: got %q, want 400", name, got)
			continue
		}
		flag := "bad-request"
		if strings.HasPrefix(head, "HTTP/1.1 501 ") {
			flag = "not-supported"
		}
		if !strings.Contains(head, "x-windrose-fault: "+flag) || !strings.HasPrefix(body, flag+": ") || len(body) < len(flag)+10 {
			t.Errorf("%s: no reason in %q", name, got)
		}
		if strings.Contains(got, "/smuggled") || len(statusLine.FindAllString(got, -1)) != 1 {
			t.Errorf("%s: what came after was answered: %q", name, got)
		}
	}
	// A bad path leaves no doubt where the next request begins.
	for _, path := range []string{"/../x", "/%2e%2E/x", "/a/..//../../x", "/%00", "/a\\b", "/%zz", "/#x", "/\xff"} {
		got := raw(t, addr, "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "\r\n\r\nbad-request: ") {
			t.Errorf("%s: got %q, want 400", path, got)
		}
	}
	if got := raw(t, addr, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 505 ") {
		t.Errorf("another version: %q", got)
	}
	if got := raw(t, addr, "GET /"+strings.Repeat("x", 20000)+" HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 414 ") {
		t.Errorf("a long target: %q", got)
	}
	if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", 70000)+"\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431 ") {
		t.Errorf("a long header: %.200q", got)
	}
}
