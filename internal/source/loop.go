package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/memory"
	"windrose.dev/windrose/internal/object"
)

// Times of the loop.
const (
	holdOff     = 3 * time.Millisecond  // after a change, for more of it
	holdOffMost = 50 * time.Millisecond // however many there are
	quiet       = 40 * time.Millisecond // after which a file that nobody closed is read
	quietMost   = 2 * time.Second
	lookEvery   = 10 * time.Second
	pollEvery   = time.Second // without notifications
	releaseIdle = 5 * time.Second
)

// loop is a running Folder. All of it belongs to one goroutine, but for the
// writing of the ledger and the notifications.
type loop struct {
	*Folder
	emit   func(*object.Set)
	reader *reader
	index  *index
	watch  *watcher // nil: there are no notifications
	epoch  int

	dirty    map[string]int            // files to be read, with their root
	writing  map[string]unfinished     // files that somebody writes
	folders  map[string]struct{}       // folders that were read
	rescan   bool                      // all paths are to be looked at
	first    time.Time                 // of the changes that wait; zero: none wait
	last     time.Time                 // of them
	looked   time.Time                 // the last walk
	used     time.Time                 // the last check
	missing  map[string]struct{}       // configured paths that do not exist
	standing map[string]object.Finding // about watches and the ledger

	ledger ledger
	wg     sync.WaitGroup
}

// unfinished is a file that changed and was not closed.
type unfinished struct {
	root        int
	first, last time.Time
}

// ledger is the state of its writing.
type ledger struct {
	dirty  bool
	due    time.Time
	busy   bool
	done   chan error
	failed bool
}

func newLoop(f *Folder, emit func(*object.Set)) *loop {
	r := newReader()
	x := newIndex(r.checker)
	x.running = true
	return &loop{
		Folder: f, emit: emit, reader: r, index: x,
		dirty: map[string]int{}, writing: map[string]unfinished{}, folders: map[string]struct{}{},
		missing: map[string]struct{}{}, standing: map[string]object.Finding{},
		ledger: ledger{done: make(chan error, 1)},
	}
}

func (l *loop) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.wg.Wait()
	defer cancel()
	l.open()
	var events chan []event
	w, err := newWatcher()
	if err != nil {
		l.blind(err)
	} else {
		l.watch, events = w, w.events
		l.wg.Go(func() { w.run(ctx) })
		defer func() { _ = w.close() }() // it may be closed already
	}
	l.look(time.Now())
	l.commit(time.Now(), 0)

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(l.next(time.Now()))
		select {
		case <-ctx.Done():
			return l.finish()
		case some, ok := <-events:
			if !ok {
				events = nil
				l.blind(errors.New("no more notifications from the kernel"))
				continue
			}
			now := time.Now()
			for _, e := range some {
				l.note(e, now)
			}
		case err := <-l.ledger.done:
			l.written(err)
		case <-timer.C:
		}
		l.step(time.Now())
	}
}

// open reads the ledger.
func (l *loop) open() {
	if l.stateDir == "" {
		return
	}
	l.index.stamp = true
	past, err := readLedger(l.stateDir)
	if err != nil {
		l.standing["ledger"] = ledgerFinding(l.stateDir, err, "objects count as new")
		return
	}
	l.index.past = past
}

// blind takes note that there are no notifications.
func (l *loop) blind(err error) {
	if l.watch != nil {
		_ = l.watch.close() // nothing was written to it
		l.watch = nil
	}
	l.standing["watch"] = object.Finding{
		Severity: object.Warning, Reason: ReasonWatch, Message: "changes are noticed within a second, not at once: " + err.Error(),
		Mend: "raise fs.inotify.max_user_watches or fs.inotify.max_user_instances",
	}
}

// note sorts a notification into what is to be done.
func (l *loop) note(e event, now time.Time) {
	if l.watch == nil {
		return
	}
	at, ok := l.watch.byID[e.id]
	switch {
	case e.mask&unix.IN_Q_OVERFLOW != 0:
		l.wake(now)
		l.rescan = true
		return
	case !ok:
		return
	case e.mask&maskGone != 0:
		if e.mask&unix.IN_IGNORED != 0 {
			delete(l.watch.byID, e.id)
		}
		l.wake(now)
		l.rescan = true
		return
	}
	if _, ok := at.names[e.name]; ok && e.mask&(maskName|unix.IN_CLOSE_WRITE) != 0 {
		l.wake(now)
		l.rescan = true
	}
	if at.folder == "" || ignored(e.name) {
		return
	}
	path := filepath.Join(at.folder, e.name)
	if e.mask&unix.IN_ISDIR != 0 || !wanted(e.name) {
		// A folder, or a link to one, came or went.
		_, known := l.folders[path]
		if e.mask&maskName != 0 && (known || e.mask&unix.IN_ISDIR != 0 || isLink(path)) {
			l.wake(now)
			l.rescan = true
		}
		return
	}
	l.noteFile(path, at.root, e, now)
}

