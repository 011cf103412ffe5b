package procfs_test

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/procfs"
)

// TestMain lets the test binary be another process that holds an address.
func TestMain(m *testing.M) {
	if addr := os.Getenv("HOLD"); addr != "" {
		ln, err := shared(context.Background(), addr)
		if err != nil {
			panic(err)
		}
		os.Stdout.WriteString(ln.Addr().String() + "\n")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until it is to end
		return
	}
	os.Exit(m.Run())
}

func shared(ctx context.Context, addr string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return err
	}}
	return lc.Listen(ctx, "tcp", addr)
}

// holder starts a process that holds addr, and gives where, and its end.
func holder(t *testing.T, addr string) (pid int, at netip.AddrPort, end func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "HOLD="+addr)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid, netip.MustParseAddrPort(strings.TrimSpace(line)), func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestAnAddressIsHeldByTheProcessThatHasIt(t *testing.T) {
	pid, at, end := holder(t, "127.0.0.1:0")
	theirs, err := procfs.Hold(pid)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := procfs.Hold(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	everywhere := netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())
	elsewhere := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port())
	check := func(what string, addr netip.AddrPort, want bool, holders ...*procfs.Holder) {
		t.Helper()
		if got := procfs.HeldBy(holders, addr, false); got != want {
			t.Errorf("%s: held is %v, want %v", what, got, want)
		}
	}
	check("its holder", at, true, theirs)
	check("all addresses", everywhere, true, theirs)
	check("another process", at, false, ours)
	check("another process, all addresses", everywhere, false, ours)
	check("nobody", at, false)
	check("nobody has it", elsewhere, true)
	if procfs.HeldBy(nil, at, true) != true {
		t.Error("a listening TCP socket is in the way of a UDP socket")
	}

	// A stranger that shares the address.
	stranger, err := shared(t.Context(), at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	check("its holder and a stranger", at, false, theirs)
	check("both", at, true, theirs, ours)
	end()
	check("a holder that has ended", at, false, theirs)
}
