package feed

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"windrose.dev/windrose/internal/plan"
)

func TestStore(t *testing.T) {
	s := Store{Path: filepath.Join(t.TempDir(), "plan")}
	if _, err := s.Load(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing stored: got %v", err)
	}
	// A leftover of a killed process, open to all.
	if err := os.WriteFile(s.Path+".new", []byte("half"), 0o666); err != nil {
		t.Fatal(err)
	}
	want := append(routes(50), service("s", 100), &plan.Part{
		Key:         plan.Key{Kind: plan.KindCertificate, Name: "default/shop"},
		Certificate: &plan.Certificate{Chain: []byte("chain\n"), Key: []byte("key\n"), Names: []string{"shop.example"}},
	})
	for range 2 {
		if err := s.Save(want); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(s.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(s.Path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left: %v", err)
	}
	got, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if !bytes.Equal(a, b) {
		t.Errorf("got %s, want %s", a, b)
	}
	if err := s.Save(nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load(); err != nil || len(got) != 0 {
		t.Errorf("got %d parts, %v, want none", len(got), err)
	}
}

func TestStoreDirectoryMissing(t *testing.T) {
	s := Store{Path: filepath.Join(t.TempDir(), "none", "plan")}
	if err := s.Save(routes(1)); err == nil {
		t.Error("saved into a folder that does not exist")
	}
}

// TestStoreDamaged changes, cuts and drops every byte of a small store.
func TestStoreDamaged(t *testing.T) {
	s := Store{Path: filepath.Join(t.TempDir(), "plan")}
	if err := s.Save([]*plan.Part{route("a", "/"), service("b", 1)}); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1
		for what, data := range map[string][]byte{
			"flipped": flipped,
			"cut":     good[:i],
			"dropped": append(bytes.Clone(good[:i]), good[i+1:]...),
		} {
			if parts, err := readParts(bytes.NewReader(data)); err == nil {
				t.Errorf("byte %d %s: loaded %d parts", i, what, len(parts))
			}
		}
	}
	line := bytes.IndexByte(good, '\n') + 1
	second := line + bytes.IndexByte(good[line:], '\n') + 1
	if _, err := readParts(bytes.NewReader(append(bytes.Clone(good[:line]), good[second:]...))); err == nil {
		t.Error("loaded without its first part")
	}
}
