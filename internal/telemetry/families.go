package telemetry

import (
	"maps"
	"runtime"
	"slices"
	"strconv"
	"time"

	"windrose.dev/windrose/internal/record"
)

// family is a metric and how it is shown: by a hub, or by any process of
// windrose.
type family struct {
	Metric
	show func(*Hub, *Page) // runs with Hub.mu held; nil where self is set
	self func(*Page, *process)
}

// families are all metrics of the data plane, sorted by name: the one source of
// the page and of the reference.
var families = []family{
	{
		Metric: Metric{"go_goroutines", Gauge, "Goroutines of the process.", []string{"process"}},
		self:   func(p *Page, s *process) { p.Count(s.goroutines, s.name) },
	},
	{
		Metric: Metric{"go_heap_objects_bytes", Gauge, "Memory that live and unswept heap objects take.", []string{"process"}},
		self:   func(p *Page, s *process) { p.Count(s.heap, s.name) },
	},
	{
		Metric: Metric{"process_cpu_seconds_total", Counter, "User and system CPU time of the process.", []string{"process"}},
		self:   func(p *Page, s *process) { p.Value(s.cpu.Seconds(), s.name) },
	},
	{
		Metric: Metric{"process_max_fds", Gauge, "File descriptors that the process may open.", []string{"process"}},
		self:   func(p *Page, s *process) { p.Count(s.maxFiles, s.name) },
	},
	{
		Metric: Metric{"process_open_fds", Gauge, "File descriptors that the process has open.", []string{"process"}},
		self:   func(p *Page, s *process) { p.Count(s.files, s.name) },
	},
	{
		Metric: Metric{"process_resident_memory_bytes", Gauge, "Resident memory of the process.", []string{"process"}},
		self:   func(p *Page, s *process) { p.Count(s.resident, s.name) },
	},
	{
		Metric: Metric{"process_start_time_seconds", Gauge, "When the process started, in Unix time.", []string{"process"}},
		self:   func(p *Page, s *process) { p.Value(float64(s.started.UnixMilli())/1000, s.name) },
	},
	{
		Metric: Metric{
			"windrose_access_log_lines_dropped_total", Counter,
			"Lines of the access log that were lost: reason queue where the writer was too slow, write where it failed.",
			[]string{"reason"},
		},
		show: (*Hub).showDropped,
	},
	{
		Metric: Metric{
			"windrose_authorizations_total", Counter,
			"Questions to authorisers: allowed, denied, or failed because there was no answer, or none that can be used.",
			[]string{"result"},
		},
		show: (*Hub).showAuth,
	},
	{
		Metric: Metric{"windrose_build_info", Gauge, "Always 1; the labels say which build runs.", []string{"process", "version", "go"}},
		self:   func(p *Page, s *process) { p.Count(1, s.name, s.version, runtime.Version()) },
	},
	{
		Metric: Metric{"windrose_connections_accepted_total", Counter, "Connections accepted on a socket, or flows begun on a UDP socket.", []string{"socket"}},
		show:   func(h *Hub, p *Page) { h.showSockets(p, func(s Socket) uint64 { return s.Accepted }) },
	},
	{
		Metric: Metric{"windrose_connections_active", Gauge, "Open connections of clients, by the socket that accepted them; of a UDP socket its flows.", []string{"socket"}},
		show:   func(h *Hub, p *Page) { h.showSockets(p, func(s Socket) uint64 { return gauge(s.Active) }) },
	},
	{
		Metric: Metric{
			"windrose_connections_cut_total", Counter,
			"Connections of clients that windrose ended, beside requests: reason protocol where the client broke the rules of HTTP/2 or flooded, slow where it did not begin in time, room where it waited for its next request when others came and a limit on connections was met.",
			[]string{"reason"},
		},
		show: (*Hub).showCut,
	},
	{
		Metric: Metric{"windrose_connections_handed_total", Counter, "Connections that the event loop which accepted them handed to one that had fewer.", nil},
		show:   func(h *Hub, p *Page) { c, _ := h.sum(); p.Count(c.Handed) },
	},
	{
		Metric: Metric{"windrose_connections_refused_total", Counter, "Connections closed at once because a limit was met; of a UDP socket the datagrams that could not begin a flow.", []string{"socket"}},
		show:   func(h *Hub, p *Page) { h.showSockets(p, func(s Socket) uint64 { return s.Refused }) },
	},
	{
		Metric: Metric{"windrose_faults_total", Counter, "Requests that windrose could not serve, by flag and by whose fault it was.", []string{"flag", "side"}},
		show:   (*Hub).showFaults,
	},
	{
		Metric: Metric{"windrose_loop_busy_seconds_total", Counter, "Time that an event loop was busy.", []string{"loop"}},
		show:   func(h *Hub, p *Page) { h.showLoops(p, busy) },
	},
	{
		Metric: Metric{"windrose_loop_lag_seconds", Gauge, "How long this scrape waited for an event loop to take it up.", []string{"loop"}},
		show: func(h *Hub, p *Page) {
			h.showLoops(p, func(m *member) float64 { return m.lag.Seconds() })
		},
	},
	{
		Metric: Metric{"windrose_loop_turn_duration_seconds", Histogram, "Time of the turns of all event loops, without the wait.", nil},
		show:   func(h *Hub, p *Page) { _, f := h.sum(); p.times(&f.turns) },
	},
	{
		Metric: Metric{"windrose_loop_turns_total", Counter, "Turns of an event loop.", []string{"loop"}},
		show:   func(h *Hub, p *Page) { h.showLoops(p, turns) },
	},
	{
		Metric: Metric{"windrose_metric_series", Gauge, "Series of routes and services on this page, without _none and _other.", nil},
		show:   func(h *Hub, p *Page) { p.Count(uint64(h.series)) },
	},
	{
		Metric: Metric{"windrose_metric_series_limit", Gauge, "Beyond so many series of routes and services, what is new is counted under _other.", nil},
		show:   func(h *Hub, p *Page) { p.Count(uint64(h.config.MaxSeries)) },
	},
	{
		Metric: Metric{
			"windrose_mirrors_total", Counter,
			"Copies of requests to mirrors: answered, failed, or dropped because they were too large or too many, or the client did not send all of it.",
			[]string{"result"},
		},
		show: (*Hub).showMirrors,
	},
	{
		Metric: Metric{"windrose_panics_total", Counter, "Mistakes of windrose that cost one connection each.", nil},
		show:   func(h *Hub, p *Page) { c, _ := h.sum(); p.Count(c.Panics) },
	},
	{
		Metric: Metric{"windrose_plan_changed_timestamp_seconds", Gauge, "When the plan last changed, in Unix time; 0 before the first.", nil},
		show:   (*Hub).showPlanTime,
	},
	{
		Metric: Metric{"windrose_plan_changes_total", Counter, "Plans taken up.", nil},
		show:   func(h *Hub, p *Page) { p.Count(h.changes) },
	},
	{
		Metric: Metric{"windrose_plan_version", Gauge, "Version of the plan in use.", nil},
		show:   func(h *Hub, p *Page) { p.Count(h.version) },
	},
	{
		Metric: Metric{"windrose_request_body_bytes_total", Counter, "Bytes of request bodies from clients.", nil},
		show:   func(h *Hub, p *Page) { _, f := h.sum(); p.Count(f.bytesIn) },
	},
	{
		Metric: Metric{
			"windrose_request_duration_seconds", Histogram,
			"Time from the first byte of a request to the last byte of its answer, or that a connection or flow lasted, by route; _none: no route took it, _other: beyond the limit of series.",
			[]string{"route"},
		},
		show: func(h *Hub, p *Page) { h.routes.showTimes(p) },
	},
	{
		Metric: Metric{"windrose_requests_active", Gauge, "Requests being served.", nil},
		show:   func(h *Hub, p *Page) { c, _ := h.sum(); p.Count(gauge(c.RequestsActive)) },
	},
	{
		Metric: Metric{
			"windrose_requests_total", Counter,
			"Requests by route and status code, and with code none the connections (TCP, TLS) and flows (UDP) that have ended; _none: no route took it, _other: beyond the limit of series.",
			[]string{"route", "code"},
		},
		show: func(h *Hub, p *Page) { h.routes.showCodes(p) },
	},
	{
		Metric: Metric{"windrose_response_body_bytes_total", Counter, "Bytes of response bodies to clients.", nil},
		show:   func(h *Hub, p *Page) { _, f := h.sum(); p.Count(f.bytesOut) },
	},
	{
		Metric: Metric{"windrose_retries_denied_total", Counter, "Retries that a rule asks for and the service's budget refused.", nil},
		show:   func(h *Hub, p *Page) { c, _ := h.sum(); p.Count(c.RetriesDenied) },
	},
	{
		Metric: Metric{"windrose_retries_total", Counter, "Attempts at an endpoint after a request's first.", nil},
		show:   func(h *Hub, p *Page) { _, f := h.sum(); p.Count(f.retries) },
	},
	{
		Metric: Metric{
			"windrose_service_duration_seconds", Histogram,
			"Time from the start of the last attempt to the headers of the service's answer.",
			[]string{"service"},
		},
		show: func(h *Hub, p *Page) { h.services.showTimes(p) },
	},
	{
		Metric: Metric{
			"windrose_service_endpoints", Gauge,
			"Endpoints of a service: state ready, or left_out for a while because they refused or failed.",
			[]string{"service", "state"},
		},
		show: func(h *Hub, p *Page) {
			h.showServices(func(name string, s ServiceState) {
				p.Count(uint64(s.Endpoints-s.LeftOut), name, "ready")
				p.Count(uint64(s.LeftOut), name, "left_out")
			})
		},
	},
	{
		Metric: Metric{
			"windrose_service_requests_active", Gauge,
			"Requests, connections and flows in flight to the endpoints of a service; those of an endpoint that two services name count for both.",
			[]string{"service"},
		},
		show: func(h *Hub, p *Page) {
			h.showServices(func(name string, s ServiceState) { p.Count(gauge(int64(s.Active)), name) })
		},
	},
	{
		Metric: Metric{"windrose_service_requests_total", Counter, "Requests by service and status code; code none: connections and flows that have ended.", []string{"service", "code"}},
		show:   func(h *Hub, p *Page) { h.services.showCodes(p) },
	},
	{
		Metric: Metric{"windrose_tls_handshakes_total", Counter, "TLS handshakes of clients by result.", []string{"result"}},
		show:   (*Hub).showHandshakes,
	},
	{
		Metric: Metric{
			"windrose_trace_spans_total", Counter,
			"Spans of traced requests: exported to a collector; lost because it was too slow (queue) or not reached (collector); or refused by it.",
			[]string{"result"},
		},
		show: (*Hub).showSpans,
	},
	{
		Metric: Metric{"windrose_tunnels_active", Gauge, "Upgraded connections, such as WebSockets.", nil},
		show:   func(h *Hub, p *Page) { c, _ := h.sum(); p.Count(gauge(c.TunnelsActive)) },
	},
	{
		Metric: Metric{"windrose_upstream_connections_active", Gauge, "Open connections to endpoints, idle ones included.", nil},
		show:   func(h *Hub, p *Page) { c, _ := h.sum(); p.Count(gauge(c.UpstreamActive)) },
	},
	{
		Metric: Metric{"windrose_upstream_connections_failed_total", Counter, "Attempts to connect to an endpoint that failed.", nil},
		show:   func(h *Hub, p *Page) { c, _ := h.sum(); p.Count(c.UpstreamFailed) },
	},
	{
		Metric: Metric{"windrose_upstream_connections_idle", Gauge, "Connections to endpoints that wait in pools.", nil},
		show:   func(h *Hub, p *Page) { c, _ := h.sum(); p.Count(gauge(c.UpstreamIdle)) },
	},
	{
		Metric: Metric{"windrose_upstream_connections_opened_total", Counter, "Connections to endpoints that were established.", nil},
		show:   func(h *Hub, p *Page) { c, _ := h.sum(); p.Count(c.UpstreamOpened) },
	},
	{
		Metric: Metric{"windrose_upstream_connections_reused_total", Counter, "Requests that took a connection from a pool.", nil},
		show:   func(h *Hub, p *Page) { c, _ := h.sum(); p.Count(c.UpstreamReused) },
	},
	{
		Metric: Metric{"windrose_upstream_tls_handshakes_total", Counter, "TLS handshakes with endpoints by result.", []string{"result"}},
		show:   (*Hub).showOutward,
	},
}

