package plan

import (
	"bytes"
	"errors"
)

// Why a path is refused.
var (
	ErrPathRelative = errors.New("the path does not begin with a slash")
	ErrPathEscape   = errors.New("the path has a percent sign without two hexadecimal digits after it")
	ErrPathByte     = errors.New("the path has a byte that must be percent-encoded: a control, a space, a backslash, '#' or '?'")
	ErrPathNUL      = errors.New("the path has an encoded NUL byte")
	ErrPathAbove    = errors.New("the path leads above the root with dot segments")
	ErrPathHidden   = errors.New("the path has a dot segment that some services see and others do not: '..' beside an encoded slash, a backslash or a semicolon")
)

// Normalize gives the one form of a request's path that is matched and that is
// forwarded, so that what was checked is what the service sees. It writes dst
// only if something changes; else it returns path itself. The form is its
// own normal form. Dst is written from its beginning.
//
//   - "%61dmin" becomes "admin": encoded unreserved characters are decoded
//     (RFC 3986, 6.2.2.2), all other encodings stay, with upper-case digits.
//     "%2F" and "%5C" are data and never separate segments.
//   - Bytes above 0x7f become percent-encoded.
//   - Dot segments are resolved (RFC 3986, 5.2.4), also "%2e"; leading above
//     the root is refused.
//   - ".." beside ";", "%2F" or "%5C" is refused: servlet containers take "..;x"
//     for a dot segment, and who decodes before it resolves takes "..%2F" for
//     one, so that they would leave the prefix that was matched.
//   - Doubled slashes stay: they mean something to some services.
//   - A percent sign that encodes nothing, an encoded NUL, a control, space,
//     backslash, "#" or "?" is refused: services disagree on what they mean.
//
// The empty path becomes "/"; "*" (OPTIONS) stays.
func Normalize(dst, path []byte) ([]byte, error) {
	if len(path) == 0 {
		return append(dst[:0], '/'), nil
	}
	if path[0] != '/' {
		if len(path) == 1 && path[0] == '*' {
			return path, nil
		}
		return nil, ErrPathRelative
	}
	plain, dots := scanPath(path)
	if plain && !dots {
		return path, nil
	}
	dst = dst[:0]
	if plain {
		dst = append(dst, path...)
	} else {
		var err error
		if dst, err = appendDecoded(dst, path); err != nil {
			return nil, err
		}
	}
	n, err := removeDots(dst)
	if err != nil {
		return nil, err
	}
	if hidesDots(dst[:n]) {
		return nil, ErrPathHidden
	}
	if bytes.Equal(dst[:n], path) {
		return path, nil
	}
	return dst[:n], nil
}

// hidesDots says whether a path whose dot segments are resolved has one for a
// service that reads paths in another way.
func hidesDots(path []byte) bool {
	for at := 0; ; at++ {
		i := bytes.Index(path[at:], []byte(".."))
		if i < 0 {
			return false
		}
		at += i
		if endsSegment(path[:at]) && beginsSegment(path[at+2:]) {
			return true
		}
	}
}

// endsSegment says whether a segment may begin behind path, and beginsSegment
// whether one may have ended before it.
func endsSegment(path []byte) bool {
	return bytes.HasSuffix(path, []byte("/")) || bytes.HasSuffix(path, []byte("%2F")) || bytes.HasSuffix(path, []byte("%5C"))
}

func beginsSegment(path []byte) bool {
	return len(path) == 0 || path[0] == '/' || path[0] == ';' || bytes.HasPrefix(path, []byte("%2F")) || bytes.HasPrefix(path, []byte("%5C"))
}

// A pathByte says what a byte of a path is.
type pathByte uint8

const (
	byteBad        pathByte = iota // must not appear
	byteUnreserved                 // is decoded
	byteReserved                   // as it is, encoded or not
	byteHigh                       // above 0x7f, is encoded
	bytePercent
)

func pathByteTable() (table [256]pathByte) {
	for c := range 256 {
		switch {
		case c <= ' ' || c == 0x7f || c == '\\' || c == '#' || c == '?':
			table[c] = byteBad
		case c >= 0x80:
			table[c] = byteHigh
		case c == '%':
			table[c] = bytePercent
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
			table[c] = byteUnreserved
		default:
			table[c] = byteReserved
		}
	}
	return table
}

var pathBytes = pathByteTable()

// scanPath says whether all bytes of a path stay as they are, and whether a dot
// follows a slash somewhere, which is as good as a dot segment here.
func scanPath(path []byte) (plain, dots bool) {
	var last byte
	for _, c := range path {
		if k := pathBytes[c]; k != byteUnreserved && k != byteReserved {
			return false, true
		}
		if c == '.' && last == '/' {
			dots = true
		}
		last = c
	}
	return true, dots
}

// appendDecoded appends path with its encodings in normal form.
func appendDecoded(dst, path []byte) ([]byte, error) {
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch pathBytes[c] {
		case byteBad:
			return nil, ErrPathByte
		case byteHigh:
			dst = appendEncoded(dst, c)
		case byteUnreserved, byteReserved:
			dst = append(dst, c)
		case bytePercent:
			if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
				return nil, ErrPathEscape
			}
			c = unhex(path[i+1])<<4 | unhex(path[i+2])
			i += 2
			switch {
			case c == 0:
				return nil, ErrPathNUL
			case pathBytes[c] == byteUnreserved:
				dst = append(dst, c)
			default:
				dst = appendEncoded(dst, c)
			}
		}
	}
	return dst, nil
}

func appendEncoded(dst []byte, c byte) []byte {
	const digits = "0123456789ABCDEF"
	return append(dst, '%', digits[c>>4], digits[c&15])
}

// removeDots resolves the dot segments of a path in place and gives the length
// of what is left.
func removeDots(path []byte) (int, error) {
	n := 0 // path[:n] is done; it is empty or what precedes a slash
	for i := 0; i < len(path); {
		end := bytes.IndexByte(path[i+1:], '/')
		if end < 0 {
			end = len(path)
		} else {
			end += i + 1
		}
		last := end == len(path)
		switch segment := path[i+1 : end]; {
		case len(segment) == 1 && segment[0] == '.':
			if last {
				path[n] = '/'
				n++
			}
		case len(segment) == 2 && segment[0] == '.' && segment[1] == '.':
			if n == 0 {
				return 0, ErrPathAbove
			}
			n = bytes.LastIndexByte(path[:n], '/')
			if last {
				path[n] = '/'
				n++
			}
		default:
			n += copy(path[n:], path[i:end])
		}
		i = end
	}
	return n, nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&0x0f + 9
}
