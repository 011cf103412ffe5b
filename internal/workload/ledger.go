package workload

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/atomicfile"
)

// markVariable carries the state folder's id into the environment of every
// process, and of what it starts, so that leftovers are known for sure.
const markVariable = "WINDROSE_RUN"

// ledger remembers the running processes in a file of the state folder. A nil
// ledger remembers nothing.
type ledger struct {
	path string
	book book // guarded by mu; ID and Boot never change
	mu   sync.Mutex
}

// book is the content of the file.
type book struct {
	ID   string `json:"id"`   // of the state folder, for ever
	Boot string `json:"boot"` // of the machine's boot in which Processes ran
	// Processes maps a pid to its start time in ticks since boot. Both together
	// name a process; a pid alone may have passed to another.
	Processes map[int]uint64 `json:"processes"`
}

// openLedger reads the ledger of a state folder, or begins one. A file that
// cannot be read as one is begun anew: then only the death signal guards
// against leftovers.
func openLedger(dir string) (*ledger, error) {
	l := &ledger{path: filepath.Join(dir, "workloads.json")}
	data, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the list of running workloads: %w", err)
	}
	if err := json.Unmarshal(data, &l.book); err != nil || l.book.ID == "" {
		l.book = book{ID: rand.Text()}
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the boot id: %w", err)
	}
	if id := strings.TrimSpace(string(boot)); l.book.Boot != id {
		l.book.Boot, l.book.Processes = id, nil
	}
	if l.book.Processes == nil {
		l.book.Processes = map[int]uint64{}
	}
	return l, l.write()
}

// mark is the environment variable of the ledger's processes.
func (l *ledger) mark() string {
	if l == nil {
		return ""
	}
	return markVariable + "=" + l.book.ID
}

func (l *ledger) add(pid int) error {
	if l == nil {
		return nil
	}
	st, err := readStat(pid)
	if err != nil {
		return nil // it has already ended
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.book.Processes[pid] = st.start
	return l.write()
}

func (l *ledger) remove(pid int) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.book.Processes, pid)
	_ = l.write() // an entry too many is harmless: its start time will not fit
}

// write needs l.mu.
func (l *ledger) write() error {
	data, err := json.Marshal(&l.book)
	if err != nil {
		return err
	}
	return atomicfile.Replace(l.path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// endLeftovers ends the processes of an earlier engine with this ledger:
// SIGTERM, and SIGKILL for those that are still there five seconds later.
func (l *ledger) endLeftovers(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	told := map[int]bool{}
	for {
		left := l.leftovers()
		if len(left) == 0 {
			break
		}
		wait := time.Since(begin)
		if wait > 10*time.Second || ctx.Err() != nil {
			log.Error("processes of an earlier run do not end", "pids", slices.Sorted(maps.Keys(left)))
			break
		}
		for pid, start := range left {
			switch {
			case wait > 5*time.Second:
				signalProcess(pid, start, unix.SIGKILL)
			case !told[pid]:
				told[pid] = true
				log.Warn("ending a process that an earlier run left behind", "pid", pid)
				signalProcess(pid, start, unix.SIGTERM)
			}
		}
		<-tick.C
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.book.Processes)
	_ = l.write() // as in remove
}

// leftovers finds the living processes that belong to the ledger: those it
// lists, those of their groups, and those with its mark.
func (l *ledger) leftovers() map[int]uint64 {
	procs := readProcs()
	groups := map[int]bool{}
	found := map[int]uint64{}
	// Who started windrose is spared, also if it is a workload of an earlier run.
	spared := map[int]bool{}
	for pid := os.Getpid(); pid > 0 && !spared[pid]; pid = procs[pid].parent {
		spared[pid] = true
	}
	for pid, st := range procs {
		if spared[pid] || st.zombie {
			continue
		}
		start, listed := l.book.Processes[pid]
		if listed && start == st.start || l.marked(pid) {
			found[pid] = st.start
			groups[st.group] = true
		}
	}
	delete(groups, unix.Getpgrp())
	for pid, st := range procs {
		if !spared[pid] && !st.zombie && groups[st.group] {
			found[pid] = st.start
		}
	}
	return found
}

func (l *ledger) marked(pid int) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for kv := range bytes.SplitSeq(env, []byte{0}) {
		if string(kv) == l.mark() {
			return true
		}
	}
	return false
}

// signalProcess signals the process with this pid and start time. The pidfd
// holds on to it between the comparison and the signal.
func signalProcess(pid int, start uint64, sig unix.Signal) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if st, err := readStat(pid); err == nil && st.start == start {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0) // fails only if it is gone or not ours
	}
}

// stat is what /proc says about a process.
type stat struct {
	parent int
	group  int
	start  uint64
	zombie bool
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The second field is the name in parentheses and may hold anything.
	i := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[i+1:]))
	if i < 0 || len(fields) < 20 {
		return stat{}, fmt.Errorf("read the state of process %d: unknown form", pid)
	}
	parent, err1 := strconv.Atoi(fields[1])
	group, err2 := strconv.Atoi(fields[2])
	start, err3 := strconv.ParseUint(fields[19], 10, 64)
	st := stat{parent: parent, group: group, start: start, zombie: fields[0] == "Z" || fields[0] == "X"}
	return st, errors.Join(err1, err2, err3)
}

func readProcs() map[int]stat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // what was read is as good as it gets
	procs := make(map[int]stat, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil {
			procs[pid] = st
		}
	}
	return procs
}

// groupAlive says whether a process group has a living member.
func groupAlive(group int) bool {
	for _, st := range readProcs() {
		if st.group == group && !st.zombie {
			return true
		}
	}
	return false
}
