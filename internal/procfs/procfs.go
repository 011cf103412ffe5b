// Package procfs reads what the kernel says about processes, above all what
// tells one apart from all others: a pid alone may have passed to another
// process, a pid with its start time has not until the next boot.
package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Process is one process at one moment.
type Process struct {
	Parent int
	Group  int
	Start  uint64 // ticks since boot
	Ended  bool   // nobody has yet asked how
}

// Read gives the process with a pid.
func Read(pid int) (Process, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, err
	}
	// The second field is the name in parentheses and may hold anything.
	i := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[i+1:]))
	if i < 0 || len(fields) < 20 {
		return Process{}, fmt.Errorf("read the state of process %d: unknown form", pid)
	}
	parent, err1 := strconv.Atoi(fields[1])
	group, err2 := strconv.Atoi(fields[2])
	start, err3 := strconv.ParseUint(fields[19], 10, 64)
	p := Process{Parent: parent, Group: group, Start: start, Ended: fields[0] == "Z" || fields[0] == "X"}
	return p, errors.Join(err1, err2, err3)
}

// All gives every process by its pid. What comes or goes meanwhile may be
// missing.
func All() map[int]Process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // what was read is as good as it gets
	all := make(map[int]Process, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := Read(pid); err == nil {
			all[pid] = p
		}
	}
	return all
}

// Boot is the id of the machine's present boot.
func Boot() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
