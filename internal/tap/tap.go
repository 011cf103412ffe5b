// Package tap lets people see single requests: those that end now (a tap), and
// those that ended lately, which a bounded ring of each event loop remembers.
//
//	event loop ──record──> Loop.Emit ──> ring: faults and slow ones, and the rest
//	                           └───────> queue of each tap whose filter takes it
//	Hub.Answer <── questions: tap, find, recent
//
// An event loop is never kept waiting: what a queue does not take is dropped,
// and counted. While nobody taps, a request costs one copy into the ring. The
// ring holds about MemoryBytes in all, is taken piece by piece as requests come,
// and never holds a query: tokens and session ids travel there. A tap shows
// queries only if its filter asks for them.
package tap

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"windrose.dev/windrose/internal/record"
)

// Question is what a Hub is asked; one of its fields is set.
type Question struct {
	Tap    *Filter `json:"tap,omitempty"`    // the requests that end from now on
	Find   string  `json:"find,omitempty"`   // the requests with this id
	Recent *Recent `json:"recent,omitempty"` // the newest that are remembered
}

// Recent asks for what is remembered.
type Recent struct {
	Filter Filter `json:"filter"`
	Limit  int    `json:"limit"` // at most MaxRecent
}

// Answer is a part of an answer; a tap gives many.
type Answer struct {
	Events  []Event `json:"events,omitempty"`  // of Find and Recent the newest first
	Dropped uint64  `json:"dropped,omitempty"` // requests that the tap could not keep since the last answer
	Reach   *Reach  `json:"reach,omitempty"`   // of Find and Recent
}

// Reach says since when requests are remembered; zero where nothing was
// forgotten yet.
type Reach struct {
	Ordinary time.Time `json:"ordinary,omitzero"`
	Favoured time.Time `json:"favoured,omitzero"` // faults, errors, retried and slow ones
}

// Event is a record as JSON. What it shares with a line of the access log has
// the same name there.
type Event struct {
	Time     time.Time `json:"ts"`
	ID       string    `json:"id"`
	Client   string    `json:"client"`
	Method   string    `json:"method,omitempty"`
	Host     string    `json:"host,omitempty"`
	Path     string    `json:"path,omitempty"`
	Protocol string    `json:"protocol"`
	TLS      string    `json:"tls,omitempty"`
	Identity string    `json:"identity,omitempty"`
	Status   int       `json:"status"`
	BytesIn  int64     `json:"bytes_in"`
	BytesOut int64     `json:"bytes_out"`
	Duration Millis    `json:"duration_ms"`
	Received Millis    `json:"received_ms,omitempty"` // when its head was whole
	Asked    Millis    `json:"asked_ms,omitempty"`    // when the last authoriser had answered
	Answered Millis    `json:"answered_ms,omitempty"` // when the client was given the answer's head
	Upstream Millis    `json:"upstream_ms,omitempty"`
	Listener string    `json:"listener,omitempty"`
	Route    string    `json:"route,omitempty"`
	Rule     *int      `json:"rule,omitempty"` // set where Route is
	Service  string    `json:"service,omitempty"`
	Endpoint string    `json:"endpoint,omitempty"`
	Attempts int       `json:"attempts,omitempty"`
	Agent    string    `json:"agent,omitempty"`
	Fault    string    `json:"fault,omitempty"`
	Side     string    `json:"side,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Mend     string    `json:"mend,omitempty"`
	Tries    []Try     `json:"tries,omitempty"` // of many the first ones and the last
}

// Try is an attempt as JSON. Its times count from the request's beginning.
type Try struct {
	Service   string `json:"service"`
	Endpoint  string `json:"endpoint"`
	Begun     Millis `json:"begun_ms"`
	Connected Millis `json:"connected_ms,omitempty"`
	Sent      Millis `json:"sent_ms,omitempty"`
	Answered  Millis `json:"answered_ms,omitempty"`
	Ended     Millis `json:"ended_ms,omitempty"`
	Reused    bool   `json:"reused,omitempty"`
	Status    int    `json:"status,omitempty"`
	Fault     string `json:"fault,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// Millis is a duration that JSON shows as milliseconds, to the microsecond.
type Millis time.Duration

// MarshalJSON writes the number.
func (m Millis) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Duration(m).Microseconds())/1000, 'f', 3, 64), nil
}

// UnmarshalJSON reads the number.
func (m *Millis) UnmarshalJSON(data []byte) error {
	var f float64
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("milliseconds: %w", err)
	}
	*m = Millis(f * float64(time.Millisecond))
	return nil
}

// EventOf is a record as an Event that keeps nothing of it.
func EventOf(r *record.Record) Event {
	e := Event{
		Time: r.Start.UTC(), ID: string(r.ID), Client: r.Client.String(), Method: string(r.Method), Host: string(r.Host), Path: string(r.Path),
		Protocol: r.Protocol, TLS: r.TLS, Identity: r.Identity, Status: r.Status, BytesIn: r.BytesIn, BytesOut: r.BytesOut,
		Duration: Millis(r.Duration), Received: Millis(r.Received), Asked: Millis(r.Asked), Answered: Millis(r.Answered), Upstream: Millis(r.Upstream),
		Listener: r.Listener, Route: r.Route, Service: r.Service, Attempts: r.Attempts, Agent: string(r.Agent),
	}
	if r.Route != "" {
		e.Rule = &[]int{r.Rule}[0]
	}
	if r.Endpoint.IsValid() {
		e.Endpoint = r.Endpoint.String()
	}
	if r.Fault != 0 {
		e.Fault, e.Side, e.Reason, e.Mend = r.Fault.String(), r.Fault.Side().String(), r.Reason, r.Fault.Mend()
	}
	for i := range r.Tries {
		t := &r.Tries[i]
		e.Tries = append(e.Tries, Try{
			Service: t.Service, Endpoint: t.Endpoint.String(), Begun: Millis(t.Begun), Connected: Millis(t.Connected), Sent: Millis(t.Sent),
			Answered: Millis(t.Answered), Ended: Millis(t.Ended), Reused: t.Reused, Status: t.Status, Fault: t.Fault.String(), Reason: t.Reason,
		})
	}
	return e
}
