package translate_test

import (
	"strings"
	"testing"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/translate"
)

// TestGrantMend: the ReferenceGrant that a finding tells to paste mends it.
func TestGrantMend(t *testing.T) {
	const written = `apiVersion: gateway.networking.k8s.io/v1
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
  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert, namespace: certs}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: web}]
  rules: [{backendRefs: [{name: a, namespace: apps, port: 80}, {name: b, namespace: apps, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: apps}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: apps}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Secret
metadata: {name: cert, namespace: certs, annotations: {test/names: "a.example"}}
type: kubernetes.io/tls
`
	set := (&object.Set{}).With(decode(t, []byte(written)), nil)
	translator := translate.New(testEnv())
	denied := func() (mends []string) {
		for _, f := range translator.Plan(set).Findings {
			if f.Reason == "RefNotPermitted" {
				mends = append(mends, f.Mend)
			}
		}
		return mends
	}
	mends := denied()
	if len(mends) != 3 {
		t.Fatalf("%d references are denied, want 3: %q", len(mends), mends)
	}
	for _, mend := range mends {
		_, manifest, _ := strings.Cut(mend, "\n")
		set = set.With(decode(t, []byte(manifest)), nil)
	}
	if left := denied(); len(left) > 0 {
		t.Errorf("still denied after pasting: %q", left)
	}
}
