package source

import (
	"bytes"
	"strconv"
	"strings"

	yaml3 "go.yaml.in/yaml/v3"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/schema"
)

// pointer finds places in one document. It parses the document only when it is
// asked, so that a document without findings costs nothing.
type pointer struct {
	file string
	doc  document
	root *yaml3.Node
	err  error
}

func (p *pointer) node() *yaml3.Node {
	if p.root == nil && p.err == nil {
		p.root, p.err = p.doc.parse()
	}
	return p.root
}

// object is the place of the object at a path of the document: of its first
// field.
func (p *pointer) object(path string) object.Place {
	if path == "" {
		return p.first()
	}
	at := object.Place{File: p.file, Line: p.doc.line, Column: 1}
	if root := p.node(); root != nil {
		if _, value, all := find(root, schema.Steps(path)); all {
			at.Line, at.Column = p.doc.line+value.Line-1, value.Column
		}
	}
	return at
}

// first is the place of the first field of the document.
func (p *pointer) first() object.Place {
	line := p.doc.line
	for l := range bytes.Lines(p.doc.text) {
		indent := len(l) - len(bytes.TrimLeft(l, " \t"))
		rest := l[indent:]
		if marker(l, "---") {
			rest = bytes.TrimLeft(l[3:], " \t")
			indent = len(l) - len(rest)
		}
		if r := bytes.TrimSpace(rest); len(r) > 0 && r[0] != '#' && r[0] != '%' {
			return object.Place{File: p.file, Line: line, Column: indent + 1}
		}
		line++
	}
	return object.Place{File: p.file, Line: p.doc.line, Column: 1}
}

// point gives a finding about the object at path its place and excerpt.
func (p *pointer) point(f *object.Finding, path string) {
	f.Place = p.object(path)
	if root := p.node(); root != nil && f.Field != "" {
		key, value, all := find(root, append(schema.Steps(path), schema.Steps(f.Field)...))
		n := value
		if !all || key != nil && (wantsKey(f.Reason) || value.Kind != yaml3.ScalarNode) {
			n = key
		}
		if n == nil {
			n = value
		}
		if n != nil {
			f.Place.Line, f.Place.Column = p.doc.line+n.Line-1, n.Column
		}
	}
	f.Excerpt = p.excerpt(f.Place.Line, f.Object.Kind)
}

// wantsKey says that a finding is about a field as such, not about its value.
func wantsKey(reason string) bool {
	switch reason {
	case schema.ReasonUnknownField, schema.ReasonForbidden, schema.ReasonNotRead:
		return true
	}
	return false
}

// maxExcerpt bounds a line that is kept for a finding.
const maxExcerpt = 512

// excerpt gives a line of the document. Of a Secret no value is shown; neither
// of a document of unknown kind, unless it says a kind and does not speak of
// secrets: it may be any file.
func (p *pointer) excerpt(line int, kind string) string {
	rest, n := p.doc.text, p.doc.line
	for ; n < line; n++ {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return ""
		}
		rest = rest[i+1:]
	}
	if n != line {
		return ""
	}
	if i := bytes.IndexByte(rest, '\n'); i >= 0 {
		rest = rest[:i]
	}
	l := strings.ToValidUTF8(strings.TrimRight(string(rest[:min(len(rest), maxExcerpt)]), " \r"), "?")
	if strings.EqualFold(kind, "Secret") || kind == "" && !harmless(p.doc.text) {
		return hide(l)
	}
	return l
}

func harmless(text []byte) bool {
	return bytes.Contains(text, []byte("kind")) && !bytes.Contains(bytes.ToLower(text), []byte("secret"))
}

// hide takes the value out of a line as `  tls.key: LS0t...`.
func hide(line string) string {
	name, _, ok := strings.Cut(line, ":")
	if !ok || strings.ContainsAny(name, `{[,`) {
		return ""
	}
	return name + ": ..."
}

// find walks down from a node. It gives the key and the value that the last
// step named; if some step leads nowhere, all is false and they are those of
// the last one that did. The key of a list's item is nil.
func find(root *yaml3.Node, steps []string) (key, value *yaml3.Node, all bool) {
	value = root
	for i := 0; i < len(steps); {
		at := value
		if at.Kind == yaml3.AliasNode {
			at = at.Alias
		}
		switch at.Kind {
		case yaml3.SequenceNode:
			n, err := strconv.Atoi(steps[i])
			if err != nil || n < 0 || n >= len(at.Content) {
				return key, value, false
			}
			key, value = nil, at.Content[n]
			i++
		case yaml3.MappingNode:
			k, v, used := member(at, steps[i:], 0)
			if used == 0 {
				return key, value, false
			}
			key, value = k, v
			i += used
		default:
			return key, value, false
		}
	}
	return key, value, true
}

// maxDots bounds the dots of a name.
const maxDots = 16

// member finds a field of a mapping. A name with dots, as of a label, was cut
// into several steps; used is how many of them the name is made of.
func member(m *yaml3.Node, steps []string, depth int) (key, value *yaml3.Node, used int) {
	for i := range min(len(steps), maxDots) {
		name := strings.Join(steps[:i+1], ".")
		for j := 0; j+1 < len(m.Content); j += 2 {
			if m.Content[j].Value == name && m.Content[j].Kind == yaml3.ScalarNode {
				key, value, used = m.Content[j], m.Content[j+1], i+1
			}
		}
		if used > 0 {
			return key, value, used
		}
	}
	if depth > 4 {
		return nil, nil, 0
	}
	for j := 0; j+1 < len(m.Content); j += 2 { // a merge: <<: *base
		if m.Content[j].Tag == "!!merge" && m.Content[j+1].Alias != nil {
			if k, v, n := member(m.Content[j+1].Alias, steps, depth+1); n > 0 {
				return k, v, n
			}
		}
	}
	return nil, nil, 0
}
