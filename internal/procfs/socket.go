package procfs

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Holder is a process that may hold sockets. It stays that very process: when
// it has ended it holds none, whoever has its pid by then.
type Holder struct{ root *os.Root }

// Hold looks at the process with a pid, which must be of this user or less.
func Hold(pid int) (*Holder, error) {
	root, err := os.OpenRoot("/proc/" + strconv.Itoa(pid))
	if err != nil {
		return nil, err
	}
	return &Holder{root}, nil
}

// sockets adds the inodes of the process' sockets.
func (h *Holder) sockets(to map[string]bool) {
	dir, err := h.root.Open("fd")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // what was read is as good as it gets
	for _, name := range names {
		target, err := h.root.Readlink("fd/" + name)
		if inode, ok := strings.CutPrefix(target, "socket:["); err == nil && ok {
			to[strings.TrimSuffix(inode, "]")] = true
		}
	}
}

// HeldBy says whether every socket that has addr, or a part of it, belongs to
// one of the holders.
func HeldBy(holders []*Holder, addr netip.AddrPort, udp bool) bool {
	theirs := map[string]bool{}
	for _, h := range holders {
		h.sockets(theirs)
	}
	tables, state := []string{"tcp", "tcp6"}, "0A" // listening
	if udp {
		tables, state = []string{"udp", "udp6"}, "07" // not connected
	}
	for _, table := range tables {
		if !heldIn("/proc/self/net/"+table, state, addr, theirs) {
			return false
		}
	}
	return true
}

// heldIn is HeldBy for the sockets of one table of the kernel.
func heldIn(path, state string, addr netip.AddrPort, theirs map[string]bool) bool {
	f, err := os.Open(path)
	if err != nil {
		return os.IsNotExist(err) // a kernel without IPv6 has no table of it
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// sl, local address, remote address, state, ..., inode
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != state {
			continue
		}
		at, ok := parseAddr(fields[1])
		if ok && overlap(at, addr) && !theirs[fields[9]] {
			return false
		}
	}
	return lines.Err() == nil
}

// OwnerOf is the user whose TCP socket is connected from local to remote, on
// this machine.
func OwnerOf(local, remote netip.AddrPort) (uid uint32, ok bool) {
	for _, table := range [...]string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/self/net/" + table)
		if err != nil {
			continue
		}
		uid, ok = ownerIn(f, local, remote)
		f.Close()
		if ok {
			return uid, true
		}
	}
	return 0, false
}

// ownerIn is OwnerOf for one table of the kernel.
func ownerIn(table io.Reader, local, remote netip.AddrPort) (uint32, bool) {
	const established = "01"
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		// sl, local address, remote address, state, queues, timer, retransmits, uid
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 || fields[3] != established {
			continue
		}
		from, ok := parseAddr(fields[1])
		to, ok2 := parseAddr(fields[2])
		if ok && ok2 && same(from, local) && same(to, remote) {
			uid, err := strconv.ParseUint(fields[7], 10, 32)
			return uint32(uid), err == nil
		}
	}
	return 0, false
}

func same(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().Unmap() == b.Addr().Unmap().WithZone("")
}

// overlap says whether two addresses cannot both be bound.
func overlap(a, b netip.AddrPort) bool {
	x, y := a.Addr().Unmap(), b.Addr().Unmap()
	return a.Port() == b.Port() && (x == y.WithZone("") || x.IsUnspecified() || y.IsUnspecified())
}

// parseAddr reads an address as the kernel's tables write it: words of 32 bits
// in the machine's order.
func parseAddr(text string) (netip.AddrPort, bool) {
	ip, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(ip)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), ok
}
