package procfs_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"windrose.dev/windrose/internal/procfs"
)

func TestReadTellsAProcessApart(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	self, err := procfs.Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	child, err := procfs.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if child.Parent != os.Getpid() || child.Group != cmd.Process.Pid || child.Ended || child.Start < self.Start {
		t.Errorf("got %+v of a child, and %+v of the test", child, self)
	}
	if found := procfs.All(); found[cmd.Process.Pid] != child || found[os.Getpid()].Start != self.Start {
		t.Errorf("All gives %+v of the child, want %+v", found[cmd.Process.Pid], child)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := procfs.Read(cmd.Process.Pid); !os.IsNotExist(err) {
		t.Errorf("after its end: %v, want that it does not exist", err)
	}
}

func TestBootStaysTheSame(t *testing.T) {
	first, err := procfs.Boot()
	second, again := procfs.Boot()
	if err != nil || again != nil || first == "" || first != second {
		t.Errorf("got %q (%v) and %q (%v)", first, err, second, again)
	}
}
