// Package session makes and reads the tokens by which a client's requests stay
// with the endpoint that served its first. A token is all that there is of a
// session: windrose keeps no table of them, so that nothing fills up, and any
// data plane that has the key reads the tokens of any other.
//
// A token says for each of a few services which endpoint has the session, and
// since when. It is sealed: without the key nobody reads an address in it, and
// what was altered by one bit, or made by somebody else, is no token at all.
// What a token names is only a wish among the endpoints that its service has.
package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

const (
	// KeySize is the size of a key in bytes.
	KeySize = 32
	// MaxPins bounds the services of one token, and with it a cookie's size.
	MaxPins = 8
	// MaxToken is the length of the longest token.
	MaxToken = ((saltSize+1+MaxPins*maxPin+tagSize)*8 + 5) / 6
)

// Pin is one service's part of a session. Service is any number that stays with
// the service, Hash of its name for one.
type Pin struct {
	Service  uint64
	Endpoint netip.AddrPort
	Since    uint32 // Unix seconds
}

// Expired says whether a session that may last for life has ended at the moment
// now; 0 is for ever. One from the future is none: clocks that differ by more than
// a minute cannot tell how old it is.
func (p Pin) Expired(now time.Time, life time.Duration) bool {
	const skew = time.Minute
	age := now.Sub(time.Unix(int64(p.Since), 0))
	return age < -skew || life > 0 && age >= life
}

// Hash makes a number of a name (FNV-1a). Names that share one are told apart by
// nothing, and share a session, where they have an endpoint in common.
func Hash(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return h
}

// Sealer makes and reads tokens. It may be used by many goroutines.
type Sealer struct{ key [KeySize]byte }

var errKey = errors.New("a key of sessions has 32 bytes")

// New makes a Sealer of a key that is secret and random.
func New(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, errKey
	}
	return &Sealer{key: [KeySize]byte(key)}, nil
}

// A token is base64url of
//
//	salt, 16 bytes | AES-256-GCM of: version, 1 byte; pins | tag, 16 bytes
//
// The key of each is HMAC-SHA256 of its random salt, so that it seals one token
// alone: the nonce can be zero, and no number of tokens wears the key out. A pin is
//
//	service, 8 | since, 4 | length of the address, 1 | address, 4 or 16 | port, 2
const (
	saltSize = 16
	tagSize  = 16
	version  = 1
	maxPin   = 8 + 4 + 1 + 16 + 2
)

var encoding = base64.RawURLEncoding.Strict()

// Seal makes a token of pins, the first MaxPins of them.
func (s *Sealer) Seal(pins []Pin) []byte {
	sealed := make([]byte, saltSize, MaxToken)
	_, _ = rand.Read(sealed) // never fails
	plain := make([]byte, 1, 1+MaxPins*maxPin)
	plain[0] = version
	for _, p := range pins[:min(len(pins), MaxPins)] {
		addr := p.Endpoint.Addr().Unmap()
		plain = binary.BigEndian.AppendUint64(plain, p.Service)
		plain = binary.BigEndian.AppendUint32(plain, p.Since)
		plain = append(plain, byte(addr.BitLen()/8))
		plain = append(plain, addr.AsSlice()...)
		plain = binary.BigEndian.AppendUint16(plain, p.Endpoint.Port())
	}
	gcm := s.of(sealed)
	sealed = gcm.Seal(sealed, make([]byte, gcm.NonceSize()), plain, nil)
	return encoding.AppendEncode(nil, sealed)
}

// Open gives the pins of a token; false if it is none.
func (s *Sealer) Open(token []byte) ([]Pin, bool) {
	if len(token) > MaxToken || encoding.DecodedLen(len(token)) < saltSize+1+tagSize {
		return nil, false
	}
	var scratch [MaxToken]byte
	n, err := encoding.Decode(scratch[:], token)
	if err != nil || n < saltSize+1+tagSize {
		return nil, false
	}
	gcm := s.of(scratch[:saltSize])
	plain, err := gcm.Open(scratch[saltSize:saltSize], make([]byte, gcm.NonceSize()), scratch[saltSize:n], nil)
	if err != nil || plain[0] != version {
		return nil, false
	}
	return read(plain[1:])
}

// read reads what Seal wrote.
func read(plain []byte) ([]Pin, bool) {
	var pins []Pin
	for len(plain) > 0 {
		if len(pins) == MaxPins || len(plain) < 8+4+1 {
			return nil, false
		}
		p := Pin{Service: binary.BigEndian.Uint64(plain), Since: binary.BigEndian.Uint32(plain[8:])}
		size := int(plain[12])
		plain = plain[13:]
		if len(plain) < size+2 {
			return nil, false
		}
		addr, ok := netip.AddrFromSlice(plain[:size])
		if !ok {
			return nil, false
		}
		p.Endpoint = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(plain[size:]))
		plain = plain[size+2:]
		pins = append(pins, p)
	}
	return pins, true
}

// of is the cipher of the token with a salt.
func (s *Sealer) of(salt []byte) cipher.AEAD {
	mac := hmac.New(sha256.New, s.key[:])
	mac.Write([]byte("windrose session token"))
	mac.Write(salt[:saltSize])
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		panic("session: " + err.Error()) // 32 bytes are a key
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic("session: " + err.Error()) // AES has blocks of 16 bytes
	}
	return gcm
}
