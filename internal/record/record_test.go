package record_test

import (
	"regexp"
	"testing"

	"windrose.dev/windrose/internal/record"
)

// TestEveryFlagIsWhole: clients, logs, metrics and the reference show all that
// is asked for here.
func TestEveryFlagIsWhole(t *testing.T) {
	word := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := map[string]record.Flag{}
	for _, f := range record.Flags() {
		name := f.String()
		if !word.MatchString(name) {
			t.Errorf("flag %d is named %q, want words in lower case", f, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("flags %d and %d are both named %q", other, f, name)
		}
		seen[name] = f
		if f.Side().String() == "unset" {
			t.Errorf("%s: nobody's fault", name)
		}
		if status := f.Status(); status < 400 || status > 599 {
			t.Errorf("%s: status %d, want an error", name, status)
		}
		if f.Mend() == "" {
			t.Errorf("%s: nothing says what to do", name)
		}
	}
	if f := record.Flag(0); f.String() != "" || f.Side() != 0 || f.Mend() != "" {
		t.Errorf("no fault shows as %q, %v, %q", f, f.Side(), f.Mend())
	}
	if f := record.Internal + 1; f.String() != "" {
		t.Errorf("%q comes after the last flag: Flags does not list it", f)
	}
}

func TestShownPathHasNoSecrets(t *testing.T) {
	for _, c := range []struct{ target, want string }{
		{"/a/b", "/a/b"},
		{"/a?token=1", "/a"},
		{"/?", "/"},
		{"?x", ""},
		{"*", "*"},
		{"http://user:pass@shop.example/a?b", "/a"},
		{"http://user:pass@shop.example", ""},
		{"shop.example:443", "shop.example:443"},
		{"/to?next=http://b/c", "/to"},
		{"", ""},
	} {
		if got := string((&record.Record{Path: []byte(c.target)}).ShownPath()); got != c.want {
			t.Errorf("%q: got %q, want %q", c.target, got, c.want)
		}
	}
}
