package telemetry

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"windrose.dev/windrose/internal/wait"
)

const (
	// batchBytes is how much is sent at once.
	batchBytes = 256 << 10
	// batchAge is how long the exporter waits for more to send with it.
	batchAge = 500 * time.Millisecond
	// exportTimeout bounds one request to a collector.
	exportTimeout = 10 * time.Second
	// retryTime is how long a batch is tried before it is given up.
	retryTime = 60 * time.Second
	// firstPause and lastPause bound the pause before a batch is tried again.
	firstPause = 500 * time.Millisecond
	lastPause  = 10 * time.Second
	// maxReply bounds what is read of a collector's answer.
	maxReply = 64 << 10
	// sayEvery is how often the same trouble is told.
	sayEvery = time.Minute
)

// exporter sends the spans of one exit. It is one goroutine.
type exporter struct {
	exit   *exit
	say    func(message string, args ...any)
	wire   wire
	client *http.Client
	dials  int
	batch  []byte
	n      int       // spans in batch
	body   []byte    // of the request
	lost   bool      // the last batch was not taken
	told   time.Time // when trouble was told last
	known  *Reach    // by which the connections in use were made
}

func newExporter(x *exit, version string, say func(string, ...any)) *exporter {
	e := &exporter{exit: x, say: say, wire: newWire(&x.collector, version)}
	transport := &http.Transport{
		DialContext: e.dial, DialTLSContext: e.dialTLS, MaxConnsPerHost: 1, IdleConnTimeout: time.Minute,
		ResponseHeaderTimeout: exportTimeout, MaxResponseHeaderBytes: maxReply, DisableCompression: true, Protocols: new(http.Protocols),
	}
	if x.collector.Protocol == OTLPGRPC {
		transport.Protocols.SetHTTP2(true)
		transport.Protocols.SetUnencryptedHTTP2(true)
	} else {
		transport.Protocols.SetHTTP1(true)
	}
	e.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return e
}

// run sends until ctx ends or the exit is to leave, and then what is left.
func (e *exporter) run(ctx context.Context) {
	defer e.client.CloseIdleConnections()
	// What is on its way when ctx ends is not cut off at once.
	end, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainTimeout, cancel) })()
	idle := time.NewTimer(spareTimeout)
	defer idle.Stop()
	leave := e.exit.leave
	var left <-chan time.Time
	for {
		select {
		case b := <-e.exit.queue:
			e.take(b)
			e.gather(ctx)
			e.send(ctx, end)
			idle.Reset(spareTimeout)
		case <-idle.C:
			e.batch, e.body = nil, nil
			for range len(e.exit.spares) {
				e.exit.spare()
			}
		case <-leave:
			leave, left = nil, time.After(lingerTime)
		case <-left:
			last, cancel := context.WithTimeout(end, drainTimeout)
			defer cancel()
			e.rest(last, last)
			return
		case <-ctx.Done():
			e.rest(ctx, end)
			return
		}
	}
}

// rest sends what is queued at the end.
func (e *exporter) rest(ctx, end context.Context) {
	for len(e.exit.queue) > 0 {
		for len(e.exit.queue) > 0 && len(e.batch) < batchBytes {
			e.take(<-e.exit.queue)
		}
		e.send(ctx, end)
	}
}

// take moves a buffer into the batch.
func (e *exporter) take(b *spanBuffer) {
	e.batch = append(e.batch, b.data...)
	e.n += b.n
	e.exit.queued.Add(-int64(len(b.data)))
	b.data, b.n = b.data[:0], 0
	e.exit.keep(b)
}

