package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/telemetry"
	"windrose.dev/windrose/internal/wait"
)

// serve answers HTTP on addr until ctx ends; an empty address serves nobody.
func (d *dataPlane) serve(ctx context.Context, addr string, h http.Handler) error {
	if addr == "" {
		<-ctx.Done()
		return nil
	}
	ln, err := d.listen(ctx, addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // who scrapes sees it, and nobody else needs to
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", addr, err)
	}
	return nil
}

// listen opens addr. The data plane that this one replaces holds it until it has
// drained, so an address in use is tried again until ctx ends.
func (d *dataPlane) listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	for told := false; ; told = true {
		ln, err := lc.Listen(ctx, "tcp", addr)
		if !errors.Is(err, unix.EADDRINUSE) {
			return ln, err
		}
		if !told {
			d.cfg.Say("an address for scrapes or health checks is in use: trying again", "address", addr)
		}
		if !wait.Sleep(ctx, listenAgain) {
			return nil, err
		}
	}
}

// listenAgain is the pause between two tries to listen.
const listenAgain = 200 * time.Millisecond

func (d *dataPlane) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", telemetry.ContentType)
		_, _ = w.Write(d.hub.AppendMetrics(r.Context(), nil))
	})
	return mux
}

// healthHandler answers probes: live while the process runs, ready while a plan
// is in use, a socket of it is bound, and it is not draining.
func (d *dataPlane) healthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/live", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "live") })
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		if why := d.unready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

func (d *dataPlane) unready() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.draining:
		return "draining"
	case !d.applied:
		return "no configuration is applied yet"
	}
	// One listener that cannot be bound is its author's affair, and its status
	// says so: the others serve.
	bound := len(d.plan.Sockets())
	why := ""
	for _, p := range d.problems {
		if p.Reason == reasonNotUsable {
			bound--
			why = p.Message
		}
	}
	if bound > 0 {
		return ""
	}
	return why
}
