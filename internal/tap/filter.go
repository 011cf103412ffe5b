package tap

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"windrose.dev/windrose/internal/record"
)

// AnyFault is the value of Filter.Fault that takes every fault.
const AnyFault = "any"

// Filter says which requests are wanted: those that all its fields take. A
// field with its zero value takes everything.
type Filter struct {
	// Route, Listener and Service are names as metrics and the access log show
	// them, or parts of them between slashes: shop, default/shop.
	Route    string        `json:"route,omitempty"`
	Listener string        `json:"listener,omitempty"`
	Service  string        `json:"service,omitempty"` // without port: any port of it
	Code     string        `json:"code,omitempty"`    // 404 or 5xx
	Path     string        `json:"path,omitempty"`    // that the path begins with
	Host     string        `json:"host,omitempty"`    // name, or *.name
	Method   string        `json:"method,omitempty"`
	Fault    string        `json:"fault,omitempty"`  // a flag, or AnyFault
	Client   string        `json:"client,omitempty"` // an address or a prefix
	Slow     time.Duration `json:"slow,omitempty"`   // that lasted at least so long
	// Query has events show the query of the path.
	Query bool `json:"query,omitempty"`
}

// maxFilter bounds each value of a filter.
const maxFilter = 1024

// Matcher is a compiled Filter. It may be used from several goroutines.
type Matcher struct {
	route, listener, service string
	anyPort                  bool
	low, high                int // of the status; high 0 takes all
	path                     string
	host, under              string // under: that the host ends with
	method                   string
	flag                     record.Flag
	faults                   bool // any fault
	clients                  netip.Prefix
	slow                     time.Duration
	query                    bool
}

// Compile checks the values. An error says which is wrong, and what is right.
func (f Filter) Compile() (*Matcher, error) {
	for _, v := range [...]string{f.Route, f.Listener, f.Service, f.Code, f.Path, f.Host, f.Method, f.Fault, f.Client} {
		if len(v) > maxFilter {
			return nil, fmt.Errorf("a value of %d bytes is over the limit of %d", len(v), maxFilter)
		}
	}
	m := &Matcher{
		route: f.Route, listener: f.Listener, service: f.Service, anyPort: !strings.Contains(f.Service, ":"),
		path: f.Path, method: strings.ToUpper(f.Method), slow: f.Slow, query: f.Query,
	}
	if f.Slow < 0 {
		return nil, fmt.Errorf("slow %v is negative: give the shortest time that is slow, such as 200ms", f.Slow)
	}
	if name, ok := strings.CutPrefix(f.Host, "*."); ok {
		m.under = "." + strings.ToLower(name)
	} else {
		m.host = strings.ToLower(f.Host)
	}
	if err := m.code(f.Code); err != nil {
		return nil, err
	}
	if err := m.fault(f.Fault); err != nil {
		return nil, err
	}
	return m, m.client(f.Client)
}

func (m *Matcher) code(code string) error {
	if code == "" {
		return nil
	}
	if len(code) == 3 && strings.EqualFold(code[1:], "xx") && code[0] >= '1' && code[0] <= '5' {
		m.low = int(code[0]-'0') * 100
		m.high = m.low + 99
		return nil
	}
	n, err := strconv.Atoi(code)
	if err != nil || n < 100 || n > 599 {
		return fmt.Errorf("code %q is not a status: write 404, or 5xx for a whole class", code)
	}
	m.low, m.high = n, n
	return nil
}

func (m *Matcher) fault(name string) error {
	switch name {
	case "":
		return nil
	case AnyFault:
		m.faults = true
		return nil
	}
	var known []string
	for _, flag := range record.Flags() {
		if flag.String() == name {
			m.flag = flag
			return nil
		}
		known = append(known, flag.String())
	}
	return fmt.Errorf("fault %q is not known: %s, or one of %s", name, AnyFault, strings.Join(known, ", "))
}

func (m *Matcher) client(text string) error {
	if text == "" {
		return nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		m.clients = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return fmt.Errorf("client %q is neither an address nor a prefix: write 192.0.2.7 or 192.0.2.0/24", text)
	}
	m.clients = p.Masked()
	return nil
}

// Takes says whether the record is wanted. It allocates nothing.
func (m *Matcher) Takes(r *record.Record) bool {
	switch {
	case m.high != 0 && (r.Status < m.low || r.Status > m.high),
		m.slow != 0 && r.Duration < m.slow,
		m.faults && r.Fault == 0,
		m.flag != 0 && r.Fault != m.flag,
		m.method != "" && string(r.Method) != m.method,
		m.path != "" && !bytes.HasPrefix(pathOf(r), []byte(m.path)),
		m.clients.IsValid() && !m.clients.Contains(r.Client.Addr().Unmap()):
		return false
	}
	return (m.route == "" || within(r.Route, m.route)) &&
		(m.listener == "" || within(r.Listener, m.listener)) &&
		(m.service == "" || m.takesService(r.Service)) &&
		m.takesHost(r.Host)
}

func (m *Matcher) takesService(name string) bool {
	if i := strings.LastIndexByte(name, ':'); m.anyPort && i >= 0 {
		name = name[:i]
	}
	return within(name, m.service)
}

func (m *Matcher) takesHost(host []byte) bool {
	if m.host == "" && m.under == "" {
		return true
	}
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && !bytes.HasSuffix(host, []byte("]")) {
		host = host[:i]
	}
	if m.under != "" {
		at := len(host) - len(m.under)
		return at > 0 && equalFold(host[at:], m.under)
	}
	return equalFold(host, m.host)
}

// equalFold compares with a text in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// within says whether part is a run of whole segments of name.
func within(name, part string) bool {
	for from := 0; ; {
		i := strings.Index(name[from:], part)
		if i < 0 {
			return false
		}
		start, end := from+i, from+i+len(part)
		if (start == 0 || name[start-1] == '/') && (end == len(name) || name[end] == '/') {
			return true
		}
		from = start + 1
	}
}

// pathOf is the path of a record without its query.
func pathOf(r *record.Record) []byte {
	if i := bytes.IndexByte(r.Path, '?'); i >= 0 {
		return r.Path[:i]
	}
	return r.Path
}
