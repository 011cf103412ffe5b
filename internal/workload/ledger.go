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
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/atomicfile"
	"windrose.dev/windrose/internal/procfs"
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
	boot, err := procfs.Boot()
	if err != nil {
		return nil, err
	}
	if l.book.Boot != boot {
		l.book.Boot, l.book.Processes = boot, nil
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
	process, err := procfs.Read(pid)
	if err != nil {
		return nil // it has already ended
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.book.Processes[pid] = process.Start
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
	procs := procfs.All()
	groups := map[int]bool{}
	found := map[int]uint64{}
	// Who started windrose is spared, also if it is a workload of an earlier run.
	spared := map[int]bool{}
	for pid := os.Getpid(); pid > 0 && !spared[pid]; pid = procs[pid].Parent {
		spared[pid] = true
	}
	for pid, process := range procs {
		if spared[pid] || process.Ended {
			continue
		}
		start, listed := l.book.Processes[pid]
		if listed && start == process.Start || l.marked(pid) {
			found[pid] = process.Start
			groups[process.Group] = true
		}
	}
	delete(groups, unix.Getpgrp())
	for pid, process := range procs {
		if !spared[pid] && !process.Ended && groups[process.Group] {
			found[pid] = process.Start
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
	if process, err := procfs.Read(pid); err == nil && process.Start == start {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0) // fails only if it is gone or not ours
	}
}

// groupAlive says whether a process group has a living member.
func groupAlive(group int) bool {
	for _, process := range procfs.All() {
		if process.Group == group && !process.Ended {
			return true
		}
	}
	return false
}
