package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// folder is manifests on disk, without a windrose.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

func TestValidateOffline(t *testing.T) {
	t.Parallel()
	good := map[string]string{"gateway.yaml": gateway(8080), "a.yaml": service("cart", "127.0.0.1:9"), "r.yaml": route("shop", "/", "cart")}
	if r := run(t, binary, "validate", folder(t, good)); r.code != 0 {
		t.Errorf("a good folder: %+v", r)
	}
	for _, tt := range []struct {
		name, file, text string
		want             []string
	}{
		{"nearest name", "r.yaml", route("shop", "/", "crat"), []string{"r.yaml:7:", "[BackendNotFound]", "Service default/crat does not exist", `did you mean "cart"?`, "^\n"}},
		{"unknown field", "r.yaml", strings.Replace(route("shop", "/", "cart"), "rules:", "rulez:", 1), []string{"r.yaml:6:3: error: HTTPRoute default/shop:", "[UnknownField]", `did you mean "rules"?`}},
		{"unknown kind", "r.yaml", strings.Replace(route("shop", "/", "cart"), "HTTPRoute", "HTTPRuote", 1), []string{"r.yaml:2:7: error:", "HTTPRoute"}},
		{"a rule of CEL", "r.yaml", routeOf("shop", "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}, {type: URLRewrite, urlRewrite: {hostname: x}}]}"), []string{"r.yaml:7:", "error: HTTPRoute default/shop: spec.rules[0]"}},
		{"no YAML", "r.yaml", "a: [\n", []string{"r.yaml:", "error: is not YAML"}},
		{"twice", "r2.yaml", route("shop", "/x", "cart"), []string{"r2.yaml:1:1: error: HTTPRoute default/shop: is written twice", "[DuplicateObject]"}},
		{"a key twice", "r.yaml", route("shop", "/", "cart") + "spec: {}\n", []string{"r.yaml:", "spec"}},
		{"a Secret's key stays secret", "s.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\ndata: {tls.crt: topsecret, tls.key: topsecret!}\n", []string{"s.yaml:", "base64"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := maps.Clone(good)
			files[tt.file] = tt.text
			dir := folder(t, files)
			r := run(t, binary, "validate", dir)
			if r.code != 3 {
				t.Errorf("exit code %d, want 3", r.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(r.out, want) {
					t.Errorf("no %q in %s%s", want, r.out, r.err)
				}
			}
			if strings.Contains(r.out+r.err, "topsecret") {
				t.Errorf("a secret is shown: %s%s", r.out, r.err)
			}
			var report struct {
				Items []struct{ Reason, Message string }
			}
			j := run(t, binary, "validate", "-o", "json", dir)
			if err := json.Unmarshal([]byte(j.out), &report); err != nil || len(report.Items) == 0 {
				t.Errorf("as JSON: %v %+v", err, j)
			}
		})
	}
	if r := run(t, binary, "validate", filepath.Join(t.TempDir(), "nothing")); r.code == 0 {
		t.Errorf("a folder that does not exist: %+v", r)
	}
}

func TestDiffTellsWhatWouldChange(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	now := map[string]string{"gateway.yaml": gateway(port), "a.yaml": all(service("v1", backend(t, "v1")), service("v2", backend(t, "v2"))), "r.yaml": route("shop", "/cart", "v1")}
	w := up(t, now)
	if r := w.cli("diff", w.config); r.code != 0 {
		t.Errorf("of the same: %+v", r)
	}
	next := folder(t, now)
	must(t, os.WriteFile(filepath.Join(next, "r.yaml"), []byte(route("shop", "/cart", "v2")), 0o644))
	must(t, os.WriteFile(filepath.Join(next, "new.yaml"), []byte(route("new", "/new", "v1")), 0o644))
	for name, r := range map[string]result{
		"against the running one": w.cli("diff", next),
		"against a folder":        run(t, binary, "--admin", "127.0.0.1:1", "diff", "--against", w.config, next),
	} {
		if r.code != 3 || !strings.Contains(r.out, "/cart") || !strings.Contains(r.out, "default/v1:80") || !strings.Contains(r.out, "default/v2:80") || !strings.Contains(r.out, "/new") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// Who comes later does not win, whatever its name.
	later := folder(t, now)
	must(t, os.WriteFile(filepath.Join(later, "early.yaml"), []byte(route("early", "/cart", "v2")), 0o644))
	for name, r := range map[string]result{
		"against the running one": w.cli("diff", later),
		"against a folder":        run(t, binary, "--admin", "127.0.0.1:1", "diff", "--against", w.config, later),
	} {
		if r.code != 0 || strings.Contains(r.out, "/cart") {
			t.Errorf("a route that claims what an older one has, %s: %+v", name, r)
		}
	}
	// Telling changes nothing.
	if code, body, _ := fetch(fmt.Sprintf("http://127.0.0.1:%d/cart", port)); code != 200 || body != "v1 /cart" {
		t.Errorf("after diff: %d %s", code, body)
	}
}

// TestEveryKindIsShown in every form.
func TestEveryKindIsShown(t *testing.T) {
	t.Parallel()
	w := up(t, map[string]string{
		"gateway.yaml": withParameters(gateway(freePort(t)), "{limits: {headers: 100}}"),
		"a.yaml":       service("a", backend(t, "a")), "r.yaml": route("shop", "/", "a"), "s.yaml": secret(t, "web-tls", ecdsaKey, 1, "shop.example"),
		"more.yaml": all("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n",
			"apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: windrose}\nspec: {controller: windrose.dev/ingress-controller}\n",
			"apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: grant}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: x}], to: [{group: \"\", kind: Service}]}\n"),
	})
	one := map[string]string{
		"gatewayclasses": "windrose", "gateways": "web", "httproutes": "shop", "services": "a", "workloads": "a-0", "secrets": "web-tls",
		"configmaps": "settings", "ingressclasses": "windrose", "referencegrants": "grant", "gatewayparameters": "web", "namespaces": "default",
	}
	for _, kind := range kinds {
		for _, form := range []string{"table", "wide", "json", "yaml", "name"} {
			r := w.cli("get", kind, "-A", "-o", form)
			if r.code != 0 {
				t.Errorf("get %s -o %s: %+v", kind, form, r)
			}
			name, ok := one[kind]
			if !ok {
				continue
			}
			if !strings.Contains(r.out, name) {
				t.Errorf("get %s -o %s does not show %s: %s", kind, form, name, r.out)
			}
			if r := w.cli("get", kind, name, "-o", form); r.code != 0 || !strings.Contains(r.out, name) {
				t.Errorf("get %s %s -o %s: %+v", kind, name, form, r)
			}
		}
		if name, ok := one[kind]; ok {
			for _, args := range [][]string{{"describe", kind, name}, {"describe", kind + "/" + name}} {
				if r := w.cli(args...); r.code != 0 || !strings.Contains(r.out, "Place:") && kind != "namespaces" {
					t.Errorf("%q: %+v", args, r)
				}
			}
			if r := w.cli("describe", kind, "nosuch"); r.code != 5 {
				t.Errorf("describe %s nosuch: %+v", kind, r)
			}
		}
	}
	// Private keys are for the data plane alone.
	key := grep(w.read("s.yaml"), "tls.key")
	key = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(key), "tls.key:"))
	for _, args := range [][]string{{"get", "secrets", "-o", "yaml"}, {"get", "secrets", "-o", "json"}, {"describe", "secret", "web-tls"}} {
		if r := w.cli(args...); strings.Contains(r.out, key) {
			t.Errorf("%q shows the private key", args)
		}
	}
}

