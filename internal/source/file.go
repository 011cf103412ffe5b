package source

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/schema"
)

// fileID tells whether a file may have changed.
type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64
}

func idOf(fi fs.FileInfo) fileID {
	id := fileID{size: fi.Size(), mtime: fi.ModTime().UnixNano()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		id.dev, id.ino, id.ctime = st.Dev, st.Ino, st.Ctim.Nano()
	}
	return id
}

// file is what was read from one file.
type file struct {
	path string
	// root and path order the files: of two that write one object the first
	// wins.
	root     int
	id       fileID
	sum      uint64
	parts    []part
	findings []object.Finding // about the file as a whole
	// broken says that not all of the file could be read. What it had before
	// and has no more is then held, because it may stand in the broken part.
	broken bool
	held   map[object.Key]struct{}
}

// part is what was read from one document.
type part struct {
	sum      uint64
	line     int
	entries  []entry
	findings []object.Finding // of documents that name no object
	broken   bool
}

// entry is one object as written.
type entry struct {
	key         object.Key
	place       object.Place
	object      metav1.Object // nil if it is wrong
	spec, whole schema.Digest
	findings    []object.Finding
	wrong       bool // it breaks a rule, as opposed to: its kind is not read
}

// reader reads files. It keeps no text.
type reader struct {
	checker *schema.Checker
	seed    maphash.Seed
}

func newReader() *reader { return &reader{checker: schema.New(), seed: maphash.MakeSeed()} }

// read reads a file. Documents that are as they were in old are not checked
// anew. A file whose content is that of old gives old.
func (r *reader) read(path string, old *file) *file {
	next := &file{path: path}
	text, id, err := slurp(path)
	next.id = id
	if err != nil {
		next.broken = true
		next.findings = []object.Finding{unreadable(path, err)}
		return next
	}
	next.sum = maphash.Bytes(r.seed, text)
	if old != nil && old.sum == next.sum && !unread(old) {
		old.id = id
		return old
	}
	r.documents(next, text, old)
	return next
}

// file reads what a walk found.
func (r *reader) file(f found, old *file) *file {
	if f.bad != nil {
		return &file{path: f.path, root: f.root, id: f.id, broken: true, findings: []object.Finding{unreadable(f.path, f.bad)}}
	}
	next := r.read(f.path, old)
	if next != old {
		next.root = f.root
	}
	return next
}

// manyFiles is from when on it pays to read on several cores, each of which
// compiles the schemas for itself.
const manyFiles = 200

// all reads files; old gives what is known of them.
func (r *reader) all(fs []found, old map[string]*file) []*file {
	next := make([]*file, len(fs))
	workers := min(runtime.GOMAXPROCS(0), len(fs)/manyFiles)
	if workers < 2 {
		for i, f := range fs {
			next[i] = r.file(f, old[f.path])
		}
		return next
	}
	var at atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			own := &reader{checker: schema.New(), seed: r.seed}
			for i := at.Add(1) - 1; i < int64(len(fs)); i = at.Add(1) - 1 {
				next[i] = own.file(fs[i], old[fs[i].path])
			}
		})
	}
	wg.Wait()
	return next
}

// unread says that the file as such could not be read.
func unread(f *file) bool { return f.broken && f.parts == nil }

func (r *reader) documents(next *file, content []byte, old *file) {
	next.parts = []part{} // it was read, whatever it says
	if p := text(content); p != nil {
		next.broken = true
		next.findings = append(next.findings, p.finding(next.path))
		return
	}
	docs := split(content)
	if len(docs) > maxDocuments {
		next.broken = true
		next.findings = append(next.findings, object.Finding{
			Severity: object.Error, Reason: ReasonTooLarge, Place: object.Place{File: next.path},
			Message: fmt.Sprintf("has %d documents; at most %d are read from one file", len(docs), maxDocuments),
		})
		return
	}
	known := map[uint64]*part{}
	if old != nil {
		for i := range old.parts {
			known[old.parts[i].sum] = &old.parts[i]
		}
	}
	next.parts = slices.Grow(next.parts, len(docs))
	for _, d := range docs {
		sum := maphash.Bytes(r.seed, d.text)
		p, ok := known[sum]
		if ok {
			next.parts = append(next.parts, p.moved(d.line))
		} else {
			next.parts = append(next.parts, r.part(next.path, d, sum))
		}
		next.broken = next.broken || next.parts[len(next.parts)-1].broken
	}
}

