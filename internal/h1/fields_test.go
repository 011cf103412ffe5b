package h1_test

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h1"
)

var knownNames = map[h1.Known]string{
	h1.Host: "Host", h1.ContentLength: "Content-Length", h1.TransferEncoding: "Transfer-Encoding",
	h1.Connection: "Connection", h1.KeepAlive: "Keep-Alive", h1.ProxyConnection: "Proxy-Connection",
	h1.TE: "TE", h1.Trailer: "Trailer", h1.Upgrade: "Upgrade", h1.Expect: "Expect",
	h1.UserAgent: "User-Agent", h1.RequestID: "X-Request-Id", h1.ForwardedFor: "X-Forwarded-For",
	h1.ForwardedProto: "X-Forwarded-Proto", h1.ForwardedHost: "X-Forwarded-Host", h1.ForwardedClientCert: "X-Forwarded-Client-Cert", h1.Forwarded: "Forwarded",
	h1.FaultFlag: "X-Windrose-Fault", h1.HTTP2Settings: "HTTP2-Settings",
	h1.ProxyAuthenticate: "Proxy-Authenticate", h1.ProxyAuthorization: "Proxy-Authorization",
	h1.Date: "Date", h1.Server: "Server",
}

func TestClassifyKnowsEveryName(t *testing.T) {
	if got, want := len(knownNames), int(h1.Server); got != want {
		t.Fatalf("the table has %d names, want %d", got, want)
	}
	for want, name := range knownNames {
		for _, s := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			if got := h1.Classify([]byte(s)); got != want {
				t.Errorf("Classify(%s) = %d, want %d", s, got, want)
			}
		}
		// No other byte in any place gives a known name.
		for i := range name {
			for c := range 256 {
				b := []byte(name)
				b[i] = byte(c)
				if got := h1.Classify(b); got != 0 && !strings.EqualFold(string(b), name) {
					t.Errorf("Classify(%q) = %d", b, got)
				}
			}
		}
	}
}

func TestHopByHopFields(t *testing.T) {
	var got []string
	for k := h1.Host; k <= h1.Server; k++ {
		if k.HopByHop() {
			got = append(got, knownNames[k])
		}
	}
	want := "Transfer-Encoding Connection Keep-Alive Proxy-Connection TE Upgrade HTTP2-Settings Proxy-Authenticate Proxy-Authorization"
	if got := strings.Join(got, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEqualFold(t *testing.T) {
	for _, test := range []struct {
		b, lower string
		want     bool
	}{
		{"", "", true},
		{"Content-TYPE", "content-type", true},
		{"content-typ", "content-type", false},
		{"content\rtype", "content-type", false},
		{"@", "`", false},
		{"[", "{", false},
		{"\xc1", "a", false},
		{"\xe2\x84\xaa", "k", false},
	} {
		if got := h1.EqualFold([]byte(test.b), test.lower); got != test.want {
			t.Errorf("EqualFold(%q, %q) = %v", test.b, test.lower, got)
		}
	}
}

func TestLookupFindsTheFirst(t *testing.T) {
	r := mustParse(t, get("A: 1", "a: 2", "B:"))
	if v, ok := h1.Lookup(r.Fields, "a"); string(v) != "1" || !ok {
		t.Errorf("a = %q, %v", v, ok)
	}
	if v, ok := h1.Lookup(r.Fields, "b"); len(v) != 0 || !ok {
		t.Errorf("b = %q, %v", v, ok)
	}
	if v, ok := h1.Lookup(r.Fields, "c"); v != nil || ok {
		t.Errorf("c = %q, %v", v, ok)
	}
}

func TestValidNameAndValue(t *testing.T) {
	for c := range 256 {
		token := bytes.IndexByte([]byte("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"), byte(c)) >= 0
		text := c == '\t' || c >= ' ' && c != 0x7f
		// In every place of the eight bytes that are looked at together, beside
		// neighbours that a carry could come from.
		for _, fill := range []byte{'a', '~', 0xff, 0x80, '\t', ' '} {
			for at := range 20 {
				b := bytes.Repeat([]byte{fill}, 20)
				b[at] = byte(c)
				if got := h1.ValidValue(b); got != text {
					t.Fatalf("ValidValue(%q) = %v", b, got)
				}
				if got := h1.ValidName(b); fill == 'a' && got != token {
					t.Fatalf("ValidName(%q) = %v", b, got)
				}
			}
		}
	}
	if h1.ValidName(nil) || !h1.ValidValue(nil) {
		t.Error("an empty name is valid or an empty value is not")
	}
}

// hostIsValid asks with a request.
func hostIsValid(host string) bool {
	var r h1.Request
	n, err := r.Parse([]byte(head("GET / HTTP/1.1", "Host: "+host)), 0, h1.Limits{})
	return err == nil && n > 0
}

func FuzzIPv6Host(f *testing.F) {
	for _, s := range []string{"::", "1::", "::1", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1:2:3:4:5:6:1.2.3.4", "::ffff:1.2.3.4", "1::2::3", "fe80::1%eth0", ":::", "1:::2", "1:2:3:4:5:6:7:1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsAny(s, " \t]") {
			return
		}
		addr, err := netip.ParseAddr(s)
		want := err == nil && addr.Is6() && addr.Zone() == ""
		if got := hostIsValid("[" + s + "]"); got != want {
			t.Errorf("[%s] is valid: %v, want %v", s, got, want)
		}
	})
}
