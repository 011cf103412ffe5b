package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"windrose.dev/windrose/internal/object"
)

func (a *app) validateCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "validate PATH...",
		Short: "Check manifests without running anything",
		Long: `Reads manifests as windrose up would, checks them with the rules of the API
server and with windrose's own, and writes what is wrong with its place. It
needs no running windrose.

The exit code is 3 if a finding is an error, else 0.`,
		Example: "  windrose validate ./windrose.d\n  windrose validate -o json shop.yaml",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := oneOf("-o", output, "text", "json", "yaml"); err != nil {
				return err
			}
			return a.validate(args, output)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "form: text, json or yaml")
	return c
}

func (a *app) validate(paths []string, output string) error {
	set, _, findings, err := read(paths, nil)
	if err != nil {
		return err
	}
	if output == "text" {
		a.renderFindings(a.stdout, a.colors, findings)
	} else {
		for i := range findings {
			findings[i] = findings[i].Public()
		}
		if err := writeValue(a.stdout, output, listOf(findings)); err != nil {
			return err
		}
	}
	objects, counts := 0, map[object.Severity]int{}
	for o := range set.All {
		if _, written := set.Places[object.KeyOf(o)]; written {
			objects++
		}
	}
	for _, f := range findings {
		counts[f.Severity]++
	}
	fmt.Fprintf(a.stderr, "%s in use: %s, %s\n", count(objects, "object"), count(counts[object.Error], "error"), count(counts[object.Warning], "warning"))
	if slices.ContainsFunc(findings, func(f object.Finding) bool { return f.Severity == object.Error }) {
		return errSilent
	}
	return nil
}

// count says how many there are of something.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
