package atomicfile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"windrose.dev/windrose/internal/atomicfile"
)

func write(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

func TestReplace(t *testing.T) {
	t.Run("against a crash of the program", func(t *testing.T) { testReplace(t, atomicfile.Replace) })
	t.Run("against a crash of the machine", func(t *testing.T) { testReplace(t, atomicfile.ReplaceDurably) })
}

func testReplace(t *testing.T, replace func(string, func(io.Writer) error) error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	content := func() string {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if err := replace(path, write("first")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	// Somebody left a half-written file that others may read.
	if err := os.WriteFile(path+".new", []byte("ha"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := replace(path, write("second")); err != nil || content() != "second" {
		t.Errorf("got %q, %v, want second", content(), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	broken := errors.New("broken")
	err := replace(path, func(w io.Writer) error {
		return errors.Join(write("thi")(w), broken)
	})
	if !errors.Is(err, broken) || content() != "second" {
		t.Errorf("got %q, %v, want second and the error", content(), err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed write leaves its file behind: %v", err)
	}
}
