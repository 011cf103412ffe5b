package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"windrose.dev/windrose/internal/cli"
)

// commands writes what the program itself says to --help, so that there is one
// text.
func commands(b *bytes.Buffer) {
	b.WriteString(`# Command line

Data goes to standard output and talk to standard error. What each command says to ` + "`--help`" + `:

`)
	top := help()
	fmt.Fprintf(b, "## windrose\n\n```\n%s```\n", top)
	for _, name := range subcommands(top) {
		fmt.Fprintf(b, "\n## windrose %s\n\n```\n%s```\n", name, help(name))
	}
}

func help(command ...string) string {
	var out bytes.Buffer
	// Help never fails; if it said nothing, the test that compares documents says so.
	cli.Main(context.Background(), append(command, "--help"), &out, &out)
	return out.String()
}

// subcommands finds the commands in a help text.
func subcommands(text string) []string {
	var names []string
	_, list, _ := strings.Cut(text, "Available Commands:\n")
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			break
		}
		if fields[0] != "help" && fields[0] != "completion" {
			names = append(names, fields[0])
		}
	}
	return names
}
