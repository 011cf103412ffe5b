package telemetry

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"windrose.dev/windrose/internal/record"
)

// The longest values of a line; what is longer ends with "…".
const (
	maxPath   = 2048
	maxText   = 512 // agent, reason
	maxName   = 512 // listener, route, service
	maxHost   = 255
	maxMethod = 32
)

// stamp formats times; the part down to the second is kept, because most lines
// share it with the line before.
type stamp struct {
	second int64
	text   []byte
}

// append appends t as RFC 3339 in UTC with microseconds.
func (s *stamp) append(dst []byte, t time.Time) []byte {
	if second := t.Unix(); second != s.second || len(s.text) == 0 {
		s.second = second
		s.text = t.UTC().AppendFormat(s.text[:0], "2006-01-02T15:04:05.")
	}
	dst = append(dst, s.text...)
	dst = appendDigits(dst, uint64(t.Nanosecond()/1000), 6)
	return append(dst, 'Z')
}

// appendDigits appends the last n digits of v.
func appendDigits(dst []byte, v uint64, n int) []byte {
	dst = append(dst, "000000"[:n]...)
	for i := len(dst) - 1; i >= len(dst)-n; i-- {
		dst[i] = byte('0' + v%10)
		v /= 10
	}
	return dst
}

// appendMillis appends d in milliseconds, to the microsecond.
func appendMillis(dst []byte, d time.Duration) []byte {
	micros := uint64(max(d, 0) / time.Microsecond)
	dst = strconv.AppendUint(dst, micros/1000, 10)
	dst = append(dst, '.')
	return appendDigits(dst, micros%1000, 3)
}

// appendLine appends the line of r: one JSON object. Fields that a request does
// not have (no TLS, no route, no fault) are left out.
func appendLine(dst []byte, r *record.Record, s *stamp) []byte {
	dst = append(dst, `{"ts":"`...)
	dst = s.append(dst, r.Start)
	dst = append(dst, '"')
	dst = field(dst, `,"id":`, r.ID, maxID)
	if r.Trace.Traced() {
		dst = append(hex(append(dst, `,"trace_id":"`...), r.Trace.ID[:]), '"')
	}
	dst = addr(dst, `,"client":`, r.Client)
	dst = field(dst, `,"method":`, r.Method, maxMethod)
	dst = field(dst, `,"host":`, r.Host, maxHost)
	dst = field(dst, `,"path":`, r.ShownPath(), maxPath)
	dst = field(dst, `,"protocol":`, r.Protocol, maxMethod)
	dst = field(dst, `,"tls":`, r.TLS, maxMethod)
	dst = field(dst, `,"identity":`, r.Identity, maxText)
	dst = number(dst, `,"status":`, int64(r.Status))
	dst = number(dst, `,"bytes_in":`, r.BytesIn)
	dst = number(dst, `,"bytes_out":`, r.BytesOut)
	dst = append(dst, `,"duration_ms":`...)
	dst = appendMillis(dst, r.Duration)
	if r.Upstream > 0 {
		dst = append(dst, `,"upstream_ms":`...)
		dst = appendMillis(dst, r.Upstream)
	}
	dst = field(dst, `,"listener":`, r.Listener, maxName)
	if r.Route != "" {
		dst = field(dst, `,"route":`, r.Route, maxName)
		dst = number(dst, `,"rule":`, int64(r.Rule))
	}
	dst = field(dst, `,"service":`, r.Service, maxName)
	dst = addr(dst, `,"endpoint":`, r.Endpoint)
	if r.Attempts > 0 {
		dst = number(dst, `,"attempts":`, int64(r.Attempts))
	}
	dst = field(dst, `,"agent":`, r.Agent, maxText)
	if r.Fault != 0 {
		dst = field(dst, `,"fault":`, r.Fault.String(), maxText)
		dst = field(dst, `,"side":`, r.Fault.Side().String(), maxText)
		dst = field(dst, `,"reason":`, r.Reason, maxText)
		dst = field(dst, `,"mend":`, r.Fault.Mend(), maxText)
	}
	return append(dst, '}', '\n')
}

func number(dst []byte, key string, v int64) []byte {
	return strconv.AppendInt(append(dst, key...), v, 10)
}

// addr appends an address; an IPv4 client of a dual-stack socket is shown as
// IPv4.
func addr(dst []byte, key string, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return dst
	}
	dst = append(append(dst, key...), '"')
	dst = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()).AppendTo(dst)
	return append(dst, '"')
}

// field appends a string unless it is empty.
func field[T string | []byte](dst []byte, key string, v T, limit int) []byte {
	if len(v) == 0 {
		return dst
	}
	dst = append(append(dst, key...), '"')
	dst = appendString(dst, v, limit)
	return append(dst, '"')
}

// plain marks the bytes that stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// appendString appends the inside of a JSON string. Whatever a terminal might
// obey is escaped, and bytes that are not UTF-8 become U+FFFD.
func appendString[T string | []byte](dst []byte, v T, limit int) []byte {
	cut := len(v) > limit
	end := min(len(v), limit)
	start := 0
	for i := 0; i < end; {
		c := v[i]
		if plain[c] {
			i++
			continue
		}
		dst = append(dst, v[start:i]...)
		size := 1
		if c < utf8.RuneSelf {
			dst = appendEscaped(dst, rune(c))
		} else {
			var char [utf8.UTFMax]byte
			n := copy(char[:], v[i:])
			var r rune
			r, size = utf8.DecodeRune(char[:n])
			if i+size > end && size > 1 {
				start = end // the limit falls into this character
				break
			}
			dst = appendRune(dst, r, size)
		}
		i += size
		start = i
	}
	dst = append(dst, v[start:end]...)
	if cut {
		dst = append(dst, "…"...)
	}
	return dst
}

// appendRune appends a character that is not ASCII.
func appendRune(dst []byte, r rune, size int) []byte {
	switch {
	case r == utf8.RuneError && size == 1:
		return append(dst, `\ufffd`...)
	case r < 0xa0, r == '\u2028', r == '\u2029', r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069':
		return appendEscaped(dst, r) // C1 controls, line ends, changes of writing direction
	}
	return utf8.AppendRune(dst, r)
}

// appendEscaped appends r, which has at most 16 bits, in escaped form.
func appendEscaped(dst []byte, r rune) []byte {
	const digits = "0123456789abcdef"
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
}
