package feed

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"windrose.dev/windrose/internal/plan"
)

// Hash is what tells whether two parts are the same, whoever holds them: the
// first half of the SHA-256 of a part's encoding.
type Hash [16]byte

// MarshalText writes the hash in hexadecimal.
func (h Hash) MarshalText() ([]byte, error) {
	return hex.AppendEncode(nil, h[:]), nil
}

// UnmarshalText reads what MarshalText wrote.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("hash of %d digits, want %d", len(text), hex.EncodedLen(len(h)))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// encode gives the encoding of a part and its hash.
func encode(part *plan.Part) ([]byte, Hash, error) {
	data, err := json.Marshal(part)
	if err != nil {
		return nil, Hash{}, fmt.Errorf("encode part %s: %w", part.Key, err)
	}
	if len(data) > maxPart {
		return nil, Hash{}, fmt.Errorf("part %s has %d bytes, over the limit of %d", part.Key, len(data), maxPart)
	}
	sum := sha256.Sum256(data)
	return data, Hash(sum[:len(Hash{})]), nil
}
