package tap

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"windrose.dev/windrose/internal/record"
)

// This file writes records as entries and reads them back: bytes without
// pointers, which are cheap to copy and nothing to a collector. An entry is its
// length, fields of fixed size, the tries, and the texts, each with its length.
// It never leaves the process.

// The longest texts of an entry; what is longer is cut.
const (
	maxID     = 128 // never cut: telemetry takes no longer one
	maxMethod = 32
	maxHost   = 255
	maxPath   = 512
	maxAgent  = 128
	maxName   = 640 // a kind, a namespace and two names of Kubernetes fit
	maxReason = 384
	maxTry    = 128 // the reason of a try
	maxShort  = 330 // the service of a try: a namespace, a name and a port fit
)

const (
	fixedBytes = 4 + 7*8 + 2*4 + 2 + 1 + 1 + addrBytes + 8
	tryBytes   = 5*8 + 2 + 1 + 1 + addrBytes
	addrBytes  = 1 + 16 + 2
	numTexts   = 12
	// maxEntry is more than the longest entry.
	maxEntry = 8 << 10
)

// sizeOf is at least the size of the record's entry.
func sizeOf(r *record.Record) int {
	n := fixedBytes + len(r.Tries)*tryBytes + numTexts*2 + len(r.ID) + len(r.Protocol) + len(r.TLS) + min(len(r.Identity), maxHost) + min(len(r.Method), maxMethod) + min(len(r.Host), maxHost) +
		min(len(r.Path), maxPath) + min(len(r.Agent), maxAgent) + min(len(r.Listener), maxName) + min(len(r.Route), maxName) +
		min(len(r.Service), maxName) + min(len(r.Reason), maxReason)
	for i := range r.Tries {
		t := &r.Tries[i]
		n += 4 + min(len(t.Reason), maxTry)
		if t.Service != r.Service {
			n += min(len(t.Service), maxShort)
		}
	}
	return n
}

// appendEntry appends the record; the query of its path only if wanted.
func appendEntry(dst []byte, r *record.Record, query bool) []byte {
	at := len(dst)
	dst = slices.Grow(dst, sizeOf(r))
	w := writer{dst[at:cap(dst)], fixedBytes}
	le, b := binary.LittleEndian, w.b[:fixedBytes]
	le.PutUint64(b[4:], uint64(r.Start.UnixNano()))
	le.PutUint64(b[12:], uint64(r.Duration))
	le.PutUint64(b[20:], uint64(r.Received))
	le.PutUint64(b[28:], uint64(r.Answered))
	le.PutUint64(b[36:], uint64(r.Upstream))
	le.PutUint64(b[44:], uint64(r.BytesIn))
	le.PutUint64(b[52:], uint64(r.BytesOut))
	le.PutUint32(b[60:], uint32(r.Attempts))
	le.PutUint32(b[64:], uint32(r.Rule))
	le.PutUint16(b[68:], uint16(r.Status))
	b[70], b[71] = byte(r.Fault), byte(len(r.Tries))
	putAddr(b[72:], r.Client)
	le.PutUint64(b[72+addrBytes:], uint64(r.Asked))
	for i := range r.Tries {
		w.try(&r.Tries[i], r.Service)
	}
	path, q := r.SplitPath()
	putText(&w, r.ID, maxID)
	putText(&w, r.Protocol, maxMethod)
	putText(&w, r.TLS, maxMethod)
	putText(&w, r.Identity, maxHost)
	putText(&w, r.Method, maxMethod)
	putText(&w, r.Host, maxHost)
	if query && len(q) > 0 {
		path = append(slices.Clip(path), q...)
	}
	putText(&w, path, maxPath)
	putText(&w, r.Agent, maxAgent)
	putText(&w, r.Listener, maxName)
	putText(&w, r.Route, maxName)
	putText(&w, r.Service, maxName)
	putText(&w, r.Reason, maxReason)
	le.PutUint32(b, uint32(w.n))
	return dst[:at+w.n]
}

const (
	tryReused = 1 << iota
	tryOwnService
)

// writer writes an entry into memory that has room for it.
type writer struct {
	b []byte
	n int
}

func (w *writer) try(t *record.Try, service string) {
	le, b := binary.LittleEndian, w.b[w.n:w.n+tryBytes]
	le.PutUint64(b, uint64(t.Begun))
	le.PutUint64(b[8:], uint64(t.Connected))
	le.PutUint64(b[16:], uint64(t.Sent))
	le.PutUint64(b[24:], uint64(t.Answered))
	le.PutUint64(b[32:], uint64(t.Ended))
	le.PutUint16(b[40:], uint16(t.Status))
	flags := byte(0)
	if t.Reused {
		flags |= tryReused
	}
	own := t.Service != service
	if own {
		flags |= tryOwnService
	}
	b[42], b[43] = flags, byte(t.Fault)
	putAddr(b[44:], t.Endpoint)
	w.n += tryBytes
	putText(w, t.Reason, maxTry)
	if own {
		putText(w, t.Service, maxShort)
	}
}

