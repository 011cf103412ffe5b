package memory

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SetLimit has the garbage collector keep the process within its share of
// memory, and gives that: what GOMEMLIMIT says, or else nine tenths of what its
// control group may have, or half of the machine's memory, whatever is less.
func SetLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		return limit // GOMEMLIMIT
	}
	limit := int64(math.MaxInt64)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		limit = int64(info.Totalram) * int64(info.Unit) / 2
	}
	if most, ok := groupLimit("/proc/self/cgroup", "/sys/fs/cgroup"); ok {
		limit = min(limit, most/10*9)
	}
	debug.SetMemoryLimit(limit)
	return limit
}

// groupLimit is the least memory.max of the process' control group (version 2)
// and of those above it.
func groupLimit(self, root string) (least int64, ok bool) {
	data, err := os.ReadFile(self)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		group, found := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !found {
			continue
		}
		for dir := filepath.Clean("/" + group); ; dir = filepath.Dir(dir) {
			text, err := os.ReadFile(filepath.Join(root, dir, "memory.max"))
			if n, bad := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && bad == nil && (!ok || n < least) {
				least, ok = n, true
			}
			if dir == "/" {
				break
			}
		}
	}
	return least, ok
}

// lookEvery is how often Watch looks.
const lookEvery = 200 * time.Millisecond

// Watch tells when what the heap holds comes near a limit (nine tenths of it),
// and when it no longer does (seven tenths), until ctx ends.
func Watch(ctx context.Context, limit int64, tell func(short bool)) {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for short := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		held := int64(sample[0].Value.Uint64())
		if now := held > limit/10*9 || short && held > limit/10*7; now != short {
			short = now
			tell(short)
		}
	}
}
