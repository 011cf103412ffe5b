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

// client looks at who the question says that the client is; it says whether the
// handshake succeeds.
func (x *explainer) client(c *plan.ClientCheck) bool {
	switch {
	case x.q.from == "":
	case x.q.from == noIdentity && c != nil && !c.Optional:
		x.out.From = "shows no certificate"
		x.refuse("the listener asks for a client certificate and gets none: the handshake fails with the alert certificate_required",
			"show a certificate of the authorities that the Gateway's tls.frontend names")
		return false
	case x.q.from == noIdentity:
		x.out.From = "shows no certificate: endpoints hear of no identity"
	case c == nil:
		x.out.From = x.q.from + " is not asked who it is: endpoints hear of no identity"
	default:
		x.out.From = x.q.from + ", if its certificate is of " + authoritiesText(c.Authorities) + ": endpoints hear of it in x-forwarded-client-cert"
	}
	return true
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
	switch {
	case t.Client != nil:
		text += "; windrose shows the XBackend's own certificate"
	case t.Alone:
	case x.taken != nil && x.taken.Shows != nil:
		if part := x.listenerPart(x.taken.Name); part != nil {
			text += "; windrose shows " + part.Shows
		}
	}
	return text
}
