package feed

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// LocalPeer is a check for Server.Check: the other end must be a process on
// this machine that runs as root, as our own user or as one of uids. What is
// not a unix socket is refused.
func LocalPeer(uids ...uint32) func(net.Conn) error {
	return func(conn net.Conn) error {
		uc, ok := conn.(*net.UnixConn)
		if !ok {
			return errors.New("not a unix socket")
		}
		raw, err := uc.SyscallConn()
		if err != nil {
			return fmt.Errorf("peer credentials: %w", err)
		}
		var cred *unix.Ucred
		var credErr error
		err = raw.Control(func(fd uintptr) {
			cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		})
		if err := errors.Join(err, credErr); err != nil {
			return fmt.Errorf("peer credentials: %w", err)
		}
		if mayRead(cred.Uid, uint32(os.Geteuid()), uids) {
			return nil
		}
		return fmt.Errorf("user %d may not read the plan: it holds private keys", cred.Uid)
	}
}

func mayRead(uid, own uint32, uids []uint32) bool {
	return uid == 0 || uid == own || slices.Contains(uids, uid)
}
