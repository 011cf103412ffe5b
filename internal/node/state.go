package node

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/atomicfile"
)

// sessionKeySize is what AES-256 wants.
const sessionKeySize = 32

// state is the state folder, held by this process.
type state struct {
	dir   string
	lock  *os.File
	feed  *os.File // folder of the plan stream's socket
	plane *os.File // folder of the data plane's own files
}

// InUseError says that another windrose holds the state folder.
type InUseError struct {
	Dir string
	PID string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("another windrose (process %s) runs with the state folder %s", e.PID, e.Dir)
}

// openState makes the state folder, or takes it over.
func openState(dir string) (*state, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the state folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	st := &state{dir: dir}
	if err = st.acquire(); err == nil {
		err = st.openFolders()
	}
	if err != nil {
		st.close()
		return nil, err
	}
	return st, nil
}

// openFolders makes and opens the folders that the data plane is given.
func (s *state) openFolders() (err error) {
	for _, f := range []struct {
		file **os.File
		name string
		mode fs.FileMode
	}{{&s.feed, "feed", 0o711}, {&s.plane, "dataplane", 0o700}} {
		path := filepath.Join(s.dir, f.name)
		if err := os.MkdirAll(path, f.mode); err != nil {
			return fmt.Errorf("make the folder %s: %w", path, err)
		}
		if err := os.Chmod(path, f.mode); err != nil {
			return fmt.Errorf("open the folder %s: %w", path, err)
		}
		if *f.file, err = os.Open(path); err != nil {
			return fmt.Errorf("open the folder %s: %w", path, err)
		}
	}
	return nil
}

// acquire takes the lock, which the kernel frees when this process ends in
// whatever way.
func (s *state) acquire() error {
	path := filepath.Join(s.dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the lock of the state folder: %w", err)
	}
	s.lock = f
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock the state folder %s: %w", s.dir, err)
		}
		pid, _ := os.ReadFile(path) // only for the message
		return &InUseError{Dir: s.dir, PID: strings.TrimSpace(string(pid))}
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("write the lock of the state folder: %w", err)
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		return fmt.Errorf("write the lock of the state folder: %w", err)
	}
	return nil
}

func (s *state) close() {
	for _, f := range []*os.File{s.lock, s.feed, s.plane} {
		if f != nil {
			f.Close()
		}
	}
}

// listenFeed opens the plan stream's socket for the data plane's user.
func (s *state) listenFeed(u user) (net.Listener, error) {
	path := filepath.Join(s.dir, "feed", "feed.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the plan stream: %w", err)
	}
	// Through the descriptor: the path may be longer than a socket's name may be.
	short := fmt.Sprintf("/proc/self/fd/%d/feed.sock", s.feed.Fd())
	ln, err := net.Listen("unix", short)
	if err != nil {
		return nil, fmt.Errorf("open the plan stream: %w", err)
	}
	// Only root writes to this folder, so nobody can put another file there.
	if err := errors.Join(os.Chmod(path, 0o600), u.own(path), u.own(filepath.Join(s.dir, "dataplane"))); err != nil {
		ln.Close()
		return nil, fmt.Errorf("open the plan stream: %w", err)
	}
	return ln, nil
}

// identity is what tells a process apart from all others.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // ticks since boot
	Boot  string `json:"boot"`
	// Args are what it was started with.
	Args []string `json:"args"`
}

func (s *state) planeFile() string { return filepath.Join(s.dir, "dataplane.json") }

// remembered is what is written of the data plane in charge.
type remembered struct {
	identity
	// Replaces are those that serve until this one does.
	Replaces []identity `json:"replaces,omitempty"`
}

// remember writes which process the data plane is, and which it replaces.
func (s *state) remember(id identity, replaces []identity) error {
	data, err := json.Marshal(remembered{id, replaces})
	if err != nil {
		return err
	}
	err = atomicfile.Replace(s.planeFile(), func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		return fmt.Errorf("remember the data plane: %w", err)
	}
	return nil
}

// recall gives the data planes of an earlier run whose processes still run, the
// one in charge first.
func (s *state) recall() []identity {
	var last remembered
	data, err := os.ReadFile(s.planeFile())
	if err != nil || json.Unmarshal(data, &last) != nil {
		return nil
	}
	boot := bootID()
	return slices.DeleteFunc(append([]identity{last.identity}, last.Replaces...), func(id identity) bool {
		if id.PID <= 1 || id.Boot == "" || id.Boot != boot {
			return true
		}
		start, err := startTime(id.PID)
		return err != nil || start != id.Start
	})
}

// sessionKey gives the key that seals the tokens of sessions; the first time it is
// made. Whoever wants all sessions to end removes the file before a start.
func (s *state) sessionKey() ([]byte, error) {
	path := filepath.Join(s.dir, "session.key")
	key, err := os.ReadFile(path)
	switch {
	case err == nil && len(key) == sessionKeySize:
		return key, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read the key of sessions: %w", err)
	case err == nil:
		return nil, fmt.Errorf("read the key of sessions: %s has %d bytes, not %d; remove it to have a new one made", path, len(key), sessionKeySize)
	}
	key = make([]byte, sessionKeySize)
	_, _ = rand.Read(key) // never fails
	err = atomicfile.ReplaceDurably(path, func(w io.Writer) error {
		_, err := w.Write(key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("write the key of sessions: %w", err)
	}
	return key, nil
}

func (s *state) forget() { os.Remove(s.planeFile()) } // a stale entry fits no process