func TestExitCodesAndHelp(t *testing.T) {
	t.Parallel()
	w := up(t, map[string]string{"gateway.yaml": gateway(freePort(t))})
	nobody := []string{"--admin", freeAddr(t)}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"get", "gatwy"}, 2, "did you mean gateway?"},
		{[]string{"get", "zzz"}, 2, "httproutes"},
		{[]string{"get", "httproutes", "nosuch"}, 5, `there is no HTTPRoute "nosuch"`},
		{[]string{"describe", "httproute", "nosuch"}, 5, "nosuch"},
		{[]string{"get", "gateways", "-o", "xml"}, 2, "table, wide, json, yaml"},
		{[]string{"gte", "gateways"}, 2, "get"},
		{[]string{"get"}, 2, ""},
		{[]string{"get", "gateways", "--nosuch"}, 2, "nosuch"},
		{append(nobody, "get", "routes"), 6, "no windrose answers"},
		{append(nobody, "describe", "gateway", "web"), 6, "no windrose answers"},
		{[]string{"completion", "bash"}, 0, "complete"},
		{[]string{"completion", "zsh"}, 0, "compdef"},
		{[]string{"--help"}, 0, "windrose"},
		{[]string{"get", "gw"}, 0, "web"},
	} {
		r := w.cli(tt.args...)
		if r.code != tt.code || !strings.Contains(r.out+r.err, tt.want) {
			t.Errorf("%q: got %+v, want code %d and %q", tt.args, r, tt.code, tt.want)
		}
		if tt.code != 0 && r.out != "" {
			t.Errorf("%q: an error is on standard output: %q", tt.args, r.out)
		}
	}
	var version struct {
		Client, Running struct{ Version, Go string }
	}
	r := w.cli("version", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &version); err != nil || version.Client.Version == "" || version.Running != version.Client {
		t.Errorf("version: %v %+v", err, r)
	}
	// The data plane's command is none of a user's business, and bash may ask for
	// what to complete.
	if r := w.cli("--help"); strings.Contains(r.out, "dataplane") {
		t.Errorf("help names the hidden command: %s", r.out)
	}
	if r := w.cli("__complete", "get", ""); !strings.Contains(r.out, "httproutes") {
		t.Errorf("completion of kinds: %+v", r)
	}
}

// TestWatchStreams: get -w goes on and tells changes.
func TestWatchStreams(t *testing.T) {
	t.Parallel()
	w := up(t, map[string]string{"gateway.yaml": gateway(freePort(t)), "a.yaml": service("a", backend(t, "a")), "r.yaml": route("first", "/", "a")})
	for _, form := range []string{"table", "json"} {
		cmd := exec.CommandContext(t.Context(), binary, "--admin", w.admin, "get", "httproutes", "-w", "-o", form)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := make(chan string, 1000)
		go func() {
			defer close(lines)
			for s := bufio.NewScanner(out); s.Scan(); {
				lines <- s.Text()
			}
		}()
		until := func(want string) {
			t.Helper()
			for line := range lines {
				if strings.Contains(line, want) {
					return
				}
			}
			t.Fatalf("-o %s: the stream ended before %q", form, want)
		}
		until("first")
		w.write("second.yaml", route("second", "/2", "a"))
		until("second")
		w.remove("second.yaml")
		w.eventually("it is gone", func() error {
			if r := w.cli("get", "httproutes", "second"); r.code != 5 {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		must(t, cmd.Process.Signal(os.Interrupt))
		for range lines {
			continue
		}
		_ = cmd.Wait()
	}
}
