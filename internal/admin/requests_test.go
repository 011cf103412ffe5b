package admin_test

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/tap"
)

// asking is a data plane that answers with what a test sends.
type asking struct {
	questions chan tap.Question
	answers   chan *tap.Answer // closed: the question is answered
	ended     chan error       // how the question's context ended
}

func newAsking() *asking {
	return &asking{questions: make(chan tap.Question, 10), answers: make(chan *tap.Answer), ended: make(chan error, 10)}
}

func (a *asking) ask(ctx context.Context, q *tap.Question, tell func(*tap.Answer) error) error {
	a.questions <- *q
	for {
		select {
		case <-ctx.Done():
			a.ended <- ctx.Err()
			return ctx.Err()
		case answer, ok := <-a.answers:
			if !ok {
				return nil
			}
			if err := tell(answer); err != nil {
				return err
			}
		}
	}
}

func TestTap(t *testing.T) {
	d := newAsking()
	_, c := serve(t, admin.Config{Ask: d.ask})
	ctx, cancel := context.WithCancel(t.Context())
	lines := make(chan admin.TapEvent, 10)
	done := make(chan error, 1)
	want := tap.Filter{Route: "shop", Code: "5xx", Path: "/a b?", Slow: time.Second}
	go func() {
		done <- c.Tap(ctx, want, func(e admin.TapEvent) error { lines <- e; return nil })
	}()
	if q := <-d.questions; q.Tap == nil || *q.Tap != want {
		t.Errorf("asked %+v, want %+v", q.Tap, want)
	}
	d.answers <- &tap.Answer{}
	if e := <-lines; e.Type != admin.TapBegun {
		t.Errorf("got %+v first, want that it has begun", e)
	}
	d.answers <- &tap.Answer{Events: []tap.Event{{ID: "1"}, {ID: "2"}}, Dropped: 7}
	for _, id := range []string{"1", "2"} {
		if e := <-lines; e.Type != admin.TapRequest || e.Request == nil || e.Request.ID != id {
			t.Errorf("got %+v, want request %s", e, id)
		}
	}
	if e := <-lines; e.Type != admin.TapDropped || e.Dropped != 7 {
		t.Errorf("got %+v, want 7 dropped", e)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	if err := <-d.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the data plane's question ended with %v", err)
	}
}

func TestTapAsServerSentEvents(t *testing.T) {
	d := newAsking()
	s, _ := serve(t, admin.Config{Ask: d.ask})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+"/api/v1/tap", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	go func() {
		d.answers <- &tap.Answer{}
		d.answers <- &tap.Answer{Events: []tap.Event{{ID: "a\nb"}}}
		close(d.answers)
	}()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got []string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		got = append(got, lines.Text())
	}
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" || len(got) != 6 ||
		got[0] != "event: BEGUN" || got[3] != "event: REQUEST" || !strings.HasPrefix(got[4], `data: {"type":"REQUEST","request":{`) || !strings.Contains(got[4], `"id":"a\nb"`) {
		t.Errorf("got %s %q", kind, got)
	}
}

func TestRememberedRequests(t *testing.T) {
	d := newAsking()
	_, c := serve(t, admin.Config{Ask: d.ask})
	early, late := time.Unix(1e9, 0).UTC(), time.Unix(2e9, 0).UTC()
	go func() { // two data planes, one of which is new
		d.answers <- &tap.Answer{Events: []tap.Event{{ID: "x", Time: early}}, Reach: &tap.Reach{Ordinary: early}}
		d.answers <- &tap.Answer{Events: []tap.Event{{ID: "y", Time: late}}, Reach: &tap.Reach{Favoured: late}}
		close(d.answers)
	}()
	found, err := c.Request(t.Context(), "a/b?c")
	if err != nil {
		t.Fatal(err)
	}
	if q := <-d.questions; q.Find != "a/b?c" {
		t.Errorf("asked %+v, want the id", q)
	}
	if len(found.Items) != 2 || found.Items[0].ID != "y" || !found.Reach.Ordinary.Equal(early) || !found.Reach.Favoured.Equal(late) {
		t.Errorf("got %+v, want the newest first and what is sure", found)
	}
	d.answers = make(chan *tap.Answer)
	close(d.answers)
	if found, err = c.Recent(t.Context(), tap.Filter{Fault: "any"}, 5); err != nil || len(found.Items) != 0 {
		t.Errorf("got %+v and %v", found, err)
	}
	if q := <-d.questions; q.Recent == nil || q.Recent.Limit != 5 || q.Recent.Filter.Fault != "any" {
		t.Errorf("asked %+v", q)
	}
}

func TestRequestsRefuse(t *testing.T) {
	full := func(context.Context, *tap.Question, func(*tap.Answer) error) error {
		return errors.New("16 taps are open")
	}
	nobody := func(context.Context, *tap.Question, func(*tap.Answer) error) error { return admin.ErrNoDataPlane }
	for _, c := range []struct {
		path, want string
		status     int
		cfg        admin.Config
	}{
		{"/api/v1/tap?rout=x", `\"rout\" is not a filter`, 400, admin.Config{Ask: full}},
		{"/api/v1/tap?code=x", "is not a status", 400, admin.Config{Ask: full}},
		{"/api/v1/tap?limit=3", "is not a filter", 400, admin.Config{Ask: full}},
		{"/api/v1/tap?slow=1", "not a duration", 400, admin.Config{Ask: full}},
		{"/api/v1/tap?query=maybe", "neither true nor false", 400, admin.Config{Ask: full}},
		{"/api/v1/tap", "16 taps are open", 503, admin.Config{Ask: full}},
		{"/api/v1/tap", "no data plane is connected", 503, admin.Config{Ask: nobody}},
		{"/api/v1/tap", "no data plane is connected", 503, admin.Config{}},
		{"/api/v1/requests", "no data plane is connected", 503, admin.Config{}},
		{"/api/v1/requests/x", "no data plane is connected", 503, admin.Config{}},
		{"/api/v1/requests?limit=0", "from 1 to", 400, admin.Config{Ask: full}},
		{"/api/v1/requests?query=1", "queries are not remembered", 400, admin.Config{Ask: full}},
		{"/api/v1/requests?tea=1", "is not a filter", 400, admin.Config{Ask: full}},
	} {
		s, _ := serve(t, c.cfg)
		if status, body := get(t, s, c.path, nil); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: got %d %s, want %d with %q", c.path, status, body, c.status, c.want)
		}
	}
}

// This process is the user that the server runs as: the kernel says so.
func TestOwnUserMaySeeQueries(t *testing.T) {
	d := newAsking()
	s, _ := serve(t, admin.Config{Ask: d.ask})
	close(d.answers)
	if status, body := get(t, s, "/api/v1/tap?query=1", nil); status != 200 {
		t.Errorf("got %d %s", status, body)
	}
	if q := <-d.questions; q.Tap == nil || !q.Tap.Query {
		t.Errorf("asked %+v, want the query", q)
	}
}
