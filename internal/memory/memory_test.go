package memory

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestMappingsThatMayBeDropped(t *testing.T) {
	for _, c := range []struct {
		line    string
		is, may bool
	}{
		{"00400000-01c9d000 r-xp 00000000 fe:00 42                         /usr/bin/windrose", true, true},
		{"01c9d000-02c9d000 r--p 00000000 fe:00 42                         /usr/bin/windrose", true, true},
		{"02c9d000-02d9d000 rw-p 00000000 fe:00 42                         /usr/bin/windrose", true, false},
		{"c000000000-c000400000 rw-p 00000000 00:00 0 ", true, false},
		{"7ffd1000-7ffd2000 r-xp 00000000 00:00 0                          [vdso]", true, false},
		{"Private_Dirty:         0 kB", false, false},
		{"VmFlags: rd ex mr mw me", false, false},
	} {
		m, is := parseMapping(c.line)
		if is != c.is || (m.end > m.start) != c.may {
			t.Errorf("%q: mapping %v, droppable %v; want %v, %v", c.line, is, m.end > m.start, c.is, c.may)
		}
	}
}

func TestTrimLetsGoOfThePagesOfTheBinary(t *testing.T) {
	before := rssFile(t)
	Trim()
	if after := rssFile(t); after >= before {
		t.Errorf("%d KiB of file pages before, %d after", before, after)
	}
}

func rssFile(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "RssFile:")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		t.Skip("this kernel does not say")
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
