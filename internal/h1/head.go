package h1

import "bytes"

// Defaults for limits that are zero.
const (
	DefaultHeadBytes   = 64 << 10
	DefaultTargetBytes = 8 << 10
	DefaultFields      = 100
)

const (
	bareLF = "there is an LF that is not preceded by CR"
	bareCR = "there is a CR that is not followed by LF"
)

var crlfcrlf = []byte("\r\n\r\n")

func (l Limits) withDefaults() Limits {
	if l.HeadBytes == 0 {
		l.HeadBytes = DefaultHeadBytes
	}
	if l.TargetBytes == 0 {
		l.TargetBytes = DefaultTargetBytes
	}
	if l.Fields == 0 {
		l.Fields = DefaultFields
	}
	return l
}

func bad(reason string) *Error { return &Error{Status: 400, Reason: reason} }

// headEnd returns the length of the head that begins at start, or 0. The bytes
// before from do not hold the end, though they may hold most of it.
func headEnd(buf []byte, start, from int) int {
	start = min(max(start, from-3), len(buf))
	i := bytes.Index(buf[start:], crlfcrlf)
	if i < 0 {
		return 0
	}
	return start + i + 4
}

// checkLF finds an LF without CR at or after from. A head with one may never
// end, so that it is refused when it is seen and not when time runs out.
func checkLF(buf []byte, from int) *Error {
	for i := max(from, 0); i < len(buf); i++ {
		j := bytes.IndexByte(buf[i:], '\n')
		if j < 0 {
			return nil
		}
		i += j
		if i == 0 || buf[i-1] != '\r' {
			return bad(bareLF)
		}
	}
	return nil
}
