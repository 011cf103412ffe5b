package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"embed"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"
)

//go:embed peers
var peers embed.FS

// Where everything listens, on 127.0.0.1.
const (
	upstreamPort = 21000
	sinkPort     = 21001 // where relayed bytes end; open only while they flow
	grpcPort     = 21002 // the service as a gRPC service
	targetHost   = "h7.bench.example"
	grpcHost     = "grpc.bench.example"
	h2Path       = "/h2/items" // goes to the service over HTTP/2
	wsPath       = "/ws/echo"
)

// contender is a proxy under test.
type contender struct {
	name       string
	plain, tls int // ports
	h2c        int // takes HTTP/2 in cleartext
	relays     []relayPort
	path       string
	extra      bool // windrose with another number of routes: for ByRoutes alone
	version    func(context.Context) string
	// start runs it and returns once it answers.
	start func(context.Context) (*running, error)
}

// running is a contender that answers.
type running struct {
	contender
	process *process
	proxy   []int // the processes that carry traffic
	control []int // the others
}

func all(m *machine, o options) []contender {
	peer := func(name string, port int, argv, version []string) contender {
		c := contender{
			name: name, plain: port, tls: port + 1, h2c: port + 5, path: "/s0/items",
			relays:  relayPorts(name, port),
			version: func(ctx context.Context) string { return versionOf(ctx, version) },
		}
		c.start = func(ctx context.Context) (*running, error) {
			if err := m.configure(c); err != nil {
				return nil, err
			}
			p, err := m.start(ctx, name, m.proxyCPU, true, argv...)
			if err != nil {
				return nil, err
			}
			r := &running{contender: c, process: p}
			if err := r.wait(ctx, 20*time.Second); err != nil {
				p.stop()
				return nil, err
			}
			r.proxy = p.pids()
			return r, nil
		}
		return c
	}
	return []contender{
		windrose(m, o.binary, "windrose", o.routes, 21010),
		windrose(m, o.binary, oneRoute, 1, 21060),
		windrose(m, o.binary, "windrose-1000", 1000, 21070),
		peer("nginx", 21020, []string{"/usr/sbin/nginx", "-c", filepath.Join(m.dir, "nginx.conf"), "-p", m.dir}, []string{"/usr/sbin/nginx", "-v"}),
		peer("haproxy", 21030, []string{"/usr/sbin/haproxy", "-f", filepath.Join(m.dir, "haproxy.cfg")}, []string{"/usr/sbin/haproxy", "-v"}),
		peer("envoy", 21040, []string{m.envoy, "-c", filepath.Join(m.dir, "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "-l", "error"}, []string{m.envoy, "--version"}),
	}
}

// nginxStream is where Debian puts nginx's module for TCP.
const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"

// relayPorts is where a peer takes bytes for the sink, and how the tables call
// each way.
func relayPorts(name string, port int) []relayPort {
	ports := []relayPort{{name, port + 6}}
	switch name {
	case "nginx":
		if _, err := os.Stat(nginxStream); err != nil {
			return nil
		}
	case "haproxy":
		// Its heuristics leave a single stream to copying, so both options.
		ports = append(ports, relayPort{"haproxy, splice-auto", port + 7}, relayPort{"haproxy, splice-request", port + 8})
	}
	return ports
}

// oneRoute is the name of windrose with one route.
const oneRoute = "windrose-1"

func pick(all []contender, only string) []contender {
	if only == "" {
		return all
	}
	var some []contender
	for _, c := range all {
		if strings.Contains(","+only+",", ","+strings.TrimRight(c.name, "-01")+",") {
			some = append(some, c)
		}
	}
	return some
}

// configure fills in the peer's configuration.
func (m *machine) configure(c contender) error {
	t, err := template.ParseFS(peers, "peers/"+c.name+".*")
	if err != nil {
		return err
	}
	var out bytes.Buffer
	data := map[string]any{
		"Dir": m.dir, "Upstream": upstreamPort, "GRPC": grpcPort, "GRPCHost": grpcHost, "Plain": c.plain, "TLS": c.tls, "Admin": c.plain + 2,
		"H2C": c.h2c, "Relay": c.plain + 6, "SpliceAuto": c.plain + 7, "SpliceAlways": c.plain + 8, "Sink": sinkPort, "StreamModule": "",
		"Host": targetHost, "Prefix": "/s0", "EnvoyListeners": map[string]int{"plain": c.plain, "tls": c.tls, "h2c": c.h2c},
	}
	if len(c.relays) > 0 {
		data["StreamModule"] = nginxStream
	}
	if err := t.Execute(&out, data); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.dir, t.Name()), out.Bytes(), 0o600)
}

// versionOf is the first version-like word that a program prints.
func versionOf(ctx context.Context, argv []string) string {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return "unknown"
	}
	for _, w := range strings.FieldsFunc(string(out), func(r rune) bool { return strings.ContainsRune(" \n\t/,:", r) }) {
		if strings.Count(w, ".") >= 2 && w[0] >= '0' && w[0] <= '9' {
			return w
		}
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// wait returns when both ports answer the target with 200.
func (r *running) wait(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, scheme := range []string{"http", "https"} {
		for {
			err := r.ask(ctx, scheme)
			if err == nil {
				break
			}
			select {
			case <-r.process.done:
				return fmt.Errorf("%s ended; see %s", r.name, r.process.log.Name())
			default:
			}
			if pause(ctx, 50*time.Millisecond) != nil {
				return fmt.Errorf("%s does not answer over %s: %w; see %s", r.name, scheme, err, r.process.log.Name())
			}
		}
	}
	return nil
}

func (r *running) port(scheme string) int {
	if scheme == "https" {
		return r.tls
	}
	return r.plain
}

func (r *running) ask(ctx context.Context, scheme string) error {
	client := http.Client{
		Timeout: 2 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			// The certificate was made for this run.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port(scheme))))
			},
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+targetHost+r.path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

func (r *running) memory(pids []int) int {
	sum := 0
	for _, pid := range pids {
		sum += rss(pid)
	}
	return sum
}
