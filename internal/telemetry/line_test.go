package telemetry

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"windrose.dev/windrose/internal/record"
)

// full is a record with every field set.
func full() *record.Record {
	return &record.Record{
		Start:    time.Date(2026, 3, 1, 12, 30, 45, 123456789, time.FixedZone("", 3600)),
		Duration: 12345678 * time.Nanosecond, Upstream: 3 * time.Millisecond,
		ID: []byte("0123456789abcdef"), Client: netip.MustParseAddrPort("[::ffff:192.0.2.7]:5120"),
		Protocol: "HTTP/1.1", TLS: "TLS1.3", Identity: "spiffe://shop.example/cart", Method: []byte("GET"), Host: []byte("shop.example"),
		Path: []byte("/cart?token=secret"), Agent: []byte("curl/8.9"),
		Listener: "Gateway/default/edge/https", Route: "HTTPRoute/default/shop", Rule: 2, Service: "default/shop:80",
		RuleSlot: 4, ServiceSlot: 5,
		Endpoint: netip.MustParseAddrPort("[2001:db8::1]:8080"), Attempts: 2,
		Status: 504, BytesIn: 10, BytesOut: 1024,
		Fault: record.BackendTimeout, Reason: "default/shop:80 gave no answer within 1s",
		Trace: record.Trace{ID: [16]byte{1, 15: 2}},
	}
}

// decode reads a line back, strictly.
func decode(t *testing.T, line []byte) map[string]any {
	t.Helper()
	if !bytes.HasSuffix(line, []byte("}\n")) || bytes.Count(line, []byte("\n")) != 1 {
		t.Fatalf("not one line: %q", line)
	}
	if !utf8.Valid(line) {
		t.Fatalf("not UTF-8: %q", line)
	}
	var got map[string]any
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	return got
}

func TestLineHasEveryField(t *testing.T) {
	got := decode(t, appendLine(nil, full(), new(stamp)))
	want := map[string]any{
		"ts": "2026-03-01T11:30:45.123456Z", "id": "0123456789abcdef", "client": "192.0.2.7:5120",
		"method": "GET", "host": "shop.example", "path": "/cart", "protocol": "HTTP/1.1", "tls": "TLS1.3", "identity": "spiffe://shop.example/cart",
		"status": 504.0, "bytes_in": 10.0, "bytes_out": 1024.0, "duration_ms": 12.345, "upstream_ms": 3.0,
		"listener": "Gateway/default/edge/https", "route": "HTTPRoute/default/shop", "rule": 2.0,
		"service": "default/shop:80", "endpoint": "[2001:db8::1]:8080", "attempts": 2.0, "agent": "curl/8.9",
		"fault": "backend-timeout", "side": "upstream", "reason": "default/shop:80 gave no answer within 1s",
		"mend": record.BackendTimeout.Mend(), "trace_id": "01000000000000000000000000000002",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Every field of a record is in the line, or has a reason not to be.
func TestNoFieldOfARecordIsForgotten(t *testing.T) {
	left := map[string]bool{
		"RuleSlot": true, "ServiceSlot": true, // short cuts for counting
		"Received": true, "Asked": true, "Answered": true, "Tries": true, // a line tells the whole, not its phases
	}
	whole := appendLine(nil, full(), new(stamp))
	for field := range reflect.TypeFor[record.Record]().Fields() {
		r := full()
		reflect.ValueOf(r).Elem().FieldByIndex(field.Index).SetZero()
		same := bytes.Equal(appendLine(nil, r, new(stamp)), whole)
		if same != left[field.Name] {
			t.Errorf("%s: left out of the line: %v, want %v", field.Name, same, left[field.Name])
		}
	}
}

func TestLineOfAnEmptyRecordHasOnlyWhatIsKnown(t *testing.T) {
	got := decode(t, appendLine(nil, &record.Record{Start: time.Unix(0, 0), Duration: -1}, new(stamp)))
	want := map[string]any{"ts": "1970-01-01T00:00:00.000000Z", "status": 0.0, "bytes_in": 0.0, "bytes_out": 0.0, "duration_ms": 0.0}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestAppendString(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "abc", `abc`},
		{"quote and backslash", `a"b\c`, `a\"b\\c`},
		{"line ends", "a\r\n\tb", `a\r\n\tb`},
		{"controls", "\x00\x1b\x7f", `\u0000\u001b\u007f`},
		{"UTF-8", "grün 東", `grün 東`},
		{"not UTF-8", "a\xffb\xc3", `a\ufffdb\ufffd`},
		{"a real replacement character", "\ufffd", "\ufffd"},
		{"C1 control", "\u0085", `\u0085`},
		{"line separator", "\u2028", `\u2028`},
		{"writing direction", "\u202e\u2066", `\u202e\u2066`},
		{"surrogate in UTF-8", "\xed\xa0\x80", `\ufffd\ufffd\ufffd`},
		{"at the limit", "12345678", `12345678`},
		{"beyond the limit", "123456789", `12345678…`},
		{"the limit falls into a character", "1234567ü", `1234567…`},
		{"broken character at the limit", "1234567\xc3\xc3", `1234567\ufffd…`},
	} {
		got := string(appendString(nil, c.in, 8))
		if c.name == "controls" || c.name == "UTF-8" || c.name == "surrogate in UTF-8" {
			got = string(appendString(nil, c.in, 64))
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzLineIsAlwaysOneJSONObject(f *testing.F) {
	f.Add("GET", "shop.example", "/a?b", "curl", "reason", int64(5))
	f.Add("\xff", "\"", "\\\x00", strings.Repeat("ü", 400), "\u2028", int64(-1))
	f.Fuzz(func(t *testing.T, method, host, path, agent, reason string, n int64) {
		r := full()
		r.Method, r.Host, r.Path, r.Agent, r.Reason = []byte(method), []byte(host), []byte(path), []byte(agent), reason
		r.BytesIn, r.Duration = n, time.Duration(n)
		line := appendLine(nil, r, new(stamp))
		decode(t, line)
		if most := 6*(maxPath+6*maxText+maxHost+maxMethod) + 1024; len(line) > most {
			t.Errorf("line of %d bytes, want at most %d", len(line), most)
		}
	})
}

func TestStampKeepsUpWithTime(t *testing.T) {
	var s stamp
	for _, want := range []string{
		"2026-03-01T11:59:59.999999Z", "2026-03-01T12:00:00.000000Z", "2026-03-01T11:59:59.000001Z", "1969-12-31T23:59:59.500000Z",
	} {
		at, err := time.Parse(time.RFC3339Nano, want)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(s.append(nil, at)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestEveryTimeFallsIntoItsBucket(t *testing.T) {
	slow := func(d time.Duration) int {
		for i, b := range bounds {
			if d <= b {
				return i
			}
		}
		return numBounds
	}
	times := []time.Duration{0, 1, time.Hour, 1<<63 - 1}
	for _, b := range bounds {
		times = append(times, b-1, b, b+1)
	}
	for n := range 62 {
		times = append(times, 1<<n-1, 1<<n, 1<<n+1)
	}
	for _, d := range times {
		if got, want := bucket(d), slow(d); got != want {
			t.Errorf("%v: bucket %d, want %d", d, got, want)
		}
	}
}
