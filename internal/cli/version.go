package cli

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"windrose.dev/windrose/internal/admin"
)

// buildVersion says what this program is, from what the go command stamped
// into it.
func buildVersion() admin.Version {
	v := admin.Version{Version: "development", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified && v.Commit != "" {
		v.Commit += "-dirty"
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "version",
		Short: "Tell the version of this windrose and of the running one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("-o", output, "table", "json", "yaml"); err != nil {
				return err
			}
			versions := map[string]*admin.Version{"client": new(buildVersion())}
			client, ctx, cancel := a.client(cmd.Context())
			defer cancel()
			running, err := client.Version(ctx)
			switch {
			case err == nil:
				versions["running"] = &running
			case !errors.Is(err, admin.ErrUnreachable):
				return err
			}
			if output != "table" {
				return writeValue(a.stdout, output, versions)
			}
			t := &table{}
			for _, name := range []string{"client", "running"} {
				v := versions[name]
				if v == nil {
					t.add(plain(name), plain("none answers at "+a.admin))
					continue
				}
				t.add(plain(name), plain(v.Version), plain(v.Commit), plain(fmt.Sprintf("%s %s/%s", v.Go, v.OS, v.Arch)))
			}
			return t.write(a.stdout)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "form: table, json or yaml")
	return c
}
