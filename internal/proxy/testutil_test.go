package proxy_test

import (
	"bytes"
	"sync"
)

// lockedBuffer takes the access log of a test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// grow makes room, so that writing allocates nothing.
func (b *lockedBuffer) grow(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Grow(n)
}
