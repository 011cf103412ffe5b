package plan

// BoundMirror is a mirror as it serves: a second service that gets a copy of some
// requests.
type BoundMirror struct {
	Share           // of the requests, by their number
	Service     int // slot
	ServiceName string
}

func (m *Mirror) clean() bool {
	return m == nil || m.Service != "" && m.Den > 0 && m.Num >= 0 && m.Num <= m.Den
}
