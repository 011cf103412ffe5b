package windrose_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

var (
	link = regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	// goal is a call of make in a code block or in code marks.
	goal = regexp.MustCompile("(?m)(?:^|`|^\\| `)make ([a-z0-9-]+)")
)

// documents gives every Markdown file of the tree.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path != "." && strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".md"):
			return nil
		}
		text, err := os.ReadFile(path)
		docs[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) < 5 {
		t.Fatalf("found only %d documents", len(docs))
	}
	return docs
}

func TestLinksOfDocumentsLead(t *testing.T) {
	for path, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: nothing is at %s", path, m[1])
			}
		}
	}
}

func TestTargetsInDocumentsExist(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for path, text := range documents(t) {
		for _, m := range goal.FindAllStringSubmatch(text, -1) {
			found++
			if !strings.Contains(string(makefile), "\n"+m[1]+":") {
				t.Errorf("%s: there is no make %s", path, m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no document names a target: the search is wrong")
	}
}

// What writes a line of the access log names each field once, as a key of JSON.
func TestEachFieldOfTheAccessLogIsExplained(t *testing.T) {
	code, err := os.ReadFile("internal/telemetry/line.go")
	if err != nil {
		t.Fatal(err)
	}
	const path = "docs/reference/access-log.md"
	text := documents(t)[path]
	keys := regexp.MustCompile(`[{,]"([a-z_]+)":`).FindAllSubmatch(code, -1)
	if len(keys) < 20 {
		t.Fatalf("found only %d fields", len(keys))
	}
	for _, m := range keys {
		if !strings.Contains(text, "`"+string(m[1])+"`") {
			t.Errorf("%s does not say what %s is", path, m[1])
		}
	}
}

// TestEachDependencyIsExplained holds docs/dependencies.md against the direct
// requirements of go.mod, both ways.
func TestEachDependencyIsExplained(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	module := regexp.MustCompile("`([a-z0-9.-]+\\.[a-z]+/[^` ]+)`")
	told := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, m := range module.FindAllStringSubmatch(cells[1], -1) {
				told[m[1]] = true
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1) {
		if !told[m[1]] {
			t.Errorf("go.mod requires %s, and docs/dependencies.md does not say why", m[1])
		}
		delete(told, m[1])
	}
	for path := range told {
		t.Errorf("docs/dependencies.md explains %s, which go.mod does not require", path)
	}
}

// TestDefaultsAreThoseOfThePlan holds the defaults that the reference of
// GatewayParameters tells against those that the data plane fills in.
func TestDefaultsAreThoseOfThePlan(t *testing.T) {
	text, err := os.ReadFile("docs/reference/gatewayparameters.md")
	if err != nil {
		t.Fatal(err)
	}
	settings := reflect.ValueOf(plan.DefaultSettings())
	checked := 0
	for field, name := range map[string]string{
		"limits.headerBytes": "MaxHeaderBytes", "limits.uriBytes": "MaxURIBytes", "limits.headers": "MaxHeaders",
		"limits.connections": "MaxConnections", "limits.bufferedBytes": "MaxBufferedBytes", "limits.inFlight": "MaxInFlight",
		"limits.upstreamIdle": "MaxUpstreamIdle", "timeouts.header": "HeaderTimeout", "timeouts.idle": "IdleTimeout",
		"timeouts.body": "BodyTimeout", "timeouts.tunnel": "TunnelTimeout", "timeouts.flow": "FlowTimeout", "timeouts.auth": "AuthTimeout", "timeouts.handshake": "HandshakeTimeout",
		"timeouts.drain": "DrainTimeout", "timeouts.connect": "ConnectTimeout", "timeouts.upstreamIdle": "UpstreamIdle",
	} {
		told := regexp.MustCompile("\\| `" + regexp.QuoteMeta(field) + "` \\|.*Default ([0-9a-z]+)\\.").FindStringSubmatch(string(text))
		if told == nil {
			t.Errorf("the reference tells no default of %s", field)
			continue
		}
		want := settings.FieldByName(name).Int()
		got, err := strconv.ParseInt(told[1], 10, 64)
		if err != nil {
			d, err := time.ParseDuration(told[1])
			if err != nil {
				t.Errorf("%s: %v", field, err)
			}
			got = int64(d)
		}
		if got != want {
			t.Errorf("the reference tells %s as the default of %s, the plan has %v", told[1], field, settings.FieldByName(name))
		}
		checked++
	}
	if fields := strings.Count(string(text), "| `timeouts.") + strings.Count(string(text), "| `limits."); checked != fields {
		t.Errorf("%d defaults were checked, the reference has %d limits and timeouts", checked, fields)
	}
}
