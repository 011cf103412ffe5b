package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Inotify is used as it is, and not through a portable library, because only
// it tells when a writer closes a file. That is when a file written in place
// is whole; anything else is a guess with a timer.

// What is asked for a folder of manifests, and for a folder through which only
// a path goes.
const (
	maskFolder = unix.IN_CLOSE_WRITE | unix.IN_MODIFY | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM |
		unix.IN_MOVED_TO | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	maskHop = unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

	maskGone = unix.IN_IGNORED | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_UNMOUNT
	maskName = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO
)

// watched is what is known about one watch. A folder can be both one that is
// read and one that paths go through.
type watched struct {
	folder string // as configured; empty if it is not read
	root   int
	names  map[string]struct{} // of hops
	epoch  int                 // the last walk that wanted it
}

// watcher follows folders. All but its goroutine belongs to the caller's.
type watcher struct {
	file   *os.File
	fd     int // of file; os.File.Fd would make it block
	byID   map[int32]*watched
	events chan []event
}

// event is one notification.
type event struct {
	id   int32
	mask uint32
	name string
}

func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &watcher{file: os.NewFile(uintptr(fd), "inotify"), fd: fd, byID: map[int32]*watched{}, events: make(chan []event)}, nil
}

// run passes notifications on until the watcher is closed or ctx is done.
func (w *watcher) run(ctx context.Context) {
	defer close(w.events)
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil || n == 0 {
			return
		}
		select {
		case w.events <- parse(buf[:n]):
		case <-ctx.Done():
			return
		}
	}
}

func (w *watcher) close() error { return w.file.Close() }

// parse reads the kernel's records.
func parse(b []byte) []event {
	var all []event
	for len(b) >= unix.SizeofInotifyEvent {
		e := event{id: int32(binary.NativeEndian.Uint32(b)), mask: binary.NativeEndian.Uint32(b[4:])}
		size := int(binary.NativeEndian.Uint32(b[12:]))
		b = b[unix.SizeofInotifyEvent:]
		if size > len(b) {
			return all
		}
		e.name = string(bytes.TrimRight(b[:size], "\x00"))
		b = b[size:]
		if n := len(all); n > 0 && all[n-1] == e {
			continue
		}
		all = append(all, e)
	}
	return all
}

// folder watches a folder that is read.
func (w *watcher) folder(dir string, root, epoch int) error {
	at, err := w.add(dir, maskFolder, epoch)
	if err != nil {
		return err
	}
	at.folder, at.root = dir, root
	return nil
}

// hop watches a name in a folder.
func (w *watcher) hop(h hop, epoch int) error {
	at, err := w.add(h.dir, maskHop, epoch)
	if err != nil {
		return err
	}
	if at.names == nil {
		at.names = map[string]struct{}{}
	}
	at.names[h.name] = struct{}{}
	return nil
}

func (w *watcher) add(dir string, mask uint32, epoch int) (*watched, error) {
	id, err := unix.InotifyAddWatch(w.fd, dir, mask|unix.IN_MASK_ADD|unix.IN_ONLYDIR)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return &watched{}, nil // gone again; another notification tells
	}
	if err != nil {
		return nil, err
	}
	at, ok := w.byID[int32(id)]
	if !ok {
		at = &watched{}
		w.byID[int32(id)] = at
	}
	if at.epoch != epoch {
		*at = watched{epoch: epoch}
	}
	return at, nil
}

// sweep ends the watches that no walk since epoch wanted.
func (w *watcher) sweep(epoch int) {
	for id, at := range w.byID {
		if at.epoch != epoch {
			delete(w.byID, id)
			// It may be gone already, which is as good.
			_, _ = unix.InotifyRmWatch(w.fd, uint32(id))
		}
	}
}

// openForWriting says whether somebody has a file open for writing, as far as
// the kernel tells: it grants a lease for reading only if nobody has, and only to
// the file's owner and to root.
func openForWriting(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd) // which ends the lease
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	return errors.Is(err, unix.EAGAIN)
}