// Describe lists every metric of the data plane, sorted by name.
func Describe() []Metric {
	all := make([]Metric, len(families))
	for i := range families {
		all[i] = families[i].Metric
	}
	return all
}

// AppendProcess appends a page with what every process of windrose shows of
// itself: it is for one that has no Hub.
func AppendProcess(dst []byte, config Config, started time.Time) []byte {
	p := Page{text: dst}
	now := processNow(config, started)
	for i := range families {
		if f := &families[i]; f.self != nil {
			p.Family(f.Metric)
			f.self(&p, &now)
		}
	}
	return p.text
}

// gauge is a gauge as a sample: a scrape may catch it between two changes.
func gauge(n int64) uint64 { return uint64(max(n, 0)) }

func (h *Hub) showDropped(p *Page) {
	_, f := h.sum()
	p.Count(f.dropped, "queue")
	var failed uint64
	if h.config.Log != nil {
		failed = h.config.Log.failed.Load()
	}
	p.Count(failed, "write")
}

func (h *Hub) showFaults(p *Page) {
	_, f := h.sum()
	for _, flag := range record.Flags() {
		p.Count(f.faults[flag], flag.String(), flag.Side().String())
	}
}

func (h *Hub) showHandshakes(p *Page) {
	_, f := h.sum()
	for i, n := range f.handshakes {
		p.Count(n, Handshake(i).String())
	}
}

