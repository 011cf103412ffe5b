package telemetry

import (
	"net/netip"
	"strconv"
	"time"

	"windrose.dev/windrose/internal/record"
)

// This file writes spans as Zipkin's JSON, version 2. What a loop gives away are
// objects with a comma after each; in brackets, without the last comma, they are
// a request to a collector.

// zipkinSpan appends a span; its name is in e.text.
func (e *spans) zipkinSpan(dst []byte, r *record.Record, s *shape) []byte {
	dst = hex(append(dst, `{"traceId":"`...), r.Trace.ID[:])
	dst = hex(append(dst, `","id":"`...), s.id[:])
	if s.parent != [8]byte{} {
		dst = hex(append(dst, `","parentId":"`...), s.parent[:])
	}
	dst = append(dst, `","kind":"`...)
	if s.client {
		dst = append(dst, "CLIENT"...)
	} else {
		dst = append(dst, "SERVER"...)
	}
	dst = append(dst, '"')
	dst = field(dst, `,"name":`, e.text, maxName)
	dst = number(dst, `,"timestamp":`, s.begun.UnixMicro())
	dst = number(dst, `,"duration":`, max(s.end.Sub(s.begun).Microseconds(), 1)) // 0 is refused
	dst = append(dst, `,"localEndpoint":{`...)
	dst = field(dst, `"serviceName":`, e.service, maxName)
	dst = append(dst, '}')
	dst = zipkinEndpoint(dst, s)
	if len(e.notes) > 0 {
		dst = append(append(dst, `,"annotations":[`...), e.notes[:len(e.notes)-1]...)
		dst = append(dst, ']')
	}
	if s.erred {
		e.attrs = zipkinTag(e.attrs, "error", "true")
	}
	if len(e.attrs) > 0 {
		dst = append(append(dst, `,"tags":{`...), e.attrs[:len(e.attrs)-1]...)
		dst = append(dst, '}')
	}
	return append(dst, '}', ',')
}

func zipkinEndpoint(dst []byte, s *shape) []byte {
	if !s.remote.IsValid() {
		return dst
	}
	dst = append(dst, `,"remoteEndpoint":{`...)
	if s.peer != "" {
		dst = append(field(dst, `"serviceName":`, s.peer, maxName), ',')
	}
	addr := s.remote.Addr().Unmap().WithZone("")
	dst = append(dst, zipkinFamily(addr)...)
	dst = append(addr.AppendTo(dst), '"')
	return append(number(dst, `,"port":`, int64(s.remote.Port())), '}')
}

func zipkinFamily(a netip.Addr) string {
	if a.Is4() {
		return `"ipv4":"`
	}
	return `"ipv6":"`
}

func zipkinTag[T string | []byte](dst []byte, key string, value T) []byte {
	dst = append(dst, '"')
	dst = appendString(dst, key, maxName)
	dst = append(dst, `":"`...)
	dst = appendString(dst, value, maxAttribute)
	return append(dst, '"', ',')
}

func zipkinNumber(dst []byte, key string, value int64) []byte {
	dst = append(dst, '"')
	dst = appendString(dst, key, maxName)
	dst = append(dst, `":"`...)
	return append(strconv.AppendInt(dst, value, 10), '"', ',')
}

func zipkinNote(dst []byte, name string, at time.Time) []byte {
	dst = number(dst, `{"timestamp":`, at.UnixMicro())
	return append(field(dst, `,"value":`, name, maxName), '}', ',')
}

func hex(dst, b []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range b {
		dst = append(dst, digits[c>>4], digits[c&15])
	}
	return dst
}
