package h1_test

import (
	"testing"

	"windrose.dev/windrose/internal/h1"
)

func TestSetTarget(t *testing.T) {
	for _, test := range []struct {
		method, target string
		path, query    string
		ok             bool
	}{
		{"GET", "/a?b", "/a", "b", true},
		{"CONNECT", "/chat", "/chat", "", true},
		{"OPTIONS", "*", "*", "", true},
		{"GET", "*", "", "", false},
		{"GET", "", "", "", false},
		{"GET", "a", "", "", false},
		{"GET", "http://a/", "", "", false},
		{"GET", "/%4", "", "", false},
	} {
		r := h1.Request{Method: []byte(test.method)}
		err := r.SetTarget([]byte(test.target))
		if (err == nil) != test.ok || test.ok && (string(r.Path) != test.path || string(r.Query) != test.query || r.HasQuery != (test.query != "")) {
			t.Errorf("%s %s: %s ? %s, %v", test.method, test.target, r.Path, r.Query, err)
		}
	}
}
