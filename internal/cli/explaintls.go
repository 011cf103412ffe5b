package cli

import (
	"fmt"
	"strings"

	"windrose.dev/windrose/internal/plan"
)

// clientsText says what clients have to show; "" for nothing.
func clientsText(c *plan.ClientCheck) string {
	switch {
	case c == nil:
		return ""
	case c.Optional:
		return "asked for a certificate of " + authoritiesText(c.Authorities) + "; who shows none, or another, is served too"
	}
	return "must show a certificate of " + authoritiesText(c.Authorities)
}

func authoritiesText(pem []byte) string {
	n := strings.Count(string(pem), "-----BEGIN CERTIFICATE-----")
	if n == 1 {
		return "1 authority"
	}
	return fmt.Sprintf("one of %d authorities", n)
}

// backendTLS says what is asked of the endpoints of a service that are spoken to
// under TLS, and what they are shown; "" in cleartext.
func (x *explainer) backendTLS(s *plan.Service) string {
	t := s.TLS
	if t == nil || x.taken != nil && x.taken.Passthrough {
		return ""
	}
	from := authoritiesText(t.Authorities)
	if t.System {
		from = "an authority of the machine"
	}
	names := make([]string, len(t.Names))
	for i, n := range t.Names {
		names[i] = n.DNS + n.URI
	}
	text := "it is asked for " + t.Hostname + ", and must show a certificate of " + from + " for "
	if len(names) == 0 {
		text += "that name"
	} else {
		text += strings.Join(names, " or ")
	}
	if x.taken != nil && x.taken.Shows != nil {
		if part := x.listenerPart(x.taken.Name); part != nil {
			text += "; windrose shows " + part.Shows
		}
	}
	return text
}
