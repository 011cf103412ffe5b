package plan

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"
)

// A pathTable finds the rules of one host by path. Requests try, in this order
// (the first two orders are ours to choose, the API leaves regular expressions
// open):
//
//	1 the exact path
//	2 regular expressions, longest pattern first
//	3 prefixes, longest first
//
// and, where paths are the same, in the order of Gateway API: with a method,
// more headers, more query parameters, older route, first by name, first rule.
//
// Prefixes are looked up segment by segment from the front, so that the cost
// grows with the path and not with their number; the longest that fits knows
// its next shorter one:
//
//	/a/b/c/d  ->  "" hit, /a hit, /a/b miss, /a/b/c hit, /a/b/c/d miss
//	          ->  /a/b/c, then its parent /a, then its parent ""
//
// The table names routes by slot. A route whose backends or filters change does
// not touch it.
type pathTable struct {
	exact  *pathIndex // nil if there are none
	prefix *pathIndex
	regex  []regexEntry
}

// An entry is one match of one rule under one path.
type entry struct {
	cond  *condition // nil if the path is all
	route uint32     // slot
	rule  uint16
	match uint16
	flags entryFlags
}

type entryFlags uint8

const (
	oneLabel entryFlags = 1 << iota // the wildcard host must stand for one label
	slashed                         // a prefix written with a slash at its end
)

type regexEntry struct {
	entry
	*pathRegex
}

// A pathIndex is an index whose names are paths.
type pathIndex struct {
	index
	lists   [][]entry // by position, in order of precedence
	parents []int32   // of prefixes: position of the next shorter, or -1
	longest int
}

// prefixName is the name under which a prefix is kept: "/foo" and "/foo/" take
// the same paths.
func prefixName(path string) string { return strings.TrimSuffix(path, "/") }

// hashPrefix hashes a prefix as walk does: segment on segment.
func hashPrefix(name string) uint64 {
	h := uint64(hashSeed)
	for name != "" {
		rest := name[1:]
		end := strings.IndexByte(rest, '/')
		if end < 0 {
			end = len(rest)
		}
		h = hashBytes(h, []byte(rest[:end]))
		name = rest[end:]
	}
	return h
}

// findExact is the position of path, or -1.
func (x *pathIndex) findExact(path []byte) int {
	if x == nil || len(path) > x.longest {
		return -1
	}
	var h uint64
	if x.hashed() {
		h = hashBytes(hashSeed, path)
	}
	return x.find(h, path)
}

// findPrefix is the position of the longest prefix of path, or -1.
func (x *pathIndex) findPrefix(path []byte) int {
	if x == nil || len(path) == 0 || path[0] != '/' {
		return -1
	}
	h, hashed := uint64(hashSeed), x.hashed()
	best := x.find(h, nil)
	for at := 0; at < len(path); {
		end := bytes.IndexByte(path[at+1:], '/')
		if end < 0 {
			end = len(path)
		} else {
			end += at + 1
		}
		if end > x.longest {
			break
		}
		if hashed {
			h = hashBytes(h, path[at+1:end])
		}
		if i := x.find(h, path[:end]); i >= 0 {
			best = i
		}
		at = end
	}
	return best
}

// An order compares two entries of one path.
type order func(a, b entry) int

// A tableEdit is what changes in a pathTable: entries of routes go, entries
// come.
type tableEdit struct {
	paths map[pathName]*pathEdit
	seen  []pathName // in order of arrival, so that tables come out the same
	regex regexEdit
}

type pathName struct {
	kind pathKind
	name string
}

type pathEdit struct {
	drop []uint32 // route slots
	add  []entry
}

type regexEdit struct {
	drop []uint32
	add  []regexEntry
}

func (e *tableEdit) at(kind pathKind, name string) *pathEdit {
	key := pathName{kind, name}
	p := e.paths[key]
	if p == nil {
		p = &pathEdit{}
		if e.paths == nil {
			e.paths = map[pathName]*pathEdit{}
		}
		e.paths[key] = p
		e.seen = append(e.seen, key)
	}
	return p
}

