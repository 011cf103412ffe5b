// Backend is a service of the demo: a small HTTP server that answers with its
// name and what it saw of the request, as JSON, so that one sees which backend
// a request reached and what the gateway did to it on the way.
//
//	/healthz          200 while it runs
//	/slow?for=200ms   waits before it answers (at most 30 s)
//	/echo             answers with the request's body
//	anything else     the JSON
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("backend", flag.ContinueOnError)
	name := flags.String("name", "backend", "name in the answers")
	listen := flags.String("listen", "127.0.0.1:8081", "address to listen on")
	if err := flags.Parse(args); err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: *listen, Handler: handler(*name), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	fmt.Printf("%s listens on %s\n", *name, *listen)

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	// What is in flight may finish.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func handler(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/slow"):
			slow(w, r, name)
		case strings.HasSuffix(r.URL.Path, "/echo"):
			w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
			// Else the first write would end the reading of the request.
			http.NewResponseController(w).EnableFullDuplex()
			io.Copy(w, r.Body)
		default:
			answer(w, r, name)
		}
	})
	return mux
}

func slow(w http.ResponseWriter, r *http.Request, name string) {
	wait, err := time.ParseDuration(r.FormValue("for"))
	if err != nil {
		wait = time.Second
	}
	select {
	case <-time.After(min(wait, 30*time.Second)):
		answer(w, r, name)
	case <-r.Context().Done():
	}
}

// seen is what a backend saw of a request.
type seen struct {
	Backend string      `json:"backend"`
	Method  string      `json:"method"`
	Host    string      `json:"host"`
	Path    string      `json:"path"`
	Query   string      `json:"query,omitempty"`
	Headers http.Header `json:"headers"`
}

func answer(w http.ResponseWriter, r *http.Request, name string) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(seen{Backend: name, Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery, Headers: r.Header})
}
