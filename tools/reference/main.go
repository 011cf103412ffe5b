// Reference writes the documents of docs/reference that can be read off the
// program and its tests: faults, metrics, the fields of windrose's own kinds, and
// what of Gateway API is shown by which test. Run it with `make gen`.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

//go:generate go run . ../.. ../../docs/reference

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: reference ROOT FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const typesFile = "api/v1alpha1/types.go"

// generated warns whoever opens a document in an editor.
const generated = "<!-- Made by make gen. Do not edit. -->\n\n"

// run writes the documents of the tree at root to a folder.
func run(root, dir string) error {
	kinds, err := readKinds(filepath.Join(root, typesFile))
	if err != nil {
		return err
	}
	coverage, err := readCoverage(root)
	if err != nil {
		return err
	}
	docs := map[string]func(*bytes.Buffer){
		"cli.md":     commands,
		"faults.md":  faults,
		"metrics.md": metrics,

		"gateway-api.md": coverage.page,
		"workload.md": func(b *bytes.Buffer) {
			kinds.page(b, "Workload", "WorkloadSpec", "WorkloadStatus")
		},
		"gatewayparameters.md": func(b *bytes.Buffer) {
			kinds.page(b, "GatewayParameters", "GatewayParametersSpec", "")
		},
	}
	for name, write := range docs {
		b := bytes.NewBufferString(generated)
		write(b)
		text := append(bytes.TrimRight(b.Bytes(), "\n"), '\n')
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
