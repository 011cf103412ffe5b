package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/object"
)

// sizeOf is the size of the terminal that w is; false if it is none.
func sizeOf(w io.Writer) (columns, lines int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile {
		return 0, 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return 0, 0, false
	}
	return int(size.Col), int(size.Row), true
}

// untilInterrupted gives a context that ends with the first Ctrl-C, so that a
// command that goes on can end in order; a second one ends it at once.
func untilInterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it on purpose
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(ctx, signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// clean is a text from the wire on one line, with nothing that commands a
// terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return '?'
		}
		return r
	}, object.Printable(s))
}

// fit cuts a text to so many columns; it ends with … then. 0 leaves it whole.
func fit(s string, columns int) string {
	if columns <= 0 || utf8.RuneCountInString(s) <= columns {
		return s
	}
	r := []rune(s)
	return string(r[:columns-1]) + "…"
}

// padded fills a text that is shorter than its column.
func padded(s string, columns int) string {
	return s + strings.Repeat(" ", max(columns-utf8.RuneCountInString(s), 0))
}
