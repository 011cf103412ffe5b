package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/node"
)

// defaultConfig is the folder that up reads unless told otherwise.
const defaultConfig = "./windrose.d"

func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.upCommand(), a.getCommand(), a.describeCommand(), a.validateCommand(), a.diffCommand(), a.explainCommand(), a.tapCommand(), a.topCommand(), a.versionCommand(), a.dataplaneCommand(),
	}
}

func (a *app) upCommand() *cobra.Command {
	var cfg node.Config
	var logFormat string
	c := &cobra.Command{
		Use:   "up [--config PATH]...",
		Short: "Run windrose with the manifests of files and folders",
		Long: `Reads manifests, serves what they say, and follows their changes until it is
told to end.

Ctrl-C or SIGTERM lets requests in flight end, then stops workloads; a second
one ends at once. The access log goes to standard output, everything else to
standard error.`,
		Example: "  windrose up --config ./windrose.d --config ./certs",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("--log-format", logFormat, "text", "json"); err != nil {
				return err
			}
			if err := addresses(map[string]string{"--admin": a.admin, "--health": cfg.Health, "--metrics": cfg.Metrics}); err != nil {
				return err
			}
			cfg.JSON = logFormat == "json"
			cfg.Admin = a.admin
			cfg.Stdout, cfg.Stderr = a.stdout, a.stderr
			cfg.Version = buildVersion()
			return a.up(cmd.Context(), cfg)
		},
	}
	flags := c.Flags()
	flags.StringArrayVar(&cfg.Paths, "config", []string{defaultConfig}, "file or folder of manifests; may be given several times")
	flags.StringVar(&cfg.State, "state", "", "folder for what lasts (default "+stateHelp+")")
	flags.StringVar(&cfg.Metrics, "metrics", node.DefaultMetrics, "address of the data plane's /metrics; empty for none")
	flags.StringVar(&cfg.Health, "health", node.DefaultHealth, "address of /healthz/live and /healthz/ready; empty for none")
	flags.StringVar(&logFormat, "log-format", "text", "form of the log: text or json")
	return c
}

// addresses refuses what nothing can listen on, before anything is started.
func addresses(flags map[string]string) error {
	for _, flag := range slices.Sorted(maps.Keys(flags)) {
		address := flags[flag]
		if address == "" {
			continue
		}
		if _, err := net.ResolveTCPAddr("tcp", address); err != nil {
			return &failure{exitUsage, fmt.Errorf("%s %q is no address to listen on: %w", flag, address, err), "write it as 127.0.0.1:15000"}
		}
		for other, taken := range flags {
			if other != flag && taken == address && !strings.HasSuffix(address, ":0") {
				return &failure{exitUsage, fmt.Errorf("%s and %s are both %s", min(flag, other), max(flag, other), address), "give each an address of its own"}
			}
		}
	}
	return nil
}

// stateHelp does not depend on who asks, so that the help is the same for all.
const stateHelp = "/var/lib/windrose as root, else $XDG_STATE_HOME/windrose"

func (a *app) up(ctx context.Context, cfg node.Config) error {
	if err := node.KeepDescriptors(); err != nil {
		return err
	}
	if cfg.State == "" {
		cfg.State = node.DefaultState()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	abort := make(chan struct{})
	cfg.Abort = abort
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it on purpose
		signal.Notify(signals, syscall.SIGHUP)
	}
	defer signal.Stop(signals)
	// Whoever reads the log may go away, as tee does on Ctrl-C. Then lines are lost,
	// and nothing else: the default would end windrose and leave the data plane
	// behind. Not Ignore, which workloads would inherit.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ended:
			return
		}
		select {
		case <-signals:
			close(abort)
		case <-ended:
		}
	}()
	return mendUp(node.Run(ctx, cfg), cfg)
}

// mendUp says what to do about the usual reasons why windrose cannot start.
func mendUp(err error, cfg node.Config) error {
	var inUse *node.InUseError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &inUse):
		return &failure{exitFailed, err, "end it, or give this one another folder with --state"}
	case errors.Is(err, unix.EADDRINUSE):
		return &failure{exitFailed, err, "another windrose or program has this port: end it, or choose another with --admin"}
	case errors.Is(err, fs.ErrPermission):
		return &failure{exitFailed, err, fmt.Sprintf("give this user rights on it, or choose another folder with --state (now %s)", cfg.State)}
	}
	return err
}
