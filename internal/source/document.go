package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	yaml3 "go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"windrose.dev/windrose/internal/object"
)

// Reasons of findings about files.
const (
	ReasonDuplicateKey    = "DuplicateKey"    // a mapping has a key twice
	ReasonDuplicateObject = "DuplicateObject" // an object is written twice
	ReasonLastGood        = "LastGood"        // an earlier version stays in effect
	ReasonLedger          = "Ledger"          // the state folder has a problem
	ReasonNotUsed         = "NotUsed"         // there is no good version yet
	ReasonSyntax          = "Syntax"          // neither YAML nor JSON
	ReasonTooLarge        = "TooLarge"        // over a bound of the reader
	ReasonUnreadable      = "Unreadable"      // the file cannot be read
	ReasonWatch           = "Watch"           // changes are noticed late
)

// Bounds of what is read from one file.
const (
	maxFileBytes = 64 << 20 // 10,000 certificates in one file fit
	maxDocuments = 50_000
	maxExpanded  = 64 << 20 // bytes after aliases are followed
	maxListDepth = 3
)

// document is one document of a file.
type document struct {
	line int // of the file at which text begins, from 1
	text []byte
	json bool
}

// split cuts a file into documents, as kubectl does: by lines that begin with
// three dashes, or at the end of a JSON object. Empty documents are left out.
func split(text []byte) []document {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if docs, ok := splitJSON(text); ok {
		return docs
	}
	var docs []document
	line, start, startLine := 1, 0, 1
	cut := func(end int) {
		if d := text[start:end]; !blank(d) {
			docs = append(docs, document{line: startLine, text: d})
		}
	}
	for at := 0; at < len(text); line++ {
		end := len(text)
		if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		switch l := text[at:end]; {
		case marker(l, "---"):
			cut(at)
			start, startLine = at, line // the marker stays: it is part of the document
		case marker(l, "..."):
			cut(at)
			start, startLine = end, line+1
		}
		at = end
	}
	cut(len(text))
	return docs
}

func marker(line []byte, m string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(m))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// blank says that a document has only comments, directives and its marker.
func blank(text []byte) bool {
	for l := range bytes.Lines(text) {
		if marker(l, "---") {
			l = l[3:]
		}
		if l = bytes.TrimSpace(l); len(l) > 0 && l[0] != '#' && l[0] != '%' {
			return false
		}
	}
	return true
}

// splitJSON cuts a stream of JSON objects. It is not ok if text is none.
func splitJSON(text []byte) ([]document, bool) {
	if b := bytes.TrimLeft(text, " \t\r\n"); len(b) == 0 || b[0] != '{' {
		return nil, false
	}
	var docs []document
	line, at := 1, 0
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var raw json.RawMessage
		if err := d.Decode(&raw); errors.Is(err, io.EOF) {
			return docs, true
		} else if err != nil {
			return nil, false // YAML may have braces too
		}
		start := int(d.InputOffset()) - len(raw)
		line += bytes.Count(text[at:start], []byte("\n"))
		at = start
		docs = append(docs, document{line: line, text: raw, json: true})
	}
}

// problem is why a document cannot be read. Line is 0 if it is not known.
type problem struct {
	reason, message, mend string
	line, column          int
}

// decode reads a document as Kubernetes does. A document that holds nothing
// gives nil. After a problem the document may still be given, to learn which
// object it is about.
func (d document) decode() (doc map[string]any, problems []problem) {
	text := d.text
	if !d.json {
		if p := d.bomb(); p != nil {
			return nil, []problem{*p}
		}
		var err error
		if text, err = yaml.YAMLToJSONStrict(d.text); err != nil {
			return d.salvage(err)
		}
	}
	var v any
	strict, err := kjson.UnmarshalStrict(text, &v)
	if err != nil {
		return nil, []problem{{reason: ReasonSyntax, message: err.Error()}}
	}
	if len(strict) > 0 {
		problems = d.duplicates()
	}
	switch v := v.(type) {
	case nil:
		return nil, problems
	case map[string]any:
		return v, problems
	}
	return nil, append(problems, problem{reason: ReasonSyntax, message: "a document must be an object with apiVersion, kind and metadata", line: d.line, column: 1})
}

// salvage explains why YAML was refused.
func (d document) salvage(err error) (map[string]any, []problem) {
	found := d.duplicates()
	if len(found) == 0 {
		return nil, []problem{d.syntax(err)}
	}
	var doc map[string]any
	if text, err := yaml.YAMLToJSON(d.text); err == nil {
		// The last of two equal keys wins here, which is enough for a name.
		_ = kjson.UnmarshalCaseSensitivePreserveInts(text, &doc)
	}
	return doc, found
}

