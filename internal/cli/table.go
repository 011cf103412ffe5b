package cli

import (
	"io"
	"strings"
	"unicode/utf8"

	"windrose.dev/windrose/internal/object"
)

// cell is one field of a table.
type cell struct {
	text  string
	paint func(string) string // nil for none
}

func plain(s string) cell {
	if s == "" {
		s = "<none>"
	}
	return cell{text: object.Printable(strings.ReplaceAll(s, "\n", " "))}
}

// table has aligned columns. Widths are kept, so that rows that come later (of
// a watch) stand below the first ones.
type table struct {
	indent string
	head   []string
	rows   [][]cell
	widths []int
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// write writes the head, if there is one, and the rows that were added since.
func (t *table) write(w io.Writer) error {
	var rows [][]cell
	if t.head != nil {
		head := make([]cell, len(t.head))
		for i, s := range t.head {
			head[i] = cell{text: s}
		}
		rows = append(rows, head)
		t.head = nil
	}
	rows = append(rows, t.rows...)
	t.rows = nil
	for _, row := range rows {
		for i, c := range row {
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c.text))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		b.WriteString(t.indent)
		for i, c := range row {
			text := c.text
			if c.paint != nil {
				text = c.paint(text)
			}
			b.WriteString(text)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(c.text)+3))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}
