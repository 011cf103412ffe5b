package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/tap"
)

// ErrUnreachable means that no windrose answers at the address.
var ErrUnreachable = errors.New("no windrose answers")

// APIError is an answer that says no.
type APIError struct {
	Status int
	Failure
}

func (e *APIError) Error() string { return e.Failure.Error }

// Client asks a running windrose. Every call ends with its context.
type Client struct {
	addr string
	http http.Client
}

// NewClient makes a client of the API at addr, HOST:PORT.
func NewClient(addr string) *Client {
	return &Client{
		addr: strings.TrimPrefix(addr, "http://"),
		http: http.Client{
			Transport:     &http.Transport{DialContext: (&net.Dialer{}).DialContext, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (s Selection) values() url.Values {
	v := url.Values{"kind": s.Kinds}
	for key, value := range map[string]string{"namespace": s.Namespace, "name": s.Name} {
		if value != "" {
			v.Set(key, value)
		}
	}
	if s.Details {
		v.Set("details", "1")
	}
	return v
}

// Objects gives the objects selected, kind by kind, ordered by namespace and
// name.
func (c *Client) Objects(ctx context.Context, s Selection) ([]Item, error) {
	var list struct {
		Items []Item `json:"items"`
	}
	err := c.get(ctx, "/api/v1/objects", s.values(), &list)
	return list.Items, err
}

// Findings gives all findings.
func (c *Client) Findings(ctx context.Context) ([]object.Finding, error) {
	var list struct {
		Items []object.Finding `json:"items"`
	}
	err := c.get(ctx, "/api/v1/findings", nil, &list)
	return list.Items, err
}

// Plan gives the plan with all of its parts, private keys left out.
func (c *Client) Plan(ctx context.Context) (Summary, error) {
	var s Summary
	err := c.get(ctx, "/api/v1/plan", url.Values{"parts": {"1"}}, &s)
	return s, err
}

// Version gives the version of the windrose that answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var v Version
	err := c.get(ctx, "/api/v1/version", nil, &v)
	return v, err
}

// Watch calls tell for every event until ctx ends, tell fails or windrose goes
// away.
func (c *Client) Watch(ctx context.Context, s Selection, tell func(Event) error) error {
	return follow(ctx, c, "/api/v1/watch", s.values(), tell)
}

// Tap calls tell for every line of a tap until ctx ends, tell fails or windrose
// goes away.
func (c *Client) Tap(ctx context.Context, f tap.Filter, tell func(TapEvent) error) error {
	return follow(ctx, c, "/api/v1/tap", filterValues(f), tell)
}

// Recent gives the newest requests that are remembered, at most limit.
func (c *Client) Recent(ctx context.Context, f tap.Filter, limit int) (Remembered, error) {
	var all Remembered
	v := filterValues(f)
	v.Set("limit", strconv.Itoa(limit))
	err := c.get(ctx, "/api/v1/requests", v, &all)
	return all, err
}

// Request gives the requests with an id that are remembered.
func (c *Client) Request(ctx context.Context, id string) (Remembered, error) {
	var found Remembered
	err := c.get(ctx, "/api/v1/requests/"+url.PathEscape(id), nil, &found)
	return found, err
}

// Metrics gives the page of both processes' metrics.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	const maxPage = 64 << 20
	body, err := c.open(ctx, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	page, err := io.ReadAll(io.LimitReader(body, maxPage))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return page, err
}

// follow calls tell for every line of a stream.
func follow[T any](ctx context.Context, c *Client, path string, values url.Values, tell func(T) error) error {
	body, err := c.open(ctx, path, values)
	if err != nil {
		return err
	}
	defer body.Close()
	dec := json.NewDecoder(bufio.NewReader(body))
	for {
		var e T
		if err := dec.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s ended what it was telling: %w", c.addr, ErrUnreachable)
		}
		if err := tell(e); err != nil {
			return err
		}
	}
}

func (c *Client) get(ctx context.Context, path string, values url.Values, into any) error {
	body, err := c.open(ctx, path, values)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("read the answer of %s: %w", c.addr, err)
	}
	return nil
}

// open gives the body of a good answer.
func (c *Client) open(ctx context.Context, path string, values url.Values) (io.ReadCloser, error) {
	u := "http://" + c.addr + path
	if len(values) > 0 {
		u += "?" + values.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fmt.Errorf("the admin address %q: %w", c.addr, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err
		}
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.addr, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	e := &APIError{Status: resp.StatusCode}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e.Failure); err != nil || e.Failure.Error == "" {
		e.Failure = Failure{Error: fmt.Sprintf("%s answers with status %d, which is not windrose's", c.addr, resp.StatusCode), Mend: "look whether another program has this port"}
	}
	return nil, e
}