// duplicates finds keys that a mapping has twice.
func (d document) duplicates() []problem {
	root, err := d.parse()
	if err != nil {
		return nil
	}
	var found []problem
	var walk func(n *yaml3.Node)
	walk = func(n *yaml3.Node) {
		if n.Kind == yaml3.MappingNode {
			lines := map[string]int{}
			for i := 0; i+1 < len(n.Content); i += 2 {
				k := n.Content[i]
				if first, ok := lines[k.Value]; ok && k.Kind == yaml3.ScalarNode && len(found) < 20 {
					found = append(found, problem{
						reason: ReasonDuplicateKey, line: d.line + k.Line - 1, column: k.Column,
						message: fmt.Sprintf("the key %q is written twice, first in line %d", k.Value, first),
					})
					continue
				}
				lines[k.Value] = d.line + k.Line - 1
			}
		}
		for _, c := range n.Content {
			walk(c)
		}
	}
	walk(root)
	return found
}

// parse gives the nodes of a document, which know their places.
func (d document) parse() (*yaml3.Node, error) {
	text := d.text
	if d.json {
		// A tab between tokens is JSON, but not YAML; inside strings there is none.
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	}
	var root yaml3.Node
	if err := yaml3.Unmarshal(text, &root); err != nil {
		return nil, err
	}
	if root.Kind != yaml3.DocumentNode || len(root.Content) == 0 {
		return nil, errors.New("empty document")
	}
	return root.Content[0], nil
}

// bomb refuses a document whose aliases make it grow beyond all bounds.
func (d document) bomb() *problem {
	if bytes.IndexByte(d.text, '&') < 0 || bytes.IndexByte(d.text, '*') < 0 {
		return nil
	}
	root, err := d.parse()
	if err != nil {
		return nil // the decoder will say it better
	}
	if expanded(root, map[*yaml3.Node]int{}) > maxExpanded {
		return &problem{reason: ReasonTooLarge, line: d.line + root.Line - 1, column: root.Column, message: "the aliases of this document expand to more than 64 MiB"}
	}
	return nil
}

// expanded is the size of a node with its aliases followed, capped just above
// the bound.
func expanded(n *yaml3.Node, known map[*yaml3.Node]int) int {
	if size, ok := known[n]; ok {
		return size
	}
	known[n] = maxExpanded + 1 // an alias inside its own anchor has no end
	size := len(n.Value) + 16
	if n.Alias != nil {
		size += expanded(n.Alias, known)
	}
	for _, c := range n.Content {
		if size += expanded(c, known); size > maxExpanded {
			size = maxExpanded + 1
			break
		}
	}
	known[n] = size
	return size
}

// text checks that a file is text at all.
func text(b []byte) *problem {
	if bytes.Contains(b, []byte{0}) {
		return &problem{reason: ReasonSyntax, message: "is not a text file"}
	}
	if utf8.Valid(b) {
		return nil
	}
	line, column := 1, 1
	for rest := b; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		if r == utf8.RuneError && n <= 1 {
			break
		}
		if column += n; r == '\n' {
			line, column = line+1, 1
		}
		rest = rest[n:]
	}
	return &problem{reason: ReasonSyntax, message: "is not UTF-8 text", line: line, column: column}
}

// item is an object of a document: the document itself, or one of a List.
type item struct {
	path string // within the document, as "items[2]"; empty for the document
	doc  map[string]any
}

// items unpacks a document that is a List of objects.
func items(doc map[string]any, path string, depth int) ([]item, []object.Finding) {
	kind, _ := doc["kind"].(string)
	list, ok := doc["items"].([]any)
	single, isList := strings.CutSuffix(kind, "List")
	if !ok || !isList || depth >= maxListDepth {
		return []item{{path, doc}}, nil
	}
	var all []item
	var findings []object.Finding
	for i, v := range list {
		at := dotted(path) + itemPath(i)
		child, ok := v.(map[string]any)
		if !ok {
			findings = append(findings, object.Finding{Severity: object.Error, Reason: ReasonSyntax, Field: at, Message: "must be an object"})
			continue
		}
		if single != "" { // the items of a ServiceList need not repeat what they are
			for name, value := range map[string]any{"kind": single, "apiVersion": doc["apiVersion"]} {
				if _, ok := child[name]; !ok {
					child[name] = value
				}
			}
		}
		some, more := items(child, at, depth+1)
		all, findings = append(all, some...), append(findings, more...)
	}
	return all, findings
}

func itemPath(i int) string { return fmt.Sprintf("items[%d]", i) }

func dotted(path string) string {
	if path == "" {
		return ""
	}
	return path + "."
}
