package e2e

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// ownNetwork gives the test a network of its own, with all ports free. What it
// executes is in there, curl for one; what it dials itself from other
// goroutines, as net/http's client does, is not. Only root may do that.
func ownNetwork(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: a network of its own needs root")
	}
	// The thread is never unlocked: it ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("SKIPPED: no network of its own: %v", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(s)
	loopback, err := unix.NewIfreq("lo")
	must(t, err)
	loopback.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	must(t, unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, loopback))
}

// readyInside waits as ready does, from where curl is.
func (w *windrose) readyInside() {
	w.t.Helper()
	w.eventually("windrose is ready", func() error {
		if r := curl(w.t, "-f", "http://"+w.health+"/healthz/ready"); r.code != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
}
