package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"windrose.dev/windrose/internal/object"
)

// Bounds of a walk.
const (
	maxFiles = 200_000
	maxDepth = 32
)

// found is a file that a walk came upon.
type found struct {
	path string
	root int
	id   fileID
	link bool // it is reached through a symbolic link
	bad  error
}

// walk is one look at all configured paths.
type walk struct {
	files    []found
	seen     map[string]struct{}
	dirs     map[[2]uint64]struct{} // by device and inode, against cycles
	enter    func(dir string)       // called before a folder is listed
	room     int                    // for so many files more
	findings []object.Finding
}

func newWalk(enter func(string)) *walk {
	return &walk{seen: map[string]struct{}{}, dirs: map[[2]uint64]struct{}{}, enter: enter, room: maxFiles}
}

// skip leaves a folder out, wherever it is met.
func (w *walk) skip(dir string) {
	if fi, err := os.Stat(dir); err == nil {
		id := idOf(fi)
		w.dirs[[2]uint64{id.dev, id.ino}] = struct{}{}
	}
}

// root looks at a configured path. A path that does not exist is an error of
// kind fs.ErrNotExist.
func (w *walk) root(i int, path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	link := isLink(path)
	if fi.IsDir() {
		w.dir(i, path, fi, link, 0)
		return nil
	}
	w.file(i, path, fi, link)
	return nil
}

func (w *walk) file(root int, path string, fi fs.FileInfo, link bool) {
	if _, again := w.seen[path]; again || w.full(path) {
		return
	}
	w.seen[path] = struct{}{}
	f := found{path: path, root: root, id: idOf(fi), link: link}
	if !fi.Mode().IsRegular() {
		f.bad = errIrregular
	}
	w.files = append(w.files, f)
}

// full takes the place of a file, and says once that there is none left.
func (w *walk) full(path string) bool {
	if w.room--; w.room == -1 {
		w.findings = append(w.findings, object.Finding{
			Severity: object.Error, Reason: ReasonTooLarge, Place: object.Place{File: path},
			Message: fmt.Sprintf("is one file too many: after %d neither it nor what comes behind it is read", len(w.files)),
		})
	}
	return w.room < 0
}

func (w *walk) dir(root int, path string, fi fs.FileInfo, link bool, depth int) {
	id := idOf(fi)
	key := [2]uint64{id.dev, id.ino}
	if _, again := w.dirs[key]; again || depth > maxDepth {
		return
	}
	w.dirs[key] = struct{}{}
	w.enter(path)
	entries, err := os.ReadDir(path)
	if err != nil {
		w.findings = append(w.findings, unreadable(path, err))
	}
	if isState(entries) {
		return
	}
	for _, e := range entries {
		if ignored(e.Name()) {
			continue
		}
		child := filepath.Join(path, e.Name())
		isLink := e.Type()&fs.ModeSymlink != 0
		if !isLink && !e.IsDir() && !wanted(e.Name()) {
			continue
		}
		fi, err := os.Stat(child)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !isLink:
			// Gone since the folder was listed.
		case err != nil && wanted(e.Name()):
			w.files = append(w.files, found{path: child, root: root, link: isLink, bad: err})
			w.seen[child] = struct{}{}
		case err != nil:
		case fi.IsDir():
			w.dir(root, child, fi, link || isLink, depth+1)
		case wanted(e.Name()):
			w.file(root, child, fi, link || isLink)
		}
	}
}

// isState says whether a folder is the state folder of some windrose, which
// keeps no manifests for anybody to read.
func isState(entries []fs.DirEntry) bool {
	marks := 0
	for _, e := range entries {
		if e.Name() == ledgerName || e.Name() == "lock" {
			marks++
		}
	}
	return marks == 2
}

func isLink(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Mode()&fs.ModeSymlink != 0
}

// wanted says that a name is that of a manifest.
func wanted(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return !ignored(name)
	}
	return false
}

// ignored says that a name is hidden, or that of a temporary file of an editor
// or a copying tool.
func ignored(name string) bool {
	switch {
	case name == "", name[0] == '.', name[0] == '#', name[0] == '~', name == "4913":
		return true
	case strings.HasSuffix(name, "~"), strings.HasSuffix(name, "#"):
		return true
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".swp", ".swo", ".swx", ".tmp", ".bak", ".orig", ".part", ".crdownload":
		return true
	}
	return false
}

// hop is a name in a folder that a path goes through.
type hop struct{ dir, name string }

// hops gives every name on which a path depends: each symbolic link on the way,
// and the file itself or else the first name that does not exist.
func hops(path string) []hop {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	var all []hop
	at, rest := "/", strings.Split(abs, "/")
	for links := 0; len(rest) > 0 && links < 40; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		target, err := os.Readlink(next)
		if errors.Is(err, fs.ErrNotExist) {
			return append(all, hop{at, name}) // it may come to be later
		}
		if err != nil { // no link
			if len(rest) == 0 {
				all = append(all, hop{at, name})
			}
			at = next
			continue
		}
		links++
		all = append(all, hop{at, name})
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return all
}
