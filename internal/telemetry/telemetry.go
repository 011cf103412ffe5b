// Package telemetry is what the data plane does with records: it counts them,
// writes them to the access log, and shows the counts in Prometheus' text
// format.
//
// The request path is an event loop, so it takes no lock, no atomic and, once
// warm, no allocation: each event loop owns a Loop of plain counters and its
// own log buffer. The Hub gathers: for a scrape it posts a function to each
// event loop, which folds what was counted since the last time into a batch
// that travels back over a channel. A loop that does not answer in time is left
// out of that page and caught up by a later one; nothing is lost.
//
// Counts are kept by the name of the route and of the service. A record's slots
// are only a short cut to the counters; a slot that now belongs to another
// route never inherits counts, because the name is compared.
//
// The number of series is bounded. Only what the plan names has series of its
// own (Hub.Use), they go when it leaves the plan, and beyond Config.MaxSeries
// what is new is counted under "_other". Requests that no route took are
// counted under "_none".
//
// The access log holds no header but user-agent and the request id, and no
// query: tokens, signatures and session ids travel in queries, and a log is
// read by more people than the traffic. A path is logged up to its "?".
package telemetry

// Names of what is counted together. No key of the plan begins with "_".
const (
	nameNone  = "_none"  // requests that no route took
	nameOther = "_other" // what is beyond a bound, or no longer in the plan
)

// LogMode says which requests are written to the access log. Its values are
// those of the plan's settings.
type LogMode string

// The modes of the access log; the empty value is LogOn.
const (
	LogOn      LogMode = "on"
	LogSampled LogMode = "sampled" // one in Every, and all that windrose answered with a fault
	LogOff     LogMode = "off"
)

// Logging configures the access log of a Loop.
type Logging struct {
	Mode  LogMode
	Every int // for LogSampled: one in Every requests; below 2 is all
}

// Names are the keys of a plan that have series of their own.
type Names struct {
	Routes   []string // names of Route keys
	Services []string // names of Service keys
	Sockets  []string // names of Socket keys
}
