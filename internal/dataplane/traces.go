package dataplane

import (
	"crypto/tls"
	"fmt"
	"net/netip"

	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/telemetry"
	"windrose.dev/windrose/internal/upstream"
)

// useTraces tells telemetry the collectors of a plan. They are services like any
// other, so that their endpoints, names and certificates are those of the view.
func (d *dataPlane) useTraces(p *plan.Plan, up *upstream.View) {
	var all []telemetry.Collector
	var reach []telemetry.Reach
	for _, t := range p.Tracings() {
		if t == nil {
			continue
		}
		c := telemetry.Collector{
			Name: t.Name, Protocol: telemetry.TraceProtocol(t.Protocol), Authority: t.Authority, Path: t.Path, Service: t.ServiceName, SpanName: t.SpanName,
		}
		for _, h := range t.Headers {
			c.Headers = append(c.Headers, [2]string{h.Name, h.Value})
		}
		all, reach = append(all, c), append(reach, reachOf(up.Service(t.Service), t.Tracing.Service))
	}
	d.traces.Use(all, reach)
}

// reachOf gives the endpoints of a collector in turn.
func reachOf(s *upstream.Service, name string) telemetry.Reach {
	return func(n int) (netip.AddrPort, *tls.Config, error) {
		if s == nil || len(s.Endpoints()) == 0 {
			return netip.AddrPort{}, nil, fmt.Errorf("the collector, service %s, has no ready endpoint", name)
		}
		e := s.Endpoints()[n%len(s.Endpoints())]
		return e.Addr, e.TLS, nil
	}
}
