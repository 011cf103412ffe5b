package plan

import "time"

// DefaultSettings are the settings of a data plane to which nobody gave any.
func DefaultSettings() Settings {
	return Settings{
		AccessLog:        AccessLog{Mode: LogOn, Every: 100},
		FaultDetail:      DetailFull,
		MaxHeaderBytes:   64 << 10,
		MaxURIBytes:      16 << 10,
		MaxHeaders:       128,
		MaxConnections:   100_000,
		MaxBufferedBytes: 64 << 10,
		HeaderTimeout:    10 * time.Second,
		IdleTimeout:      75 * time.Second,
		BodyTimeout:      60 * time.Second,
		TunnelTimeout:    time.Hour,
		AuthTimeout:      10 * time.Second,
		HandshakeTimeout: 10 * time.Second,
		DrainTimeout:     30 * time.Second,
		ConnectTimeout:   5 * time.Second,
		UpstreamIdle:     30 * time.Second,
		MaxUpstreamIdle:  256,
		MaxInFlight:      10_000,
		FlowTimeout:      30 * time.Second,
	}
}

// withDefaults fills the zero fields of s. A negative number means the default
// too: no setting has a use for one.
func withDefaults(s *Settings) *Settings {
	d := DefaultSettings()
	if s == nil {
		return &d
	}
	full := *s
	if full.AccessLog.Mode == "" {
		full.AccessLog.Mode = d.AccessLog.Mode
	}
	if full.FaultDetail == "" {
		full.FaultDetail = d.FaultDetail
	}
	fill(&full.AccessLog.Every, d.AccessLog.Every)
	fill(&full.MaxHeaderBytes, d.MaxHeaderBytes)
	fill(&full.MaxURIBytes, d.MaxURIBytes)
	fill(&full.MaxHeaders, d.MaxHeaders)
	fill(&full.MaxConnections, d.MaxConnections)
	fill(&full.MaxBufferedBytes, d.MaxBufferedBytes)
	fill(&full.HeaderTimeout, d.HeaderTimeout)
	fill(&full.IdleTimeout, d.IdleTimeout)
	fill(&full.BodyTimeout, d.BodyTimeout)
	fill(&full.TunnelTimeout, d.TunnelTimeout)
	fill(&full.AuthTimeout, d.AuthTimeout)
	fill(&full.HandshakeTimeout, d.HandshakeTimeout)
	fill(&full.DrainTimeout, d.DrainTimeout)
	fill(&full.ConnectTimeout, d.ConnectTimeout)
	fill(&full.UpstreamIdle, d.UpstreamIdle)
	fill(&full.MaxUpstreamIdle, d.MaxUpstreamIdle)
	fill(&full.MaxInFlight, d.MaxInFlight)
	fill(&full.FlowTimeout, d.FlowTimeout)
	return &full
}

func fill[T ~int | ~int64](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}
