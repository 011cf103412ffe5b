package admin

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// This file finds out who asks. Nobody logs in here, but on one machine the
// kernel knows whose a connection's other end is.

// mayShowQuery says whether who asks may see the queries of requests: root and
// the user that windrose runs as could read them from its memory anyhow.
func mayShowQuery(r *http.Request) bool {
	uid, ok := askerOf(r)
	return ok && (uid == 0 || uid == uint32(os.Geteuid()))
}

// askerOf is the user at the other end of a request's connection.
func askerOf(r *http.Request) (uint32, bool) {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return 0, false
	}
	theirs, err := netip.ParseAddrPort(r.RemoteAddr)
	ours, err2 := netip.ParseAddrPort(local.String())
	if err != nil || err2 != nil {
		return 0, false
	}
	for _, path := range [...]string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		uid, ok := ownerOf(f, theirs, ours)
		f.Close()
		if ok {
			return uid, true
		}
	}
	return 0, false
}

// ownerOf reads the kernel's table of TCP sockets: whose is the one that is
// connected from local to remote?
func ownerOf(table io.Reader, local, remote netip.AddrPort) (uint32, bool) {
	const established = "01"
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 8 || f[3] != established || !sameAddr(f[1], local) || !sameAddr(f[2], remote) {
			continue
		}
		uid, err := strconv.ParseUint(f[7], 10, 32)
		return uint32(uid), err == nil
	}
	return 0, false
}

// sameAddr compares with the kernel's way to write an address: words in the
// machine's byte order, in hexadecimal. IPv4 may stand in a table of IPv6.
func sameAddr(text string, a netip.AddrPort) bool {
	ip := a.Addr().Unmap()
	full := ip.As16()
	return text == hexAddr(ip.AsSlice(), a.Port()) || text == hexAddr(full[:], a.Port())
}

func hexAddr(ip []byte, port uint16) string {
	var b strings.Builder
	for ; len(ip) >= 4; ip = ip[4:] {
		fmt.Fprintf(&b, "%08X", binary.NativeEndian.Uint32(ip))
	}
	fmt.Fprintf(&b, ":%04X", port)
	return b.String()
}
