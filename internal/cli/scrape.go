package cli

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scrape is what top takes of one page of metrics.
type scrape struct {
	at       time.Time
	up       bool // the data plane answered
	active   float64
	conns    float64
	routes   map[string]*counts
	services map[string]*counts
}

// counts are those of one route or service since its data plane started.
type counts struct {
	total, errors float64
	buckets       map[float64]float64 // cumulative, by upper bound in seconds
	active        float64
	ready, out    float64
}

// parseScrape reads a page in Prometheus' text format; what top does not show is
// passed over.
func parseScrape(page []byte, at time.Time) *scrape {
	s := &scrape{at: at, routes: map[string]*counts{}, services: map[string]*counts{}}
	for line := range strings.Lines(string(page)) {
		name, labels, value, ok := parseSample(strings.TrimSuffix(line, "\n"))
		if !ok {
			continue
		}
		switch name {
		case "windrose_control_dataplane_up":
			s.up = value == 1
		case "windrose_requests_active":
			s.active = value
		case "windrose_connections_active":
			s.conns += value
		case "windrose_requests_total":
			of(s.routes, labels["route"]).count(labels["code"], value)
		case "windrose_request_duration_seconds_bucket":
			of(s.routes, labels["route"]).bucket(labels["le"], value)
		case "windrose_service_requests_total":
			of(s.services, labels["service"]).count(labels["code"], value)
		case "windrose_service_duration_seconds_bucket":
			of(s.services, labels["service"]).bucket(labels["le"], value)
		case "windrose_service_requests_active":
			of(s.services, labels["service"]).active = value
		case "windrose_service_endpoints":
			if labels["state"] == "ready" {
				of(s.services, labels["service"]).ready = value
			} else {
				of(s.services, labels["service"]).out = value
			}
		}
	}
	return s
}

func of(all map[string]*counts, name string) *counts {
	c := all[name]
	if c == nil {
		c = &counts{buckets: map[float64]float64{}}
		all[name] = c
	}
	return c
}

// count adds the requests with one status. What has none cannot be told to have
// failed.
func (c *counts) count(code string, n float64) {
	c.total += n
	if strings.HasPrefix(code, "5") {
		c.errors += n
	}
}

func (c *counts) bucket(le string, n float64) {
	if bound, err := strconv.ParseFloat(le, 64); err == nil {
		c.buckets[bound] = n
	}
}

// parseSample reads NAME{LABEL="VALUE",...} NUMBER.
func parseSample(line string) (name string, labels map[string]string, value float64, ok bool) {
	if line == "" || line[0] == '#' {
		return "", nil, 0, false
	}
	series, number, _ := strings.CutLast(line, " ")
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return "", nil, 0, false
	}
	name, rest, labelled := strings.Cut(series, "{")
	labels = map[string]string{}
	for labelled && len(rest) > 1 {
		key, quoted, ok := strings.Cut(rest, `="`)
		if !ok {
			return "", nil, 0, false
		}
		end := 0
		for end < len(quoted) && quoted[end] != '"' {
			if quoted[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(quoted) {
			return "", nil, 0, false
		}
		labels[key] = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(quoted[:end])
		rest = strings.TrimPrefix(quoted[end+1:], ",")
	}
	return name, labels, value, true
}

// since is what was counted after an earlier scrape. A data plane that has
// started anew counts from zero.
func (c *counts) since(before *counts) *counts {
	d := &counts{total: c.total, errors: c.errors, buckets: c.buckets, active: c.active, ready: c.ready, out: c.out}
	if before == nil || before.total > c.total {
		return d
	}
	d.total -= before.total
	d.errors = max(d.errors-before.errors, 0)
	d.buckets = make(map[float64]float64, len(c.buckets))
	for bound, n := range c.buckets {
		d.buckets[bound] = max(n-before.buckets[bound], 0)
	}
	return d
}

// quantile estimates a quantile in seconds by going evenly through the bucket it
// falls into; NaN without requests, +Inf beyond the last bucket.
func (c *counts) quantile(q float64) float64 {
	bounds := make([]float64, 0, len(c.buckets))
	for b := range c.buckets {
		bounds = append(bounds, b)
	}
	slices.SortFunc(bounds, cmp.Compare[float64])
	if len(bounds) == 0 {
		return math.NaN()
	}
	total := c.buckets[bounds[len(bounds)-1]]
	if total == 0 {
		return math.NaN()
	}
	from, below := 0.0, 0.0
	for _, b := range bounds {
		n := c.buckets[b]
		if n >= q*total {
			if math.IsInf(b, 1) {
				return b
			}
			return from + (b-from)*(q*total-below)/(n-below)
		}
		from, below = b, n
	}
	return math.Inf(1)
}