func (h *Hub) showAuth(p *Page) {
	c, _ := h.sum()
	p.Count(c.AuthAllowed, "allowed")
	p.Count(c.AuthDenied, "denied")
	p.Count(c.AuthFailed, "failed")
}

// showServices gives the state of every service, sorted by name; of those beyond
// the bound nothing is shown.
func (h *Hub) showServices(show func(name string, s ServiceState)) {
	if h.config.Services == nil {
		return
	}
	all := map[string]ServiceState{}
	h.config.Services(func(name string, s ServiceState) { all[name] = s })
	names := slices.Sorted(maps.Keys(all))
	for _, name := range names[:min(len(names), h.config.MaxSeries/4)] {
		show(name, all[name])
	}
}

func (h *Hub) showOutward(p *Page) {
	_, f := h.sum()
	for i, n := range f.outward {
		if r := Handshake(i); r != HandshakeNoName { // which only servers meet
			p.Count(n, r.Outward())
		}
	}
}

func (h *Hub) showMirrors(p *Page) {
	c, _ := h.sum()
	p.Count(c.MirrorsAnswered, "answered")
	p.Count(c.MirrorsFailed, "failed")
	p.Count(c.MirrorsDropped, "dropped")
}

func (h *Hub) showSpans(p *Page) {
	_, f := h.sum()
	n := h.config.Traces.counts()
	p.Count(n.sent, "exported")
	p.Count(f.spansDropped, "queue")
	p.Count(n.failed, "collector")
	p.Count(n.refused, "refused")
}

