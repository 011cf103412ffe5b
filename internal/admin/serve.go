package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/telemetry"
)

// Version says which windrose runs.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// Summary is what the data plane was given, in numbers and addresses.
type Summary struct {
	Version  uint64            `json:"version"`
	Applied  uint64            `json:"applied"` // the version that the data plane uses
	Ready    bool              `json:"ready"`
	Since    time.Time         `json:"since"`
	Parts    map[plan.Kind]int `json:"parts"`
	Sockets  []string          `json:"sockets,omitempty"`
	PID      int               `json:"dataPlanePID,omitempty"`
	Restarts uint64            `json:"dataPlaneRestarts"`
	// All is every part, private keys left out; only if asked for.
	All []*plan.Part `json:"all,omitempty"`
}

// Event is one line of a watch.
type Event struct {
	Type EventType `json:"type"`
	Item Item      `json:"item"`
}

// EventType says what happened to an object.
type EventType string

// The types of events. Synced has no item: all that was there has been told.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
	Synced   EventType = "SYNCED"
)

// Failure is the body of an answer that is not 200.
type Failure struct {
	Error string `json:"error"`
	Mend  string `json:"mend,omitempty"`
}

func fail(w http.ResponseWriter, status int, what, mend string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(Failure{Error: what, Mend: mend}) // as in reply
}

// reply sends v; an error means that the client has gone.
func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// current is the View, or nil after the answer that there is none.
func (s *Server) current(w http.ResponseWriter) *View {
	v := s.view.Load()
	if v == nil {
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, "windrose is starting and has not read its configuration yet", "ask again in a second")
	}
	return v
}

func parseSelection(r *http.Request) Selection {
	values := r.URL.Query()
	return Selection{
		Kinds:     values["kind"],
		Namespace: values.Get("namespace"),
		Name:      values.Get("name"),
		Details:   values.Get("details") != "",
	}
}

