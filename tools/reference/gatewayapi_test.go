package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestGapsOfCoverage: the lists and the tests of ours must agree, or the
// document would claim what nothing shows.
func TestGapsOfCoverage(t *testing.T) {
	for _, tt := range []struct {
		name, features, conformance string
		tests                       []ownTest
		want                        string // in the error; "" for none
	}{
		{"all shown", "A: a\nB: b | later\n", "TestA A\nTestB A B\nTestM Mesh\n", []ownTest{{covers: []string{"TestA"}}}, ""},
		{"a feature by its own name", "A: a\nB: b | later\n", "", []ownTest{{covers: []string{"A"}}}, ""},
		{"an upstream test is not shown", "A: a\nB: b | later\n", "TestA A\nTestA2 A\n", []ownTest{{covers: []string{"TestA"}}}, "covers: TestA2"},
		{"an upstream test says why not", "A: a\nB: b | later\n", "TestA A\nTestA2 A | because\n", []ownTest{{covers: []string{"TestA"}}}, ""},
		{"the reason is out of date", "A: a\nB: b | later\n", "TestA A | because\n", []ownTest{{covers: []string{"TestA"}}}, "drop"},
		{"a claimed feature is not shown", "A: a\nB: b | later\n", "", nil, "feature A is claimed"},
		{"a word that is nothing", "A: a\nB: b | later\n", "", []ownTest{{path: "x.txtar", covers: []string{"A", "Aa"}}}, "x.txtar covers Aa"},
		{"a claimed feature says why not", "A: a | later\nB: b | later\n", "", []ownTest{{covers: []string{"A"}}}, "A is claimed, so drop"},
		{"an unclaimed feature says nothing", "A: a\nB: b\n", "", []ownTest{{covers: []string{"A"}}}, "B is not claimed: say"},
		{"a feature is forgotten", "A: a\n", "", []ownTest{{covers: []string{"A"}}}, "say what B does"},
		{"a feature that Gateway API has not", "A: a\nB: b | later\nC: c | later\n", "", []ownTest{{covers: []string{"A"}}}, "no feature C"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, err := readFeatures(tt.features, map[string]bool{"A": true}, map[string]string{"A": "standard", "B": "experimental"})
			c := &coverage{features: list, upstream: readConformance(tt.conformance)}
			c.show(tt.tests)
			err = errors.Join(append(c.gaps(tt.tests), err)...)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestListsOfGatewayAPI: the suite of v1.7.0 has so many of both.
func TestListsOfGatewayAPI(t *testing.T) {
	upstream := readConformance(conformanceText)
	if len(upstream) != 170 {
		t.Errorf("%d conformance tests, want 170", len(upstream))
	}
	channel := channels()
	if len(channel) != 64 {
		t.Errorf("%d features, want 64", len(channel))
	}
	for _, u := range upstream {
		for _, f := range u.features {
			if channel[f] == "" {
				t.Errorf("%s needs %s, which is no feature", u.name, f)
			}
		}
	}
}

func TestCovered(t *testing.T) {
	got := covered("What it shows.\ncovers: A B\n\ncovers: C\nit covers: D\n")
	if !slices.Equal(got, []string{"A", "B", "C"}) {
		t.Errorf("got %v", got)
	}
}
