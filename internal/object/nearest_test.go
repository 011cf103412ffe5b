package object_test

import (
	"slices"
	"testing"

	"windrose.dev/windrose/internal/object"
)

func TestNearest(t *testing.T) {
	known := []string{"cart", "checkout", "shop", "web"}
	for _, tt := range []struct{ name, want string }{
		{"crat", "cart"},        // two letters swapped
		{"chekout", "checkout"}, // one left out
		{"shopp", "shop"},       // one too many
		{"cart", "cart"},
		{"payments", ""}, // nothing like it
		{"", ""},
	} {
		if got := object.Nearest(tt.name, slices.Values(known)); got != tt.want {
			t.Errorf("Nearest(%q) = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestNearestOfEqualsIsTheFirst(t *testing.T) {
	for _, known := range [][]string{{"card", "cars"}, {"cars", "card"}} {
		if got := object.Nearest("cart", slices.Values(known)); got != "card" {
			t.Errorf("Nearest of %v = %q, want card", known, got)
		}
	}
}
