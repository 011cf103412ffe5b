package proxy

import (
	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/upstream"
)

// An exchange stands between two sides and knows the protocol of neither:
//
//	clientSide  ── head, body, end ──>  exchange  ── send, data, end ──>  serverSide
//	            <── respond, data, end ──         <── head, body, end ──
//
// Each side calls the exchange with what it has read (on...), and is called
// with what is to be written. What is written is gathered and leaves with flush.
// A side that takes no more says blocked; when that is over it tells the
// exchange, which has the other side resume reading.

// clientSide is where a request comes from and its answer goes.
type clientSide interface {
	// whole says whether the whole request has been read.
	whole() bool
	// blocked says that no more of the answer is taken now; the exchange's
	// clientDrained is called when that is over.
	blocked() bool
	// resume reads the request on: the endpoint takes it again.
	resume()
	// interim passes on the interim head in worker.resp.
	interim() error
	// respond begins the answer with the head in worker.resp; end says that it is
	// the end too.
	respond(end bool)
	// turn answers that the protocol is switched: what follows, both ways, is a
	// tunnel's.
	turn() error
	data(p []byte) error
	end(trailers []h1.Field) error
	flush() error
	// finished is called when the exchange is over and its answer complete.
	finished()
	// broken is called when the exchange is over without a complete answer; partly
	// says that the client has the beginning of one. It must not take that for
	// the whole.
	broken(partly bool)
}

// serverSide is where a request goes and its answer comes from: a connection to
// an endpoint, or a stream of one.
type serverSide interface {
	endpoint() *upstream.Endpoint
	// send gives the endpoint what exchange.sent holds.
	send() error
	data(p []byte) error
	end(trailers []h1.Field) error
	flush() error
	// blocked says that no more of the request is taken now, because the
	// connection does not stand yet or is full; the exchange's serverDrained is
	// called when that is over.
	blocked() bool
	// resume reads the answer on: the client takes it again.
	resume()
	// spare says whether the endpoint's side can be used again although the body of
	// its answer, whose head was just given to onHead, is not wanted. It can be asked
	// once.
	spare() bool
	// release ends the exchange's use; keep says that it ended well.
	release(keep bool)
}

// loss says how much of a request an endpoint may have seen whose connection
// was lost.
type loss uint8

const (
	// unreached: there never was a connection.
	unreached loss = iota + 1
	// unseen: the endpoint is known not to have looked at the request.
	unseen
	// stale: a connection that was used before; the endpoint may have closed it
	// before it saw the request.
	stale
	// midway: it may have seen all.
	midway
)
