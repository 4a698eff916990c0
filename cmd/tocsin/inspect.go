package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/template"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
)

// choice is the flags of commands that look at one image, of a list perhaps.
type choice struct{ platform, variant string }

// flags adds them; what begins the help of --platform, as in "describe the image for".
func (c *choice) flags(f *pflag.FlagSet, what string) {
	f.StringVar(&c.platform, "platform", "", what+" OS/ARCH[/VARIANT], or local")
	f.StringVar(&c.variant, "variant", "auto", "with one --platform: plain or sentinel and nothing else, or auto (the plain image first)")
}

// look runs fn on the image that an argument names.
func (a *app) look(arg string, c choice, fn func(env *copy.Env, ref manifest.Ref, o *copy.Options) error) (err error) {
	ref, err := parseRef(arg)
	if err != nil {
		return err
	}
	var o copy.Options
	if o.Platform, err = parsePlatform(c.platform); err != nil {
		return err
	}
	if o.Prefer, err = preference(c.variant, manifest.Ref{}); err != nil {
		return err
	}
	env, done, err := a.env(nil, ref)
	if err != nil {
		return err
	}
	defer closing(&err, done)
	return fn(env, ref, &o)
}

func newInspect(a *app) *cobra.Command {
	var c choice
	var format string
	var raw, config, asJSON, noTags bool
	var algorithm algorithmFlags
	cmd := &cobra.Command{
		Use: "inspect REF", Short: "Describe an image without fetching its layers", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if raw && config {
				return usage(errors.New("--raw and --config exclude each other"))
			}
			if asJSON && (format != "" || raw || config) {
				return usage(errors.New("--json is what inspect prints, but for --format, --raw and --config"))
			}
			return a.look(args[0], c, func(env *copy.Env, ref manifest.Ref, o *copy.Options) error {
				if raw || config {
					return printRaw(cmd, env, ref, config, o)
				}
				var err error
				if o.Digests, err = algorithm.wish(); err != nil {
					return err
				}
				out, err := copy.Inspect(cmd.Context(), env, ref, o)
				if err == nil && !noTags && ref.Transport == manifest.Docker {
					out.RepoTags, err = env.Registry.Repo(ref.Host, ref.Repo).Tags(cmd.Context())
				}
				if err != nil {
					return err
				}
				return printInspection(cmd, out, format)
			})
		},
	}
	f := cmd.Flags()
	c.flags(f, "describe the image for")
	f.StringVar(&algorithm.must, "manifest-digest", "", "give the manifest's digest in sha256, sha384 or sha512, whatever names it")
	f.StringVar(&format, "format", "", "a Go template instead of JSON")
	f.BoolVar(&asJSON, "json", false, "print one JSON object, which is the default")
	f.BoolVar(&noTags, "no-tags", true, "=false lists the tags of the repository too, as skopeo does")
	f.BoolVar(&raw, "raw", false, "print the manifest's bytes")
	f.BoolVar(&config, "config", false, "print the config's bytes")
	return cmd
}

// printRaw writes the bytes of a manifest or config as they are.
func printRaw(cmd *cobra.Command, env *copy.Env, ref manifest.Ref, config bool, o *copy.Options) error {
	raw, err := copy.Raw(cmd.Context(), env, ref, config, o)
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(raw)
	return err
}

func printInspection(cmd *cobra.Command, out *copy.Inspection, format string) error {
	w := cmd.OutOrStdout()
	if format == "" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "    ")
		return enc.Encode(out)
	}
	t, err := template.New("format").Parse(format)
	if err != nil {
		return usage(err)
	}
	if err := t.Execute(w, out); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w)
	return err
}
