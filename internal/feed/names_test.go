package feed

import (
	"encoding/json"
	"testing"
	"unsafe"

	"windrose.dev/windrose/internal/plan"
)

func TestNamesAreShared(t *testing.T) {
	n := names{}
	var parts [2]plan.Part
	for i := range parts {
		data, err := json.Marshal(route("a", "/"))
		if err == nil {
			err = json.Unmarshal(data, &parts[i])
		}
		if err != nil {
			t.Fatal(err)
		}
		n.share(&parts[i])
	}
	a, b := parts[0].Route, parts[1].Route
	if unsafe.StringData(a.Attach[0].Listener) != unsafe.StringData(b.Attach[0].Listener) || unsafe.StringData(a.Rules[0].Backends[0].Service) != unsafe.StringData(b.Rules[0].Backends[0].Service) {
		t.Error("equal names have two copies")
	}
	var s plan.Part
	data, err := json.Marshal(service("a", 10))
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.share(&s)
	if e := s.Service.Endpoints; len(e) != 10 || cap(e) != 10 {
		t.Errorf("%d endpoints in room for %d", len(e), cap(e))
	}
}