// gather waits a little for more to send with what there is.
func (e *exporter) gather(ctx context.Context) {
	enough := time.NewTimer(batchAge)
	defer enough.Stop()
	for len(e.batch) < batchBytes {
		select {
		case b := <-e.exit.queue:
			e.take(b)
		case <-enough.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// send sends the batch, several times if it must be, and forgets it. There are no
// more pauses once ctx has ended or the exit is to leave: collectors may come and
// go faster than one that is dead is given up. Nothing at all is sent after end.
func (e *exporter) send(ctx, end context.Context) {
	e.body = e.wire.frame(e.body[:0], e.batch)
	end, cancel := context.WithTimeout(end, retryTime)
	defer cancel()
	pause := firstPause
	for {
		refused, again, err := e.post(end)
		if err == nil {
			e.exit.sent.Add(uint64(max(e.n-refused, 0)))
			e.exit.refused.Add(uint64(min(refused, e.n)))
			e.found()
			break
		}
		e.trouble(err)
		if !again.retry {
			e.exit.refused.Add(uint64(e.n))
			break
		}
		if ctx.Err() != nil || end.Err() != nil || e.exit.unwanted() {
			e.exit.failed.Add(uint64(e.n))
			break
		}
		wait.Sleep(ctx, max(pause, again.after))
		pause = min(2*pause, lastPause)
	}
	e.batch, e.n = e.batch[:0], 0
}

// trouble tells the operator, not too often.
func (e *exporter) trouble(err error) {
	if now := time.Now(); !e.lost || now.Sub(e.told) >= sayEvery {
		e.told = now
		e.say("spans cannot be exported", "tracing", e.exit.collector.Name, "error", err)
	}
	e.lost = true
}

func (e *exporter) found() {
	if e.lost {
		e.say("spans are exported again", "tracing", e.exit.collector.Name)
	}
	e.lost = false
}

// retry says whether a batch that was not taken is worth another try.
type retry struct {
	retry bool
	after time.Duration
}

// post makes one request. refused is how many spans of a batch that was taken
// the collector did not want.
func (e *exporter) post(ctx context.Context) (refused int, again retry, err error) {
	again.retry = true
	reach := e.exit.reach.Load()
	if reach != e.known { // the endpoint that is connected may be none any more
		e.client.CloseIdleConnections()
		e.known = reach
	}
	addr, secure, err := (*reach)(e.dials)
	if err != nil {
		return 0, again, err
	}
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	req, err := e.wire.request(ctx, addr.String(), secure != nil, e.body)
	if err != nil {
		return 0, retry{}, err
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return 0, again, errors.Unwrap(err) // the URL says nothing new
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return 0, again, err
	}
	return e.wire.judge(resp, reply)
}

// dial connects to an endpoint of the collector, whatever address the client
// asks for.
func (e *exporter) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	addr, _, err := (*e.exit.reach.Load())(e.dials)
	e.dials++
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: exportTimeout / 2}
	return d.DialContext(ctx, network, addr.String())
}

func (e *exporter) dialTLS(ctx context.Context, network, _ string) (net.Conn, error) {
	_, cfg, err := (*e.exit.reach.Load())(e.dials)
	if err != nil {
		return nil, err
	}
	if cfg == nil {
		return nil, errors.New("the collector no longer speaks TLS")
	}
	conn, err := e.dial(ctx, network, "")
	if err != nil {
		return nil, err
	}
	c := tls.Client(conn, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS handshake with the collector: %w", err)
	}
	return c, nil
}

// wire is how one collector is spoken to.
type wire struct {
	collector *Collector
	resource  []byte // OTLP: what goes before the spans of a request
	scope     []byte
}

const (
	grpcPath      = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	otlpPath      = "/v1/traces"
	zipkinPath    = "/api/v2/spans"
	scopeOfSpans  = "windrose.dev/windrose"
	grpcPrefixLen = 5
)

func newWire(c *Collector, version string) wire {
	w := wire{collector: c}
	var attrs []byte
	attrs = appendKeyString(attrs, resourceAttrs, "service.name", c.service())
	attrs = appendKeyString(attrs, resourceAttrs, "telemetry.sdk.name", "windrose")
	if version != "" {
		attrs = appendKeyString(attrs, resourceAttrs, "service.version", version)
	}
	w.resource = append(lengthy(nil, resourceOf, len(attrs)), attrs...)
	scope := append(lengthy(nil, scopeName, len(scopeOfSpans)), scopeOfSpans...)
	scope = append(lengthy(scope, scopeVersion, len(version)), version...)
	w.scope = append(lengthy(nil, scopeSpansScope, len(scope)), scope...)
	return w
}

// frame makes the body of a request of a batch.
func (w *wire) frame(dst, batch []byte) []byte {
	if w.collector.Protocol == Zipkin {
		dst = append(append(dst, '['), bytes.TrimSuffix(batch, []byte(","))...)
		return append(dst, ']')
	}
	scopes := len(w.scope) + len(batch)
	resource := len(w.resource) + lengthySize(scopes)
	if w.collector.Protocol == OTLPGRPC {
		dst = append(dst, 0) // not compressed
		dst = binary.BigEndian.AppendUint32(dst, uint32(lengthySize(resource)))
	}
	dst = lengthy(dst, requestResources, resource)
	dst = append(dst, w.resource...)
	dst = lengthy(dst, resourceScopes, scopes)
	dst = append(dst, w.scope...)
	return append(dst, batch...)
}

func (w *wire) request(ctx context.Context, addr string, secure bool, body []byte) (*http.Request, error) {
	c := w.collector
	path, kind := otlpPath, "application/x-protobuf"
	switch c.Protocol {
	case OTLPGRPC:
		path, kind = grpcPath, "application/grpc"
	case Zipkin:
		path, kind = zipkinPath, "application/json"
	case OTLPHTTP:
	}
	if c.Path != "" {
		path = c.Path
	}
	scheme, host := "http://", addr
	if secure {
		scheme = "https://"
	}
	if c.Authority != "" {
		host = c.Authority
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+host+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the collector: %w", err)
	}
	req.Header.Set("User-Agent", "windrose")
	for _, h := range c.Headers {
		req.Header.Add(h[0], h[1])
	}
	req.Header.Set("Content-Type", kind)
	if c.Protocol == OTLPGRPC {
		req.Header.Set("Te", "trailers")
	}
	return req, nil
}

// judge reads an answer.
func (w *wire) judge(resp *http.Response, reply []byte) (refused int, again retry, err error) {
	if resp.StatusCode/100 != 2 {
		switch resp.StatusCode {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			again.retry = true
			if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
				again.after = time.Duration(min(s, int(lastPause/time.Second))) * time.Second
			}
		}
		return 0, again, fmt.Errorf("the collector answered %s", resp.Status)
	}
	switch w.collector.Protocol {
	case Zipkin:
		return 0, retry{}, nil
	case OTLPGRPC:
		if again, err := grpcVerdict(resp); err != nil {
			return 0, again, err
		}
		if len(reply) < grpcPrefixLen || reply[0] != 0 {
			return 0, retry{}, nil
		}
		reply = reply[grpcPrefixLen:]
	case OTLPHTTP:
	}
	return rejected(reply), retry{}, nil
}

