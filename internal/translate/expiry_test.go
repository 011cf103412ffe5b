package translate_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/translate"
)

// The same Set gives other findings as time passes, and says when.
func TestExpiryAsTimePasses(t *testing.T) {
	moment := now
	env := testEnv()
	env.Now = func() time.Time { return moment }
	tr := translate.New(env)
	const day = 24 * time.Hour
	set := (&object.Set{}).With(decode(t, []byte(`apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: windrose}
spec: {controllerName: windrose.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: windrose
  listeners:
  - {name: a, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: a}]}}
---
apiVersion: v1
kind: Secret
metadata: {name: a, annotations: {test/names: a.example, test/expires: 960h}}
type: kubernetes.io/tls
---
apiVersion: v1
kind: Secret
metadata: {name: unused, annotations: {test/names: a.example, test/expires: -960h}}
type: kubernetes.io/tls
`)), nil)
	ends := now.Add(40 * day)
	first := tr.Plan(set)
	for _, c := range []struct {
		at    time.Time
		want  string // of the finding; "" for none
		again time.Time
	}{
		{now, "", ends.Add(time.Second - 30*day)},
		{ends.Add(-30 * day), "", ends.Add(time.Second - 30*day)},
		{ends.Add(time.Second - 30*day), "the certificate expires on 3 January 2027", ends.Add(time.Second)},
		{ends, "the certificate expires on 3 January 2027", ends.Add(time.Second)},
		{ends.Add(time.Second), "the certificate expired on 3 January 2027", time.Time{}},
		{now.Add(-1000 * day), "the certificate is not valid before", now.Add(-day)}, // a clock that was wrong
	} {
		moment = c.at
		r := tr.Plan(set)
		got := ""
		for _, f := range r.Findings {
			got += f.Message
		}
		if !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%v: got %q, want %q", c.at, got, c.want)
		}
		if c.want == "the certificate is not valid before" {
			if !r.Again.After(c.at) {
				t.Errorf("%v: again at %v, want the beginning", c.at, r.Again)
			}
		} else if !r.Again.Equal(c.again) {
			t.Errorf("%v: again at %v, want %v", c.at, r.Again, c.again)
		}
		if !slices.Equal(r.Parts, first.Parts) {
			t.Errorf("%v: the parts are others", c.at)
		}
	}
}
