package source

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"

	yaml3 "go.yaml.in/yaml/v3"
)

var yamlLine = regexp.MustCompile(`line (\d+): `)

// syntax turns an error of the YAML library into a problem with a place, in
// words for whoever wrote the file.
func (d document) syntax(err error) problem {
	message := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "), "yaml: ")
	p := problem{reason: ReasonSyntax}
	if m := yamlLine.FindStringSubmatchIndex(message); m != nil {
		if n, err := strconv.Atoi(message[m[2]:m[3]]); err == nil {
			p.line = d.line + min(n, d.lines()) - 1
		}
		message = message[:m[0]] + message[m[1]:]
	}
	said, mend := inWords(strings.TrimSpace(message))
	p.message, p.mend = "is not YAML: "+said, mend
	if n := d.broken(); n > 0 {
		p.line = d.line + n - 1
	}
	for i, l := range bytes.Split(d.text, []byte("\n")) {
		if at := bytes.IndexByte(l[:len(l)-len(bytes.TrimLeft(l, " \t"))], '\t'); i > 0 && at >= 0 {
			p.line, p.column = d.line+i, at+1
			p.message, p.mend = "is not YAML: the line is indented with a tab", "YAML is indented with spaces, not with tabs"
			break
		}
	}
	return p
}

// lines is the number of lines up to the last that is not blank; the end of a
// file is no place to point at.
func (d document) lines() int { return 1 + bytes.Count(bytes.TrimSpace(d.text), []byte("\n")) }

// brokenBytes bounds what is read again to find the line that breaks a document.
const brokenBytes = 4 << 20

// broken gives the first line that makes the document unreadable, from 1: the
// one after the longest beginning that can be read. The library tells where the
// thing begins that it was reading, which is often far above. 0 is not known.
func (d document) broken() int {
	lines := bytes.SplitAfter(d.text, []byte("\n"))
	end := len(d.text)
	var root yaml3.Node
	for n, read := len(lines), 0; n > 0; n-- {
		if n < len(lines) && (len(bytes.TrimSpace(d.text[:end])) == 0 || yaml3.Unmarshal(d.text[:end], &root) == nil) {
			return min(n+1, d.lines())
		}
		if read += end; read > brokenBytes {
			return 0
		}
		end -= len(lines[n-1])
	}
	return 1
}

// inWords says a message of the YAML library plainly, and how to mend it.
func inWords(message string) (said, mend string) {
	for _, w := range []struct{ library, said, mend string }{
		{"mapping values are not allowed", "a colon stands where no key can be", "check that the line above ends with a colon and that both lines are indented rightly; a text with a colon in it needs quotes"},
		{"did not find expected key", "the line is not part of the mapping around it", "indent it like its neighbours, and close the quotes and brackets above it"},
		{"did not find expected '-' indicator", "the line is not part of the list around it", "begin it with a dash, and indent all items of a list alike"},
		{"block sequence entries are not allowed", "an item of a list stands where none can be", "put the list below its key, one item to a line"},
		{"could not find expected ':'", "a key has no colon after it", "write KEY: VALUE"},
		{"did not find expected ',' or ']'", "a list in square brackets is not closed, or lacks a comma", "close it with ], and put commas between its items"},
		{"did not find expected ',' or '}'", "a mapping in braces is not closed, or lacks a comma", "close it with }, and put commas between its keys"},
		{"did not find expected node content", "something in brackets is not closed, or has a comma too many", "close every [ and {, and look at the commas"},
		{"found unexpected end of stream", "a text in quotes is not closed", "close the quote"},
		{"found unexpected document indicator", "a text in quotes is not closed before the next document", "close the quote"},
		{"found unknown escape character", "a backslash in double quotes begins an escape that YAML does not know", "write it in single quotes, or write two backslashes"},
		{"cannot start any token", "a value begins with a character that YAML keeps for itself", "put the value in quotes"},
		{"tab character", "a tab stands where spaces must be", "YAML is indented with spaces, not with tabs"},
		{"unknown anchor", "an alias (*NAME) has no anchor (&NAME) before it", "a value that begins with * needs quotes"},
		{"control characters are not allowed", "there is a control character in it", "remove it"},
		{"did not find expected alphabetic or numeric character", "& or * begins a value, and no name follows", "put the value in quotes"},
	} {
		if strings.Contains(message, w.library) {
			return w.said, w.mend
		}
	}
	return message, ""
}
