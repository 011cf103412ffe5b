package plan

import (
	"fmt"
	"strings"
	"time"
)

// maxSession bounds a session's timeout: as many seconds as any reader of a cookie
// understands.
const maxSession = 68 * 365 * 24 * time.Hour

// Safe says whether a session's names, a header's in lower case, and its path can
// be written into heads: a part with one that cannot is served without sessions.
func (s *Session) Safe() bool {
	return (s.Cookie == "") != (s.Header == "") && s.safeName() && s.safePath() &&
		s.Timeout >= 0 && s.Timeout <= maxSession && (!s.Permanent || s.Timeout > 0)
}

// String tells how the session is kept and for how long.
func (s *Session) String() string {
	text := "header " + s.Header
	if s.Cookie != "" {
		text = "cookie " + s.Cookie
		if s.Path != "" {
			text += " of path " + s.Path
		}
	}
	if s.Timeout > 0 {
		text += fmt.Sprintf(" for %v", s.Timeout)
	}
	if s.Permanent {
		text += ", permanent"
	}
	return text
}

func (s *Session) safeName() bool {
	if s.Cookie != "" {
		return IsToken(s.Cookie)
	}
	return IsToken(s.Header) && s.Header == strings.ToLower(s.Header) && !busyHeader(s.Header)
}

// IsToken says whether s is a token: it can be a method, the name of a field (RFC
// 9110, 5.6.2) or of a cookie.
func IsToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
		if !letter && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// safePath takes what RFC 6265 calls a path-value, with its slash in front.
func (s *Session) safePath() bool {
	if s.Path == "" {
		return true
	}
	for i := range len(s.Path) {
		if c := s.Path[i]; c <= ' ' || c >= 0x7f || c == ';' {
			return false
		}
	}
	return s.Path[0] == '/'
}

// busyHeader says whether a header has a meaning that a session must not take
// from it.
func busyHeader(name string) bool {
	switch name {
	case "host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer", "upgrade", "content-length",
		"content-type", "content-encoding", "content-range", "location", "cookie", "set-cookie", "date", "expect", "forwarded", "proxy", "server", "status",
		"authorization", "www-authenticate", "proxy-authorization", "proxy-authenticate", "x-request-id", "x-windrose-fault":
		return true
	}
	return strings.HasPrefix(name, "x-forwarded-") || strings.HasPrefix(name, "grpc-")
}

// usable is s, or nil if it is not safe.
func (s *Session) usable() *Session {
	if s == nil || !s.Safe() {
		return nil
	}
	return s
}

func (s *Session) same(other *Session) bool {
	if s == nil || other == nil {
		return s == other
	}
	return *s == *other
}

func (b *RetryBudget) same(other *RetryBudget) bool {
	if b == nil || other == nil {
		return b == other
	}
	return *b == *other
}
