// Package feed is the plan stream: it carries the parts of a plan from the
// control part to data planes and their answers back, over a unix socket on one
// machine and over any other stream elsewhere. The data plane does not know the
// difference.
//
// A connection, data plane left, control right; each line is one frame or more:
//
//	hello: protocol, build, node      ->
//	held: hashes of the parts I have  ->   (several frames, the last one marked)
//	                                  <-   welcome: protocol, build   or refuse: why
//	                                  <-   delta: parts, removed keys (several frames, the last one marked)
//	ack: version, problems            ->   or, if it was not understood, refused: why
//	                                  <-   delta ...
//	report: version, problems         ->   at any time, when the problems changed
//
// Beside it a data plane keeps a second connection for questions that the control
// part has, about single requests for one. Answers can be many and their asker
// slow, and the plan must not wait behind them:
//
//	hello: purpose questions          ->
//	                                  <-   welcome   or refuse: why
//	                                  <-   ask: id, body
//	answer: id, body                  ->   as many as there are
//	end: id, reason                   ->
//	                                  <-   cancel: id
//
// Frames are a length of four bytes, big-endian, and JSON. Both sides bound
// every frame, wait and buffer. The server has one delta in flight for each
// client and then sends what is newest: a slow client skips versions and costs
// no memory. A client that comes back, to this control part or another, gets
// only what its hashes say that it lacks.
//
// A delta is applied as a whole or not at all. A field or kind that the data
// plane does not know makes it refuse the delta: a rule half understood could
// let traffic through that the whole rule would not. Both sides name the
// protocol and end the connection with a reason if it is not the same.
//
// Store keeps the parts in a file, so that a data plane that starts while the
// control part is away serves what it last served.
package feed

import (
	"encoding/json"
	"fmt"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// Protocol is the version of the stream. Ends that speak different ones part.
const Protocol = 1

// Limits and deadlines of the stream.
const (
	maxFrame    = 16 << 20 // bytes of JSON
	maxPart     = maxFrame - 1<<10
	chunkBytes  = 256 << 10 // aimed at for one frame of a large delta
	maxSnapshot = 1 << 30   // bytes of one delta in all its frames
	maxProblems = 1000      // of one ack
	maxClients  = 64

	helloTimeout = 5 * time.Second
	writeTimeout = 10 * time.Second // for one frame
	ackTimeout   = 30 * time.Second // from the end of a delta to its ack
	pingEvery    = 10 * time.Second
	silence      = 45 * time.Second // after which the other side is taken for dead

	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
)

// Delta is what changed from what a data plane has to Version. Both lists are
// empty when it has all of it already.
type Delta struct {
	Version uint64
	Parts   []plan.Part
	Removed []plan.Key
}

// Ack is a data plane's answer to a Delta.
type Ack struct {
	Version  uint64         `json:"version"`
	Problems []plan.Problem `json:"problems,omitempty"`
	// Refused, if set, says why nothing of the delta was applied.
	Refused string `json:"refused,omitempty"`
}

// Peer says who is at the other end.
type Peer struct {
	Node  string // of the data plane
	Build string
}

// A message is one frame. Type says which of the fields are set.
type message struct {
	Type string `json:"type"`

	Protocol int    `json:"protocol,omitempty"` // hello, welcome
	Build    string `json:"build,omitempty"`    // hello, welcome
	Node     string `json:"node,omitempty"`     // hello
	Purpose  string `json:"purpose,omitempty"`  // hello; empty: the plan
	Reason   string `json:"reason,omitempty"`   // refuse, end

	Held []heldPart `json:"held,omitempty"` // held

	Version uint64     `json:"version,omitempty"` // delta
	Parts   []sentPart `json:"parts,omitempty"`   // delta
	Removed []plan.Key `json:"removed,omitempty"` // delta
	Last    bool       `json:"last,omitempty"`    // held, delta

	Ack *Ack `json:"ack,omitempty"` // ack, report

	ID   uint64          `json:"id,omitempty"`   // ask, answer, end, cancel
	Body json.RawMessage `json:"body,omitempty"` // ask, answer
	Says uint64          `json:"says,omitempty"` // answer: how many things its body tells
}

// The types of messages.
const (
	typeHello   = "hello"
	typeHeld    = "held"
	typeWelcome = "welcome"
	typeRefuse  = "refuse"
	typeDelta   = "delta"
	typeAck     = "ack"
	typeReport  = "report"
	typePing    = "ping"
	typePong    = "pong"
	typeAsk     = "ask"
	typeAnswer  = "answer"
	typeEnd     = "end"
	typeCancel  = "cancel"
)

// purposeQuestions is the purpose of a connection for questions.
const purposeQuestions = "questions"

type heldPart struct {
	Key  plan.Key `json:"key"`
	Hash Hash     `json:"hash"`
}

type sentPart struct {
	Hash Hash      `json:"hash"`
	Part plan.Part `json:"part"`
}

// RefusedError says that the other side ended the stream, and why.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "the plan stream was refused: " + e.Reason }

func protocolMismatch(theirs int, build string) string {
	return fmt.Sprintf("this end speaks protocol %d of the plan stream, the other end (build %s) speaks %d: both must be of the same release", Protocol, build, theirs)
}
