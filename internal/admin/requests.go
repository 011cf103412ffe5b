package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"windrose.dev/windrose/internal/tap"
)

// This file serves single requests: a tap of those that end now, and those that
// the data plane remembers.

const (
	// askTimeout is how long the data plane may take to look into its memory.
	askTimeout = 5 * time.Second
	// aliveEvery is how often a tap says that it lives while nothing ends.
	aliveEvery = 15 * time.Second
	// defaultRecent is how many requests are listed where no limit is given.
	defaultRecent = 100
)

// TapEvent is one line of a tap. As a server-sent event its type is the event's
// name.
type TapEvent struct {
	Type    TapType    `json:"type"`
	Request *tap.Event `json:"request,omitempty"` // of REQUEST
	Dropped uint64     `json:"dropped,omitempty"` // of DROPPED: requests that could not be kept
}

// TapType says what a line of a tap tells.
type TapType string

// The types of a tap's lines. Begun is the first, but for Alive while no data plane
// is there: no request that ends from then on is missed, unless Dropped says so.
// Alive comes when nothing ends.
const (
	TapBegun   TapType = "BEGUN"
	TapRequest TapType = "REQUEST"
	TapDropped TapType = "DROPPED"
	TapAlive   TapType = "ALIVE"
)

// Remembered is what the data plane remembers of requests, the newest first.
type Remembered struct {
	Items []tap.Event `json:"items"`
	// Reach says since when all are remembered.
	Reach tap.Reach `json:"reach"`
}

// filterValues are a filter as query parameters.
func filterValues(f tap.Filter) url.Values {
	v := url.Values{}
	for key, value := range map[string]string{
		"route": f.Route, "listener": f.Listener, "service": f.Service, "code": f.Code, "path": f.Path,
		"host": f.Host, "method": f.Method, "fault": f.Fault, "client": f.Client,
	} {
		if value != "" {
			v.Set(key, value)
		}
	}
	if f.Slow != 0 {
		v.Set("slow", f.Slow.String())
	}
	if f.Query {
		v.Set("query", "1")
	}
	return v
}

// parseFilter is the way back. What it does not know is an error, not ignored;
// others are parameters that are no filter's.
func parseFilter(v url.Values, others ...string) (f tap.Filter, err error) {
	for key, values := range v {
		value := values[len(values)-1]
		switch key {
		case "route":
			f.Route = value
		case "listener":
			f.Listener = value
		case "service":
			f.Service = value
		case "code":
			f.Code = value
		case "path":
			f.Path = value
		case "host":
			f.Host = value
		case "method":
			f.Method = value
		case "fault":
			f.Fault = value
		case "client":
			f.Client = value
		case "slow":
			if f.Slow, err = time.ParseDuration(value); err != nil {
				return f, fmt.Errorf("slow %q is not a duration: write 200ms or 2s", value)
			}
		case "query":
			if f.Query, err = strconv.ParseBool(value); err != nil {
				return f, fmt.Errorf("query %q is neither true nor false", value)
			}
		default:
			if !slices.Contains(others, key) {
				return f, fmt.Errorf("%q is not a filter: route, listener, service, code, path, host, method, fault, client, slow and query are", key)
			}
		}
	}
	_, err = f.Compile()
	return f, err
}

// filter reads the request's filter; false after the answer that it is refused.
func (s *Server) filter(w http.ResponseWriter, r *http.Request, others ...string) (tap.Filter, bool) {
	f, err := parseFilter(r.URL.Query(), others...)
	switch {
	case err != nil:
		fail(w, http.StatusBadRequest, err.Error(), "")
		return f, false
	case s.cfg.Ask == nil:
		failAsk(w, ErrNoDataPlane)
		return f, false
	case f.Query && !mayShowQuery(r):
		fail(w, http.StatusForbidden, "queries may hold tokens: they are shown to root and to the user that windrose runs as", "ask as one of them, or leave out query")
		return f, false
	}
	return f, true
}

// failAsk tells why a question was not answered.
func failAsk(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrNoDataPlane):
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, err.Error(), "ask again in a second; windrose's log says why if it does not come back")
	case errors.Is(err, context.DeadlineExceeded):
		fail(w, http.StatusGatewayTimeout, "the data plane does not answer", "ask again; windrose_loop_lag_seconds says whether it is overloaded")
	default:
		fail(w, http.StatusServiceUnavailable, err.Error(), "")
	}
}

