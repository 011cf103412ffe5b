package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// limited is a program that runs windrose with at most n descriptors.
func limited(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "windrose-limited")
	must(t, os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\nulimit -n %d\nexec %s \"$@\"\n", n, binary), 0o755))
	return path
}

// asking is a client that begins a request and gives the status that comes; 0
// if the connection is closed instead.
func asking(addr, path string) (answer func() (int, string), err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	if _, err = io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
		c.Close()
		return nil, err
	}
	return func() (int, string) {
		defer c.Close()
		b, _ := io.ReadAll(c)
		code := 0
		_, _ = fmt.Sscanf(string(b), "HTTP/1.1 %d", &code)
		return code, string(b)
	}, nil
}

// TestDescriptorsRunOut: who cannot be served for want of descriptors is told so
// or refused, nothing spins, and all is well once there are descriptors again.
func TestDescriptorsRunOut(t *testing.T) {
	t.Parallel()
	s := newSlow(t)
	port := freePort(t)
	w := newWindrose(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", s.addr), "r.yaml": route("r", "/", "a")})
	const descriptors, asked = 128, 200
	w.program = limited(t, descriptors)
	w.start()
	w.ready()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	plane := w.dataplane()

	// More requests at once than there are descriptors for.
	var answers []func() (int, string)
	for range asked {
		answer, err := asking(addr, "/held")
		if err == nil {
			answers = append(answers, answer)
		}
	}
	refused := fmt.Sprintf(`windrose_connections_refused_total{socket="tcp/127.0.0.1:%d"}`, port)
	room := `windrose_connections_cut_total{reason="room"}`
	overload := `windrose_faults_total{flag="overload",side="windrose"}`
	w.eventually("what is too much is shed or refused", func() error {
		if in, out, shed := w.counts("windrose_requests_active"), w.counts(refused)+w.counts(room), w.counts(overload); in+out+shed != asked || in == 0 {
			return fmt.Errorf("%d are held, %d refused, %d shed, of %d", in, out, shed, asked)
		}
		return nil
	})
	before := cpu(t, plane)
	<-time.After(time.Second)
	if used := cpu(t, plane) - before; used > 300*time.Millisecond {
		t.Errorf("it takes %v of CPU time in a second in which nothing can be done", used)
	}
	close(s.release)
	codes := map[int]int{}
	for _, answer := range answers {
		code, text := answer()
		codes[code]++
		if code == 503 && (!strings.Contains(text, "x-windrose-fault: overload") || !strings.Contains(text, "cannot open another connection")) {
			t.Errorf("503 without its reason: %s", text)
		}
	}
	t.Logf("answers: %v", codes)
	if codes[200] == 0 || codes[503] == 0 || codes[200]+codes[503]+codes[0] != len(answers) {
		t.Errorf("answers: %v, want 200, 503 and connections that were refused", codes)
	}
	if code, body, _ := fetch("http://" + addr + "/after"); code != 200 {
		t.Errorf("afterwards: %d %s", code, body)
	}
	// Who holds connections and asks nothing makes room for who asks.
	crowd(t, asked, addr, func(net.Conn) error { return nil })
	if code, body, _ := fetch("http://" + addr + "/crowded"); code != 200 {
		t.Errorf("among %d who ask nothing: %d %s", asked, code, body)
	}
	if w.counts(room) == 0 {
		t.Error("nobody is counted who made room")
	}
}

// TestAcceptingIsTakenUpAgain: a process that cannot accept for want of
// descriptors says so, does not spin, and goes on by itself.
func TestAcceptingIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: the limits of another user's process need root")
	}
	port := freePort(t)
	w := up(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/", "a")})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	plane := w.dataplane()
	limit := func(n int) {
		cmd := exec.CommandContext(t.Context(), "prlimit", "--pid", strconv.Itoa(plane), fmt.Sprintf("--nofile=%d:", n))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody(t)}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	limit(3)
	answers := make([]func() (int, string), 20)
	for i := range answers {
		var err error
		answers[i], err = asking(addr, "/")
		must(t, err)
	}
	w.eventually("the log says that nothing can be accepted", func() error {
		if !strings.Contains(w.talk(), "cannot accept connections for now") {
			return errors.New("not yet")
		}
		return nil
	})
	before := cpu(t, plane)
	<-time.After(time.Second)
	if used := cpu(t, plane) - before; used > 200*time.Millisecond {
		t.Errorf("it takes %v of CPU time in a second in which nothing can be accepted", used)
	}
	limit(1000)
	for _, answer := range answers {
		if code, text := answer(); code != 200 {
			t.Errorf("who waited got %d %s", code, text)
		}
	}
	if code, body, _ := fetch("http://" + addr); code != 200 {
		t.Errorf("afterwards: %d %s", code, body)
	}
}

