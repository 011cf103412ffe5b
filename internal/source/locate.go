package source

import (
	yaml3 "go.yaml.in/yaml/v3"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/schema"
)

// Locate gives findings their places and excerpts: those that have no place
// yet and whose object was read from a file. It reads the files anew, each
// once; where one has changed meanwhile, the place is that of the object. The
// findings are changed in place and returned. What is found in an object's last
// good version is not in the file any more: its place is that of the object.
func Locate(set *object.Set, findings []object.Finding) []object.Finding {
	files := map[string][]*pointer{}
	earlier := Earlier(set)
	for i := range findings {
		f := &findings[i]
		at, ok := set.Places[f.Object]
		if f.Place != (object.Place{}) || !ok {
			continue
		}
		f.Place = at
		if at.Line == 0 || earlier[f.Object] {
			continue
		}
		docs, ok := files[at.File]
		if !ok {
			docs = pointers(at.File)
			files[at.File] = docs
		}
		locate(docs, f, at)
	}
	return findings
}

// Earlier is the objects of which the set holds the last good version, because
// what is written now is wrong.
func Earlier(set *object.Set) map[object.Key]bool {
	earlier := map[object.Key]bool{}
	for i := range set.Findings {
		if f := &set.Findings[i]; f.Reason == ReasonLastGood {
			earlier[f.Object] = true
		}
	}
	return earlier
}

// pointers cuts a file into documents, none if it cannot be read now.
func pointers(path string) []*pointer {
	content, _, err := slurp(path)
	if err != nil || text(content) != nil {
		return nil
	}
	var all []*pointer
	for _, d := range split(content) {
		all = append(all, &pointer{file: path, doc: d})
	}
	return all
}

// locate points a finding at its field, in the document that has the object.
func locate(docs []*pointer, f *object.Finding, at object.Place) {
	var p *pointer
	for _, d := range docs {
		if d.doc.line <= at.Line {
			p = d
		}
	}
	if p == nil || p.node() == nil {
		return
	}
	if path, ok := pathOf(p.root, "", f.Object, 0); ok {
		p.point(f, path)
	}
}

// pathOf finds an object in a document, which may be a List.
func pathOf(n *yaml3.Node, path string, k object.Key, depth int) (string, bool) {
	if isAbout(n, k) {
		return path, true
	}
	_, list, ok := find(n, []string{"items"})
	if !ok || list.Kind != yaml3.SequenceNode || depth >= maxListDepth {
		return "", false
	}
	for i, item := range list.Content {
		if found, ok := pathOf(item, dotted(path)+itemPath(i), k, depth+1); ok {
			return found, true
		}
	}
	return "", false
}

// isAbout says whether a node is the object of a key. An item of a ServiceList
// need not say its kind, and a namespace may be left out.
func isAbout(n *yaml3.Node, k object.Key) bool {
	field := func(path string) string {
		if _, v, ok := find(n, schema.Steps(path)); ok {
			return v.Value
		}
		return ""
	}
	kind, ns := field("kind"), field("metadata.namespace")
	return field("metadata.name") == k.Name && (kind == k.Kind || kind == "") && (ns == k.Namespace || ns == "" || k.Namespace == "")
}