// grpcVerdict reads the status of a call, which follows the body or, without
// one, comes with the head.
func grpcVerdict(resp *http.Response) (retry, error) {
	status, text := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" {
		status, text = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	switch status {
	case "0":
		return retry{}, nil
	case "":
		return retry{}, errors.New("the collector does not speak gRPC: its answer has no grpc-status")
	case "1", "4", "8", "10", "11", "14", "15": // those that OTLP names as worth a try
		return retry{retry: true}, fmt.Errorf("the collector answered with gRPC status %s %q", status, text)
	}
	return retry{}, fmt.Errorf("the collector answered with gRPC status %s %q", status, text)
}

// rejected reads how many spans a collector did not want, from an
// ExportTraceServiceResponse: field 1 is partial_success, whose field 1 is the
// number. What cannot be read is no reason to send again.
func rejected(reply []byte) int {
	partial := fieldOf(reply, 1<<3|wireBytes)
	n, size := binary.Uvarint(partial)
	if size <= 0 || n > uint64(len(partial)-size) {
		return 0
	}
	count, size := binary.Uvarint(fieldOf(partial[size:size+int(n)], 1<<3|wireVarint))
	if size <= 0 || count > 1<<30 {
		return 0
	}
	return int(count)
}

// fieldOf gives what follows a tag, if the message begins with it: these
// messages have what is looked for first.
func fieldOf(message []byte, tag byte) []byte {
	if len(message) == 0 || message[0] != tag {
		return nil
	}
	return message[1:]
}
