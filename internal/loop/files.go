package loop

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Files bounds the descriptors that loops take for what they could do without:
// connections that they make, and pipes. Those that are accepted are counted
// too, but not refused here. What is left is for the rest of the process. A nil
// Files bounds nothing.
type Files struct {
	most int64
	open atomic.Int64
}

// NewFiles makes a bound for the loops that share it.
func NewFiles(most int) *Files { return &Files{most: int64(most)} }

// room says with nil that n more may be opened. Loops that ask at the same time
// may get a little more than there is.
func (f *Files) room(n int64) error {
	if f == nil || f.open.Load()+n <= f.most {
		return nil
	}
	return fmt.Errorf("%w: the rest is for windrose itself", unix.EMFILE)
}

// Full says that there is no room for one more, and that more than over are
// open that were accepted all the same.
func (f *Files) Full(over int) bool { return f.room(1-int64(over)) != nil }

// add counts descriptors that were opened, or closed.
func (f *Files) add(n int64) {
	if f != nil {
		f.open.Add(n)
	}
}
