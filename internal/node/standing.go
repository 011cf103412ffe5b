package node

import (
	"slices"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/source"
	"windrose.dev/windrose/internal/status"
)

// standing is what the data plane could not open, as findings. Their places are
// read from files, so that they are kept while nothing changes.
type standing struct {
	set         *object.Set
	raw, placed []object.Finding
}

// with gives the findings of the pipeline with those of a data plane's problems.
func (s *standing) with(p *pipeline, problems []status.Problem) []object.Finding {
	raw := status.Findings(p.result.Statuses, problems)
	if len(raw) == 0 {
		*s = standing{}
		return p.findings
	}
	if s.set != p.set || !slices.Equal(s.raw, raw) {
		*s = standing{set: p.set, raw: raw, placed: source.Locate(p.set, slices.Clone(raw))}
	}
	all := slices.Concat(p.findings, s.placed)
	object.SortFindings(all)
	return all
}
