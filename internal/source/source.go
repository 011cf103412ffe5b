// Package source reads the objects that users wrote into files and follows
// their changes.
//
// A Folder watches files and folders of manifests and emits an object.Set for
// each moment at which something changed. What did not change keeps its
// pointer from Set to Set; only documents whose text changed are checked anew.
//
// What it promises:
//
//   - A wrong object hurts itself alone: its last good version stays in effect.
//     The same holds for objects of a document that cannot be read at all. The
//     ledger in the state folder remembers those versions, so that a restart
//     gives the Set that the reload gave.
//   - Of two documents that write one object the first counts: in the order of
//     the configured paths, then of file names, then within the file.
//   - An object leaves once it was missing for 50 ms. A file that is moved away
//     and written anew, or emptied first, deletes nothing.
//   - A file that somebody is still writing is read when it is closed.
//   - Notifications of the kernel can be lost; every 10 seconds all files are
//     looked at (not read). Where there are no notifications, each second.
//   - Nothing in a folder can make it wait or grow without bound: pipes and
//     devices are not opened, and sizes, depths and aliases have limits.
//
// Findings carry a place. Later steps, which know fields but no files, get
// theirs from Locate. Values of Secrets are in no finding.
package source

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"windrose.dev/windrose/internal/object"
)

// Config says what a Folder reads.
type Config struct {
	// Paths are files and folders. Folders are read with all that is below
	// them: files named *.yaml, *.yml and *.json that are not hidden. A path
	// may come to be later.
	Paths []string
	// StateDir keeps the ledger. Without it nothing outlives a restart. It may
	// lie below one of the paths, and is left out there.
	StateDir string
}

// Folder is a source of objects. Use New to make one.
type Folder struct {
	paths    []string
	stateDir string
}

// New makes a Folder. It reads nothing yet.
func New(c Config) *Folder {
	f := &Folder{stateDir: c.StateDir}
	for _, p := range c.Paths {
		f.paths = append(f.paths, filepath.Clean(p))
	}
	return f
}

// Run calls emit with the first Set, which may be empty, and then with a Set
// for each change, until ctx is done. It calls emit from its own goroutine,
// never twice at a time; while emit runs, changes gather. It returns an error
// only if nothing can be followed at all.
func (f *Folder) Run(ctx context.Context, emit func(*object.Set)) error {
	l := newLoop(f, emit)
	return l.run(ctx)
}

// Read reads files and folders once. Objects have generation 1 and no time of
// creation. It is an error if a path does not exist.
func Read(paths []string) (*object.Set, error) {
	r := newReader()
	x := newIndex(r.checker)
	w := newWalk(func(string) {})
	for i, p := range paths {
		if err := w.root(i, filepath.Clean(p)); err != nil {
			return nil, fmt.Errorf("read %s: %s", p, cause(err))
		}
	}
	for _, f := range r.all(w.files, nil) {
		x.use(f)
	}
	x.say(w.findings)
	return x.commit(time.Now(), 0), nil // never nil: a first Set has a namespace
}