// edit is the table after an edit, or nil if nothing is left in it.
func (t *pathTable) edit(e *tableEdit, less order) *pathTable {
	if t == nil {
		t = &pathTable{}
	}
	next := &pathTable{
		exact:  t.exact.edit(e, exactPath, less),
		prefix: t.prefix.edit(e, prefixPath, less),
		regex:  t.regex,
	}
	if len(e.regex.drop)+len(e.regex.add) > 0 {
		next.regex = editRegex(t.regex, &e.regex, less)
	}
	if next.exact == nil && next.prefix == nil && len(next.regex) == 0 {
		return nil
	}
	return next
}

func editRegex(old []regexEntry, e *regexEdit, less order) []regexEntry {
	list := make([]regexEntry, 0, len(old)+len(e.add))
	for _, have := range old {
		if !slices.Contains(e.drop, have.route) {
			list = append(list, have)
		}
	}
	list = append(list, e.add...)
	slices.SortStableFunc(list, func(a, b regexEntry) int {
		if c := cmp.Compare(len(b.pattern), len(a.pattern)); c != 0 {
			return c
		}
		return less(a.entry, b.entry)
	})
	return list
}

// edit applies the edits of one kind of path.
func (x *pathIndex) edit(e *tableEdit, kind pathKind, less order) *pathIndex {
	var next *pathIndex
	changed := false // the names are not the same
	for _, key := range e.seen {
		if key.kind != kind {
			continue
		}
		if next == nil {
			next = x.clone()
		}
		at := -1
		if x != nil {
			at = x.index.find(hashPath(kind, key.name), []byte(key.name))
		}
		var old []entry
		if at >= 0 {
			old = next.lists[at]
		}
		list := editList(old, e.paths[key], less)
		switch {
		case at >= 0:
			next.lists[at] = list
			changed = changed || len(list) == 0
		case len(list) > 0:
			next.names = append(next.names, key.name)
			next.lists = append(next.lists, list)
			changed = true
		}
	}
	if next == nil {
		return x
	}
	if changed {
		return next.rebuild(kind)
	}
	return next
}

// clone copies the lists and shares the names.
func (x *pathIndex) clone() *pathIndex {
	if x == nil {
		return &pathIndex{}
	}
	next := *x
	next.names = slices.Clip(x.names)
	next.lists = slices.Clone(x.lists)
	return &next
}

func editList(old []entry, e *pathEdit, less order) []entry {
	list := make([]entry, 0, len(old)+len(e.add))
	for _, have := range old {
		if !slices.Contains(e.drop, have.route) {
			list = append(list, have)
		}
	}
	list = append(list, e.add...)
	slices.SortStableFunc(list, less)
	return list
}

// rebuild drops the names without entries and indexes the rest.
func (x *pathIndex) rebuild(kind pathKind) *pathIndex {
	kept := 0
	for _, list := range x.lists {
		if len(list) > 0 {
			kept++
		}
	}
	if kept == 0 {
		return nil
	}
	next := &pathIndex{lists: make([][]entry, 0, kept)}
	names := make([]string, 0, kept)
	for i, list := range x.lists {
		if len(list) == 0 {
			continue
		}
		names = append(names, x.names[i])
		next.lists = append(next.lists, list)
		next.longest = max(next.longest, len(x.names[i]))
	}
	next.index = newIndex(names, func(name string) uint64 { return hashPath(kind, name) })
	if kind == prefixPath {
		next.parents = make([]int32, kept)
		for i, name := range names {
			next.parents[i] = int32(next.parentOf(name))
		}
	}
	return next
}

func hashPath(kind pathKind, name string) uint64 {
	if kind == prefixPath {
		return hashPrefix(name)
	}
	return hashString(name)
}