// noteFile handles a notification about a file.
func (l *loop) noteFile(path string, root int, e event, now time.Time) {
	switch {
	case e.mask&unix.IN_CREATE != 0 && isLink(path):
		l.wake(now)
		l.rescan = true // what the link depends on must be watched too
	case e.mask&(unix.IN_CREATE|unix.IN_MODIFY) != 0:
		u, ok := l.writing[path]
		if !ok {
			u = unfinished{root: root, first: now}
		}
		u.last = now
		l.writing[path] = u
	default: // closed, moved, deleted, or its mode changed
		delete(l.writing, path)
		l.dirty[path] = root
		l.wake(now)
	}
}

func (l *loop) wake(now time.Time) {
	if l.first.IsZero() {
		l.first = now
	}
	l.last = now
}

// ready is when what waits is to be read.
func (l *loop) ready() time.Time {
	at, most := l.last.Add(holdOff), l.first.Add(holdOffMost)
	if most.Before(at) {
		return most
	}
	return at
}

func (u unfinished) ready() time.Time {
	at, most := u.last.Add(quiet), u.first.Add(quietMost)
	if most.Before(at) {
		return most
	}
	return at
}

// next is how long there is nothing to do.
func (l *loop) next(now time.Time) time.Duration {
	every := lookEvery
	if l.watch == nil {
		every = pollEvery
	}
	at := l.looked.Add(every)
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if !l.first.IsZero() {
		sooner(l.ready())
	}
	for _, u := range l.writing {
		sooner(u.ready())
	}
	if t, ok := l.index.due(); ok {
		sooner(t)
	}
	if !l.reader.checker.Idle() {
		sooner(l.used.Add(releaseIdle))
	}
	if l.ledger.dirty && !l.ledger.busy {
		sooner(l.ledger.due)
	}
	return max(0, at.Sub(now))
}

// step does what is due.
func (l *loop) step(now time.Time) {
	for path, u := range l.writing {
		if !now.Before(u.ready()) {
			if now.Before(u.first.Add(quietMost)) && openForWriting(path) {
				u.last = now
				l.writing[path] = u
				continue
			}
			delete(l.writing, path)
			l.dirty[path] = u.root
			l.first, l.last = now.Add(-holdOffMost), now
		}
	}
	every := lookEvery
	if l.watch == nil {
		every = pollEvery
	}
	waits := !l.first.IsZero() && !now.Before(l.ready())
	switch {
	case waits && l.rescan, !now.Before(l.looked.Add(every)):
		l.look(now)
	case waits:
		l.readDirty()
	}
	if waits {
		l.first = time.Time{}
	}
	l.commit(time.Now(), settleTime)
	if !l.reader.checker.Idle() && !now.Before(l.used.Add(releaseIdle)) {
		l.reader.checker.Release()
		l.wg.Go(memory.Trim)
	}
	if l.ledger.dirty && !l.ledger.busy && !now.Before(l.ledger.due) {
		l.write()
	}
}

// readDirty reads the files that changed.
func (l *loop) readDirty() {
	for path, root := range l.dirty {
		fi, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			l.index.drop(path)
			continue
		}
		f := found{path: path, root: root, bad: err}
		if err == nil {
			if f.id = idOf(fi); !fi.Mode().IsRegular() {
				f.bad = errIrregular
			}
		}
		if l.changed(f) {
			l.index.use(l.reader.file(f, l.index.files[path]))
			l.used = time.Now()
		}
	}
	clear(l.dirty)
}

// changed says whether a file may say something else than when it was read.
func (l *loop) changed(f found) bool {
	old := l.index.files[f.path]
	return old == nil || old.id != f.id || unread(old) != (f.bad != nil)
}

