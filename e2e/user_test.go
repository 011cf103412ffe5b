package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nobody is a user without rights.
func nobody(t *testing.T) *syscall.Credential {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: becoming another user needs root")
	}
	u, err := user.Lookup("nobody")
	must(t, err)
	uid, err := strconv.Atoi(u.Uid)
	must(t, err)
	gid, err := strconv.Atoi(u.Gid)
	must(t, err)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// ownedBy gives the folders of w to a user.
func (w *windrose) ownedBy(user *syscall.Credential) {
	w.t.Helper()
	w.user = user
	top := filepath.Dir(w.config)
	// The folder above is made for its owner alone.
	must(w.t, os.Chmod(filepath.Dir(top), 0o755))
	for _, path := range []string{top, w.config} {
		must(w.t, os.Chown(path, int(user.Uid), int(user.Gid)))
	}
}

func TestOrdinaryUserRunsIt(t *testing.T) {
	t.Parallel()
	cred := nobody(t)
	low, err := strconv.Atoi(strings.TrimSpace(readAll(t, "/proc/sys/net/ipv4/ip_unprivileged_port_start")))
	must(t, err)
	port := freePort(t)
	w := newWindrose(t, map[string]string{
		"gateway.yaml": gateway(port),
		"a.yaml":       all(bareService("a"), command(t, "a-1", "a", freePort(t))), "r.yaml": route("r", "/", "a"),
	})
	w.ownedBy(cred)
	w.start()
	w.ready()
	w.eventually("the high port answers", func() error {
		if code, body, _ := fetch(fmt.Sprintf("http://127.0.0.1:%d/", port)); code != 200 {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	for what, pid := range map[string]int{"control": w.cmd.Process.Pid, "data plane": w.dataplane(), "workload": w.get("workloads", "a-1").Status.PID} {
		if got, want := strings.Fields(procStatus(t, pid, "Uid"))[1], fmt.Sprint(cred.Uid); got != want {
			t.Errorf("%s runs as %s, want %s", what, got, want)
		}
		if got := strings.TrimLeft(procStatus(t, pid, "CapEff"), "0"); got != "" {
			t.Errorf("%s has capabilities %s", what, got)
		}
	}
	if low == 0 || low > 1024 {
		t.Skipf("SKIPPED: ports below %d are closed here, so the rest says nothing", low)
	}
	// A listener that cannot be opened says why, and how to mend it.
	w.write("gateway.yaml", gatewayOf(fmt.Sprintf("{name: high, protocol: HTTP, port: %d}", port), fmt.Sprintf("{name: low, protocol: HTTP, port: %d}", low-1)))
	w.eventually("the low port is told", func() error {
		listeners := w.get("gateways", "web").Status.Listeners
		if len(listeners) != 2 {
			return fmt.Errorf("%d listeners", len(listeners))
		}
		for _, l := range listeners {
			got := find(l.Conditions, "Programmed")
			if l.Name == "high" && !strings.HasPrefix(got, "True") {
				return fmt.Errorf("high: %s", got)
			}
			if l.Name == "low" && (!strings.HasPrefix(got, "False") || !strings.Contains(got, "permission denied") || !strings.Contains(got, "CAP_NET_BIND_SERVICE")) {
				return fmt.Errorf("low: %s", got)
			}
		}
		return nil
	})
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

// TestRootGivesTheDataPlaneOneRight: what parses the network's bytes runs as
// nobody and may open low ports, nothing else.
func TestRootGivesTheDataPlaneOneRight(t *testing.T) {
	t.Parallel()
	cred := nobody(t)
	w := up(t, map[string]string{"gateway.yaml": gateway(freePort(t)), "s.yaml": secret(t, "web-tls", ecdsaKey, 1, "shop.example")})
	pid := w.dataplane()
	const bindService = "0000000000000400"
	for field, want := range map[string]string{
		"Uid": fmt.Sprintf("%[1]d\t%[1]d\t%[1]d\t%[1]d", cred.Uid), "Gid": fmt.Sprintf("%[1]d\t%[1]d\t%[1]d\t%[1]d", cred.Gid), "Groups": "",
		"CapEff": bindService, "CapPrm": bindService, "NoNewPrivs": "1",
	} {
		if got := procStatus(t, pid, field); got != want {
			t.Errorf("%s of the data plane: got %q, want %q", field, got, want)
		}
	}
	// What is in the state folder is for root, and the data plane's for it.
	for name, want := range map[string]os.FileMode{"": 0o700, "ledger.json": 0o600, "dataplane": 0o700} {
		w.eventually("the state is written", func() error {
			_, err := os.Stat(filepath.Join(w.state, name))
			return err
		})
		fi, err := os.Stat(filepath.Join(w.state, name))
		must(t, err)
		if got := fi.Mode().Perm(); got != want {
			t.Errorf("state folder, %q: mode %o, want %o", name, got, want)
		}
	}
}

// TestSecondWindroseOnOneState is refused, and the first goes on.
func TestSecondWindroseOnOneState(t *testing.T) {
	t.Parallel()
	w := up(t, map[string]string{"gateway.yaml": gateway(freePort(t))})
	r := run(t, binary, "up", "--config", w.config, "--state", w.state, "--admin", freeAddr(t), "--health", freeAddr(t), "--metrics", freeAddr(t))
	if r.code == 0 || !strings.Contains(r.err, w.state) || !strings.Contains(r.err, fmt.Sprint(w.cmd.Process.Pid)) {
		t.Errorf("got %+v, want an error that names the folder and process %d", r, w.cmd.Process.Pid)
	}
	t.Log(r.err)
	must(t, get200("http://"+w.health+"/healthz/ready"))
}

func TestAddressesOfItsOwnAreTaken(t *testing.T) {
	t.Parallel()
	w := up(t, map[string]string{"gateway.yaml": gateway(freePort(t))})
	r := run(t, binary, "up", "--config", w.config, "--state", t.TempDir(), "--admin", w.admin, "--health", freeAddr(t), "--metrics", freeAddr(t))
	if r.code == 0 || !strings.Contains(r.err, w.admin) || !strings.Contains(r.err, "--admin") {
		t.Errorf("admin: got %+v, want an error that names %s and --admin", r, w.admin)
	}
	for _, tt := range []struct{ args, want string }{
		{"--metrics nonsense", "--metrics"},
		{"--health 127.0.0.1", "--health"},
		{"--health 127.0.0.1:1 --metrics 127.0.0.1:1", "both"},
	} {
		args := append([]string{"up", "--config", w.config, "--state", t.TempDir()}, strings.Fields(tt.args)...)
		if r := run(t, binary, args...); r.code != 2 || !strings.Contains(r.err, tt.want) {
			t.Errorf("%s: got %+v, want a usage error", tt.args, r)
		}
	}
}

// TestTakenPortIsToldAndHeals: another program has the port of a listener.
func TestTakenPortIsToldAndHeals(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	taker := listen(t, fmt.Sprintf("127.0.0.1:%d", port))
	w := newWindrose(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/", "a")})
	w.start()
	w.eventually("the taken port is told", func() error {
		r := w.cli("get", "gateways", "-o", "json")
		if !strings.Contains(r.out, "address already in use") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	gw := w.get("gateways", "web").Status
	if got := find(gw.Conditions, "Programmed"); !strings.HasPrefix(got, "False AddressNotUsable") {
		t.Errorf("gateway: Programmed is %s", got)
	}
	if got := find(gw.Listeners[0].Conditions, "Programmed"); !strings.HasPrefix(got, "False PortUnavailable") {
		t.Errorf("listener: Programmed is %s", got)
	}
	if r := w.cli("get", "listeners"); !strings.Contains(r.out, "address already in use") {
		t.Errorf("get listeners: %+v", r)
	}
	if r := w.cli("get", "findings"); !strings.Contains(r.out, "listener http does not serve") || !strings.Contains(r.out, "gateway.yaml:") {
		t.Errorf("get findings: %+v", r)
	}
	taker.Close()
	w.eventually("the freed port is bound", func() error {
		if got := find(w.get("gateways", "web").Status.Conditions, "Programmed"); !strings.HasPrefix(got, "True") {
			return fmt.Errorf("Programmed: %s", got)
		}
		return get(&http.Client{Timeout: 5 * time.Second}, fmt.Sprintf("http://127.0.0.1:%d/", port))
	})
	if r := w.cli("get", "findings"); strings.Contains(r.out, "does not serve") {
		t.Errorf("the finding stays: %+v", r)
	}
	w.ready()
}

// TestRightToOpenLowPortsIsPassedOn: setcap on the program, as the status
// advises.
func TestRightToOpenLowPortsIsPassedOn(t *testing.T) {
	t.Parallel()
	cred := nobody(t)
	ownNetwork(t)
	able := filepath.Join(t.TempDir(), "windrose")
	must(t, os.Chmod(filepath.Dir(filepath.Dir(able)), 0o755))
	must(t, os.WriteFile(able, []byte(readAll(t, binary)), 0o755))
	if r := run(t, "setcap", "cap_net_bind_service=ep", able); r.code != 0 {
		t.Skipf("SKIPPED: setcap: %+v", r)
	}
	w := newWindrose(t, map[string]string{"gateway.yaml": gateway(80)})
	w.ownedBy(cred)
	w.program = able
	w.start()
	w.readyInside()
	if r := curl(t, "-i", "http://127.0.0.1/"); !strings.HasPrefix(r.out, "HTTP/1.1 404") {
		t.Errorf("got %+v", r)
	}
}