// parentOf is the position of the longest prefix shorter than name, or -1.
func (x *pathIndex) parentOf(name string) int {
	end := strings.LastIndexByte(name, '/')
	if end < 0 {
		return -1
	}
	if end == 0 {
		return x.find(hashSeed, nil)
	}
	return x.findPrefix([]byte(name[:end]))
}

// A hostTable holds what is attached under one host pattern.
type hostTable struct {
	tiers []tier // most specific original hostname first
}

// A tier holds the routes that wrote the same hostname. Where a listener's
// hostname narrowed several down to one, the original decides before the path
// does.
type tier struct {
	original string
	table    *pathTable
}

// CompareHostnames orders the more specific hostname first: an exact one, then
// longer wildcards, then "".
func CompareHostnames(a, b string) int {
	wildA, wildB := strings.HasPrefix(a, "*"), strings.HasPrefix(b, "*")
	if a != "" && b != "" && wildA != wildB {
		if wildB {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
}

// edit is the host's table after the edits of some of its tiers, or nil.
func (h *hostTable) edit(edits map[string]*tableEdit, less order) *hostTable {
	next := &hostTable{}
	if h != nil {
		next.tiers = slices.Clone(h.tiers)
	}
	for original, e := range edits {
		at := slices.IndexFunc(next.tiers, func(t tier) bool { return t.original == original })
		if at < 0 {
			next.tiers = append(next.tiers, tier{original: original})
			at = len(next.tiers) - 1
		}
		next.tiers[at].table = next.tiers[at].table.edit(e, less)
	}
	next.tiers = slices.DeleteFunc(next.tiers, func(t tier) bool { return t.table == nil })
	if len(next.tiers) == 0 {
		return nil
	}
	slices.SortFunc(next.tiers, func(a, b tier) int { return CompareHostnames(a.original, b.original) })
	next.tiers = slices.Clip(next.tiers)
	return next
}

// hostTables is what is attached to one listener.
type hostTables struct {
	listener string // its name: a slot may pass to another between two plans
	hosts    hostIndex
	tables   []*hostTable // by position in hosts
}

// edit is the listener's tables after the edits of some hosts.
func (t *hostTables) edit(edits map[string]map[string]*tableEdit, less order) *hostTables {
	next := &hostTables{listener: t.listener, hosts: t.hosts, tables: slices.Clone(t.tables)}
	var patterns []string // of new hosts, whose tables stand after the old ones
	changed := false
	for _, host := range slices.Sorted(maps.Keys(edits)) { // so that plans come out the same
		tiers := edits[host]
		if at := t.position(host); at >= 0 {
			next.tables[at] = next.tables[at].edit(tiers, less)
			changed = changed || next.tables[at] == nil
			continue
		}
		if table := (*hostTable)(nil).edit(tiers, less); table != nil {
			patterns = append(patterns, host)
			next.tables = append(next.tables, table)
		}
	}
	if changed || len(patterns) > 0 {
		next.compact(patterns)
	}
	return next
}

// compact drops the hosts without tables and indexes the rest.
func (t *hostTables) compact(added []string) {
	patterns := make([]string, 0, len(t.tables))
	tables := make([]*hostTable, 0, len(t.tables))
	known := len(t.tables) - len(added)
	for i, table := range t.tables {
		switch {
		case table == nil:
			continue
		case i < known:
			patterns = append(patterns, t.hosts.pattern(i))
		default:
			patterns = append(patterns, added[i-known])
		}
		tables = append(tables, table)
	}
	t.tables = tables
	t.hosts = newHostIndex(patterns)
}

// position finds a host pattern, or -1.
func (t *hostTables) position(pattern string) int {
	if len(t.tables) == 0 {
		return -1
	}
	name := pattern
	if strings.HasPrefix(pattern, "*") {
		name = pattern[1:]
	}
	return t.hosts.find(hashString(name), []byte(name))
}
