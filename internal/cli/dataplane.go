package cli

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"windrose.dev/windrose/internal/dataplane"
	"windrose.dev/windrose/internal/node"
)

// dataplaneCommand is the process that carries traffic. windrose up starts it.
func (a *app) dataplaneCommand() *cobra.Command {
	var cfg dataplane.Config
	var logFormat string
	c := &cobra.Command{
		Use:    "dataplane",
		Short:  "Carry traffic; windrose up starts this process",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("--log-format", logFormat, "text", "json"); err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(a.stderr, nil))
			if logFormat == "json" {
				log = slog.New(slog.NewJSONHandler(a.stderr, nil))
			}
			log = log.With("process", "dataplane")
			cfg.Node, cfg.Version = node.DataPlaneName(os.Getpid()), buildVersion().Version
			cfg.Log, cfg.Say = a.stdout, log.Info
			// Who reads our output may be gone, with the control part. That must
			// not end traffic: writing fails then, and no more.
			signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return dataplane.Run(ctx, cfg)
		},
	}
	flags := c.Flags()
	flags.StringVar(&cfg.Feed, "feed", "", "socket of the plan stream")
	flags.StringVar(&cfg.Store, "store", "", "file for the stored plan")
	flags.StringVar(&cfg.Metrics, "metrics", node.DefaultMetrics, "address of /metrics; empty for none")
	flags.StringVar(&cfg.Health, "health", node.DefaultHealth, "address of the health checks; empty for none")
	flags.IntSliceVar(&cfg.TakeOver, "take-over", nil, "serve beside the data plane with this pid, which is about to drain")
	flags.StringVar(&logFormat, "log-format", "text", "form of the log: text or json")
	return c
}
