package telemetry

import (
	crand "crypto/rand"
	"encoding/binary"
	"math/rand/v2"
)

// IDLen is the length of a request id that IDs makes.
const IDLen = 32

// maxID is the longest request id that is taken over from a peer.
const maxID = 128

// IDs makes request ids: 128 random bits as 32 hexadecimal digits, which is
// also a valid trace id. It is for one goroutine.
type IDs struct{ random *rand.ChaCha8 }

// NewIDs makes an IDs with a seed from the system.
func NewIDs() *IDs {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never returns an error
	return &IDs{random: rand.NewChaCha8(seed)}
}

// Append appends a new id to dst.
func (g *IDs) Append(dst []byte) []byte {
	dst = appendHex(dst, g.random.Uint64())
	return appendHex(dst, g.random.Uint64())
}

// Trace makes a trace's id.
func (g *IDs) Trace() (id [16]byte) {
	for id == [16]byte{} {
		binary.LittleEndian.PutUint64(id[:8], g.random.Uint64())
		binary.LittleEndian.PutUint64(id[8:], g.random.Uint64())
	}
	return id
}

// Span makes a span's id.
func (g *IDs) Span() (id [8]byte) {
	for id == [8]byte{} {
		binary.LittleEndian.PutUint64(id[:], g.random.Uint64())
	}
	return id
}

func appendHex(dst []byte, v uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[v>>shift&15])
	}
	return dst
}

// ValidID says whether an x-request-id that a peer sent can be taken over: 1 to
// 128 visible ASCII characters without quote and backslash. Whether the peer is
// trusted is the caller's question.
func ValidID(id []byte) bool {
	if len(id) == 0 || len(id) > maxID {
		return false
	}
	for _, c := range id {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
