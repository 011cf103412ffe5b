package cli

import (
	"strings"
	"testing"

	"windrose.dev/windrose/internal/plan"
)

// What an endpoint is shown is the listener's certificate, unless its XBackend
// says otherwise.
func TestWhatEndpointsAreShown(t *testing.T) {
	parts := []*plan.Part{{Key: plan.Key{Kind: plan.KindListener, Name: "l"}, Listener: &plan.Listener{Shows: "default/gateway"}}}
	x := &explainer{parts: parts, taken: &plan.BoundListener{Name: "l", Shows: &plan.Certificate{}}}
	for _, tt := range []struct {
		name string
		tls  plan.BackendTLS
		want string
	}{
		{"a Service", plan.BackendTLS{}, "windrose shows default/gateway"},
		{"an XBackend that shows nothing", plan.BackendTLS{Alone: true}, ""},
		{"an XBackend with a certificate", plan.BackendTLS{Alone: true, Client: &plan.ClientCertificate{}}, "windrose shows the XBackend's own certificate"},
	} {
		_, got, _ := strings.Cut(x.backendTLS(&plan.Service{TLS: &tt.tls}), "; ")
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