// putAddr writes an address and its port. One of IPv4 fills a part of its place.
func putAddr(b []byte, a netip.AddrPort) {
	_ = b[addrBytes-1]
	binary.LittleEndian.PutUint16(b[1:], a.Port())
	switch ip := a.Addr(); {
	case ip.Is4() || ip.Is4In6():
		b[0] = 4
		four := ip.As4()
		copy(b[3:], four[:])
	case ip.Is6():
		b[0] = 16
		all := ip.As16()
		copy(b[3:], all[:])
	default:
		b[0] = 0
	}
}

func putText[T string | []byte](w *writer, text T, most int) {
	n := min(len(text), most)
	b := w.b[w.n:]
	binary.LittleEndian.PutUint16(b, uint16(n))
	copy(b[2:], text[:n])
	w.n += 2 + n
}

// reader reads entries that this process wrote.
type reader struct{ b []byte }

func (r *reader) u64() uint64 {
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) duration() time.Duration { return time.Duration(r.u64()) }

func (r *reader) u32() int {
	v := binary.LittleEndian.Uint32(r.b)
	r.b = r.b[4:]
	return int(int32(v))
}

func (r *reader) u16() int {
	v := binary.LittleEndian.Uint16(r.b)
	r.b = r.b[2:]
	return int(v)
}

func (r *reader) u8() byte {
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) addr() netip.AddrPort {
	n := r.b[0]
	port := binary.LittleEndian.Uint16(r.b[1:])
	ip, _ := netip.AddrFromSlice(r.b[3 : 3+n])
	r.b = r.b[addrBytes:]
	return netip.AddrPortFrom(ip, port)
}

func (r *reader) text() []byte {
	n := r.u16()
	t := r.b[:n:n]
	r.b = r.b[n:]
	return t
}

// next reads the first of entries into rec, whose byte slices lie in it, and
// gives what follows.
func next(entries []byte, rec *record.Record) []byte {
	n := int(binary.LittleEndian.Uint32(entries))
	r := reader{entries[4:n]}
	*rec = record.Record{Tries: rec.Tries[:0]}
	rec.Start = time.Unix(0, int64(r.u64()))
	rec.Duration, rec.Received, rec.Answered, rec.Upstream = r.duration(), r.duration(), r.duration(), r.duration()
	rec.BytesIn, rec.BytesOut = int64(r.u64()), int64(r.u64())
	rec.Attempts, rec.Rule = r.u32(), r.u32()
	rec.Status = r.u16()
	rec.Fault = record.Flag(r.u8())
	tries := int(r.u8())
	rec.Client = r.addr()
	rec.Asked = r.duration()
	own := make([]bool, 0, record.MaxTries)
	for range tries {
		t := record.Try{Begun: r.duration(), Connected: r.duration(), Sent: r.duration(), Answered: r.duration(), Ended: r.duration(), Status: r.u16()}
		flags := r.u8()
		t.Reused, t.Fault = flags&tryReused != 0, record.Flag(r.u8())
		t.Endpoint = r.addr()
		t.Reason = string(r.text())
		if flags&tryOwnService != 0 {
			t.Service = string(r.text())
		}
		own = append(own, flags&tryOwnService != 0)
		rec.Tries = append(rec.Tries, t)
		rec.Endpoint = t.Endpoint
	}
	rec.ID, rec.Protocol, rec.TLS, rec.Identity = r.text(), string(r.text()), string(r.text()), string(r.text())
	rec.Method, rec.Host, rec.Path, rec.Agent = r.text(), r.text(), r.text(), r.text()
	rec.Listener, rec.Route, rec.Service, rec.Reason = string(r.text()), string(r.text()), string(r.text()), string(r.text())
	for i := range rec.Tries {
		if !own[i] {
			rec.Tries[i].Service = rec.Service
		}
	}
	return entries[n:]
}

// length is that of the first of entries.
func length(entries []byte) int { return int(binary.LittleEndian.Uint32(entries)) }

// startOf is when the first of entries began.
func startOf(entries []byte) time.Time {
	return time.Unix(0, int64(binary.LittleEndian.Uint64(entries[4:])))
}
