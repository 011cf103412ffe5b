package admin

import (
	"net"
	"net/http"
	"net/netip"
	"os"

	"windrose.dev/windrose/internal/procfs"
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
	return procfs.OwnerOf(theirs, ours)
}
