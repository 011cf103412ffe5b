package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocumentsAreCurrent is gen-check for whoever runs only the tests.
func TestDocumentsAreCurrent(t *testing.T) {
	dir := t.TempDir()
	if err := run("../..", dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		want, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("../../docs/reference", e.Name()))
		if err != nil {
			t.Errorf("%s: %v", e.Name(), err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("docs/reference/%s is not current: run make gen", e.Name())
		}
	}
}

// TestEveryTypeIsExplained: the comments are the users' manual.
func TestEveryTypeIsExplained(t *testing.T) {
	kinds, err := readKinds(filepath.Join("../..", typesFile))
	if err != nil {
		t.Fatal(err)
	}
	if len(kinds) < 10 {
		t.Fatalf("found only %d types", len(kinds))
	}
	for name, k := range kinds {
		if strings.HasSuffix(name, "List") {
			continue
		}
		if k.doc == "" {
			t.Errorf("%s has no comment", name)
		}
	}
}