func (s *Server) recent(w http.ResponseWriter, r *http.Request) {
	f, ok := s.filter(w, r, "limit")
	if !ok {
		return
	}
	limit := defaultRecent
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > tap.MaxRecent {
			fail(w, http.StatusBadRequest, fmt.Sprintf("limit %q is not a number from 1 to %d", text, tap.MaxRecent), "")
			return
		}
		limit = n
	}
	if f.Query {
		fail(w, http.StatusBadRequest, "queries are not remembered", "use /api/v1/tap")
		return
	}
	if found, ok := s.remembered(w, r, &tap.Question{Recent: &tap.Recent{Filter: f, Limit: limit}}); ok {
		found.Items = found.Items[:min(len(found.Items), limit)]
		reply(w, found)
	}
}

func (s *Server) request(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Ask == nil {
		failAsk(w, ErrNoDataPlane)
		return
	}
	if found, ok := s.remembered(w, r, &tap.Question{Find: r.PathValue("id")}); ok {
		reply(w, found)
	}
}

// remembered asks for what is remembered; false after the answer that this
// failed.
func (s *Server) remembered(w http.ResponseWriter, r *http.Request, q *tap.Question) (Remembered, bool) {
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	all := Remembered{Items: []tap.Event{}}
	err := s.cfg.Ask(ctx, q, func(a *tap.Answer) error {
		all.Items = append(all.Items, a.Events...)
		if a.Reach != nil {
			all.Reach.Ordinary = later(all.Reach.Ordinary, a.Reach.Ordinary)
			all.Reach.Favoured = later(all.Reach.Favoured, a.Reach.Favoured)
		}
		return nil
	})
	if err != nil {
		failAsk(w, err)
		return all, false
	}
	slices.SortStableFunc(all.Items, func(a, b tap.Event) int { return b.Time.Compare(a.Time) })
	return all, true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// tap tells requests as they end, until the client goes.
func (s *Server) tap(w http.ResponseWriter, r *http.Request) {
	f, ok := s.filter(w, r)
	if !ok {
		return
	}
	changed := make(chan struct{}, 1)
	if !s.enter(changed) {
		fail(w, http.StatusTooManyRequests, fmt.Sprintf("%d watches are open, which is the limit", maxWatchers), "end one of them")
		return
	}
	defer s.leave(changed)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	t := &tapper{out: w, control: http.NewResponseController(w), sse: wantsSSE(r)}
	answers := make(chan *tap.Answer)
	done, over := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(over)
		done <- s.cfg.Ask(ctx, &tap.Question{Tap: &f}, func(a *tap.Answer) error {
			select {
			case answers <- a:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	t.run(answers, done)
	cancel()
	<-over
}

func wantsSSE(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}

// tapper is one client that taps.
type tapper struct {
	out     http.ResponseWriter
	control *http.ResponseController
	sse     bool
	begun   bool // the answer has
	stands  bool // the client was told that the tap does
}

// run tells answers until the question has ended or the client is gone.
func (t *tapper) run(answers <-chan *tap.Answer, done <-chan error) {
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		var err error
		select {
		case err := <-done:
			if !t.begun && err != nil && !errors.Is(err, context.Canceled) {
				failAsk(t.out, err)
			}
			return
		case a := <-answers:
			err = t.tell(a)
		case <-alive.C:
			err = t.write(TapEvent{Type: TapAlive})
		}
		if err == nil {
			err = t.control.Flush()
		}
		if err != nil {
			return
		}
	}
}

func (t *tapper) tell(a *tap.Answer) error {
	if !t.stands {
		t.stands = true
		if err := t.write(TapEvent{Type: TapBegun}); err != nil {
			return err
		}
	}
	for i := range a.Events {
		if err := t.write(TapEvent{Type: TapRequest, Request: &a.Events[i]}); err != nil {
			return err
		}
	}
	if a.Dropped == 0 {
		return nil
	}
	return t.write(TapEvent{Type: TapDropped, Dropped: a.Dropped})
}

func (t *tapper) write(e TapEvent) error {
	if !t.begun {
		t.begun = true
		kind := "application/jsonl"
		if t.sse {
			kind = "text/event-stream"
		}
		t.out.Header().Set("Content-Type", kind)
	}
	if err := t.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode an event: %w", err)
	}
	if t.sse {
		_, err = fmt.Fprintf(t.out, "event: %s\ndata: %s\n\n", e.Type, data)
		return err
	}
	_, err = t.out.Write(append(data, '\n'))
	return err
}