// TestMemoryRunsShort: near its limit windrose refuses what is new and says why,
// does not grow beyond it, and serves again when there is room.
func TestMemoryRunsShort(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	endlessly := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, endless{}) })
	w := newWindrose(t, map[string]string{
		"gateway.yaml": withParameters(gateway(port), "{timeouts: {body: 1h}}"),
		"a.yaml":       all(service("a", backend(t, "a")), service("endless", endlessly)), "r.yaml": all(route("a", "/a", "a"), route("endless", "/endless", "endless")),
	})
	const limit = 24 // MiB
	w.program = filepath.Join(t.TempDir(), "windrose-small")
	must(t, os.WriteFile(w.program, fmt.Appendf(nil, "#!/bin/sh\nexport GOMEMLIMIT=%dMiB\nexec %s \"$@\"\n", limit, binary), 0o755))
	w.start()
	w.ready()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	plane := w.dataplane()
	// Clients who read nothing of long answers, until some are refused.
	var held []net.Conn
	shed := func() bool { return w.counts(`windrose_faults_total{flag="overload",side="windrose"}`) > 0 }
	for round := 0; !shed(); round++ {
		if round == 20 {
			t.Fatal("nobody is refused")
		}
		held = append(held, crowd(t, 100, addr, func(c net.Conn) error {
			_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
			_, err := io.WriteString(c, "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
			return err
		})...)
	}
	code, text, h := fetch("http://" + addr + "/a")
	if code != 503 || h.Get("x-windrose-fault") != "overload" || !strings.Contains(text, "limit of memory") {
		t.Errorf("near the limit: %d %s", code, text)
	}
	t.Logf("%d clients who read nothing", len(held))
	if peak := memory(t, plane, "VmHWM"); peak > 3*limit<<10 {
		t.Errorf("the data plane took %d KiB with a limit of %d MiB", peak, limit)
	}
	for _, c := range held {
		c.Close()
	}
	w.eventually("it serves again", func() error {
		if code, text, _ := fetch("http://" + addr + "/a"); code != 200 {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
}

// smallDisk puts a file system of n bytes at dir, for this test and what it
// starts.
func smallDisk(t *testing.T, dir string, n int) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: a small disk needs root")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	must(t, os.MkdirAll(dir, 0o755))
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skipf("SKIPPED: no mounts of its own: %v", err)
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", n)))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
}

// TestDiskIsFull: traffic and changes go on without room for state and log, who
// looks is told, and what was missed is stored once there is room.
func TestDiskIsFull(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := newWindrose(t, map[string]string{
		"gateway.yaml": gateway(port), "a.yaml": all(service("a", backend(t, "a")), service("b", backend(t, "b"))), "r.yaml": route("r", "/", "a"),
	})
	// The state folder and the log are on the small disk.
	disk := filepath.Join(w.config, "..", "disk")
	smallDisk(t, disk, 1<<20)
	w.state = filepath.Join(disk, "state")
	w.log = filepath.Join(disk, "log")
	w.start()
	w.ready()
	w.applied()
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	plan := filepath.Join(w.state, "dataplane", "plan")
	w.eventually("the plan is stored", func() error { _, err := os.Stat(plan); return err })

	filler := filepath.Join(disk, "filler")
	f, err := os.Create(filler)
	must(t, err)
	defer f.Close()
	if _, err := io.Copy(f, endless{}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is to be full: %v", err)
	}
	stored, err := os.ReadFile(plan)
	must(t, err)

	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}
	l := newLoad(t)
	l.run(2, func() error { return get(client, url) })
	w.write("r.yaml", route("r", "/", "b"))
	w.eventually("a change is live", func() error {
		if _, body, _ := fetch(url); body != "b /" {
			return errors.New(body)
		}
		return nil
	})
	for _, text := range []string{"no space left on device", "cannot store the plan"} {
		w.eventually("somebody is told: "+text, func() error {
			if !strings.Contains(w.talk(), text) {
				return errors.New("not yet")
			}
			return nil
		})
	}
	w.eventually("a finding says so", func() error {
		if r := w.cli("get", "findings", "-A"); !strings.Contains(r.out, "no space left on device") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	w.eventually("lost lines of the log are counted", func() error {
		if w.counts(`windrose_access_log_lines_dropped_total{reason="write"}`) == 0 {
			return errors.New("none")
		}
		return nil
	})
	if now, err := os.ReadFile(plan); err != nil || string(now) != string(stored) {
		t.Errorf("the stored plan is spoilt: %d bytes, were %d, %v", len(now), len(stored), err)
	}

	l.end(t) // or its lines would fill the disk again
	must(t, os.Remove(filler))
	f.Close()
	w.eventually("the plan is stored, although nothing changes any more", func() error {
		now, err := os.ReadFile(plan)
		if err != nil || string(now) == string(stored) {
			return fmt.Errorf("%d bytes, %w", len(now), err)
		}
		return nil
	})
	w.eventually("no finding is left", func() error {
		if r := w.cli("get", "findings", "-A"); strings.Contains(r.out, "no space left on device") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	size := func() int64 { info, err := os.Stat(w.log); must(t, err); return info.Size() }
	before := size()
	w.eventually("the log is written", func() error {
		fetch(url)
		if size() == before {
			return errors.New("not yet")
		}
		return nil
	})
	// A new start finds what changed while the disk was full.
	w.stop()
	w.start()
	w.ready()
	if code, body, _ := fetch(url); code != 200 || body != "b /" {
		t.Errorf("after a new start: %d %s", code, body)
	}
}
