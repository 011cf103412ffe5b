package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

func (a *app) explainCommand() *cobra.Command {
	var headers, config []string
	var serverName, from, output, request string
	c := &cobra.Command{
		Use:   "explain {[METHOD] URL | --request ID}",
		Short: "Tell where a request would land, or what happened to one",
		Long: `Tells what the running windrose would do with a request, without sending it:
the socket, listener, route, rule and match that take it, and why those that come
near do not; what the filters do; the backends with their exact share of such
requests and their endpoints; the fault that it would end in; and where each
object was written. With --config it is told of manifests instead; every
workload is taken as ready then.

The scheme and port of the URL choose the socket, an IP address as its host the
one at that address. The Host header is the URL's host, unless -H gives another;
so is the server name of the TLS handshake, unless --sni gives another or the
host is an IP address.

With --from the client has that identity, which is a name of a certificate that the
listener believes, such as a SPIFFE ID; or it shows no certificate, with --from none.
Without --from it shows whatever the listener asks for.

With --request it tells what happened to a request that has ended, by its id: the
phases with their times, the attempts, the listener, rule and backend that
decided and where they were written, whose fault it was, and what to do. The id is
in the x-request-id of the answer, in the body of a fault and in the access log. The
data plane remembers about 1 MiB of requests, faults, errors, retried and slow ones
the longest; if it does not know the id, the answer says how far back it knows all,
and the exit code is 5.

The exit code is 0 if all such requests reach an endpoint or are redirected, and
3 if they, or a share of them, end in a fault.`,
		Example: `  windrose explain https://shop.example/cart
  windrose explain POST http://shop.example/cart -H 'x-canary: yes'
  windrose explain https://192.0.2.1/ -H 'Host: shop.example' --sni shop.example
  windrose explain https://shop.example/ --from spiffe://example.org/ns/web/sa/cart
  windrose explain http://shop.example/ --config ./windrose.d
  windrose explain --request 3f1f6b2ac8a04dd3a2d0a5ac55b3d4c1`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("-o", output, "text", "json", "yaml"); err != nil {
				return err
			}
			if cmd.Flags().Changed("request") {
				var given []string
				for _, name := range []string{"header", "sni", "from", "config"} {
					if cmd.Flags().Changed(name) {
						given = append(given, name)
					}
				}
				if err := checkNoQuestion(args, given); err != nil {
					return err
				}
				return a.explainRequest(cmd.Context(), request, output)
			}
			if len(args) == 0 {
				return usage("explain needs a URL, or --request with the id of a request")
			}
			q, err := newQuestion(args, headers)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("sni") {
				if !q.tls {
					return usage("--sni is for https: with http there is no handshake that names a server")
				}
				q.sni = serverName
			}
			if cmd.Flags().Changed("from") {
				if !q.tls || from == "" {
					return usage("--from is for https and wants an identity or none: with http a client has no certificate to prove who it is")
				}
				q.from = from
			}
			return a.explain(cmd.Context(), q, config, output)
		},
	}
	c.Flags().StringArrayVarP(&headers, "header", "H", nil, "header field of the request, as 'Name: value'; may be given several times")
	c.Flags().StringVar(&request, "request", "", "id of a request that has ended, to tell what happened to it")
	c.Flags().StringVar(&serverName, "sni", "", "server name of the TLS handshake; empty for none")
	c.Flags().StringVar(&from, "from", "", "identity of the client, as its certificate says it; none for a client without certificate")
	c.Flags().StringArrayVar(&config, "config", nil, "file or folder of manifests to explain instead of the running windrose; may be given several times")
	c.Flags().StringVarP(&output, "output", "o", "text", "form: text, json or yaml")
	return c
}

func (a *app) explain(ctx context.Context, q *question, config []string, output string) error {
	parts, places, err := a.explained(ctx, config)
	if err != nil {
		return err
	}
	x := explainer{plan: compile(parts), parts: parts, places: places, q: q}
	x.explain()
	if output == "text" {
		err = a.printExplanation(&x.out)
	} else {
		err = writeValue(a.stdout, output, &x.out)
	}
	if err == nil && x.out.faulty() {
		err = errSilent
	}
	return err
}

// explained gives the parts to explain, and where their objects were written.
func (a *app) explained(ctx context.Context, config []string) ([]*plan.Part, map[object.Key]object.Place, error) {
	if len(config) > 0 {
		set, result, findings, err := read(config, nil)
		if err != nil {
			return nil, nil, err
		}
		bad := slices.DeleteFunc(findings, func(f object.Finding) bool { return f.Severity != object.Error })
		a.renderFindings(a.stderr, a.colorsOf(a.stderr), bad)
		return result.Parts, set.Places, nil
	}
	client, ctx, cancel := a.client(ctx)
	defer cancel()
	sum, err := client.Plan(ctx)
	if err != nil {
		return nil, nil, err
	}
	items, err := client.Objects(ctx, admin.Selection{})
	if err != nil {
		return nil, nil, err
	}
	places := make(map[object.Key]object.Place, len(items))
	for _, item := range items {
		places[item.Key] = item.Place
	}
	return sum.All, places, nil
}

