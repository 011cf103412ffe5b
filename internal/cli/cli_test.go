package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/cli"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/source"
	"windrose.dev/windrose/internal/status"
	"windrose.dev/windrose/internal/tap"
	"windrose.dev/windrose/internal/translate"
)

var update = flag.Bool("update", false, "write what commands say into testdata")

// TestMain has commands show times as they are in every place alike.
func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Exit(m.Run())
}

// TestScripts runs the scripts of testdata. A script is manifests and, last, a
// file "script" of commands, each with what it writes and its exit code:
//
//	> get routes
//	KIND ...
//	! a line of standard error
//	[3]
//
// The manifests below live/ are what a windrose serves through the admin API;
// the commands run in the folder of the manifests.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { runScript(t, file) })
	}
}

func runScript(t *testing.T, file string) {
	abs, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := txtar.ParseFile(abs)
	if err != nil {
		t.Fatal(err)
	}
	last := &archive.Files[len(archive.Files)-1]
	if last.Name != "script" {
		t.Fatalf("the last file is %s, not script", last.Name)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	for _, f := range archive.Files[:len(archive.Files)-1] {
		if err := os.MkdirAll(filepath.Dir(f.Name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.Name, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := serve(t, "live")
	var got strings.Builder
	for line := range strings.Lines(string(last.Data)) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "> "); ok {
			got.WriteString(runCommand(addr, command))
		}
	}
	if *update {
		last.Data = []byte(got.String())
		if err := os.WriteFile(abs, txtar.Format(archive), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want := string(last.Data); got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func runCommand(addr, command string) string {
	var stdout, stderr bytes.Buffer
	args := append(strings.Fields(command), "--admin", addr)
	code := cli.Main(context.Background(), args, &stdout, &stderr)
	var b strings.Builder
	fmt.Fprintf(&b, "> %s\n%s", command, stdout.String())
	for line := range strings.Lines(strings.ReplaceAll(stderr.String(), addr, "ADMIN")) {
		b.WriteString("! " + line)
	}
	if code != 0 {
		fmt.Fprintf(&b, "[%d]\n", code)
	}
	b.WriteByte('\n')
	return b.String()
}

// serve is a windrose that has read a folder; the data plane has taken it all.
func serve(t *testing.T, folder string) string {
	t.Helper()
	set := &object.Set{}
	if _, err := os.Stat(folder); err == nil {
		if set, err = source.Read([]string{folder}); err != nil {
			t.Fatal(err)
		}
	}
	set = withStatuses(set)
	now := func() time.Time { return time.Time{} }
	result := translate.New(translate.Env{Addresses: []string{"192.0.2.1"}}).Plan(set)
	findings := slices.Concat(set.Findings, source.Locate(set, result.Findings))
	object.SortFindings(findings)
	s, err := admin.Listen(admin.Config{
		Addr: "127.0.0.1:0", Version: admin.Version{Version: "v1.2.3", Commit: "abc", Go: "go1", OS: "linux", Arch: "amd64"},
		Output: func(n object.Name) []admin.Line {
			return []admin.Line{{Stream: "stdout", Text: "hello from " + n.Name}}
		},
		Ask: remembering(t, "requests.jsonl"),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Use(&admin.View{
		Set: set, Statuses: status.New(now).Update(result.Statuses, 1, status.Ack{Version: 1}), Findings: findings, Parts: result.Parts,
		Control: admin.Control{Version: 1, Applied: 1, DataPlaneUp: true},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s.Addr()
}

// remembering answers questions about requests from a file of them. A tap tells
// them all and that seven were dropped.
func remembering(t *testing.T, file string) func(context.Context, *tap.Question, func(*tap.Answer) error) error {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var all []tap.Event
	for line := range strings.Lines(string(text)) {
		var e tap.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return func(ctx context.Context, q *tap.Question, tell func(*tap.Answer) error) error {
		a := &tap.Answer{}
		switch {
		case q.Tap != nil:
			if err := tell(a); err != nil {
				return err
			}
			if err := tell(&tap.Answer{Events: all[:1], Dropped: 7}); err != nil {
				return err
			}
			if err := tell(&tap.Answer{Events: all[1:]}); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		case q.Recent != nil:
			a.Events = slices.Clone(all[:min(len(all), q.Recent.Limit)])
		default:
			for i := range all {
				if all[i].ID == q.Find {
					a.Events = append(a.Events, all[i])
				}
			}
		}
		a.Reach = &tap.Reach{}
		return tell(a)
	}
}

// withStatuses says of each workload with a command that it runs, unless its
// name says that it does not.
func withStatuses(set *object.Set) *object.Set {
	next := *set
	var all []*v1alpha1.Workload
	for _, w := range set.Workloads.All() {
		c := *w
		c.Status = v1alpha1.WorkloadStatus{Address: w.Spec.Address, Conditions: []metav1.Condition{{Type: "Ready", Status: "True", Reason: "Running"}}}
		if len(w.Spec.Command) > 0 {
			c.Status.Address, c.Status.PID = "127.0.0.1", 4711
		}
		if strings.Contains(w.Name, "broken") {
			c.Status.PID, c.Status.Restarts = 0, 3
			c.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "False", Reason: "BackOff", Message: "the process ended after 1s: exit status 1"}}
		}
		all = append(all, &c)
	}
	next.Workloads = object.NewTable(all...)
	return &next
}

func TestExitCodesOfWhatGoesWrong(t *testing.T) {
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	stranger := httptest.NewServer(http.NotFoundHandler())
	defer stranger.Close()
	at := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	tests := []struct {
		name string
		args []string
		code int
		want string // in standard error
	}{
		{"nobody answers", []string{"get", "routes", "--admin", at(closed)}, 6, "start it with windrose up"},
		{"nobody answers a watch", []string{"get", "routes", "-w", "--admin", at(closed)}, 6, "start it with windrose up"},
		{"too slow", []string{"get", "routes", "--timeout", "20ms", "--admin", at(slow)}, 7, "within 20ms"},
		{"another program", []string{"describe", "gw", "x", "--admin", at(stranger)}, 1, "another program"},
		{"unknown command", []string{"gett"}, 2, "did you mean windrose get?"},
		{"unknown flag", []string{"get", "gw", "--wide"}, 2, "--help lists the flags"},
		{"unknown kind", []string{"get", "gatways"}, 2, "did you mean gateways?"},
		{"too few arguments", []string{"validate"}, 2, "usage: windrose validate PATH..."},
		{"unknown form", []string{"get", "gw", "-o", "xml"}, 2, "one of table, wide, json, yaml, name"},
		{"no such path", []string{"validate", "/does/not/exist"}, 5, "/does/not/exist does not exist"},
		{"describe without a name", []string{"describe", "gw"}, 2, "windrose describe gw NAME"},
		{"two names", []string{"get", "gw/a", "b"}, 2, "both"},
		{"admin on the network", []string{"up", "--admin", "0.0.0.0:1", "--state", t.TempDir(), "--config", t.TempDir()}, 1, "not a loopback address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := cli.Main(t.Context(), tt.args, &stdout, &stderr); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(stderr.String(), tt.want) || stdout.Len() > 0 {
				t.Errorf("stdout %q, stderr %q, want %q in the latter", stdout.String(), stderr.String(), tt.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"help"}} {
		var stdout, stderr bytes.Buffer
		if code := cli.Main(t.Context(), args, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
			t.Errorf("%q: exit code %d, stderr %q", args, code, stderr.String())
		}
		for _, want := range []string{"up", "get", "describe", "validate", "diff", "version", "completion"} {
			if !strings.Contains(stdout.String(), "\n  "+want) {
				t.Errorf("%q: no command %s in\n%s", args, want, stdout.String())
			}
		}
		if strings.Contains(stdout.String(), "dataplane") {
			t.Errorf("%q: shows what is not for users", args)
		}
	}
}

func TestCompletion(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := cli.Main(t.Context(), []string{"completion", "bash"}, &stdout, &stderr); code != 0 || !strings.Contains(stdout.String(), "windrose") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	stdout.Reset()
	cli.Main(t.Context(), []string{"__complete", "get", ""}, &stdout, &stderr)
	if !strings.Contains(stdout.String(), "routes\n") {
		t.Errorf("got %q", stdout.String())
	}
}

func TestWatchTellsChanges(t *testing.T) {
	t.Chdir(t.TempDir())
	s, err := admin.Listen(admin.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	workload := func(reason string) *admin.View {
		w := &v1alpha1.Workload{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}}
		w.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "False", Reason: reason}}
		return &admin.View{Set: &object.Set{Workloads: object.NewTable(w)}}
	}
	s.Use(workload("Starting"))
	r, w := io.Pipe()
	watchCtx, endWatch := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- cli.Main(watchCtx, []string{"get", "workloads", "-w", "--admin", s.Addr()}, w, io.Discard)
		w.Close()
	}()
	buf := make([]byte, 4096)
	read := func(want string) {
		t.Helper()
		n, err := r.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), want) {
			t.Fatalf("got %q, %v; want %q in it", buf[:n], err, want)
		}
	}
	read("Starting")
	s.Use(workload("BackOff"))
	read("BackOff")
	endWatch()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d after an interrupt, want 0", got)
	}
}
