// Package cli is windrose's command line: a file for each command.
//
// Commands that look at a running windrose speak to its admin API; validate
// and diff work on files alone. Data goes to standard output and talk to
// standard error, so that a pipe carries data only. An error says what failed,
// where, why, and what to do, and the exit code says what kind it was.
//
// The hidden command dataplane is the data-plane process. Nothing is built,
// read or compiled before a command is chosen, so that it starts small.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/object"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitFindings    = 3 // there are findings that are errors, or diff found differences
	exitNotFound    = 5
	exitUnreachable = 6
	exitTimeout     = 7
)

// failure is an error with what to do about it and an exit code.
type failure struct {
	code int
	err  error
	mend string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func usage(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// errSilent ends a command with exitFindings after it has said everything.
var errSilent = &failure{code: exitFindings, err: errors.New("")}

// app is one invocation.
// adminVariable names the admin API's address in the environment.
const adminVariable = "WINDROSE_ADMIN"

type app struct {
	stdout, stderr io.Writer
	admin          string
	noColor        bool
	timeout        time.Duration
	colors         colors // of stdout
}

// Main runs the command that args (without the program's name) choose and
// gives its exit code. It ends early when ctx does.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // nil would mean the process's own
	root.SetOut(stdout)
	root.SetErr(stderr)
	return a.report(root.ExecuteContext(ctx))
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "windrose",
		Short: "Carries a service's traffic: a gateway fed by Kubernetes manifests",
		Long: `windrose carries a service's traffic. It reads Kubernetes and Gateway API
manifests from a folder, and serves what they say.

  windrose up --config ./windrose.d     run it
  windrose get routes                   see what is attached, and why not
  windrose validate ./windrose.d        check manifests without running anything

Exit codes: 0 fine; 1 failed; 2 usage; 3 findings that are errors, or
differences; 5 not found; 6 no windrose answers; 7 timed out.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return a.unknownCommand(cmd, args[0])
		},
		PersistentPreRun: func(*cobra.Command, []string) { a.colors = a.colorsOf(a.stdout) },
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	flags := root.PersistentFlags()
	flags.StringVar(&a.admin, "admin", cmp.Or(os.Getenv(adminVariable), admin.DefaultAddr), "address of the admin API (also: "+adminVariable+")")
	flags.BoolVar(&a.noColor, "no-color", false, "write without colours (also: NO_COLOR, TERM=dumb)")
	flags.DurationVar(&a.timeout, "timeout", 10*time.Second, "how long to wait for an answer of a running windrose")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &failure{code: exitUsage, err: err, mend: cmd.CommandPath() + " --help lists the flags"}
	})
	root.AddCommand(a.commands()...)
	for _, c := range root.Commands() {
		wrapArgs(c)
	}
	return root
}

// wrapArgs makes a wrong number of arguments a usage error.
func wrapArgs(c *cobra.Command) {
	check := c.Args
	if check == nil {
		return
	}
	c.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &failure{code: exitUsage, err: err, mend: "usage: " + cmd.UseLine()}
		}
		return nil
	}
}

func (a *app) unknownCommand(root *cobra.Command, name string) error {
	known := func(yield func(string) bool) {
		for _, c := range root.Commands() {
			if !c.Hidden && !yield(c.Name()) {
				return
			}
		}
	}
	f := &failure{code: exitUsage, err: fmt.Errorf("unknown command %q", name), mend: "windrose --help lists the commands"}
	if near := object.Nearest(name, known); near != "" {
		f.mend = "did you mean windrose " + near + "?"
	}
	return f
}

// report tells an error and gives the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errSilent) {
		return errSilent.code
	}
	f := a.classify(err)
	c := a.colorsOf(a.stderr)
	fmt.Fprintf(a.stderr, "%s %s\n", c.red("windrose:"), object.Printable(f.err.Error()))
	if f.mend != "" {
		fmt.Fprintf(a.stderr, "  %s\n", object.Printable(f.mend))
	}
	return f.code
}

func (a *app) classify(err error) *failure {
	var f *failure
	var api *admin.APIError
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, admin.ErrUnreachable):
		return &failure{exitUnreachable, err, "start it with windrose up, or say with --admin where it listens"}
	case errors.As(err, &api):
		return &failure{exitFailed, err, api.Mend}
	case errors.Is(err, context.DeadlineExceeded):
		return &failure{exitTimeout, fmt.Errorf("no answer of %s within %v", a.admin, a.timeout), "windrose is busy or hangs; raise --timeout"}
	case errors.Is(err, context.Canceled):
		return &failure{exitFailed, errors.New("interrupted"), ""}
	}
	return &failure{exitFailed, err, ""}
}

// client asks the running windrose; the context ends after the timeout.
func (a *app) client(ctx context.Context) (*admin.Client, context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	return admin.NewClient(a.admin), ctx, cancel
}

// oneOf checks the value of a flag that has few.
func oneOf(flag, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return &failure{code: exitUsage, err: fmt.Errorf("%s %q is not known", flag, value), mend: "one of " + strings.Join(allowed, ", ")}
}

// colors paints text for a terminal; the zero value does not.
type colors struct{ on bool }

func (c colors) paint(code, s string) string {
	if !c.on || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (c colors) red(s string) string    { return c.paint("31", s) }
func (c colors) green(s string) string  { return c.paint("32", s) }
func (c colors) yellow(s string) string { return c.paint("33", s) }
func (c colors) bold(s string) string   { return c.paint("1", s) }

// colorsOf says whether w is a terminal that wants colours.
func (a *app) colorsOf(w io.Writer) colors {
	if a.noColor || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return colors{}
	}
	f, ok := w.(*os.File)
	if !ok {
		return colors{}
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return colors{on: err == nil}
}
