package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// blocks gives the fenced blocks of a document in one of some languages.
func blocks(t *testing.T, path string, languages ...string) []string {
	t.Helper()
	var found []string
	for _, m := range fence.FindAllStringSubmatch(readAll(t, path), -1) {
		if slices.Contains(languages, m[1]) {
			found = append(found, m[2])
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s has no blocks in %v", path, languages)
	}
	return found
}

// commands gives what a reader is to type: lines, or a whole block where one
// writes a file.
func commands(t *testing.T, path string) []string {
	t.Helper()
	var lines []string
	for _, block := range blocks(t, path, "sh", "console", "bash") {
		if strings.Contains(block, "<<") {
			lines = append(lines, block)
			continue
		}
		for line := range strings.Lines(block) {
			if line = strings.TrimSpace(strings.TrimPrefix(line, "$ ")); line != "" {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// shell types a line in a folder, with windrose in the path.
func shell(t *testing.T, dir, line string) result {
	t.Helper()
	const script = `cd "$1" && PATH="$2:$PATH" && eval "$3"`
	return run(t, "sh", "-c", script, "sh", dir, filepath.Dir(binary), strings.Replace(line, "curl ", "curl -sS --max-time 20 ", 1))
}

// TestCommandsOfTheREADME types every line of the README, on the ports that it
// names. What make up does is done as it does it; make up and make test
// themselves are not run inside of make test.
func TestCommandsOfTheREADME(t *testing.T) {
	t.Parallel()
	ownNetwork(t)
	dir := copyDemo(t)
	w := demoWindrose(t, dir, "platform")
	w.start()
	w.readyInside()
	elsewhere := []string{"git clone <this repository> windrose", "cd windrose", "make up", "make test"}
	curls := 0
	for _, line := range commands(t, "../README.md") {
		if slices.Contains(elsewhere, line) {
			continue
		}
		if !strings.HasPrefix(line, "curl ") {
			t.Errorf("nothing tests this line of the README: %s", line)
			continue
		}
		curls++
		w.eventually(line, func() error {
			if r := shell(t, dir, line); r.code != 0 || !strings.Contains(r.out, `"backend": "ap`) {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	if curls < 2 {
		t.Errorf("the README has %d lines with curl", curls)
	}
}

// TestCommandsOfTheGuide builds the folder that the guide describes, runs
// windrose on it with the addresses that it names, and types what it says.
func TestCommandsOfTheGuide(t *testing.T) {
	t.Parallel()
	ownNetwork(t)
	const guide = "../docs/guide/gateway.md"
	dir := t.TempDir()
	config := filepath.Join(dir, "windrose.d")
	must(t, os.Mkdir(config, 0o755))
	for i, block := range blocks(t, guide, "yaml") {
		if strings.HasPrefix(block, "apiVersion:") { // else a part of a manifest
			must(t, os.WriteFile(filepath.Join(config, fmt.Sprintf("%02d.yaml", i)), []byte(block), 0o644))
		}
	}
	// What the guide leaves to the reader: the service itself, a certificate, and
	// what is to be compared.
	must(t, os.Symlink(demoBackend(t), filepath.Join(config, "cart")))
	pair := secret(t, "web-tls", ecdsaKey, 1, "*.example.com")
	for name, field := range map[string]string{"web.crt": "tls.crt: ", "web.key": "tls.key: "} {
		text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(strings.SplitN(grep(pair, field), field, 2)[1]))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	must(t, os.CopyFS(filepath.Join(dir, "next"), os.DirFS(config)))
	typed := append(commands(t, guide), inline(t, guide)...)
	typed = slices.DeleteFunc(typed, func(line string) bool {
		writes := strings.Contains(line, "<<")
		if writes {
			if r := shell(t, dir, line); r.code != 0 {
				t.Errorf("%s: %+v", line, r)
			}
		}
		return writes
	})

	w := newWindrose(t, nil)
	w.config, w.state, w.dir = config, filepath.Join(dir, "state"), dir
	w.admin, w.health, w.stats = "127.0.0.1:15000", "127.0.0.1:15021", "127.0.0.1:15020"
	w.start()
	w.readyInside()

	ca := caFile(t)
	w.eventually("the guide's service answers", func() error {
		r := curl(t, "-i", "--resolve", "shop.example.com:443:127.0.0.1", "--cacert", ca, "https://shop.example.com/cart")
		if !r.answered(200) {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	// The header leads to a Service that the guide does not write.
	r := curl(t, "-i", "-H", "X-Beta: yes", "--resolve", "shop.example.com:443:127.0.0.1", "--cacert", ca, "https://shop.example.com/cart")
	if !strings.Contains(r.out, "x-windrose-fault: backend-missing") || !strings.Contains(r.out, "shop/cart-beta") {
		t.Errorf("with X-Beta: %+v", r)
	}
	for _, line := range typed {
		if _, err := exec.LookPath("kubectl"); err != nil && strings.HasPrefix(line, "kubectl ") {
			t.Log("SKIPPED, there is no kubectl: ", line)
			continue
		}
		want := []int{0}
		switch {
		case strings.HasPrefix(line, "windrose validate"):
			want = []int{3} // cart-beta is missing
		case strings.HasPrefix(line, "windrose diff"):
			want = []int{0, 3}
		}
		if r := shell(t, dir, line); !slices.Contains(want, r.code) {
			t.Errorf("%s: exit code %d, want %v: %s%s", line, r.code, want, r.out, r.err)
		}
	}
	for _, page := range []string{"http://127.0.0.1:15020/metrics", "http://127.0.0.1:15000/metrics", "http://127.0.0.1:15021/healthz/ready"} {
		if !strings.Contains(readAll(t, guide), strings.TrimPrefix(page, "http://")) {
			t.Errorf("the guide does not name %s", page)
		}
		if r := curl(t, "-f", page); r.code != 0 {
			t.Errorf("%s: %+v", page, r)
		}
	}
}

var inlineCommand = regexp.MustCompile("`(windrose (?:get|describe) [^`]+)`")

// inline gives the commands inside sentences, with names for their placeholders.
func inline(t *testing.T, path string) []string {
	t.Helper()
	var lines []string
	for _, m := range inlineCommand.FindAllStringSubmatch(readAll(t, path), -1) {
		line := strings.NewReplacer("NAME", "cart", "NS", "shop").Replace(m[1])
		if line == "windrose describe gateway" {
			line += " web -n platform" // a row of a table, cut short
		}
		lines = append(lines, line)
	}
	if len(lines) < 5 {
		t.Fatalf("only %d commands in the sentences of %s", len(lines), path)
	}
	return lines
}

// TestCommandsOfTheTLSGuide makes the certificates as the guide says, runs
// windrose on its folder, and types its requests.
func TestCommandsOfTheTLSGuide(t *testing.T) {
	t.Parallel()
	ownNetwork(t)
	const guide = "../docs/guide/tls.md"
	dir := t.TempDir()
	config := filepath.Join(dir, "windrose.d")
	var asks []string
	for _, line := range commands(t, guide) {
		if strings.HasPrefix(line, "curl ") || strings.HasPrefix(line, "windrose ") {
			asks = append(asks, line)
			continue
		}
		if r := shell(t, dir, line); r.code != 0 {
			t.Fatalf("%s: %+v", line, r)
		}
	}
	must(t, os.WriteFile(filepath.Join(config, "gateway.yaml"), []byte(blocks(t, guide, "yaml")[0]), 0o644))
	must(t, os.Symlink(demoBackend(t), filepath.Join(config, "api")))
	w := newWindrose(t, nil)
	w.config, w.state, w.dir = config, filepath.Join(dir, "state"), dir
	w.admin, w.health, w.stats = "127.0.0.1:15000", "127.0.0.1:15021", "127.0.0.1:15020"
	w.start()
	w.readyInside()
	if len(asks) != 3 {
		t.Fatalf("the guide asks %d times: %q", len(asks), asks)
	}
	for _, line := range asks {
		w.eventually(line, func() error {
			if r := shell(t, dir, line); r.code != 0 {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	without := strings.Replace(asks[0], "--cert robot.crt --key robot.key ", "", 1)
	if r := shell(t, dir, without); r.code == 0 || without == asks[0] {
		t.Errorf("%s: %+v, want that the handshake fails", without, r)
	}
	w.eventually("the access log names the client as the guide does", func() error {
		for _, line := range w.accessLog() {
			if strings.Contains(line, `"identity":"spiffe://example.com/robot"`) {
				return nil
			}
		}
		return fmt.Errorf("no line does")
	})
}