// part checks one document.
func (r *reader) part(path string, d document, sum uint64) part {
	out := part{sum: sum, line: d.line}
	at := &pointer{file: path, doc: d}
	doc, problems := d.decode()
	if len(problems) > 0 {
		var e entry
		if doc != nil {
			e.key, e.wrong = r.checker.Identify(doc)
		}
		out.refuse(at, e, problems)
		return out
	}
	if doc == nil {
		return out
	}
	all, findings := items(doc, "", 0)
	for i := range findings {
		at.point(&findings[i], "")
	}
	out.findings = findings
	for _, it := range all {
		out.add(at, it, r.checker.Check(it.doc))
	}
	return out
}

// add takes in the result of a check.
func (p *part) add(at *pointer, it item, res schema.Result) {
	for i := range res.Findings {
		at.point(&res.Findings[i], it.path)
	}
	if !res.Read {
		p.findings = append(p.findings, res.Findings...)
		p.broken = p.broken || res.Wrong()
		return
	}
	p.entries = append(p.entries, entry{
		key: res.Key, place: at.object(it.path), object: res.Object, spec: res.Spec, whole: res.Whole,
		findings: slices.Clip(res.Findings), wrong: res.Wrong(),
	})
}

// refuse takes in a document that could not be decoded; e is wrong if it is at
// least known which object it is about.
func (p *part) refuse(at *pointer, e entry, problems []problem) {
	named := e.wrong
	var findings []object.Finding
	for _, pr := range problems {
		f := pr.finding(at.file)
		if f.Object = e.key; !named {
			f.Object = object.Key{}
		}
		if f.Place.Line > 0 {
			f.Excerpt = at.excerpt(f.Place.Line, f.Object.Kind)
			if f.Place.Column == 0 {
				f.Place.Column = 1 + len(f.Excerpt) - len(strings.TrimLeft(f.Excerpt, " \t"))
			}
		} else {
			f.Place = at.first()
		}
		findings = append(findings, f)
	}
	if named {
		e.place, e.findings = at.object(""), findings
		p.entries = append(p.entries, e)
		return
	}
	p.findings, p.broken = findings, true
}

// moved is a part that stands at another line now.
func (p *part) moved(line int) part {
	if line == p.line {
		return *p
	}
	by := line - p.line
	next := *p
	next.line = line
	next.findings = shift(p.findings, by)
	next.entries = slices.Clone(p.entries)
	for i := range next.entries {
		e := &next.entries[i]
		e.place.Line += by
		e.findings = shift(e.findings, by)
	}
	return next
}

func shift(fs []object.Finding, by int) []object.Finding {
	fs = slices.Clone(fs)
	for i := range fs {
		if fs[i].Place.Line > 0 {
			fs[i].Place.Line += by
		}
	}
	return fs
}

func (p problem) finding(path string) object.Finding {
	return object.Finding{
		Severity: object.Error, Reason: p.reason, Message: p.message, Mend: p.mend,
		Place: object.Place{File: path, Line: p.line, Column: p.column},
	}
}

var (
	errIrregular = errors.New("is not a regular file")
	errTooLarge  = fmt.Errorf("is larger than %d MiB", maxFileBytes>>20)
)

// slurp reads a regular file. It never waits for the other end of a pipe.
func slurp(path string) ([]byte, fileID, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fileID{}, err
	}
	if !fi.Mode().IsRegular() {
		return nil, idOf(fi), errIrregular
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, idOf(fi), err
	}
	defer f.Close()
	// The file may have been replaced since it was looked at.
	if fi, err = f.Stat(); err != nil {
		return nil, fileID{}, err
	}
	switch {
	case !fi.Mode().IsRegular():
		return nil, idOf(fi), errIrregular
	case fi.Size() > maxFileBytes:
		return nil, idOf(fi), errTooLarge
	}
	text := make([]byte, 0, fi.Size()+1)
	for {
		n, err := f.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		switch {
		case errors.Is(err, io.EOF):
			return text, idOf(fi), nil
		case err != nil:
			return nil, idOf(fi), err
		case len(text) > maxFileBytes:
			return nil, idOf(fi), errTooLarge
		}
		if len(text) == cap(text) {
			text = slices.Grow(text, len(text))
		}
	}
}

func unreadable(path string, err error) object.Finding {
	f := object.Finding{Severity: object.Error, Reason: ReasonUnreadable, Place: object.Place{File: path}, Message: "cannot be read: " + cause(err)}
	switch {
	case errors.Is(err, errIrregular):
		f.Severity, f.Message = object.Warning, err.Error()+"; it is not read"
	case errors.Is(err, errTooLarge):
		f.Reason, f.Message = ReasonTooLarge, err.Error()+"; it is not read"
	}
	return f
}

// cause takes the path, which the place names already, out of an error.
func cause(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}
