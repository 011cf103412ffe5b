package plan

// slotPool gives out small numbers. One that was put back is given out again
// after the next settle, so that no plan and its successor mean two things by
// one number.
type slotPool struct {
	size  int
	free  []int
	freed []int
}

func (p *slotPool) take() int {
	if n := len(p.free); n > 0 {
		slot := p.free[n-1]
		p.free = p.free[:n-1]
		return slot
	}
	p.size++
	return p.size - 1
}

func (p *slotPool) put(slot int) { p.freed = append(p.freed, slot) }

func (p *slotPool) settle() {
	p.free = append(p.free, p.freed...)
	p.freed = p.freed[:0]
}

// slotTable gives slots to names.
type slotTable struct {
	slotPool
	at map[string]int
}

// of is the slot of name, given now if it has none.
func (t *slotTable) of(name string) int {
	slot, ok := t.at[name]
	if !ok {
		slot = t.take()
		t.at[name] = slot
	}
	return slot
}

func (t *slotTable) drop(name string) {
	t.put(t.at[name])
	delete(t.at, name)
}
