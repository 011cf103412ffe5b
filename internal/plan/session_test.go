package plan

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestSecretsAreNotPrinted(t *testing.T) {
	s := Settings{SessionKey: Secret("hush")}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		if text := fmt.Sprintf(format, s); strings.Contains(text, "hush") || strings.Contains(text, "68757368") || strings.Contains(text, "104 117") {
			t.Errorf("%s gives %q", format, text)
		}
	}
}

func TestSafeSessions(t *testing.T) {
	for _, c := range []struct {
		s    Session
		want bool
	}{
		{Session{Cookie: "JSESSIONID"}, true},
		{Session{Cookie: "a", Path: "/x/y=z,"}, true},
		{Session{Cookie: "a", Timeout: time.Hour, Permanent: true}, true},
		{Session{Header: "x-session"}, true},
		{Session{}, false},
		{Session{Cookie: "a", Header: "b"}, false},
		{Session{Cookie: "a b"}, false},
		{Session{Cookie: "a="}, false},
		{Session{Cookie: "a;Path"}, false},
		{Session{Cookie: "\u00e4"}, false},
		{Session{Cookie: "a", Path: "x"}, false},
		{Session{Cookie: "a", Path: "/x; Domain=example.com"}, false},
		{Session{Cookie: "a", Path: "/x\r\nset-cookie: b=c"}, false},
		{Session{Cookie: "a", Permanent: true}, false},
		{Session{Cookie: "a", Timeout: -1}, false},
		{Session{Cookie: "a", Timeout: 1<<63 - 1}, false},
		{Session{Header: "X-Session"}, false},
		{Session{Header: "set-cookie"}, false},
		{Session{Header: "content-length"}, false},
		{Session{Header: "x-forwarded-for"}, false},
		{Session{Header: "grpc-status"}, false},
		{Session{Header: "x session"}, false},
	} {
		if got := c.s.Safe(); got != c.want {
			t.Errorf("%+v: safe %v, want %v", c.s, got, c.want)
		}
	}
}
