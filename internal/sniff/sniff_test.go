package sniff

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

var errSeen = errors.New("the hello was seen")

// canned is a connection that gives bytes and keeps those written.
type canned struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *canned) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *canned) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *canned) Close() error                     { return nil }
func (c *canned) LocalAddr() net.Addr              { return nil }
func (c *canned) RemoteAddr() net.Addr             { return nil }
func (c *canned) SetDeadline(time.Time) error      { return nil }
func (c *canned) SetReadDeadline(time.Time) error  { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }

// hello is what crypto/tls sends first.
func hello(tb testing.TB, cfg *tls.Config) []byte {
	tb.Helper()
	c := &canned{in: bytes.NewReader(nil)}
	cfg.InsecureSkipVerify = true
	if err := tls.Client(c, cfg).Handshake(); err == nil {
		tb.Fatal("a handshake with nobody ended well")
	}
	return bytes.Clone(c.out.Bytes())
}

// server is what crypto/tls reads from a hello; nil if it refuses it.
func server(p []byte) *tls.ClientHelloInfo {
	var info *tls.ClientHelloInfo
	cfg := &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) { info = i; return nil, errSeen }}
	_ = tls.Server(&canned{in: bytes.NewReader(p)}, cfg).Handshake()
	return info
}

// records divides a hello, which is one record, into records of n bytes.
func records(p []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(p[recordHead:], n) {
		out = append(out, p[:3]...)
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

// same says how a hello differs from what crypto/tls reads; "" if not.
func same(h *Hello, info *tls.ClientHelloInfo) string {
	if got, want := string(h.ServerName), info.ServerName; got != want {
		return "server name: got " + got + ", crypto/tls reads " + want
	}
	var offers []string
	for _, name := range h.ALPN {
		offers = append(offers, string(name))
	}
	if !slices.Equal(offers, info.SupportedProtos) {
		return "ALPN: got " + strings.Join(offers, ",") + ", crypto/tls reads " + strings.Join(info.SupportedProtos, ",")
	}
	return ""
}

func TestClientHello(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  *tls.Config
	}{
		{"plain", &tls.Config{ServerName: "shop.example"}},
		{"no name", &tls.Config{}},
		{"ALPN", &tls.Config{ServerName: "Shop.Example", NextProtos: []string{"h2", "http/1.1"}}},
		{"TLS 1.2", &tls.Config{ServerName: "old.example", MaxVersion: tls.VersionTLS12}},
		{"small key shares", &tls.Config{ServerName: "a.example", CurvePreferences: []tls.CurveID{tls.X25519}}},
		{"many protocols", &tls.Config{ServerName: "a.example", NextProtos: strings.Split(strings.Repeat("proto ", 60)+"x", " ")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := hello(t, c.cfg)
			for _, size := range []int{1 << 14, 700, 100, 40} {
				cut := records(p, size)
				var h Hello
				if got := ClientHello(cut, &h); got != Found {
					t.Fatalf("in records of %d bytes: got %v", size, got)
				}
				info := server(cut)
				if info == nil {
					t.Fatal("crypto/tls refuses its own hello")
				}
				if diff := same(&h, info); diff != "" {
					t.Error(diff)
				}
				for _, v := range info.SupportedVersions {
					if !slices.Contains(h.Versions, v) {
						t.Errorf("versions: got %x, want %x in it", h.Versions, v)
					}
				}
				for n := range len(cut) {
					if got := ClientHello(cut[:n], &h); got != More || h.ServerName != nil {
						t.Fatalf("the first %d of %d bytes: got %v", n, len(cut), got)
					}
				}
				more := append(bytes.Clone(cut), 23, 3, 3, 0, 1, 9) // early data
				if got := ClientHello(more, &h); got != Found {
					t.Errorf("with early data behind it: got %v", got)
				}
			}
		})
	}
}

// part is an extension.
func part(kind uint16, data ...byte) []byte {
	p := binary.BigEndian.AppendUint16(nil, kind)
	p = binary.BigEndian.AppendUint16(p, uint16(len(data)))
	return append(p, data...)
}

// made is a hello of our own with extensions.
func made(extensions ...[]byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 4, 0x0a, 0x0a, 0x13, 0x01, 1, 0) // session, suites with GREASE, compression
	all := slices.Concat(extensions...)
	if all != nil {
		body = binary.BigEndian.AppendUint16(body, uint16(len(all)))
		body = append(body, all...)
	}
	p := append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{22, 3, 1, byte(len(p) >> 8), byte(len(p))}, p...)
}

func name(text string) []byte {
	n := len(text)
	return part(0, append([]byte{byte((n + 3) >> 8), byte(n + 3), 0, byte(n >> 8), byte(n)}, text...)...)
}

