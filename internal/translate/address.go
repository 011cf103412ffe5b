package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
)

const (
	// routabilityMachine asks for an address that this machine alone reaches.
	routabilityMachine gatewayv1.GatewayAddressRoutabilityType = "windrose.dev/Machine"
	// routabilitySentinel is reserved by Gateway API for its conformance suite,
	// and means nothing.
	routabilitySentinel gatewayv1.GatewayAddressRoutabilityType = "testing.x-k8s.io/sentinel"
)

// assigned is an entry of spec.addresses that could be satisfied.
type assigned struct {
	addr        netip.Addr // the zero Addr is one of the machine's own
	routability gatewayv1.GatewayAddressRoutabilityType
}

// readAddresses decides where the listeners of a Gateway stand. What cannot be
// given is left out and told; with nothing left the Gateway is refused.
func readAddresses(p *parent, gw *gatewayv1.Gateway) {
	for i := range gw.Spec.Addresses {
		readAddress(p, &gw.Spec.Addresses[i], fmt.Sprintf("spec.addresses[%d]", i))
	}
	if len(gw.Spec.Addresses) > 0 && len(p.assigned) == 0 && p.accepted.ok() {
		p.accepted = verdict{string(gatewayv1.GatewayReasonUnsupportedAddress), "none of its addresses can be given: " + p.unassigned[0]}
	}
	p.static = len(gw.Spec.Addresses) > 0 && !slices.ContainsFunc(p.assigned, func(a assigned) bool { return !a.addr.IsValid() })
	if !p.static {
		p.addrs = []netip.Addr{netip.IPv6Unspecified()}
		return
	}
	for _, a := range p.assigned {
		if !slices.Contains(p.addrs, a.addr) {
			p.addrs = append(p.addrs, a.addr)
		}
	}
}

func readAddress(p *parent, a *gatewayv1.GatewaySpecAddress, field string) {
	if a.Type != nil && *a.Type != gatewayv1.IPAddressType {
		p.refuseAddress(field+".type", fmt.Sprintf("windrose cannot give a Gateway an address of type %s; write an IPAddress", *a.Type))
		return
	}
	var addr netip.Addr
	if a.Value != "" {
		var err error
		if addr, err = netip.ParseAddr(a.Value); err != nil || addr.Zone() != "" {
			p.refuseAddress(field+".value", fmt.Sprintf("%q is not an IP address", a.Value))
			return
		}
		addr = addr.Unmap()
	}
	switch a.Routability {
	case gatewayv1.GatewayAddressRoutabilityDefault, routabilitySentinel:
	case routabilityMachine:
		if !addr.IsValid() {
			addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		if !addr.IsLoopback() {
			p.lackAddress(field+".value", fmt.Sprintf("%s is not a loopback address, so that it is not this machine's alone", addr), "leave the value out, or write 127.0.0.1 or ::1")
			return
		}
	case gatewayv1.GatewayAddressRoutabilityCluster:
		p.lackAddress(field+".routability", "routability Cluster is an address of a cluster's Services, and on one machine there is no cluster",
			"leave it out, or write "+string(routabilityMachine)+" for an address that this machine alone reaches")
		return
	default:
		p.lackAddress(field+".routability", fmt.Sprintf("windrose knows no routability %s", a.Routability),
			object.Meant(string(a.Routability), slices.Values([]string{string(routabilityMachine)})))
		return
	}
	p.assigned = append(p.assigned, assigned{addr, a.Routability})
}

// refuseAddress refuses a Gateway for what it wrote.
func (p *parent) refuseAddress(field, message string) {
	if p.accepted.ok() {
		p.accepted = verdict{string(gatewayv1.GatewayReasonUnsupportedAddress), message}
	}
	p.unassigned = append(p.unassigned, message)
	p.find(object.Error, field, string(gatewayv1.GatewayReasonUnsupportedAddress), message, "")
}

// lackAddress tells of an address that cannot be given; the others are.
func (p *parent) lackAddress(field, message, mend string) {
	p.unassigned = append(p.unassigned, message)
	p.find(object.Error, field, string(gatewayv1.GatewayReasonAddressNotAssigned), message, mend)
}

// addressesAssigned is the condition that tells whether a Gateway has all the
// addresses that it asked for.
func (p *parent) addressesAssigned(accepted bool) metav1.Condition {
	reason, message := gatewayv1.GatewayReasonAddressesAssigned, "addresses are assigned"
	if len(p.unassigned) > 0 {
		reason, message = gatewayv1.GatewayReasonAddressesPartiallyAssigned, strings.Join(p.unassigned, "; ")
		if !accepted {
			reason = gatewayv1.GatewayReasonAddressesNotAssigned
		}
	}
	return condition(string(gatewayv1.GatewayConditionAddressesAssigned), len(p.unassigned) == 0, string(reason), message, p.object.GetGeneration())
}

// statusAddresses gives the addresses of a Gateway: one for each that it asked
// for, or all of the machine's own where it asked for none.
func (t *Translator) statusAddresses(p *parent) []gatewayv1.GatewayStatusAddress {
	var out []gatewayv1.GatewayStatusAddress
	add := func(value string, r gatewayv1.GatewayAddressRoutabilityType) {
		out = append(out, gatewayv1.GatewayStatusAddress{Type: new(gatewayv1.IPAddressType), Value: value, Routability: new(r)})
	}
	used := map[string]bool{}
	for _, a := range p.assigned {
		if a.addr.IsValid() {
			used[a.addr.String()] = true
		}
	}
	free := slices.DeleteFunc(slices.Clone(t.env.Addresses), func(mine string) bool { return used[mine] })
	if len(p.assigned) == 0 {
		for _, mine := range free {
			add(mine, gatewayv1.GatewayAddressRoutabilityDefault)
		}
	}
	for _, a := range p.assigned {
		switch {
		case a.addr.IsValid() && used[a.addr.String()]:
			delete(used, a.addr.String()) // once, however often it was written
			add(a.addr.String(), a.routability)
		case !a.addr.IsValid() && len(free) > 0:
			add(free[0], a.routability)
			free = free[1:]
		}
	}
	return out
}
