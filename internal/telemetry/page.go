package telemetry

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// ContentType is the media type of a Page.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Type is the type of a metric, as Prometheus names it.
type Type string

// The types.
const (
	Counter   Type = "counter"
	Gauge     Type = "gauge"
	Histogram Type = "histogram"
)

// Metric describes a family of series.
type Metric struct {
	Name   string
	Type   Type
	Help   string
	Labels []string
}

// Page writes Prometheus' text format 0.0.4: for each metric Family, then its
// samples. The zero value is an empty page.
type Page struct {
	text   []byte
	metric Metric
}

// Bytes is what was written.
func (p *Page) Bytes() []byte { return p.text }

// Family begins the samples of m.
func (p *Page) Family(m Metric) {
	p.metric = m
	p.text = append(p.text, "# HELP "...)
	p.text = append(p.text, m.Name...)
	p.text = append(p.text, ' ')
	p.text = append(p.text, strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(m.Help)...)
	p.text = append(p.text, "\n# TYPE "...)
	p.text = append(p.text, m.Name...)
	p.text = append(p.text, ' ')
	p.text = append(p.text, m.Type...)
	p.text = append(p.text, '\n')
}

// Count writes a sample that is a whole number; values are those of the
// metric's labels, in their order.
func (p *Page) Count(n uint64, values ...string) {
	p.series("", values, "", "")
	p.text = strconv.AppendUint(p.text, n, 10)
	p.text = append(p.text, '\n')
}

// Value writes a sample.
func (p *Page) Value(v float64, values ...string) {
	p.series("", values, "", "")
	p.float(v)
	p.text = append(p.text, '\n')
}

// boundLabels are the values of the label "le".
var boundLabels = func() (labels [numBounds + 1]string) {
	for i, b := range bounds {
		labels[i] = strconv.FormatFloat(b.Seconds(), 'g', -1, 64)
	}
	labels[numBounds] = "+Inf"
	return labels
}()

// times writes a histogram.
func (p *Page) times(h *histogram, values ...string) {
	var n uint64
	for i, in := range h.buckets {
		n += in
		p.series("_bucket", values, "le", boundLabels[i])
		p.text = strconv.AppendUint(p.text, n, 10)
		p.text = append(p.text, '\n')
	}
	p.series("_sum", values, "", "")
	p.float(float64(h.nanos) / float64(time.Second))
	p.text = append(p.text, '\n')
	p.series("_count", values, "", "")
	p.text = strconv.AppendUint(p.text, n, 10)
	p.text = append(p.text, '\n')
}

// series writes the name and labels of a sample and the space behind.
func (p *Page) series(suffix string, values []string, extra, extraValue string) {
	p.text = append(p.text, p.metric.Name...)
	p.text = append(p.text, suffix...)
	sep := byte('{')
	for i, name := range p.metric.Labels {
		if i < len(values) {
			p.label(sep, name, values[i])
			sep = ','
		}
	}
	if extra != "" {
		p.label(sep, extra, extraValue)
		sep = ','
	}
	if sep == ',' {
		p.text = append(p.text, '}')
	}
	p.text = append(p.text, ' ')
}

func (p *Page) label(sep byte, name, value string) {
	p.text = append(p.text, sep)
	p.text = append(p.text, name...)
	p.text = append(p.text, '=', '"')
	if !strings.ContainsAny(value, "\"\\\n") && utf8.ValidString(value) {
		p.text = append(append(p.text, value...), '"')
		return
	}
	for _, r := range value { // a byte that is not UTF-8 becomes U+FFFD
		switch r {
		case '"', '\\':
			p.text = append(p.text, '\\', byte(r))
		case '\n':
			p.text = append(p.text, '\\', 'n')
		default:
			p.text = utf8.AppendRune(p.text, r)
		}
	}
	p.text = append(p.text, '"')
}

func (p *Page) float(v float64) {
	switch {
	case math.IsInf(v, 1):
		p.text = append(p.text, "+Inf"...)
	case math.IsInf(v, -1):
		p.text = append(p.text, "-Inf"...)
	default:
		p.text = strconv.AppendFloat(p.text, v, 'g', -1, 64)
	}
}

// Merge joins pages into one, as where one process shows what two count: the
// families of one name are brought together under the first HELP and TYPE. The
// series of the pages must differ by a label.
func Merge(dst []byte, pages ...[]byte) []byte {
	type family struct{ head, samples []byte }
	var order []string
	families := make(map[string]*family)
	for _, page := range pages {
		var at *family
		fresh := false
		for line := range bytes.Lines(page) {
			if name, ok := bytes.CutPrefix(line, []byte("# HELP ")); ok {
				name, _, _ = bytes.Cut(name, []byte(" "))
				at = families[string(name)]
				fresh = at == nil
				if fresh {
					at = new(family)
					families[string(name)] = at
					order = append(order, string(name))
				}
			}
			switch {
			case at == nil: // not within a family: no page of ours has that
			case line[0] != '#':
				at.samples = append(at.samples, line...)
			case fresh:
				at.head = append(at.head, line...)
			}
		}
	}
	for _, name := range order {
		dst = append(dst, families[name].head...)
		dst = append(dst, families[name].samples...)
	}
	return dst
}
