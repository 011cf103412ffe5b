package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/cli"
)

var (
	block   = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	failing = regexp.MustCompile(`(?m)^.*: error: .*$`)
)

// TestManifestsOfTheGuide holds that what the guide tells people to write is
// what windrose reads. Of the objects that it leaves to the reader, the missing
// is reported and nothing else.
func TestManifestsOfTheGuide(t *testing.T) {
	text, err := os.ReadFile("../../docs/guide/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n := 0
	for i, m := range block.FindAllSubmatch(text, -1) {
		if !bytes.HasPrefix(m[1], []byte("apiVersion:")) {
			continue // a part of a manifest
		}
		n++
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d.yaml", i)), m[1], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if n < 4 {
		t.Fatalf("found only %d manifests", n)
	}
	got := validate(t, dir)
	for _, missing := range []string{"Secret platform/web-tls does not exist", "Service shop/cart-beta does not exist"} {
		all := len(got)
		got = slices.DeleteFunc(got, func(s string) bool { return strings.Contains(s, missing) })
		if len(got) == all {
			t.Errorf("no finding says %q", missing)
		}
	}
	for _, line := range got {
		t.Error(line)
	}
}

// TestManifestsOfTheGuideToTLS: what it leaves to the reader, the certificates and
// a service, is missing and nothing else.
func TestManifestsOfTheGuideToTLS(t *testing.T) {
	text, err := os.ReadFile("../../docs/guide/tls.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i, m := range block.FindAllSubmatch(text, -1) {
		if bytes.HasPrefix(m[1], []byte("apiVersion:")) { // else a part of a manifest
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d.yaml", i)), m[1], 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, line := range validate(t, dir) {
		if !slices.ContainsFunc([]string{"ConfigMap platform/clients-ca does not exist", "Secret platform/api-tls does not exist", "Service platform/ledger does not exist", "NoValidCACertificate"},
			func(missing string) bool { return strings.Contains(line, missing) }) {
			t.Error(line)
		}
	}
}

// TestManifestsOfTheGuideToAuthorisation: with the Gateway and the Service that
// it starts from, what it tells people to write is whole.
func TestManifestsOfTheGuideToAuthorisation(t *testing.T) {
	text, err := os.ReadFile("../../docs/guide/authorisation.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := []string{`apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: windrose}
spec: {controllerName: windrose.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: platform}
spec:
  gatewayClassName: windrose
  allowedListeners: {namespaces: {from: Same}}
  listeners: [{name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}}}]
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: login}, ports: [{port: 80, targetPort: http}]}
`}
	for _, m := range block.FindAllSubmatch(text, -1) {
		files = append(files, string(m[1]))
	}
	if len(files) != 4 {
		t.Fatalf("found %d manifests, want 3", len(files)-1)
	}
	for i, file := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range validate(t, dir) {
		t.Error(line)
	}
}

// TestManifestsOfTheDemo: both variants of the platform fit the teams' files.
// The certificate is made when the demo starts.
func TestManifestsOfTheDemo(t *testing.T) {
	const demo = "../../examples/pingdo/"
	for _, platform := range []string{"platform", "platform-high-ports"} {
		t.Run(platform, func(t *testing.T) {
			for _, line := range validate(t, demo+platform, demo+"routes", demo+"services") {
				if !strings.Contains(line, "Secret platform/pingdo-tls does not exist") {
					t.Error(line)
				}
			}
		})
	}
}

// TestDemoVariantsDifferByPortsAlone: the demo is the same for every user.
func TestDemoVariantsDifferByPortsAlone(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile("../../examples/pingdo/" + name + "/gateway.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	got := read("platform-high-ports")
	for _, edit := range [][2]string{
		{"# The same as ../platform for a user who may not open ports below 1024.\n", ""},
		{"            port: 8443\n", ""},
		{"port: 8443", "port: 443"},
		{"port: 8080", "port: 80"},
	} {
		got = strings.Replace(got, edit[0], edit[1], 1)
	}
	if want := read("platform"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// validate gives the errors that windrose validate finds.
func validate(t *testing.T, paths ...string) []string {
	t.Helper()
	var out bytes.Buffer
	code := cli.Main(t.Context(), append([]string{"validate"}, paths...), &out, &out)
	found := failing.FindAllString(out.String(), -1)
	if want := map[bool]int{true: 3, false: 0}[len(found) > 0]; code != want {
		t.Fatalf("exit code %d, want %d: %s", code, want, out.String())
	}
	return found
}
