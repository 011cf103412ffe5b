package source

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFilesBeyondTheBoundAreTold(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.yaml", "b.yaml", "c.yaml", "d.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := newWalk(func(string) {})
	w.room = 2
	if err := w.root(0, dir); err != nil {
		t.Fatal(err)
	}
	if len(w.files) != 2 || len(w.findings) != 1 {
		t.Fatalf("%d files and findings %v, want 2 files and one finding", len(w.files), w.findings)
	}
	if f := w.findings[0]; f.Reason != ReasonTooLarge || f.Place.File != filepath.Join(dir, "c.yaml") {
		t.Errorf("got %+v, want c.yaml to be one too many", f)
	}
}
