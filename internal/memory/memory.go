// Package memory gives back to the system what a process that has settled does
// not need, and tells when a process comes near its limit.
//
// One binary holds both parts of windrose, and each runs code at its start that
// it does not run again: the initialisation of packages that only the other
// part needs, reading the first configuration, compiling validators. The heap
// of that is garbage, and the pages of the binary that it touched count as
// resident although nobody looks at them again.
package memory

import (
	"bufio"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Trim collects garbage, and tells the kernel to let go of the heap's free pages
// and of the pages of code and constants: those come from the binary's file and
// are mapped again when they are used, mostly without reading the disk, since
// the file stays cached. It costs some milliseconds and, afterwards, a page
// fault for each page that is used; call it when a burst of work has ended.
func Trim() {
	debug.FreeOSMemory()
	dropFilePages()
}

func dropFilePages() {
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
		// A page that was written to exists nowhere else. Others count as dirty too
		// while their file, just made, is not on the disk yet.
		if strings.HasPrefix(line, "Anonymous:") && !strings.Contains(line, " 0 kB") {
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