func (h *Hub) showCut(p *Page) {
	c, _ := h.sum()
	p.Count(c.CutProtocol, "protocol")
	p.Count(c.CutSlow, "slow")
	p.Count(c.CutRoom, "room")
}

func (h *Hub) showPlanTime(p *Page) {
	if h.changed.IsZero() {
		p.Count(0)
		return
	}
	p.Value(float64(h.changed.UnixMilli()) / 1000)
}

// showSockets shows one number of every socket in the plan, and of those that
// still have connections.
func (h *Hub) showSockets(p *Page, number func(Socket) uint64) {
	all := maps.Clone(h.sockets)
	for _, m := range h.loops {
		for name, s := range m.last.sockets {
			if _, ok := h.sockets[name]; !ok && s.Active == 0 && name != nameOther {
				continue
			}
			sum := all[name]
			sum.Active += s.Active
			sum.Accepted += s.Accepted
			sum.Refused += s.Refused
			all[name] = sum
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p.Count(number(all[name]), name)
	}
}

func turns(m *member) float64 {
	var n uint64
	for _, in := range m.last.fixed.turns.buckets {
		n += in
	}
	return float64(n)
}

func busy(m *member) float64 { return float64(m.last.fixed.turns.nanos) / 1e9 }

func (h *Hub) showLoops(p *Page, number func(*member) float64) {
	for _, m := range h.loops {
		p.Value(number(m), m.name)
	}
}

// each calls f for every total that has counts, sorted by name.
func (g *group) each(f func(name string, t *total)) {
	f(nameNone, &g.none)
	f(nameOther, &g.other)
	for _, name := range slices.Sorted(maps.Keys(g.live)) {
		if t := g.live[name]; t != nil {
			f(name, t)
		}
	}
}

func (g *group) showCodes(p *Page) {
	g.each(func(name string, t *total) {
		for _, c := range t.codes {
			code := strconv.Itoa(int(c.code))
			switch c.code {
			case codeOther:
				code = "other"
			case codeNone:
				code = "none"
			}
			p.Count(c.n, name, code)
		}
	})
}

func (g *group) showTimes(p *Page) {
	g.each(func(name string, t *total) {
		if t.times != nil {
			p.times(t.times, name)
		}
	})
}
