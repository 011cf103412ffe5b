package translate_test

import (
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/translate"
)

func TestTrafficReachesThePlan(t *testing.T) {
	objects := decode(t, []byte(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: default}
spec:
  gatewayClassName: windrose
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: default}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: default}
spec:
  parentRefs: [{name: web}]
  rules:
  - retry: {codes: [500, 503], attempts: 2, backoff: 100ms}
    filters:
    - type: CORS
      cors: {allowOrigins: ["https://a.example"], allowMethods: [PUT], allowHeaders: [x-a], exposeHeaders: [x-b], allowCredentials: true, maxAge: 7}
    - {type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}, percent: 20}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}, fraction: {numerator: 3}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}, fraction: {numerator: 1, denominator: 3}}}
    backendRefs: [{name: s, port: 80}]
  - {retry: {}, backendRefs: [{name: s, port: 80}]}
  - {retry: {attempts: 0}, backendRefs: [{name: s, port: 80}]}
  - {backendRefs: [{name: s, port: 80}]}
`))
	env := testEnv()
	env.Carried = everything(t)
	r := translate.New(env).Plan((&object.Set{}).With(append([]metav1.Object{gatewayClass()}, objects...), nil))
	var rules []plan.Rule
	for _, p := range r.Parts {
		if p.Route != nil {
			rules = p.Route.Rules
		}
	}
	if len(rules) != 4 {
		t.Fatalf("got %d rules, want 4", len(rules))
	}
	mirror := func(num, den int32) plan.Filter {
		return plan.Filter{Mirror: &plan.Mirror{Service: "default/s:80", Num: num, Den: den}}
	}
	want := []plan.Filter{{CORS: &plan.CORS{
		Origins: []string{"https://a.example"}, Methods: []string{"PUT"}, Headers: []string{"x-a"}, Expose: []string{"x-b"}, Credentials: true, MaxAge: 7,
	}}, mirror(1, 1), mirror(20, 100), mirror(3, 100), mirror(1, 3)}
	if !reflect.DeepEqual(rules[0].Filters, want) {
		t.Errorf("filters: got %+v, want %+v", rules[0].Filters, want)
	}
	for i, want := range []*plan.Retry{{Codes: []int{500, 503}, Attempts: 2, Backoff: 100 * time.Millisecond}, {Attempts: 1}, {}, nil} {
		if got := rules[i].Retry; !reflect.DeepEqual(got, want) {
			t.Errorf("retry of rule %d: got %+v, want %+v", i, got, want)
		}
	}
}