func (s *Server) objects(w http.ResponseWriter, r *http.Request) {
	v := s.current(w)
	if v == nil {
		return
	}
	selection := parseSelection(r)
	findings := v.findingsByObject()
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"items":[`)
	enc, comma := json.NewEncoder(w), ""
	for o := range v.Set.All {
		key := object.KeyOf(o)
		if !selection.takes(key) {
			continue
		}
		it, err := s.item(v, o, findings[key], selection.Details)
		if err != nil {
			continue // no object of a Set is like that
		}
		io.WriteString(w, comma)
		if enc.Encode(it) != nil {
			return
		}
		comma = ","
	}
	io.WriteString(w, "]}\n")
}

func (s *Server) findings(w http.ResponseWriter, _ *http.Request) {
	v := s.current(w)
	if v == nil {
		return
	}
	all := make([]object.Finding, 0, len(v.Findings))
	for _, f := range v.Findings {
		all = append(all, f.Public())
	}
	reply(w, map[string]any{"items": all})
}

func (s *Server) plan(w http.ResponseWriter, r *http.Request) {
	v := s.current(w)
	if v == nil {
		return
	}
	c := v.Control
	sum := Summary{
		Version: c.Version, Applied: c.Applied, Ready: c.Ready(), Since: c.Since,
		Parts: map[plan.Kind]int{}, PID: c.DataPlanePID, Restarts: c.Restarts,
	}
	all := r.URL.Query().Get("parts") != ""
	for _, p := range v.Parts {
		sum.Parts[p.Key.Kind]++
		if p.Socket != nil {
			sum.Sockets = append(sum.Sockets, p.Socket.Addr.String())
		}
		if all {
			sum.All = append(sum.All, WithoutSecrets(p))
		}
	}
	reply(w, sum)
}

// WithoutSecrets gives a part that may leave: a certificate without its key, and so
// that which a service's endpoints are shown, settings without that of sessions,
// and what collectors are told without the values of header fields.
func WithoutSecrets(p *plan.Part) *plan.Part {
	part := *p
	switch {
	case p.Certificate != nil:
		cert := *p.Certificate
		cert.Key = nil
		part.Certificate = &cert
	case p.Service != nil && p.Service.TLS != nil && p.Service.TLS.Client != nil:
		service, believed, client := *p.Service, *p.Service.TLS, *p.Service.TLS.Client
		client.Key = nil
		believed.Client, service.TLS, part.Service = &client, &believed, &service
	case p.Settings != nil:
		settings := *p.Settings
		settings.SessionKey = nil
		part.Settings = &settings
	case p.Tracing != nil:
		tracing := *p.Tracing
		tracing.Headers = slices.Clone(tracing.Headers)
		for i := range tracing.Headers {
			tracing.Headers[i].Value = ""
		}
		part.Tracing = &tracing
	}
	return &part
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) { reply(w, s.cfg.Version) }

func (s *Server) live(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "live\n") }

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	v := s.view.Load()
	switch {
	case v == nil:
		http.Error(w, "not ready: the configuration has not been read yet", http.StatusServiceUnavailable)
	case !v.Control.DataPlaneUp:
		http.Error(w, "not ready: the data plane is not connected", http.StatusServiceUnavailable)
	case !v.Control.Ready():
		http.Error(w, "not ready: the data plane has not applied the configuration yet", http.StatusServiceUnavailable)
	default:
		io.WriteString(w, "ready\n")
	}
}

// watch tells what is there, then what changes.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	changed := make(chan struct{}, 1)
	if !s.enter(changed) {
		fail(w, http.StatusTooManyRequests, fmt.Sprintf("%d watches are open, which is the limit", maxWatchers), "end one of them")
		return
	}
	defer s.leave(changed)
	w.Header().Set("Content-Type", "application/jsonl")
	t := &watcher{server: s, selection: parseSelection(r), out: w, control: http.NewResponseController(w), seen: map[object.Key]seen{}}
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	for {
		if v := s.view.Load(); v != nil {
			if err := t.tell(v); err != nil {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) enter(c chan struct{}) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.watchers) >= maxWatchers {
		return false
	}
	s.watchers[c] = struct{}{}
	return true
}

func (s *Server) leave(c chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, c)
}

// watcher is one client that watches.
type watcher struct {
	server    *Server
	selection Selection
	out       io.Writer
	control   *http.ResponseController
	seen      map[object.Key]seen
	synced    bool
}

// seen is what a watcher was told about an object; unchanged objects keep
// their pointers.
type seen struct {
	object metav1.Object
	status *object.Status
	round  bool
}

// tell sends how v differs from what was told.
func (t *watcher) tell(v *View) error {
	findings := v.findingsByObject()
	round := !t.synced // any value that differs from the round before will do
	for _, s := range t.seen {
		round = !s.round
		break
	}
	if err := t.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	enc := json.NewEncoder(t.out)
	for o := range v.Set.All {
		key := object.KeyOf(o)
		if !t.selection.takes(key) {
			continue
		}
		now := seen{object: o, status: v.status(key), round: round}
		old, known := t.seen[key]
		t.seen[key] = now
		if known && old.object == now.object && old.status == now.status {
			continue
		}
		it, err := t.server.item(v, o, findings[key], t.selection.Details)
		if err != nil {
			return err
		}
		kind := Added
		if known {
			kind = Modified
		}
		if err := enc.Encode(Event{Type: kind, Item: it}); err != nil {
			return err
		}
	}
	for key, s := range t.seen {
		if s.round == round {
			continue
		}
		delete(t.seen, key)
		if err := enc.Encode(Event{Type: Deleted, Item: Item{Key: key, Object: json.RawMessage("null")}}); err != nil {
			return err
		}
	}
	if !t.synced {
		t.synced = true
		if err := enc.Encode(Event{Type: Synced, Item: Item{Object: json.RawMessage("null")}}); err != nil {
			return err
		}
	}
	return t.control.Flush()
}

// metrics writes one page of what the control part and the data plane count.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", telemetry.ContentType)
	var theirs []byte
	up := false
	if s.cfg.Metrics != "" {
		var err error
		theirs, err = fetch(r.Context(), s.cfg.Metrics)
		up = err == nil
	}
	v := s.view.Load()
	if v == nil {
		v = &View{Set: &object.Set{}}
	}
	ours := controlPage(s.cfg.Version, s.started, v, up)
	_, _ = w.Write(telemetry.Merge(nil, ours, theirs)) // as in reply
}

// fetch gets the data plane's page, whole or not at all.
func fetch(ctx context.Context, url string) ([]byte, error) {
	const maxPage = 64 << 20
	ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: status %d", url, resp.StatusCode)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxPage))
}
