package plan

// BoundMirror is a mirror as it serves: a second service that gets a copy of some
// requests.
type BoundMirror struct {
	Service     int // slot
	ServiceName string

	num, den uint64
}

// Takes says whether the request with that number is copied. As with a split,
// each den positions in a row hold num copies, as evenly as can be.
func (m *BoundMirror) Takes(position uint64) bool {
	if m.num == m.den {
		return true
	}
	position %= m.den
	return scale(position+1, m.num, m.den) != scale(position, m.num, m.den)
}

// Always says that every request is copied, or none: no number is needed.
func (m *BoundMirror) Always() bool { return m.num == m.den || m.num == 0 }

func (m *Mirror) clean() bool {
	return m == nil || m.Service != "" && m.Den > 0 && m.Num >= 0 && m.Num <= m.Den
}
