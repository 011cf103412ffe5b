package node

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/procfs"
)

// nobody is the user that the data plane runs as where windrose is root.
const nobody = 65534

// user is whom the data plane runs as.
type user struct {
	uid, gid uint32
	drop     bool // it is another than ours
}

func planeUser() user {
	if os.Geteuid() == 0 {
		return user{uid: nobody, gid: nobody, drop: true}
	}
	return user{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
}

// own gives a file to the user. It never follows a link.
func (u user) own(path string) error {
	if !u.drop {
		return nil
	}
	return os.Lchown(path, int(u.uid), int(u.gid))
}

// process is a data-plane process, our child or one that an earlier run left.
type process struct {
	identity
	exited chan struct{}
	handle *os.Process
}

// spawn starts a data plane as the user. It finds the folders as descriptors 3
// and 4.
func spawn(args []string, u user, folders [2]*os.File, stdout, stderr io.Writer) (*process, error) {
	cmd := &exec.Cmd{
		Path: program, Args: args, Stdout: stdout, Stderr: stderr, ExtraFiles: folders[:], Env: planeEnvironment(os.Environ()),
		// A session of its own: Ctrl-C in the terminal is for windrose, which
		// then lets the data plane drain.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if u.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: []uint32{}}
	}
	if u.drop || os.Geteuid() != 0 && mayBind() {
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
	}
	if err := startUnprivileged(cmd); err != nil {
		return nil, err
	}
	p := &process{identity: identity{PID: cmd.Process.Pid, Boot: bootID(), Args: args}, exited: make(chan struct{}), handle: cmd.Process}
	p.Start, _ = startTime(p.PID) // not yet reaped, so it is there
	go func() {
		defer close(p.exited)
		_ = cmd.Wait() // how it ended is in its own words on stderr
	}()
	return p, nil
}

// planeVariables are what the data plane is given of our environment: what the
// Go runtime, its resolver and its trust in certificates look at. The rest is
// none of its business; it may hold what the operator's shell keeps secret.
var planeVariables = []string{
	"GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK", "GOCOVERDIR",
	"LOCALDOMAIN", "RES_OPTIONS", "SSL_CERT_DIR", "SSL_CERT_FILE", "TZ",
}

func planeEnvironment(all []string) []string {
	env := []string{} // nil would be all of ours
	for _, kv := range all {
		if key, _, _ := strings.Cut(kv, "="); slices.Contains(planeVariables, key) {
			env = append(env, kv)
		}
	}
	return env
}

// KeepDescriptors has no process that is started from here on inherit what this
// one was started with: a shell or a supervisor may have left files open.
func KeepDescriptors() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("keep descriptors from other processes: %w", err)
	}
	return nil
}

// mayBind says whether this process has the right to open low ports. One that it
// has from its file must be handed on expressly, because the data plane gets no
// rights from files.
func mayBind() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return false
	}
	return sets[0].Permitted&(1<<unix.CAP_NET_BIND_SERVICE) != 0
}

// startUnprivileged starts a command that can never gain rights by executing a
// file. The flag is the thread's and cannot be taken back, so the thread ends
// with its goroutine.
func startUnprivileged(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			done <- fmt.Errorf("give up gaining rights: %w", err)
			return
		}
		done <- cmd.Start()
	}()
	return <-done
}

// adopt takes over a process that is not our child.
func adopt(id identity) (*process, error) {
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	handle, err := os.FindProcess(id.PID)
	if err == nil {
		// Both hold on to whoever had the pid; now see who that was.
		var start uint64
		if start, err = startTime(id.PID); err == nil && start != id.Start {
			err = os.ErrProcessDone
		}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	p := &process{identity: id, exited: make(chan struct{}), handle: handle}
	go func() {
		defer close(p.exited)
		defer file.Close()
		awaitExit(file)
	}()
	return p, nil
}

// awaitExit waits until the process of a pidfd has ended: then it can be read.
func awaitExit(pidfd *os.File) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return
	}
	// An error would mean that the file is closed, which nobody else does.
	_ = raw.Read(func(fd uintptr) bool {
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(set, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
}

// sameProgram says whether a process runs the program that we are.
func sameProgram(pid int) bool {
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	ours, err := os.Stat("/proc/self/exe")
	return err == nil && os.SameFile(theirs, ours)
}

func bootID() string {
	id, _ := procfs.Boot() // without one nothing of an earlier run is known again
	return id
}

// startTime is when a process that has not ended was started, in ticks since
// boot.
func startTime(pid int) (uint64, error) {
	p, err := procfs.Read(pid)
	if err == nil && p.Ended {
		err = os.ErrProcessDone
	}
	return p.Start, err
}
