package h2_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
)

func TestHuffmanKnowsEveryByte(t *testing.T) {
	for a := range 256 {
		for _, s := range []string{string([]byte{byte(a)}), "a" + string([]byte{byte(a)}) + "b", strings.Repeat(string([]byte{byte(a)}), 9)} {
			code := h2.AppendHuffmanCode(nil, []byte(s))
			if want := hpack.AppendHuffmanString(nil, s); !bytes.Equal(code, want) || len(want) != h2.HuffmanLen([]byte(s)) {
				t.Errorf("%q: code %x, want %x", s, code, want)
			}
			if got, ok := h2.AppendHuffman(nil, code); !ok || string(got) != s {
				t.Errorf("%q: decoded %q, %v", s, got, ok)
			}
		}
	}
}

// checkHuffman decodes like x/net.
func checkHuffman(tb testing.TB, in []byte) {
	tb.Helper()
	want, err := hpack.HuffmanDecodeToString(in)
	got, ok := h2.AppendHuffman([]byte("x"), in)
	if ok != (err == nil) || ok && string(got) != "x"+want {
		tb.Fatalf("%x: got %q, %v, want %q, %v", in, got, ok, want, err)
	}
	code := h2.AppendHuffmanCode(nil, in)
	if want := hpack.AppendHuffmanString(nil, string(in)); !bytes.Equal(code, want) {
		tb.Fatalf("%x: code %x, want %x", in, code, want)
	}
}

func TestHuffmanOfShortStrings(t *testing.T) {
	for a := range 1 << 16 {
		checkHuffman(t, []byte{byte(a >> 8), byte(a)})
		checkHuffman(t, []byte{0xff, byte(a >> 8), byte(a)})
		checkHuffman(t, []byte{0xff, 0xff, byte(a >> 8), byte(a)})
		checkHuffman(t, []byte{0xff, 0xff, byte(a >> 8), byte(a), 0xff})
	}
}

func FuzzHuffman(f *testing.F) {
	f.Add([]byte("www.example.com"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) { checkHuffman(t, in) })
}

// TestExamplesOfTheRFC decodes RFC 7541 C.4, three requests on one connection.
func TestExamplesOfTheRFC(t *testing.T) {
	d := h2.NewDecoder()
	for i, test := range []struct{ block, table string }{
		{"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", "[[:authority www.example.com]] 57"},
		{"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf", "[[cache-control no-cache] [:authority www.example.com]] 110"},
		{
			"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
			"[[custom-key custom-value] [cache-control no-cache] [:authority www.example.com]] 164",
		},
	} {
		if _, _, err := d.Decode([]byte(test.block)); err != nil {
			t.Fatal(err)
		}
		fields, used := d.Table()
		if got := fmt.Sprint(fields, used); got != test.table {
			t.Errorf("request %d: table %s, want %s", i+1, got, test.table)
		}
	}
}

// checkDecoder decodes blocks like x/net, which come after each other on a
// connection. Our decoder may be stricter.
func checkDecoder(tb testing.TB, blocks [][]byte) {
	tb.Helper()
	ours := h2.NewDecoder()
	var theirFields []hpack.HeaderField
	theirs := hpack.NewDecoder(4096, nil)
	for _, b := range blocks {
		theirs.SetEmitFunc(func(f hpack.HeaderField) { theirFields = append(theirFields, f) })
		fields, wellFormed, err := ours.Decode(b)
		if err != nil {
			return
		}
		theirFields = theirFields[:0]
		if _, e := theirs.Write(b); e != nil {
			if strings.Contains(e.Error(), "MUST occur at the beginning") {
				return // of two updates, which RFC 7541 4.2 has, it takes one
			}
			tb.Fatalf("x/net refuses %x: %v", b, e)
		}
		if e := theirs.Close(); e != nil {
			tb.Fatalf("x/net refuses %x: %v", b, e)
		}
		if wellFormed {
			sameFields(tb, fields, theirFields)
		}
		sameTable(tb, ours, theirs)
	}
}

func sameFields(tb testing.TB, ours []h1.Field, theirs []hpack.HeaderField) {
	tb.Helper()
	if len(ours) != len(theirs) {
		tb.Fatalf("%d fields, want %d", len(ours), len(theirs))
	}
	for i, f := range ours {
		want := theirs[i]
		if string(f.Name) != want.Name || string(f.Value) != want.Value || f.Sensitive != want.Sensitive || f.Known != h1.Classify(f.Name) {
			tb.Fatalf("field %d: %s: %s (%d, %v), want %v", i, f.Name, f.Value, f.Known, f.Sensitive, want)
		}
	}
}

