package telemetry

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// process is what is known of this process. What cannot be read is 0.
type process struct {
	name    string
	version string
	started time.Time

	cpu        time.Duration
	resident   uint64
	files      uint64
	maxFiles   uint64
	heap       uint64
	goroutines uint64
}

func processNow(config Config, started time.Time) process {
	return process{
		name:       config.Process,
		version:    config.Version,
		started:    started,
		cpu:        cpuTime(),
		resident:   residentBytes(),
		files:      openFiles(),
		maxFiles:   maxOpenFiles(),
		heap:       heapBytes(),
		goroutines: uint64(runtime.NumGoroutine()),
	}
}

func cpuTime() time.Duration {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		return 0
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

func residentBytes() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// openFiles counts without names or stat calls: a gateway has many thousands.
// Since Linux 6.2 the size of the folder is the answer; before it is 0.
func openFiles() uint64 {
	info, err := os.Stat("/proc/self/fd")
	if err == nil && info.Size() > 0 {
		return uint64(info.Size())
	}
	folder, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0
	}
	defer folder.Close()
	var n uint64
	for {
		names, err := folder.Readdirnames(1024)
		n += uint64(len(names))
		if err != nil || len(names) == 0 {
			return max(n, 1) - 1 // without the folder itself
		}
	}
}

func maxOpenFiles() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
