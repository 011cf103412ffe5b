package memory

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestGroupLimitIsTheLeastOnTheWayUp(t *testing.T) {
	write := func(path, text string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root := t.TempDir()
	write(filepath.Join(root, "a.slice", "memory.max"), "1000\n")
	write(filepath.Join(root, "a.slice", "b.service", "memory.max"), "max\n")
	write(filepath.Join(root, "c.service", "memory.max"), "5000\n")
	for _, tt := range []struct {
		self string
		want int64
		ok   bool
	}{
		{"0::/a.slice/b.service\n", 1000, true},
		{"1:memory:/x\n0::/c.service\n", 5000, true},
		{"0::/\n", 0, false},
		{"0::/gone\n", 0, false},
		{"", 0, false},
	} {
		self := write(filepath.Join(t.TempDir(), "cgroup"), tt.self)
		if got, ok := groupLimit(self, root); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %d, %v, want %d, %v", tt.self, got, ok, tt.want, tt.ok)
		}
	}
}

func TestWatchTellsOfMuchAndOfLess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan bool, 10)
	held := make([]byte, 64<<20)
	go Watch(ctx, 48<<20, func(short bool) { told <- short })
	next := func(want bool) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Fatalf("told %v, want %v", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("never told %v", want)
		}
	}
	next(true)
	runtime.KeepAlive(held) // until here
	Trim()
	next(false)
}