// look walks over all paths.
func (l *loop) look(now time.Time) {
	l.epoch++
	l.rescan = false
	clear(l.dirty)
	clear(l.folders)
	initial := l.looked.IsZero()
	l.looked = now
	var watchErr error
	w := newWalk(nil)
	if l.stateDir != "" {
		w.skip(l.stateDir) // the ledger is no manifest, and must not wake its writer
	}
	clear(l.missing)
	for i, p := range l.paths {
		w.enter = func(dir string) {
			l.folders[dir] = struct{}{}
			if l.watch != nil {
				watchErr = errors.Join(watchErr, l.watch.folder(dir, i, l.epoch))
			}
		}
		if err := w.root(i, p); err != nil {
			l.missing[p] = struct{}{}
			w.findings = append(w.findings, absent(p, err))
		}
	}
	l.readFound(w, initial)
	if l.watch != nil {
		watchErr = errors.Join(watchErr, l.watchHops(w))
		l.watch.sweep(l.epoch)
	}
	if watchErr != nil {
		l.blind(watchErr)
	}
	l.say(w.findings)
}

// readFound reads those of the found files that changed, and drops those that
// are gone.
func (l *loop) readFound(w *walk, initial bool) {
	var read []found
	for _, f := range w.files {
		if _, busy := l.writing[f.path]; busy {
			continue
		}
		if old := l.index.files[f.path]; old == nil && !initial && !f.link && f.bad == nil && l.looked.UnixNano()-f.id.mtime < int64(quiet) {
			l.writing[f.path] = unfinished{root: f.root, first: l.looked, last: l.looked}
			continue // it may be half copied; if it is closed before, the better
		}
		if l.changed(f) {
			read = append(read, f)
		}
	}
	for _, f := range l.reader.all(read, l.index.files) {
		l.index.use(f)
		l.used = time.Now()
	}
	for path := range l.index.files {
		if _, still := w.seen[path]; !still {
			l.index.drop(path)
		}
	}
}

// watchHops watches what the configured paths and all links depend on.
func (l *loop) watchHops(w *walk) error {
	var errs error
	paths := append([]string(nil), l.paths...)
	for _, f := range w.files {
		if f.link {
			paths = append(paths, f.path)
		}
	}
	seen := map[hop]struct{}{}
	for _, p := range paths {
		for _, h := range hops(p) {
			if _, again := seen[h]; again {
				continue
			}
			seen[h] = struct{}{}
			errs = errors.Join(errs, l.watch.hop(h, l.epoch))
		}
	}
	return errs
}

func (l *loop) say(findings []object.Finding) {
	for _, f := range l.standing {
		findings = append(findings, f)
	}
	object.SortFindings(findings)
	l.index.say(findings)
}

func absent(path string, err error) object.Finding {
	f := object.Finding{Severity: object.Warning, Reason: ReasonUnreadable, Place: object.Place{File: path}, Message: "cannot be read: " + cause(err)}
	if errors.Is(err, fs.ErrNotExist) {
		f.Message = "does not exist; it is read when it comes to be"
	}
	return f
}

// commit emits a Set if there is a new one.
func (l *loop) commit(now time.Time, settle time.Duration) {
	set := l.index.commit(now, settle)
	if len(l.missing) == 0 {
		// Everything that could come back from before the start is there.
		clear(l.index.past)
	}
	if set == nil {
		return
	}
	wait := ledgerLater
	for _, f := range set.Findings {
		if f.Reason == ReasonLastGood {
			wait = ledgerSoon
			break
		}
	}
	if due := now.Add(wait); !l.ledger.dirty || due.Before(l.ledger.due) {
		l.ledger.due = due
	}
	l.ledger.dirty = l.stateDir != ""
	l.emit(set)
}

// write writes the ledger beside the loop.
func (l *loop) write() {
	records, err := l.index.records()
	l.ledger.dirty, l.ledger.busy = false, true
	l.wg.Go(func() {
		if err == nil {
			err = writeLedger(l.stateDir, records)
		}
		l.ledger.done <- err
	})
}

// written takes note of how that went.
func (l *loop) written(err error) {
	l.ledger.busy = false
	if err != nil {
		l.ledger.dirty, l.ledger.due = true, time.Now().Add(lookEvery)
	}
	if failed := err != nil; failed != l.ledger.failed {
		l.ledger.failed = failed
		delete(l.standing, "ledger")
		if failed {
			l.standing["ledger"] = ledgerFinding(l.stateDir, err, "a restart will not know the objects of now")
		}
		l.rescan = true
		l.wake(time.Now())
	}
}

// finish writes what is not in the ledger yet.
func (l *loop) finish() error {
	if l.ledger.busy {
		l.written(<-l.ledger.done)
	}
	if !l.ledger.dirty {
		return nil
	}
	records, err := l.index.records()
	if err != nil {
		return err
	}
	return writeLedger(l.stateDir, records)
}