// question is the request to explain.
type question struct {
	url   string // as the user gave it, with its scheme
	tls   bool
	addr  netip.Addr // where it is sent; invalid if the URL names a host
	port  uint16
	sni   string
	from  string // identity of the client, or noIdentity; empty: whatever is asked for
	probe plan.Probe
}

// noIdentity is a client that shows no certificate.
const noIdentity = "none"

func newQuestion(args, headers []string) (*question, error) {
	method, text := "GET", args[len(args)-1]
	if len(args) > 1 {
		method = strings.ToUpper(args[0])
	}
	if !plan.IsToken(method) {
		return nil, usage("%q is not a method", args[0])
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	q := &question{url: text, probe: plan.Probe{Method: method}}
	if err := q.takeURL(); err != nil {
		return nil, err
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || !plan.IsToken(name) || strings.ContainsAny(value, "\r\n\x00") {
			return nil, usage("-H %q is not a header: write 'Name: value'", h)
		}
		value = strings.Trim(value, " \t")
		if strings.EqualFold(name, "host") {
			q.probe.Host = value
			continue
		}
		q.probe.Headers = append(q.probe.Headers, plan.Header{Name: strings.ToLower(name), Value: value})
	}
	return q, nil
}

// takeURL takes the URL apart. Path and query stay as they were written, since
// that is how a client would send them.
func (q *question) takeURL() error {
	scheme, rest, _ := strings.Cut(q.url, "://")
	rest, _, _ = strings.Cut(rest, "#")
	authority, target := rest, ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority, target = rest[:i], rest[i:]
	}
	switch strings.ToLower(scheme) {
	case "http":
		q.port = 80
	case "https":
		q.port, q.tls = 443, true
	default:
		return usage("%q is not an http or https URL", q.url)
	}
	u, err := url.Parse("http://" + authority)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return usage("%q is not a URL: its host must be a name or an IP address, with or without port", q.url)
	}
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return usage("%q is not a URL: a port is a number from 1 to 65535", q.url)
		}
		q.port = uint16(n)
	}
	for _, c := range []byte(target) {
		if c <= ' ' || c == 0x7f {
			return usage("%q is not a URL: write a space as %%20", q.url)
		}
	}
	q.probe.Host = authority
	path, query, _ := strings.Cut(target, "?")
	q.probe.Path, q.probe.Query = cmp.Or(path, "/"), query
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		q.addr = addr.Unmap().WithZone("")
	} else if q.tls {
		q.sni = u.Hostname()
	}
	return nil
}

// socket chooses the socket that the request comes in on, nil if there is none,
// and gives what else could have been chosen.
func (q *question) socket(p *plan.Plan) (*plan.Bound, string) {
	var best *plan.Bound
	var same, ports []string
	for _, b := range p.Sockets() {
		if b.UDP {
			continue
		}
		ports = append(ports, strconv.Itoa(int(b.Addr.Port())))
		if b.Addr.Port() != q.port {
			continue
		}
		same = append(same, b.Addr.String())
		if rank := q.rank(b); rank > 0 && (best == nil || rank > q.rank(best)) {
			best = b
		}
	}
	switch {
	case len(ports) == 0:
		return nil, "windrose listens nowhere: there is no Gateway with a listener that serves"
	case best != nil && len(same) > 1:
		return best, "port " + strconv.Itoa(int(q.port)) + " is also served at " + strings.Join(without(same, best.Addr.String()), ", ") + "; an IP address as the URL's host chooses"
	case best == nil && len(same) > 0:
		return nil, fmt.Sprintf("nothing listens at %v: port %d is served at %s", q.addr, q.port, strings.Join(same, ", "))
	case best == nil:
		return nil, fmt.Sprintf("nothing listens on port %d; there are %s", q.port, strings.Join(uniquePorts(ports), ", "))
	}
	return best, ""
}

// rank is 0 for a socket that does not get the request, and higher for one that
// gets it before others, as the kernel chooses: by address before all addresses.
func (q *question) rank(b *plan.Bound) int {
	at := b.Addr.Addr()
	switch {
	case q.addr.IsValid() && at.Unmap() == q.addr:
		return 3
	case at.IsUnspecified() && (at.Is6() || !q.addr.IsValid() || q.addr.Is4()):
		return 2
	case !q.addr.IsValid():
		return 1
	}
	return 0
}

func without(list []string, s string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(x string) bool { return x == s })
}

func uniquePorts(ports []string) []string {
	slices.SortFunc(ports, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) })
	return slices.Compact(ports)
}
