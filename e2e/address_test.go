package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestAddressesByRoutability: an address of this machine alone is given, one of
// a cluster is refused in words, and the status tells both.
//
// covers: GatewayAddressRoutability
func TestAddressesByRoutability(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	with := func(addresses string) string {
		return strings.Replace(gateway(port), "[{type: IPAddress, value: 127.0.0.1}]", addresses, 1)
	}
	w := up(t, map[string]string{
		"gateway.yaml": with("[{routability: windrose.dev/Machine}, {routability: Cluster}]"),
		"a.yaml":       service("a", backend(t, "a")), "r.yaml": route("r", "/", "a"),
	})
	if err := get(&http.Client{Timeout: 5 * time.Second}, fmt.Sprintf("http://127.0.0.1:%d/", port)); err != nil {
		t.Error(err)
	}
	for _, ip := range machineAddresses(t) {
		if conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip, fmt.Sprint(port)), time.Second); err == nil {
			conn.Close()
			t.Errorf("the Gateway is reached at %s too", ip)
		}
	}
	r := w.cli("describe", "gateway", "web")
	for _, want := range []string{"127.0.0.1 (windrose.dev/Machine)", "PartiallyAssigned", "one machine there is no cluster"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("describe does not say %q: %+v", want, r)
		}
	}
	w.write("gateway.yaml", with("[{routability: Cluster}]"))
	w.eventually("a Gateway without any address is refused", func() error {
		conditions := w.get("gateways", "web").Status.Conditions
		if a, p := find(conditions, "AddressesAssigned"), find(conditions, "Programmed"); !strings.HasPrefix(a, "False NotAssigned") || !strings.HasPrefix(p, "False AddressNotAssigned") {
			return fmt.Errorf("AddressesAssigned: %s; Programmed: %s", a, p)
		}
		return nil
	})
	w.write("gateway.yaml", with("[{routability: nearby}]"))
	w.eventually("a value that the API does not know is refused", func() error {
		if r := w.cli("get", "findings"); !strings.Contains(r.out, "spec.addresses[0].routability") || !strings.Contains(r.out, "Routability must be") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
}

// machineAddresses are the addresses of this machine that are not its own alone.
func machineAddresses(t *testing.T) []string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	must(t, err)
	var found []string
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			found = append(found, ip.IP.String())
		}
	}
	return found
}
