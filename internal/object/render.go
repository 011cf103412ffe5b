package object

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Render gives the text of a finding for people, as compilers write theirs:
//
//	shop.yaml:12:15: error: HTTPRoute default/shop: spec.rules[0].matches[0].path.type: "Prefx" is not one of ... [NotSupported]
//	    type: Prefx
//	          ^
//	  did you mean "PathPrefix"?
//
// It ends with a line feed. What is unknown (place, object, field, excerpt,
// mend) is left out. For a log or a terminal give it the Public form.
func Render(f Finding) string {
	var b strings.Builder
	if at := f.Place.String(); at != "" {
		b.WriteString(oneLine(at) + ": ")
	}
	b.WriteString(string(f.Severity) + ": ")
	if f.Object != (Key{}) {
		b.WriteString(oneLine(f.Object.String()) + ": ")
	}
	if f.Field != "" {
		b.WriteString(oneLine(f.Field) + ": ")
	}
	b.WriteString(within(f.Message))
	if f.Reason != "" {
		b.WriteString(" [" + f.Reason + "]")
	}
	b.WriteByte('\n')
	if f.Excerpt != "" {
		renderExcerpt(&b, f)
	}
	if f.Mend != "" {
		b.WriteString("  " + within(f.Mend) + "\n")
	}
	return b.String()
}

// excerptWidth is how much of a line is shown.
const excerptWidth = 120

// renderExcerpt writes the line and a caret below the column. Column counts
// bytes, as the place does; what stands before the caret is copied as blanks
// so that tabs and wide letters do not move it.
func renderExcerpt(b *strings.Builder, f Finding) {
	line, at := f.Excerpt, f.Place.Column-1
	indent := len(line) - len(strings.TrimLeft(line, " \t"))
	if at >= 0 && at < indent {
		indent = at
	}
	line, at = line[indent:], at-indent
	line = cut(line, max(excerptWidth, min(at+20, 4*excerptWidth)))
	b.WriteString("    " + oneLine(line) + "\n")
	if at < 0 || at > len(line) {
		return
	}
	b.WriteString("    ")
	for _, r := range line[:at] {
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	b.WriteString("^\n")
}

// cut shortens a string to at most n bytes without breaking a letter.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Printable takes away what would command a terminal, or have it write what
// follows in another order: names, messages and lines come from files that
// others wrote.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' || r >= 0x7f && r < 0xa0 || unicode.Is(reordering, r) {
			return '?'
		}
		return r
	}, s)
}

// reordering are the letters that change the direction of writing, and those
// that some programs take for the end of a line.
var reordering = &unicode.RangeTable{R16: []unicode.Range16{
	{Lo: 0x061c, Hi: 0x061c, Stride: 1},
	{Lo: 0x200e, Hi: 0x200f, Stride: 1},
	{Lo: 0x2028, Hi: 0x202e, Stride: 1},
	{Lo: 0x2066, Hi: 0x2069, Stride: 1},
}}

// oneLine is the printable form of what has one line: more of them would look
// like findings of their own.
func oneLine(s string) string { return strings.ReplaceAll(Printable(s), "\n", "?") }

// within is the printable form of a text whose further lines belong to it.
func within(s string) string { return strings.ReplaceAll(Printable(s), "\n", "\n  ") }

// SortFindings orders findings by place, object and field, so that equal
// findings give equal text.
func SortFindings(fs []Finding) {
	slices.SortStableFunc(fs, compareFindings)
}

func compareFindings(a, b Finding) int {
	if c := strings.Compare(a.Place.File, b.Place.File); c != 0 {
		return c
	}
	if a.Place.Line != b.Place.Line {
		return a.Place.Line - b.Place.Line
	}
	if a.Place.Column != b.Place.Column {
		return a.Place.Column - b.Place.Column
	}
	if c := a.Object.Compare(b.Object); c != 0 {
		return c
	}
	return strings.Compare(a.Field, b.Field)
}
