package main

import (
	"strings"
	"testing"
)

func TestParseStream(t *testing.T) {
	got, err := parseStream([]byte(`{"bytes":2147483648,"seconds":0.5,"lost":0,"broken":0,"cpu":[300000000,100000000]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got.Bytes != 2<<30 || got.Seconds != 0.5 || got.ProxyCPU != 0.2 {
		t.Errorf("got %+v, want 2 GiB in 0.5 s for 0.2 s of CPU each", got)
	}
}

func TestParseStreamRefuses(t *testing.T) {
	tests := map[string]string{
		"lost bytes":         `{"bytes":100,"seconds":1,"lost":1,"broken":0,"cpu":[1]}`,
		"bytes from nowhere": `{"bytes":100,"seconds":1,"lost":-1,"broken":0,"cpu":[1]}`,
		"broken connections": `{"bytes":100,"seconds":1,"lost":0,"broken":1,"cpu":[1]}`,
		"nothing":            `{"bytes":0,"seconds":1,"lost":0,"broken":0,"cpu":[1]}`,
		"no time":            `{"bytes":100,"seconds":0,"lost":0,"broken":0,"cpu":[1]}`,
		"no JSON":            `connect: Connection refused`,
	}
	for name, line := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := parseStream([]byte(line)); err == nil {
				t.Errorf("got %+v, want an error", got)
			}
		})
	}
}

func TestPrintRelay(t *testing.T) {
	r := &results{}
	s := relays[0]
	for _, cpu := range []float64{0.1, 0.3, 0.2} {
		r.addStream(s.Name, "windrose", stream{Bytes: 4 << 30, Seconds: 1, ProxyCPU: cpu})
		r.addStream(s.Name, "haproxy, splice-auto", stream{Bytes: 2 << 30, Seconds: 1, ProxyCPU: 2 * cpu})
	}
	var out strings.Builder
	r.printRelay(&out, s)
	for _, want := range []string{"| windrose | 0.200 (0.100) |  | 4.00 | 80 % |\n", "| haproxy, splice-auto | 0.400 (0.200) | 0.50 of it | 2.00 | 80 % |\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in: %s", want, out.String())
		}
	}
}

func TestEveryRelayIsListed(t *testing.T) {
	listed := map[string]bool{}
	for _, name := range relayOrder {
		listed[name] = true
	}
	for _, c := range all(&machine{}, options{routes: 1}) {
		for _, p := range c.relays {
			if !listed[p.label] {
				t.Errorf("no table shows %s", p.label)
			}
		}
	}
}
