package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
)

func newDigest(a *app) *cobra.Command {
	var platform, variant string
	var full bool
	cmd := &cobra.Command{
		Use: "digest REF", Short: "Print the digest that a reference names", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ref, err := parseRef(args[0])
			if err != nil {
				return err
			}
			o, err := chooseOptions(platform, variant)
			if err != nil {
				return err
			}
			env, done, err := a.env(nil, ref)
			if err != nil {
				return err
			}
			defer closing(&err, done)
			d, err := copy.Resolve(cmd.Context(), env, ref, o)
			if err != nil {
				return err
			}
			if full {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s@%s\n", ref.Repository(), d)
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), d)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&platform, "platform", "", "the digest of the image for OS/ARCH[/VARIANT], or local")
	f.StringVar(&variant, "variant", "plain", "with --platform: plain or sentinel")
	f.BoolVar(&full, "full-ref", false, "print HOST/REPOSITORY@DIGEST")
	return cmd
}

// chooseOptions reads the flags that choose one instance of a list.
func chooseOptions(platform, variant string) (*copy.Options, error) {
	p, err := parsePlatform(platform)
	if err != nil {
		return nil, err
	}
	prefer, err := preference(variant, manifest.Ref{})
	return &copy.Options{Platform: p, Prefer: prefer}, err
}

func newInspect(a *app) *cobra.Command {
	var platform, variant, format string
	var raw, config bool
	cmd := &cobra.Command{
		Use: "inspect REF", Short: "Describe an image without fetching its layers", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if raw && config {
				return usage(errors.New("--raw and --config exclude each other"))
			}
			ref, err := parseRef(args[0])
			if err != nil {
				return err
			}
			o, err := chooseOptions(platform, variant)
			if err != nil {
				return err
			}
			env, done, err := a.env(nil, ref)
			if err != nil {
				return err
			}
			defer closing(&err, done)
			if raw || config {
				b, err := copy.Raw(cmd.Context(), env, ref, config, o)
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(b)
				return err
			}
			out, err := copy.Inspect(cmd.Context(), env, ref, o)
			if err != nil {
				return err
			}
			return printInspection(cmd, out, format)
		},
	}
	f := cmd.Flags()
	f.StringVar(&platform, "platform", "", "describe the image for OS/ARCH[/VARIANT], or local")
	f.StringVar(&variant, "variant", "plain", "with --platform: plain or sentinel")
	f.StringVar(&format, "format", "", "a Go template instead of JSON")
	f.BoolVar(&raw, "raw", false, "print the manifest's bytes")
	f.BoolVar(&config, "config", false, "print the config's bytes")
	return cmd
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
