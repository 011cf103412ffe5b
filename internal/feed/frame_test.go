package feed

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"testing"
)

func framed(data ...string) []byte {
	var out []byte
	for _, d := range data {
		out = binary.BigEndian.AppendUint32(out, uint32(len(d)))
		out = append(out, d...)
	}
	return out
}

func TestFrameReader(t *testing.T) {
	big := string(bytes.Repeat([]byte("x"), 3<<20))
	r := &frameReader{r: bytes.NewReader(framed("a", big, "bc"))}
	for _, want := range []string{"a", big, "bc"} {
		got, err := r.next()
		if err != nil || string(got) != want {
			t.Fatalf("got %d bytes, %v, want %d", len(got), err, len(want))
		}
	}
	if cap(r.buf) > keepBuffer {
		t.Errorf("a buffer of %d bytes is kept", cap(r.buf))
	}
	if _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
	for name, in := range map[string][]byte{
		"empty":        {0, 0, 0, 0},
		"oversized":    {0xff, 0xff, 0xff, 0xff, 'x'},
		"just over":    binary.BigEndian.AppendUint32(nil, maxFrame+1),
		"cut head":     {0, 0},
		"cut body":     {0, 0, 0, 5, 'a'},
		"no body":      {0, 0, 0, 5},
		"HTTP by hand": []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		r := &frameReader{r: bytes.NewReader(in)}
		if _, err := r.next(); err == nil {
			t.Errorf("%s: read", name)
		}
		if cap(r.buf) > 2*keepBuffer {
			t.Errorf("%s: %d bytes of memory for %d of input", name, cap(r.buf), len(in))
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(framed(`{"type":"ping"}`, `{"type":"delta","version":1,"last":true}`))
	f.Add(framed(`{"type":"delta","version":1,"parts":[{"hash":"00000000000000000000000000000000","part":{"key":{"kind":"route","name":"r"},"route":{"created":1,"attach":[],"rules":[{"matches":[{"pathType":"exact","path":"/"}]}]}}}]}`))
	f.Add(framed(`{"type":"delta","parts":[{"part":{"key":{"kind":"wall"}}}]}`, "x"))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &frameReader{r: bytes.NewReader(data)}
		in := incoming{names: names{}}
		for {
			frame, err := r.next()
			if err != nil {
				return
			}
			if _, err := in.take(frame); err != nil {
				return
			}
			if len(in.hashes) != len(in.delta.Parts) {
				t.Fatalf("%d hashes of %d parts", len(in.hashes), len(in.delta.Parts))
			}
			if in.refused != "" && len(in.delta.Parts) > 0 {
				t.Fatal("a refused delta keeps parts")
			}
			for i := range in.delta.Parts {
				if _, err := json.Marshal(&in.delta.Parts[i]); err != nil {
					t.Fatalf("a part that was taken cannot be sent: %v", err)
				}
			}
		}
	})
}

func FuzzHash(f *testing.F) {
	f.Add("00112233445566778899aabbccddeeff")
	f.Fuzz(func(t *testing.T, s string) {
		var h Hash
		if h.UnmarshalText([]byte(s)) != nil {
			return
		}
		if text, _ := h.MarshalText(); !bytes.EqualFold(text, []byte(s)) {
			t.Errorf("got %s, want %s", text, s)
		}
	})
}
