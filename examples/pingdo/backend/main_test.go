package main

import (
	"encoding/json"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestBackend(t *testing.T) {
	cases := []struct {
		name, method, target, body string
		want                       string
	}{
		{"health is plain", "GET", "/healthz", "", "ok\n"},
		{"echo gives the body back", "POST", "/api/echo", "some bytes", "some bytes"},
		{"anything else says who answered", "GET", "/api/users?x=1", "", "api GET /api/users x=1"},
		{"slow answers after its wait", "GET", "/api/slow?for=1ms", "", "api GET /api/slow for=1ms"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			handler("api").ServeHTTP(w, httptest.NewRequest(c.method, c.target, strings.NewReader(c.body)))
			body, err := io.ReadAll(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			got := string(body)
			if w.Header().Get("Content-Type") == "application/json" {
				var s seen
				if err := json.Unmarshal(body, &s); err != nil {
					t.Fatal(err)
				}
				got = strings.Join([]string{s.Backend, s.Method, s.Path, s.Query}, " ")
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
