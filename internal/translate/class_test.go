package translate_test

import (
	"reflect"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/gateway-api/pkg/features"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/translate"
)

func featuresOf(c *translate.Carried) []string {
	r := translate.New(translate.Env{Carried: c}).Plan((&object.Set{}).With([]metav1.Object{gatewayClass()}, nil))
	var names []string
	for _, f := range r.Statuses[0].GatewayClass.SupportedFeatures {
		names = append(names, string(f.Name))
	}
	return names
}

func TestSupportedFeaturesAreKnownAndSorted(t *testing.T) {
	names := featuresOf(everything(t))
	for _, f := range names {
		if !slices.ContainsFunc(features.AllFeatures.UnsortedList(), func(k features.Feature) bool { return string(k.Name) == f }) {
			t.Errorf("Gateway API has no feature %s", f)
		}
	}
	if len(names) == 0 || !slices.IsSorted(names) {
		t.Errorf("features are not in order: %v", names)
	}
}

// Each field of Carried brings features of its own, and none without it.
func TestSupportedFeaturesFollowWhatIsCarried(t *testing.T) {
	least := featuresOf(&translate.Carried{})
	for _, tt := range []struct{ carried, want []string }{
		{[]string{"TCP"}, []string{"TCPRoute"}},
		{[]string{"UDP"}, []string{"UDPRoute"}},
		{[]string{"TLSPassthrough"}, []string{"TLSRoute"}},
		{[]string{"TLSTerminate"}, nil},
		{[]string{"TLSPassthrough", "TLSTerminate"}, []string{"TLSRoute", "TLSRouteModeMixed", "TLSRouteModeTerminate"}},
		{[]string{"CORS"}, []string{"HTTPRouteCORS"}},
		{[]string{"Retry"}, []string{"HTTPRouteRetryCodes", "HTTPRouteRetryConnectionError"}},
		{[]string{"Mirror"}, []string{"HTTPRouteRequestMirror", "HTTPRouteRequestMultipleMirrors", "HTTPRouteRequestPercentageMirror"}},
		{[]string{"Auth"}, []string{"GatewayListenerFilters"}},
		{[]string{"H2C"}, []string{"HTTPRouteBackendProtocolH2C"}},
		{[]string{"GRPC"}, nil},
		{[]string{"GRPC", "H2C"}, []string{"GRPCRoute", "GRPCRouteNamedRouteRule", "GRPCRouteRequestHeaderModifier", "HTTPRouteBackendProtocolH2C"}},
	} {
		got := slices.DeleteFunc(featuresOf(carried(t, tt.carried)), func(f string) bool { return slices.Contains(least, f) })
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v carried: got %v, want %v", tt.carried, got, tt.want)
		}
	}
	today := translate.DataPlane()
	if got, want := featuresOf(nil), featuresOf(&today); !slices.Equal(got, want) {
		t.Errorf("without Carried: got %v, want %v", got, want)
	}
}

func TestParametersBecomeSettings(t *testing.T) {
	objects := decode(t, []byte(`
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: tuned}
spec:
  controllerName: windrose.dev/gateway-controller
  parametersRef: {group: windrose.dev, kind: GatewayParameters, name: tuned, namespace: default}
---
apiVersion: windrose.dev/v1alpha1
kind: GatewayParameters
metadata: {name: tuned}
spec:
  accessLog: {mode: Sampled, every: 10}
  faultDetail: Brief
  http3: Enabled
  trustedProxies: [10.0.0.0/8, 192.0.2.7]
  limits: {headerBytes: 1, uriBytes: 2, headers: 3, connections: 4, bufferedBytes: 5, inFlight: 6, upstreamIdle: 7}
  timeouts: {header: 1s, idle: 2s, body: 3s, tunnel: 4s, handshake: 5s, drain: 6s, connect: 7s, upstreamIdle: 8s, flow: 9s, auth: 10s}
`))
	r := translate.New(translate.Env{}).Plan((&object.Set{}).With(objects, nil))
	if len(r.Parts) != 1 || r.Parts[0].Settings == nil {
		t.Fatalf("parts = %v, want the settings", r.Parts)
	}
	got := r.Parts[0].Settings
	if got.AccessLog != (plan.AccessLog{Mode: plan.LogSampled, Every: 10}) || got.FaultDetail != plan.DetailBrief {
		t.Errorf("access log %v, detail %v", got.AccessLog, got.FaultDetail)
	}
	if !got.HTTP3 {
		t.Error("http3 is not read")
	}
	if len(got.TrustedProxies) != 2 || got.TrustedProxies[1].String() != "192.0.2.7/32" {
		t.Errorf("trusted proxies = %v", got.TrustedProxies)
	}
	limits := []int{got.MaxHeaderBytes, got.MaxURIBytes, got.MaxHeaders, got.MaxConnections, got.MaxBufferedBytes, got.MaxInFlight, got.MaxUpstreamIdle}
	if want := []int{1, 2, 3, 4, 5, 6, 7}; !slices.Equal(limits, want) {
		t.Errorf("limits = %v, want %v", limits, want)
	}
	timeouts := []float64{
		got.HeaderTimeout.Seconds(), got.IdleTimeout.Seconds(), got.BodyTimeout.Seconds(), got.TunnelTimeout.Seconds(),
		got.HandshakeTimeout.Seconds(), got.DrainTimeout.Seconds(), got.ConnectTimeout.Seconds(), got.UpstreamIdle.Seconds(),
		got.FlowTimeout.Seconds(), got.AuthTimeout.Seconds(),
	}
	if want := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}; !slices.Equal(timeouts, want) {
		t.Errorf("timeouts = %v, want %v", timeouts, want)
	}
}

// A new field of the parameters must reach the settings.
func TestEveryParameterIsRead(t *testing.T) {
	var spec v1alpha1.GatewayParametersSpec
	var limits v1alpha1.Limits
	var timeouts v1alpha1.Timeouts
	for _, tt := range []struct {
		name      string
		got, want int
	}{
		{"spec", fields(spec), 8}, {"limits", fields(limits), 7}, {"timeouts", fields(timeouts), 10}, {"tracing", fields(v1alpha1.Tracing{}), 8},
	} {
		if tt.got != tt.want {
			t.Errorf("%s has %d fields and %d of them are known: read the new one, then count it here", tt.name, tt.got, tt.want)
		}
	}
}

func fields(v any) int { return reflect.TypeOf(v).NumField() }
