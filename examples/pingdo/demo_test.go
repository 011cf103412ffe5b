// Package pingdo_test runs the demo as the README tells a newcomer to.
package pingdo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const root = "../.."

// TestTheDemoOfTheREADME runs what make up runs, then the curl lines that it
// prints, which are those of the README, and ends it as Ctrl-C does.
func TestTheDemoOfTheREADME(t *testing.T) {
	if os.Getenv("WINDROSE_BIN") == "" {
		t.Skip("SKIPPED: needs bin/windrose, which make test builds")
	}
	for _, port := range []string{"443", "8443", "15000"} {
		if conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second); err == nil {
			conn.Close()
			t.Skipf("SKIPPED: port %s is taken; the demo seems to run already", port)
		}
	}
	up := start(t)
	lines := up.waitFor(t, regexp.MustCompile(`(?m)^ +(curl .*/(?:api|app))$`), 2)
	readme, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"api-1", "app-1"} {
		if os.Getuid() == 0 && !bytes.Contains(readme, []byte("\n"+lines[i]+"\n")) {
			t.Errorf("the README does not have the line %s", lines[i])
		}
		if got := backend(t, lines[i]); got != want {
			t.Errorf("%s: answered by %q, want %q", lines[i], got, want)
		}
	}
	up.end(t)
	if out, err := shell(t.Context(), lines[0]); err == nil {
		t.Errorf("the gateway answers after its end: %s", out)
	}
}

// demo is the running demo.
type demo struct {
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	out  bytes.Buffer
}

func (d *demo) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.Write(p)
}

func (d *demo) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

func start(t *testing.T) *demo {
	t.Helper()
	d := &demo{cmd: exec.CommandContext(t.Context(), "tools/up"), done: make(chan struct{})}
	d.cmd.Dir = root
	d.cmd.Stdout, d.cmd.Stderr = d, d
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(os.Interrupt) }
	d.cmd.WaitDelay = 30 * time.Second
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.done)
		d.cmd.Wait() // how it ended is in ProcessState
	}()
	t.Cleanup(func() {
		d.cmd.Process.Signal(syscall.SIGTERM)
		<-d.done
		if t.Failed() {
			t.Log(d.text())
		}
	})
	return d
}

// waitFor gives the first groups of n matches in the output.
func (d *demo) waitFor(t *testing.T, re *regexp.Regexp, n int) []string {
	t.Helper()
	var found []string
	poll(t, "the demo to say how to reach it", func() error {
		found = found[:0]
		for _, m := range re.FindAllStringSubmatch(d.text(), -1) {
			found = append(found, m[1])
		}
		if len(found) < n {
			return fmt.Errorf("%d lines", len(found))
		}
		return nil
	})
	return found
}

func (d *demo) end(t *testing.T) {
	t.Helper()
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.done:
	case <-time.After(30 * time.Second):
		t.Fatal("the demo does not end")
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// backend runs a line until it is answered, and says by whom.
func backend(t *testing.T, line string) string {
	t.Helper()
	var answer struct{ Backend string }
	poll(t, line, func() error {
		out, err := shell(t.Context(), line)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(out, &answer); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return answer.Backend
}

func shell(ctx context.Context, line string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", strings.Replace(line, "curl ", "curl -sS --max-time 5 ", 1))
	cmd.Dir = root
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out, fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return out, err
}

// poll tries until it works or a minute has passed.
func poll(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waited a minute for %s: %v", what, err)
		case <-tick.C:
		}
	}
}
