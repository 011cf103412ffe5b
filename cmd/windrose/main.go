// Command windrose carries a service's traffic.
package main

import (
	"context"
	"os"

	"windrose.dev/windrose/internal/cli"
)

func main() { os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }
