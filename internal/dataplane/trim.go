package dataplane

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// One binary holds both parts of windrose, and the packages that only the
// control part needs initialise themselves before main runs. What they touched
// of the binary's code and constants counts as resident although it is not
// needed again. trimFilePages tells the kernel to let go of it: these pages
// come from the file and are read again when they are used.
func trimFilePages() {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var m mapping
	s := bufio.NewScanner(f)
	for s.Scan() {
		line := s.Text()
		if next, ok := parseMapping(line); ok {
			m.drop()
			m = next
			continue
		}
		// A page that was written to exists nowhere else.
		if (strings.HasPrefix(line, "Private_Dirty:") || strings.HasPrefix(line, "Anonymous:")) && !strings.Contains(line, " 0 kB") {
			m = mapping{}
		}
	}
	m.drop()
}

// mapping is a read-only part of the binary in memory.
type mapping struct{ start, end uintptr }

func (m mapping) drop() {
	if m.end > m.start {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

// parseMapping reads a line like "00400000-01c9d000 r-xp 00000000 fe:00 42 /bin/x".
// It says whether the line begins a mapping; the mapping is empty if it is not
// a read-only one of a file.
func parseMapping(line string) (mapping, bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 || !strings.Contains(fields[0], "-") || strings.HasSuffix(fields[0], ":") {
		return mapping{}, false
	}
	a, b, _ := strings.Cut(fields[0], "-")
	start, err1 := strconv.ParseUint(a, 16, 64)
	end, err2 := strconv.ParseUint(b, 16, 64)
	if err1 != nil || err2 != nil {
		return mapping{}, false
	}
	if len(fields) < 6 || !strings.HasPrefix(fields[5], "/") || strings.Contains(fields[1], "w") {
		return mapping{}, true
	}
	return mapping{uintptr(start), uintptr(end)}, true
}