func TestVerdicts(t *testing.T) {
	long := made(part(21, make([]byte, 16000)...), name("a.example"))
	tooLong := append([]byte{22, 3, 1, 0x40, 0}, 1, 0, 0x40, 1)
	twoMessages := made(name("a.example"))
	twoMessages = append(twoMessages, 1, 2, 3)
	binary.BigEndian.PutUint16(twoMessages[3:], binary.BigEndian.Uint16(twoMessages[3:])+3)
	for _, c := range []struct {
		name string
		in   []byte
		want Verdict
		sni  string
	}{
		{"nothing", nil, More, ""},
		{"the first byte", []byte{22}, More, ""},
		{"an HTTP request", []byte("GET / HTTP/1.1\r\n"), NotTLS, ""},
		{"HTTP/2 with prior knowledge", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), NotTLS, ""},
		{"SSH", []byte("SSH-2.0-x\r\n"), NotTLS, ""},
		{"SSL 2", []byte{0x80, 0x2e, 1, 0, 2}, NotTLS, ""},
		{"another version of records", []byte{22, 2}, NotTLS, ""},
		{"an alert", []byte{21, 3, 1, 0, 2, 2, 40}, NotTLS, ""},
		{"another message", []byte{22, 3, 1, 0, 4, 2}, NotTLS, ""},
		{"an empty record", []byte{22, 3, 1, 0, 0}, NotTLS, ""},
		{"a record beyond its limit", []byte{22, 3, 1, 0x40, 1}, NotTLS, ""},
		{"a hello beyond its limit", tooLong, NotTLS, ""},
		{"a long hello", long, Found, "a.example"},
		{"in too many records", records(made(name("a.example"), part(21, make([]byte, 200)...)), 3), NotTLS, ""},
		{"in records of three bytes", records(made(name("a.example")), 3), Found, "a.example"},
		{"more behind the hello in its record", twoMessages, NotTLS, ""},
		{"without extensions", made(), Found, ""},
		{"GREASE around", made(part(0x0a0a), name("a.example"), part(0xfafa, 0)), Found, "a.example"},
		{"GREASE in ALPN and versions", made(name("a.example"), part(16, 0, 6, 2, 0x1a, 0x1a, 2, 'h', '2'), part(43, 4, 0x2a, 0x2a, 3, 4)), Found, "a.example"},
		{"the name twice", made(name("a.example"), name("b.example")), NotTLS, ""},
		{"two names", made(part(0, 0, 8, 0, 0, 1, 'a', 0, 0, 1, 'b')), NotTLS, ""},
		{"a name of another kind before it", made(part(0, 0, 8, 9, 0, 1, 'x', 0, 0, 1, 'b')), Found, "b"},
		{"an empty name", made(part(0, 0, 3, 0, 0, 0)), NotTLS, ""},
		{"an empty list", made(part(0, 0, 0)), NotTLS, ""},
		{"a dot at the end", made(name("a.example.")), NotTLS, ""},
		{"a port", made(name("a.example:443")), NotTLS, ""},
		{"a zero byte", made(name("a.example\x00.b")), NotTLS, ""},
		{"a name too long", made(name(strings.Repeat("a", 256))), NotTLS, ""},
		{"a truncated extension", made([]byte{0, 0, 0, 9, 0}), NotTLS, ""},
		{"an empty list of protocols", made(part(16, 0, 0)), NotTLS, ""},
		{"an odd list of versions", made(part(43, 3, 3, 4, 3)), NotTLS, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h Hello
			if got := ClientHello(c.in, &h); got != c.want || string(h.ServerName) != c.sni {
				t.Errorf("got %v %q, want %v %q", got, h.ServerName, c.want, c.sni)
			}
		})
	}
}

func TestGreaseIsLeftOut(t *testing.T) {
	var h Hello
	p := made(part(16, 0, 6, 2, 0x1a, 0x1a, 2, 'h', '2'), part(43, 4, 0x2a, 0x2a, 3, 4))
	if ClientHello(p, &h) != Found || len(h.ALPN) != 1 || string(h.ALPN[0]) != "h2" || !slices.Equal(h.Versions, []uint16{0x0304}) {
		t.Errorf("got ALPN %q, versions %x", h.ALPN, h.Versions)
	}
}

func TestHelloInOneRecordIsNotCopied(t *testing.T) {
	p := made(name("a.example"))
	var h Hello
	if n := testing.AllocsPerRun(100, func() { ClientHello(p, &h) }); n > 1 { // the versions
		t.Errorf("%v allocations", n)
	}
}

// FuzzClientHello: nothing panics; more bytes never change a verdict that was
// given; and what crypto/tls takes for a hello names the same server.
func FuzzClientHello(f *testing.F) {
	f.Add(hello(f, &tls.Config{ServerName: "shop.example", NextProtos: []string{"h2"}}), uint8(0))
	f.Add(records(hello(f, &tls.Config{ServerName: "a.b", MaxVersion: tls.VersionTLS12}), 50), uint8(9))
	f.Add(made(part(0x0a0a), name("a.example"), part(43, 2, 3, 4)), uint8(200))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint8(3))
	f.Fuzz(func(t *testing.T, p []byte, cut uint8) {
		var h, early Hello
		verdict := ClientHello(p, &h)
		if n := len(p) * int(cut) / 256; n < len(p) {
			switch got := ClientHello(p[:n], &early); {
			case got == More:
			case got != verdict:
				t.Errorf("%v of the first %d bytes became %v", got, n, verdict)
			case !bytes.Equal(early.ServerName, h.ServerName):
				t.Errorf("server name %q became %q", early.ServerName, h.ServerName)
			}
		}
		if verdict == More && len(p) >= MaxBytes {
			t.Errorf("asks for more than %d bytes", MaxBytes)
		}
		if verdict != Found {
			return
		}
		if info := server(p); info != nil {
			if diff := same(&h, info); diff != "" && len(info.SupportedProtos) <= maxALPN && !greased(info.SupportedProtos) {
				t.Error(diff)
			}
		}
	})
}

func greased(names []string) bool {
	return slices.ContainsFunc(names, func(s string) bool { return isGrease([]byte(s)) })
}
