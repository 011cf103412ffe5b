package feed

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// frameReader reads frames. Its buffer is used again for the next frame.
type frameReader struct {
	r   io.Reader
	buf []byte
}

// keepBuffer is what a reader or writer keeps between frames.
const keepBuffer = 512 << 10

// next reads one frame. What it gives is valid until the next call.
func (f *frameReader) next() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n == 0 || n > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes, want 1 to %d", n, maxFrame)
	}
	if cap(f.buf) > keepBuffer {
		f.buf = nil
	}
	// Memory follows what really arrives: a length alone costs nothing.
	f.buf = f.buf[:0]
	for len(f.buf) < n {
		step := min(n-len(f.buf), max(keepBuffer, len(f.buf)))
		at := len(f.buf)
		f.buf = append(f.buf, make([]byte, step)...)
		if _, err := io.ReadFull(f.r, f.buf[at:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return f.buf, nil
}

// decodeStrict decodes one JSON value and refuses what it does not know.
func decodeStrict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.InputOffset() != int64(len(data)) {
		return errors.New("bytes after the end of the value")
	}
	return nil
}

// A wire is one end of a connection: frames both ways, with deadlines. Sending
// is safe for several goroutines.
type wire struct {
	conn net.Conn
	in   frameReader

	mu  sync.Mutex // guards writing and out
	out []byte
}

func newWire(conn net.Conn) *wire {
	return &wire{conn: conn, in: frameReader{r: conn}}
}

// receive waits for a frame no longer than the time given.
func (w *wire) receive(wait time.Duration) ([]byte, error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	return w.in.next()
}

func (w *wire) send(m *message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Type, err)
	}
	return w.sendRaw(data)
}

func (w *wire) sendRaw(data []byte) error {
	if len(data) > maxFrame {
		return fmt.Errorf("frame of %d bytes is over the limit of %d", len(data), maxFrame)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	w.out = binary.BigEndian.AppendUint32(w.out[:0], uint32(len(data)))
	w.out = append(w.out, data...)
	_, err := w.conn.Write(w.out)
	if cap(w.out) > keepBuffer {
		w.out = nil
	}
	return err
}
