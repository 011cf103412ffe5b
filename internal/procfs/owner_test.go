package procfs

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

func TestOwnerOfAConnection(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the tables are those of a machine with little-endian words")
	}
	const four = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:9C40 0100007F:3A98 01 00000000:00000000 00:00000000 00000000  1000        0 2 1
   2: 0100007F:3A98 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 3 1
   3: 0100007F:9C41 0100007F:3A98 06 00000000:00000000 00:00000000 00000000  1001        0 4 1
`
	const six = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:9C40 00000000000000000000000001000000:3A98 01 00000000:00000000 00:00000000 00000000  1002        0 5 1
   1: 0000000000000000FFFF00000100007F:9C42 0000000000000000FFFF00000100007F:3A98 01 00000000:00000000 00:00000000 00000000  1003        0 6 1
`
	for _, c := range []struct {
		name, table, local, remote string
		uid                        uint32
		ok                         bool
	}{
		{"the client's end", four, "127.0.0.1:40000", "127.0.0.1:15000", 1000, true},
		{"the server's end is not it", four, "127.0.0.1:15000", "127.0.0.1:40000", 0, true},
		{"one that has ended", four, "127.0.0.1:40001", "127.0.0.1:15000", 0, false},
		{"nobody's", four, "127.0.0.1:40003", "127.0.0.1:15000", 0, false},
		{"IPv6", six, "[::1]:40000", "[::1]:15000", 1002, true},
		{"IPv4 from a socket of IPv6", six, "127.0.0.1:40002", "127.0.0.1:15000", 1003, true},
		{"no table", "", "127.0.0.1:40000", "127.0.0.1:15000", 0, false},
	} {
		uid, ok := ownerIn(strings.NewReader(c.table), netip.MustParseAddrPort(c.local), netip.MustParseAddrPort(c.remote))
		if uid != c.uid || ok != c.ok {
			t.Errorf("%s: got %d %v, want %d %v", c.name, uid, ok, c.uid, c.ok)
		}
	}
}
