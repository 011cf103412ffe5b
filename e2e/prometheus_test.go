package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// prometheus is a running Prometheus.
type prometheus struct {
	t    *testing.T
	addr string
}

// newPrometheus starts one that scrapes w: the data plane, and control, whose
// page holds both.
func newPrometheus(t *testing.T, w *windrose) *prometheus {
	t.Helper()
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Skip("SKIPPED: there is no prometheus (apt install prometheus)")
	}
	dir := t.TempDir()
	p := &prometheus{t, freeAddr(t)}
	config := filepath.Join(dir, "prometheus.yaml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `global: {scrape_interval: 250ms, scrape_timeout: 250ms}
scrape_configs:
- job_name: dataplane
  static_configs: [{targets: [%q]}]
- job_name: control
  static_configs: [{targets: [%q]}]
`, w.stats, w.admin), 0o644))
	cmd := exec.Command("prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", p.addr)
	var said bytes.Buffer
	cmd.Stderr = &said
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("prometheus said:\n%s", tail(said.String(), 20))
		}
	})
	return p
}

// ask asks the API for a path below /api/v1/.
func (p *prometheus) ask(path string, form url.Values, into any) error {
	_, body, _ := fetch("http://" + p.addr + "/api/v1/" + path + "?" + form.Encode())
	answer := struct {
		Status, Error string
		Data          any
	}{Data: into}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return nil
}

// series is one result of a query.
type series struct {
	Metric map[string]string
	Value  [2]any // time, value
}

func (p *prometheus) query(expr string) ([]series, error) {
	var data struct{ Result []series }
	err := p.ask("query", url.Values{"query": {expr}}, &data)
	return data.Result, err
}

// board is what is looked at of a dashboard.
type board struct {
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		Title   string
		Targets []struct{ Expr, LegendFormat string }
	}
}

// TestPrometheusAndItsDashboard: a real Prometheus takes both pages, has the
// series that the reference lists and the counts of what was asked, and every
// query of the dashboard finds something.
func TestPrometheusAndItsDashboard(t *testing.T) {
	t.Parallel()
	plain, secure := freeAddr(t), freeAddr(t)
	w := up(t, map[string]string{
		"gateway.yaml": gatewayOf("{name: http, protocol: HTTP, port: "+portOf(plain)+"}", httpsListener("https", secure, "", "web")),
		"secret.yaml":  secret(t, "web", ecdsaKey, 1, "a.example"),
		"a.yaml":       all(service("a", backend(t, "a")), service("refuses", freeAddr(t))),
		"r.yaml":       all(route("a", "/a", "a"), route("refuses", "/refuses", "refuses")),
		"work.yaml":    command(t, "work", "work", freePort(t)),
	})
	p := newPrometheus(t, w)
	w.eventually("both are scraped", func() error {
		if up, err := p.query("up == 1"); err != nil || len(up) != 2 {
			var targets any
			_ = p.ask("targets", nil, &targets)
			return fmt.Errorf("%v %w; targets: %v", up, err, targets)
		}
		return nil
	})
	secured := &http.Client{Timeout: 20 * time.Second, Transport: transport(t, secure)}
	const n = 20
	for range n {
		fetch("http://" + plain + "/a")
		fetch("http://" + plain + "/refuses")
		fetch("http://" + plain + "/nowhere")
		must(t, get(secured, "https://a.example/a"))
	}
	if c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", secure, &tls.Config{ServerName: "a.example"}); err == nil {
		c.Close() // the authority is not trusted: it must not
		t.Error("a client without trust is content")
	}
	for expr, want := range map[string]string{
		`windrose_requests_total{route="HTTPRoute/default/a",code="200"}`:                    fmt.Sprint(2 * n),
		`windrose_requests_total{route="HTTPRoute/default/refuses",code="503"}`:              fmt.Sprint(n),
		`windrose_requests_total{route="_none",code="404"}`:                                  fmt.Sprint(n),
		`windrose_service_requests_total{service="default/a:80",code="200"}`:                 fmt.Sprint(2 * n),
		`windrose_request_duration_seconds_count{route="HTTPRoute/default/a"}`:               fmt.Sprint(2 * n),
		`windrose_faults_total{flag="connect-failed",side="upstream"}`:                       fmt.Sprint(n),
		`windrose_faults_total{flag="no-route",side="client"}`:                               fmt.Sprint(n),
		`windrose_tls_handshakes_total{result="client-refused"}`:                             "1",
		`windrose_connections_accepted_total{socket="tcp/` + plain + `"}`:                    fmt.Sprint(3 * n),
		`sum by (job) (windrose_request_duration_seconds_bucket{le="+Inf"}) > 0`:             fmt.Sprint(4 * n),
		`count by (job) (count by (job, le) (windrose_request_duration_seconds_bucket)) > 5`: "",
	} {
		w.eventually(expr, func() error {
			got, err := p.query(expr)
			if err != nil || len(got) != 2 {
				return fmt.Errorf("want it of both jobs, got %v %w", got, err)
			}
			for _, s := range got {
				if want != "" && s.Value[1] != want {
					return fmt.Errorf("%v, want %s", s, want)
				}
			}
			return nil
		})
	}
	p.isDocumented()
	p.dashboard(filepath.Join("..", "deploy", "grafana", "windrose.json"))
	for _, page := range []string{w.stats, w.admin} {
		_, text, _ := fetch("http://" + page + "/metrics")
		cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		// 1 is a page that cannot be parsed, 3 one that it would name otherwise.
		if out, err := cmd.CombinedOutput(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("promtool check metrics of %s: %v\n%s", page, err, out)
		}
	}
}

// isDocumented holds the metrics of both processes against the reference: the
// data plane's page has all but control's own, and control's page all.
func (p *prometheus) isDocumented() {
	p.t.Helper()
	documented := map[string]string{}
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([a-z]+) \\|")
	for _, m := range row.FindAllStringSubmatch(readAll(p.t, filepath.Join("..", "docs", "reference", "metrics.md")), -1) {
		documented[m[1]] = m[2]
	}
	if len(documented) < 40 {
		p.t.Fatalf("the reference lists %d metrics", len(documented))
	}
	for _, job := range []string{"dataplane", "control"} {
		var scraped []struct{ Metric, Type, Help string }
		must(p.t, p.ask("targets/metadata", url.Values{"match_target": {`{job="` + job + `"}`}}, &scraped))
		missing := maps.Clone(documented)
		for _, m := range scraped {
			if documented[m.Metric] != m.Type || m.Help == "" {
				p.t.Errorf("%s of %s is scraped as %s (%s), documented as %q", m.Metric, job, m.Type, m.Help, documented[m.Metric])
			}
			delete(missing, m.Metric)
		}
		for name := range missing {
			if job == "control" || !strings.HasPrefix(name, "windrose_control_") {
				p.t.Errorf("%s is documented and not there, of %s", name, job)
			}
		}
	}
}

// dashboard asks every query of a dashboard.
func (p *prometheus) dashboard(path string) {
	p.t.Helper()
	var b board
	must(p.t, json.Unmarshal([]byte(readAll(p.t, path)), &b))
	values := map[string]string{"$__rate_interval": "10s", "$route": ".+", "$service": ".+"}
	for _, v := range b.Templating.List {
		if v.Type != "query" {
			continue
		}
		// label_values(metric, label)
		metric, label, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(v.Definition, "label_values("), ")"), "}, ")
		if metric += "}"; !ok {
			metric, label, ok = strings.Cut(strings.TrimSuffix(metric, "}"), ", ")
		}
		found, err := p.query(replace(metric, values))
		if err != nil || !ok || len(found) == 0 || found[0].Metric[label] == "" {
			p.t.Fatalf("variable %s: label %q of %q: %v %v", v.Name, label, metric, found, err)
		}
		if _, ok := values["$"+v.Name]; !ok {
			values["$"+v.Name] = found[0].Metric[label]
		}
	}
	legend := regexp.MustCompile(`{{(\w+)}}`)
	queries := 0
	for _, panel := range b.Panels {
		for _, target := range panel.Targets {
			queries++
			expr := replace(target.Expr, values)
			if left := regexp.MustCompile(`\$\w+`).FindString(expr); left != "" {
				p.t.Errorf("%s: there is no variable %s", panel.Title, left)
			}
			var found []series
			eventually(p.t, panel.Title+" shows something: "+expr, func() (err error) {
				if found, err = p.query(expr); err == nil && len(found) == 0 {
					err = errors.New("nothing")
				}
				return err
			})
			for _, label := range legend.FindAllStringSubmatch(target.LegendFormat, -1) {
				for _, s := range found {
					if s.Metric[label[1]] == "" {
						p.t.Errorf("%s: no label %s in %v", panel.Title, label[1], s.Metric)
					}
				}
			}
		}
	}
	if queries < 30 {
		p.t.Errorf("the dashboard has %d queries", queries)
	}
}

// replace puts in the values of variables.
func replace(text string, values map[string]string) string {
	for name, value := range values {
		text = strings.ReplaceAll(text, name, value)
	}
	return text
}
