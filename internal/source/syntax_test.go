package source

import (
	"fmt"
	"strings"
	"testing"
)

func TestSyntaxInWords(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a key without a colon", "kind: A\nspec\n  a: b\n", "2: a key has no colon after it (write KEY: VALUE)"},
		{"a colon in a text", "kind: A\nspec:\n  a: b: c\nx: y\n", "3: a colon stands where no key can be"},
		{"a line that is indented wrongly", "kind: A\nspec:\n  a: b\n c: d\n", "4: the line is not part of the mapping around it"},
		{"an item of a list that is indented wrongly", "spec:\n  - a\n - b\n", "3: the line is not part of the mapping around it"},
		{"a key among the items of a list", "spec:\n- a\n- b\nc\n", "4: a key has no colon after it"},
		{"a list behind its key", "kind: A\nspec: - a\n", "2: an item of a list stands where none can be"},
		{"an open bracket", "kind: A\nspec: [a, b\nx: y\n", "2: a list in square brackets is not closed, or lacks a comma (close it with ]"},
		{"an open brace", "kind: A\nspec: {a: b, c: d\n", "2: a mapping in braces is not closed"},
		{"an open quote", "kind: A\nspec: \"a\nx: y\n", "2: a text in quotes is not closed"},
		{"an escape", "kind: A\nspec: \"a\\d\"\n", `2: a backslash in double quotes begins an escape that YAML does not know`},
		{"a reserved character", "kind: A\nspec: @a\n", "2: a value begins with a character that YAML keeps for itself (put the value in quotes)"},
		{"an alias that is none", "kind: A\nspec: *.example.com\n", "2: "},
		{"a tab", "kind: A\nspec:\n\ta: b\n", "3: the line is indented with a tab (YAML is indented with spaces"},
		{"the first line", "a: [\n", "1: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, problems := document{line: 11, text: []byte(tt.text)}.decode()
			if len(problems) != 1 {
				t.Fatalf("problems: %+v", problems)
			}
			p := problems[0]
			said, ok := strings.CutPrefix(p.message, "is not YAML: ")
			if got := fmt.Sprintf("%d: %s (%s)", p.line-10, said, p.mend); !ok || !strings.HasPrefix(got, tt.want) || p.mend == "" {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestBrokenIsBounded: the search for the line gives up, and does not take the
// more time the larger a file is.
func TestBrokenIsBounded(t *testing.T) {
	text := "a: @\n" + strings.Repeat("b: cccccccccccccccccccccccccccccccc\n", 20_000)
	if got := (document{line: 1, text: []byte(text)}).broken(); got != 0 {
		t.Errorf("line %d, want none", got)
	}
}
