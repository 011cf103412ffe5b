package telemetry

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
	"time"
	"unicode/utf8"

	"windrose.dev/windrose/internal/record"
)

// This file writes spans as OTLP's protobuf messages (opentelemetry-proto,
// trace.proto). The few messages are written by hand: what a loop gives away are
// elements of ScopeSpans.spans, which only need a frame around them to be a
// request to a collector, so that nobody has to look at them again.

// The wire types of protobuf.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// Numbers of fields, as trace.proto, common.proto and resource.proto have them.
const (
	spanTraceID    = 1
	spanID         = 2
	spanParentID   = 4
	spanName       = 5
	spanKind       = 6
	spanStart      = 7
	spanEnd        = 8
	spanAttributes = 9
	spanEvents     = 11
	spanStatus     = 15
	spanFlags      = 16

	kindServer = 2
	kindClient = 3

	statusMessage = 2
	statusCode    = 3
	statusError   = 2

	scopeSpansScope  = 1
	scopeSpansSpans  = 2
	scopeName        = 1
	scopeVersion     = 2
	resourceOf       = 1 // of ResourceSpans
	resourceScopes   = 2
	resourceAttrs    = 1
	requestResources = 1
)

// flagRemote says in a span's flags that it is known whether its parent is of
// another process, and that it is.
const (
	flagKnowsRemote = 0x100
	flagRemote      = 0x200
)

func tag(dst []byte, field, wire int) []byte {
	return binary.AppendUvarint(dst, uint64(field)<<3|uint64(wire))
}

// lengthy begins a message or a string of n bytes.
func lengthy(dst []byte, field, n int) []byte {
	return binary.AppendUvarint(tag(dst, field, wireBytes), uint64(n))
}

func sizeUvarint(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// lengthySize is how long a field below 16 with n bytes is.
func lengthySize(n int) int { return 1 + sizeUvarint(uint64(n)) + n }

func fixed64(dst []byte, field int, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(tag(dst, field, wireFixed64), v)
}

// otlpSpan appends a span as an element of ScopeSpans.spans; its name is in
// e.text.
func (e *spans) otlpSpan(dst []byte, r *record.Record, s *shape, reason string) []byte {
	b := append(lengthy(e.span[:0], spanTraceID, len(r.Trace.ID)), r.Trace.ID[:]...)
	b = append(lengthy(b, spanID, len(s.id)), s.id[:]...)
	if s.parent != [8]byte{} {
		b = append(lengthy(b, spanParentID, len(s.parent)), s.parent[:]...)
	}
	name := clean(e.text, maxName)
	b = append(lengthy(b, spanName, len(name)), name...)
	kind, flags := byte(kindServer), uint32(flagKnowsRemote|flagRemote)
	if s.client {
		kind, flags = kindClient, flagKnowsRemote
	}
	if r.Trace.Sampled {
		flags |= 1
	}
	b = append(tag(b, spanKind, wireVarint), kind)
	b = fixed64(b, spanStart, uint64(s.begun.UnixNano()))
	b = fixed64(b, spanEnd, uint64(s.end.UnixNano()))
	b = append(b, e.attrs...)
	b = append(b, e.notes...)
	if s.erred {
		text := clean([]byte(reason), maxText)
		n := 2 // the code
		if len(text) > 0 {
			n += lengthySize(len(text))
		}
		b = lengthy(b, spanStatus, n)
		if len(text) > 0 {
			b = append(lengthy(b, statusMessage, len(text)), text...)
		}
		b = append(tag(b, statusCode, wireVarint), statusError)
	}
	b = binary.LittleEndian.AppendUint32(tag(b, spanFlags, wireFixed32), flags)
	e.span = b
	return append(lengthy(dst, scopeSpansSpans, len(b)), b...)
}

// keyValue begins an attribute whose value, with its tag, takes n bytes.
func keyValue(dst []byte, field int, key string, n int) []byte {
	dst = lengthy(dst, field, lengthySize(len(key))+lengthySize(n))
	dst = append(lengthy(dst, 1, len(key)), key...)
	return lengthy(dst, 2, n)
}

func otlpString[T string | []byte](dst []byte, key string, value T) []byte {
	return appendKeyString(dst, spanAttributes, key, value)
}

func appendKeyString[T string | []byte](dst []byte, field int, key string, value T) []byte {
	text := clean(value, maxAttribute)
	dst = keyValue(dst, field, key, lengthySize(len(text)))
	return append(lengthy(dst, 1, len(text)), text...)
}

func otlpBool(dst []byte, key string, value bool) []byte {
	dst = keyValue(dst, spanAttributes, key, 2)
	bit := byte(0)
	if value {
		bit = 1
	}
	return append(tag(dst, 2, wireVarint), bit)
}

func otlpInt(dst []byte, key string, value int64) []byte {
	dst = keyValue(dst, spanAttributes, key, 1+sizeUvarint(uint64(value)))
	return binary.AppendUvarint(tag(dst, 3, wireVarint), uint64(value))
}

func otlpEvent(dst []byte, name string, at time.Time) []byte {
	dst = lengthy(dst, spanEvents, 9+lengthySize(len(name)))
	dst = fixed64(dst, 1, uint64(at.UnixNano()))
	return append(lengthy(dst, 2, len(name)), name...)
}

// clean cuts text to a limit, and gives it such that it is UTF-8: a collector
// refuses the whole request for one byte that is not. What it has to change is
// copied.
func clean[T string | []byte](text T, limit int) T {
	cut := text[:min(len(text), limit)]
	// A limit may fall into a character.
	for n := 1; len(cut) < len(text) && n < utf8.UTFMax && n <= len(cut); n++ {
		if c := cut[len(cut)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf {
				cut = cut[:len(cut)-n]
			}
			break
		}
	}
	for i := range len(cut) {
		if cut[i] >= utf8.RuneSelf {
			return cleaned(cut)
		}
	}
	return cut
}

func cleaned[T string | []byte](text T) T {
	const unknown = "\uFFFD"
	switch v := any(text).(type) {
	case string:
		if !utf8.ValidString(v) {
			return T(strings.ToValidUTF8(v, unknown))
		}
	case []byte:
		if !utf8.Valid(v) {
			return T(bytes.ToValidUTF8(v, []byte(unknown)))
		}
	}
	return text
}
