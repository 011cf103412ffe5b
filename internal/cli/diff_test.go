package cli

import (
	"slices"
	"testing"

	"windrose.dev/windrose/internal/plan"
)

// What requests do not show is a difference all the same, but for secrets, which
// are not known of a windrose that runs.
func TestDifferencesThatRequestsDoNotShow(t *testing.T) {
	listener := func(l plan.Listener) *plan.Part {
		return &plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "l"}, Listener: &l}
	}
	service := func(tls *plan.BackendTLS) *plan.Part {
		return &plan.Part{Key: plan.Key{Kind: plan.KindService, Name: "s"}, Service: &plan.Service{TLS: tls}}
	}
	tracing := func(t plan.Tracing) *plan.Part {
		return &plan.Part{Key: plan.Key{Kind: plan.KindTracing, Name: "t"}, Tracing: &t}
	}
	asks := &plan.ClientCheck{Authorities: []byte("a")}
	for _, tt := range []struct {
		name     string
		old, new *plan.Part
		want     string
	}{
		{"nothing", listener(plan.Listener{Clients: asks}), listener(plan.Listener{Clients: &plan.ClientCheck{Authorities: []byte("a")}}), ""},
		{"clients are no longer asked who they are", listener(plan.Listener{Clients: asks}), listener(plan.Listener{}), "~ listener l:  for every host"},
		{"another certificate is shown to endpoints", listener(plan.Listener{Shows: "a"}), listener(plan.Listener{Shows: "b"}), "~ listener l:  for every host"},
		{"who ends TLS", listener(plan.Listener{Passthrough: true}), listener(plan.Listener{}), "~ listener l:  for every host"},
		{"requests are traced", listener(plan.Listener{}), listener(plan.Listener{Tracing: "t"}), "~ listener l:  for every host"},
		{"another endpoint is believed", service(&plan.BackendTLS{Hostname: "a"}), service(&plan.BackendTLS{Hostname: "b"}), "~ TLS to service s"},
		{"TLS is no longer spoken", service(&plan.BackendTLS{Hostname: "a"}), service(nil), "~ TLS to service s"},
		{
			"a key that is not known",
			service(&plan.BackendTLS{Client: &plan.ClientCertificate{Chain: []byte("c")}}),
			service(&plan.BackendTLS{Client: &plan.ClientCertificate{Chain: []byte("c"), Key: plan.Secret("k")}}), "",
		},
		{"spans go elsewhere", tracing(plan.Tracing{Service: "a"}), tracing(plan.Tracing{Service: "b"}), "~ tracing by t"},
		{
			"a token that is not known",
			tracing(plan.Tracing{Headers: []plan.Header{{Name: "x-token"}}}),
			tracing(plan.Tracing{Headers: []plan.Header{{Name: "x-token", Value: "v"}}}), "",
		},
	} {
		var got, want []string
		for _, d := range compareParts([]*plan.Part{tt.old}, []*plan.Part{tt.new}) {
			got = append(got, d.Sign+" "+d.What)
		}
		if tt.want != "" {
			want = []string{tt.want}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, want)
		}
	}
}
