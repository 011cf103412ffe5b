package plan

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestNormalize(t *testing.T) {
	tests := []struct {
		in, want string
		err      error
	}{
		{in: "/", want: "/"},
		{in: "", want: "/"},
		{in: "*", want: "*"},
		{in: "/foo/bar", want: "/foo/bar"},
		{in: "/foo/", want: "/foo/"},
		{in: "//foo//bar//", want: "//foo//bar//"},
		{in: "/%61dmin", want: "/admin"},
		{in: "/%41%7E%2D%5F%2e%30", want: "/A~-_.0"},
		{in: "/a%2fb", want: "/a%2Fb"},
		{in: "/a%2Fb%5cc", want: "/a%2Fb%5Cc"},
		{in: "/a%20b%3f%23", want: "/a%20b%3F%23"},
		{in: "/a:@!$&'()*+,;=b", want: "/a:@!$&'()*+,;=b"},
		{in: "/%3a", want: "/%3A"}, // reserved: encoded and plain are not the same
		{in: "/caf\xc3\xa9", want: "/caf%C3%A9"},
		{in: "/caf%c3%a9", want: "/caf%C3%A9"},
		{in: "/%2561", want: "/%2561"}, // decoded once only
		{in: "/[x]{y}|\"<>^`", want: "/[x]{y}|\"<>^`"},
		{in: "/a/./b", want: "/a/b"},
		{in: "/a/.", want: "/a/"},
		{in: "/.", want: "/"},
		{in: "/./", want: "/"},
		{in: "/a/../b", want: "/b"},
		{in: "/a/..", want: "/"},
		{in: "/a/b/../..", want: "/"},
		{in: "/a/b/c/./../../g", want: "/a/g"}, // RFC 3986, 5.2.4
		{in: "/mid/content=5/../6", want: "/mid/6"},
		{in: "/a/%2e%2E/b", want: "/b"},
		{in: "/a/.%2e/b", want: "/b"},
		{in: "/a/%2e", want: "/a/"},
		{in: "/a//../b", want: "/a/b"},
		{in: "//..", want: "/"},
		{in: "/...", want: "/..."},
		{in: "/.a/..b/c..", want: "/.a/..b/c.."},
		{in: "/a..;/b..%2f..c/...;x", want: "/a..;/b..%2F..c/...;x"},
		{in: "/..;/x", err: ErrPathHidden},
		{in: "/a/%2e.;p=1/x", err: ErrPathHidden},
		{in: "/a/..%2Fb", err: ErrPathHidden},
		{in: "/a%2f../b", err: ErrPathHidden},
		{in: "/a%5c%2e%2e%5cb", err: ErrPathHidden},
		{in: "/a/x%2f..", err: ErrPathHidden},
		{in: "/..", err: ErrPathAbove},
		{in: "/a/../..", err: ErrPathAbove},
		{in: "/a/../../a", err: ErrPathAbove},
		{in: "/%2e%2e/etc/passwd", err: ErrPathAbove},
		{in: "foo", err: ErrPathRelative},
		{in: "**", err: ErrPathRelative},
		{in: "http://a/", err: ErrPathRelative},
		{in: "/%", err: ErrPathEscape},
		{in: "/%4", err: ErrPathEscape},
		{in: "/%zz", err: ErrPathEscape},
		{in: "/%%41", err: ErrPathEscape},
		{in: "/%00", err: ErrPathNUL},
		{in: "/a%00.jpg", err: ErrPathNUL},
		{in: "/\x00", err: ErrPathByte},
		{in: "/a b", err: ErrPathByte},
		{in: "/a\tb", err: ErrPathByte},
		{in: "/a\\b", err: ErrPathByte},
		{in: "/..\\b", err: ErrPathByte},
		{in: "/a#b", err: ErrPathByte},
		{in: "/a?b", err: ErrPathByte},
		{in: "/\x7f", err: ErrPathByte},
	}
	for _, tt := range tests {
		got, err := Normalize(nil, []byte(tt.in))
		if !errors.Is(err, tt.err) || string(got) != tt.want {
			t.Errorf("%q: got %q, %v, want %q, %v", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestNormalizeKeepsWhatIsNormal(t *testing.T) {
	buf := make([]byte, 0, 256)
	for _, in := range []string{"/foo/bar", "/%2F", "/a/.b", "/caf%C3%A9"} {
		path := []byte(in)
		got, err := Normalize(buf, path)
		if err != nil || &got[0] != &path[0] {
			t.Errorf("%s: got a copy", in)
		}
	}
	dirty := []byte("/a/%2e%2e/%62%2f\xc3")
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Normalize(buf, dirty); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2E/", "/%61%2f", "//a/./", "/caf\xc3\xa9", "/a/..;/b", "/%25%32%65"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Normalize(nil, []byte(in))
		if err != nil {
			return
		}
		once := string(got)
		again, err := Normalize(nil, got)
		if err != nil || string(again) != once {
			t.Errorf("%q: normal %q is not its own normal form: %q, %v", in, once, again, err)
		}
		if once == "*" {
			return
		}
		for segment := range strings.SplitSeq(once, "/") {
			if segment == "." || segment == ".." {
				t.Errorf("%q: %q has a dot segment", in, once)
			}
		}
		if bytes.ContainsAny(got, "\\?# \x00\r\n") || got[0] != '/' {
			t.Errorf("%q: %q has a byte that must not be forwarded", in, once)
		}
	})
}

func BenchmarkNormalize(b *testing.B) {
	buf := make([]byte, 0, 256)
	for _, bm := range []struct{ name, path string }{
		{"plain", "/api/v1/users/12345/orders"},
		{"dots", "/api/v1/../v2/%75sers"},
	} {
		path := []byte(bm.path)
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Normalize(buf, path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
