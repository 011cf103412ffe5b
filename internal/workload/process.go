package workload

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/object"
)

// errStuck means that a process is there even after SIGKILL.
var errStuck = errors.New("the process does not end, not even by SIGKILL; the kernel holds it")

// starter runs functions on one thread that lives as long as the engine. The
// kernel sends a child its death signal when the thread that made it ends, and
// Go ends threads as it likes; a locked goroutine keeps this one.
type starter chan func()

func (s starter) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	for f := range s {
		f()
	}
}

func (s starter) do(f func() error) error {
	done := make(chan error, 1)
	s <- func() { done <- f() }
	return <-done
}

// process is one started command.
type process struct {
	pid     int
	cmd     *exec.Cmd
	started time.Time
	exited  chan struct{} // closed when the process and its group have ended

	mu       sync.Mutex // guards what follows
	stopping bool       // asked to end: its group may take its time
	killing  bool
	reaped   bool // the pid may belong to somebody else
	ended    time.Time
}

// start starts the command of t.
func (e *Engine) start(name object.Name, t *target) (*process, error) {
	path, err := lookPath(t)
	if err != nil {
		return nil, err
	}
	if st, err := os.Stat(t.dir); err != nil || !st.IsDir() {
		return nil, fmt.Errorf("the working directory %s is not there", t.dir)
	}
	cmd := &exec.Cmd{
		Path: path, Args: t.obj.Spec.Command, Dir: t.dir,
		Env:         environment(name, t, e.ledger.mark()),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	outputs, writers, err := pipes()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = writers[0], writers[1]
	err = e.starter.do(cmd.Start)
	for _, w := range writers {
		w.Close()
	}
	if err != nil {
		for _, r := range outputs {
			r.Close()
		}
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p := &process{pid: cmd.Process.Pid, cmd: cmd, started: time.Now(), exited: make(chan struct{})}
	if err := e.ledger.add(p.pid); err != nil {
		e.log.Warn("the process is not remembered for the next start", "workload", name.String(), "error", err)
	}
	go func() {
		defer close(p.exited)
		p.wait(outputs, e.outputOf(name))
		e.ledger.remove(p.pid)
	}()
	return p, nil
}

func pipes() (readers, writers [2]*os.File, err error) {
	for i := range readers {
		if readers[i], writers[i], err = os.Pipe(); err != nil {
			for j := range i {
				readers[j].Close()
				writers[j].Close()
			}
			return readers, writers, fmt.Errorf("make a pipe: %w", err)
		}
	}
	return readers, writers, nil
}

// lookPath finds the program as a shell in the working directory would.
func lookPath(t *target) (string, error) {
	name := t.obj.Spec.Command[0]
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(t.dir, name)
		}
		if !filepath.IsAbs(name) {
			abs, err := filepath.Abs(name)
			if err != nil {
				return "", err
			}
			name = abs
		}
		if err := unix.Access(name, unix.X_OK); err != nil {
			return "", fmt.Errorf("the program %s: %w", name, err)
		}
		return name, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("the program %q is not in windrose's PATH", name)
	}
	return path, nil
}

// supervisorVariables belong to windrose's own supervisor, not to a child.
var supervisorVariables = []string{"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"}

func environment(name object.Name, t *target, mark string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return slices.Contains(supervisorVariables, key)
	})
	env = append(env, "WINDROSE_WORKLOAD="+name.Name, "WINDROSE_NAMESPACE="+name.Namespace)
	for i, port := range t.obj.Spec.Ports {
		number := strconv.Itoa(int(port.Port))
		if i == 0 {
			env = append(env, "PORT="+number)
		}
		env = append(env, "PORT_"+variable(port.Name)+"="+number)
	}
	for _, v := range t.obj.Spec.Env {
		env = append(env, v.Name+"="+v.Value)
	}
	if mark != "" {
		env = append(env, mark)
	}
	return env
}

// variable makes a port's name fit for the name of a variable.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}

// wait reads the output until the process has ended, then ends its group and
// reaps it, in this order: as long as the process is not reaped, no other group
// can have its number.
func (p *process) wait(outputs [2]*os.File, out *output) {
	var readers sync.WaitGroup
	for i, stream := range []string{"stdout", "stderr"} {
		readers.Go(func() { out.read(outputs[i], stream) })
	}
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p.patient() && groupAlive(p.pid) {
		<-tick.C
	}
	p.signal(unix.SIGKILL)
	p.mu.Lock()
	p.reaped = true
	p.ended = time.Now()
	p.mu.Unlock()
	_ = p.cmd.Wait() // its state is read by how

	// A process that left the group may hold the pipes for ever.
	late := time.AfterFunc(time.Second, func() {
		for _, r := range outputs {
			r.Close()
		}
	})
	readers.Wait()
	late.Stop()
	for _, r := range outputs {
		r.Close()
	}
	out.flush()
}

// patient says whether the rest of the group still has time to end by itself.
func (p *process) patient() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopping && !p.killing
}

// signal sends to the whole group, unless it is gone.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch sig {
	case unix.SIGKILL:
		p.killing = true
	case unix.SIGTERM:
		p.stopping = true
	}
	if !p.reaped {
		_ = unix.Kill(-p.pid, sig) // fails only if nobody is there
	}
}

// stop ends the process: SIGTERM, and SIGKILL when patience or the channel
// kill ends.
func (p *process) stop(patience time.Duration, kill <-chan struct{}) error {
	p.signal(unix.SIGTERM)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.exited:
		return nil
	case <-timer.C:
	case <-kill:
	}
	p.signal(unix.SIGKILL)
	timer.Reset(5 * time.Second)
	select {
	case <-p.exited:
		return nil
	case <-timer.C:
		return errStuck
	}
}

// ran and how may be called once exited is closed.
func (p *process) ran() time.Duration { return p.ended.Sub(p.started) }

func (p *process) how() string {
	if p.cmd.ProcessState == nil {
		return "unknown"
	}
	return p.cmd.ProcessState.String()
}