// sameTable asks x/net for the entries of its table one by one.
func sameTable(tb testing.TB, ours *h2.Decoder, theirs *hpack.Decoder) {
	tb.Helper()
	table, _ := ours.Table()
	for i := range len(table) + 1 {
		var index []byte
		if n := 62 + i; n < 127 {
			index = []byte{0x80 | byte(n)}
		} else if n -= 127; n < 128 {
			index = []byte{0xff, byte(n)}
		} else {
			index = []byte{0xff, byte(n) | 0x80, byte(n >> 7)}
		}
		var got string
		theirs.SetEmitFunc(func(f hpack.HeaderField) { got = f.Name + ": " + f.Value })
		_, err := theirs.Write(index)
		_ = theirs.Close()
		if i == len(table) {
			if err == nil {
				tb.Fatalf("our table ends after %d entries, theirs has %s", i, got)
			}
			return
		}
		if want := table[i][0] + ": " + table[i][1]; err != nil || got != want {
			tb.Fatalf("entry %d: %s, theirs %s, %v", i, want, got, err)
		}
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte("\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"), uint8(3))
	f.Add([]byte("\x40\x0acustom-key\x0dcustom-header\xbe\x3f\xe1\x1f"), uint8(24))
	f.Add([]byte("\x20\x3f\xe1\x1f\x40\x01a\x01b\xbe\x10\x08password\x06secret"), uint8(5))
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		n := min(int(cut), len(in))
		checkDecoder(t, [][]byte{in[:n], in[n:], in})
	})
}

// randomFields gives fields of which many come again.
func randomFields(r *rand.Rand) []h1.Field {
	names := []string{"accept", "content-type", "server", "x-a", "x-b", "x-c-long-name", "cookie", "authorization", "date", "etag", "cache-control", ":path", ":method"}
	fields := make([]h1.Field, r.IntN(12))
	for i := range fields {
		name := []byte(names[r.IntN(len(names))])
		value := []byte(strings.Repeat(string(rune('a'+r.IntN(8))), r.IntN(60)))
		fields[i] = h1.Field{Name: name, Value: value, Known: h1.Classify(name), Sensitive: r.IntN(10) == 0}
	}
	return fields
}

// TestEncoder has x/net decode what the encoder makes, with tables of changing
// size.
func TestEncoder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []int{0, 100, 500, 2048, 4096, 32 << 10} {
		e := h2.NewEncoder(limit)
		var got []hpack.HeaderField
		d := hpack.NewDecoder(4096, func(f hpack.HeaderField) { got = append(got, f) })
		most := 4096
		for round := range 3000 {
			if r.IntN(50) == 0 {
				for range 1 + r.IntN(2) {
					most = r.IntN(9000)
					e.Resize(most)
				}
				d.SetAllowedMaxDynamicTableSize(uint32(most))
			}
			fields := randomFields(r)
			block := e.Encode(fields)
			got = got[:0]
			if _, err := d.Write(block); err != nil {
				if strings.Contains(err.Error(), "MUST occur at the beginning") {
					// x/net takes one update at the beginning, we send two as we
					// must. Start afresh.
					e = h2.NewEncoder(limit)
					d = hpack.NewDecoder(4096, func(f hpack.HeaderField) { got = append(got, f) })
					most = 4096
					continue
				}
				t.Fatalf("limit %d, round %d: %v", limit, round, err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			sameFields(t, neverKept(fields), got)
			if e.Used() > min(limit, most) {
				t.Fatalf("the table uses %d of %d", e.Used(), min(limit, most))
			}
		}
	}
}

// neverKept marks the fields that the encoder itself keeps out of tables.
func neverKept(fields []h1.Field) []h1.Field {
	fields = slices.Clone(fields)
	for i := range fields {
		switch string(fields[i].Name) {
		case "cookie", "authorization":
			fields[i].Sensitive = true
		}
	}
	return fields
}

// TestEncoderKeepsWhatComesAgain counts bytes: a field that comes for the third
// time takes one, and one that is never the same takes nothing of the table.
func TestEncoderKeepsWhatComesAgain(t *testing.T) {
	e := h2.NewEncoder(2048)
	field := func(name, value string) h1.Field {
		return h1.Field{Name: []byte(name), Value: []byte(value), Known: h1.Classify([]byte(name))}
	}
	for i := range 100 {
		b := e.Encode([]h1.Field{field("x-version", "forty-two"), field("x-trace", fmt.Sprint("id-", i)), field("authorization", "secret")})
		if i < 2 {
			continue
		}
		if b[0] != 0xbe {
			t.Fatalf("round %d: %x", i, b)
		}
	}
	if got, want := e.Used(), len("x-version")+len("forty-two")+32; got != want {
		t.Errorf("the table uses %d, want %d", got, want)
	}
}

// TestOwnEnds has our decoder read what our encoder makes.
func TestOwnEnds(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	e, d := h2.NewEncoder(4096), h2.NewDecoder()
	for range 3000 {
		if r.IntN(20) == 0 {
			e.Resize(r.IntN(4097))
		}
		fields := slices.DeleteFunc(randomFields(r), func(f h1.Field) bool { return f.Name[0] == ':' })
		got, _, err := d.Decode(e.Encode(fields))
		if err != nil {
			t.Fatal(err)
		}
		var want []hpack.HeaderField
		for _, f := range neverKept(fields) {
			want = append(want, hpack.HeaderField{Name: string(f.Name), Value: string(f.Value), Sensitive: f.Sensitive})
		}
		sameFields(t, got, want)
	}
}
