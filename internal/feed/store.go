package feed

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"windrose.dev/windrose/internal/atomicfile"
	"windrose.dev/windrose/internal/plan"
)

// Store is a file that holds parts, private keys among them: it is readable by
// its owner alone. A file is written whole or not at all.
//
//	windrose plan 1
//	{"key":...}                  one part a line
//	end SHA-256-OF-ALL-ABOVE
type Store struct{ Path string }

const (
	storeHead = "windrose plan 1\n"
	storeEnd  = "end "
)

// Save replaces what is stored.
func (s Store) Save(parts []*plan.Part) error {
	if err := atomicfile.ReplaceDurably(s.Path, func(w io.Writer) error { return writeParts(w, parts) }); err != nil {
		return fmt.Errorf("store the plan: %w", err)
	}
	return nil
}

func writeParts(f io.Writer, parts []*plan.Part) error {
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 64<<10)
	if _, err := w.WriteString(storeHead); err != nil {
		return err
	}
	for _, part := range parts {
		data, err := json.Marshal(part)
		if err != nil {
			return fmt.Errorf("part %s: %w", part.Key, err)
		}
		if _, err := w.Write(append(data, '\n')); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(f, "%s%x\n", storeEnd, sum.Sum(nil))
	return err
}

// Load reads what is stored: all of it, or an error. The error is
// os.ErrNotExist if nothing is.
func (s Store) Load() ([]plan.Part, error) {
	f, err := os.Open(s.Path)
	if err != nil {
		return nil, fmt.Errorf("load the stored plan: %w", err)
	}
	defer f.Close()
	parts, err := readParts(io.LimitReader(f, maxSnapshot))
	if err != nil {
		return nil, fmt.Errorf("load the stored plan %s: %w", s.Path, err)
	}
	return parts, nil
}

func readParts(f io.Reader) ([]plan.Part, error) {
	r := lineReader{r: bufio.NewReaderSize(f, 64<<10), sum: sha256.New()}
	line, err := r.next()
	if err != nil {
		return nil, err
	}
	if string(line) != storeHead {
		return nil, errors.New("it is not a plan of this format")
	}
	var parts []plan.Part
	shared := names{}
	for {
		if line, err = r.next(); err != nil {
			return nil, err
		}
		if text, ok := bytes.CutPrefix(line, []byte(storeEnd)); ok {
			if string(text) != hex.EncodeToString(r.sum.Sum(nil))+"\n" {
				return nil, errors.New("its checksum is wrong")
			}
			return parts, nil
		}
		var part plan.Part
		if err := decodeStrict(bytes.TrimSuffix(line, []byte("\n")), &part); err != nil {
			return nil, fmt.Errorf("part %d: %w", len(parts)+1, err)
		}
		if !whole(&part) {
			return nil, fmt.Errorf("part %s is empty or of a kind that is not known", part.Key)
		}
		shared.share(&part)
		parts = append(parts, part)
	}
}

// lineReader reads lines of bounded length and sums those before the last.
type lineReader struct {
	r   *bufio.Reader
	sum hash.Hash
	buf []byte
}

func (l *lineReader) next() ([]byte, error) {
	l.sum.Write(l.buf)
	l.buf = l.buf[:0]
	for {
		piece, err := l.r.ReadSlice('\n')
		l.buf = append(l.buf, piece...)
		if len(l.buf) > maxFrame {
			return nil, fmt.Errorf("a line is over the limit of %d bytes", maxFrame)
		}
		switch {
		case err == nil:
			return l.buf, nil
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
