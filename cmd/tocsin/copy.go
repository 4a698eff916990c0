package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
)

func newCopy(a *app) *cobra.Command {
	var platform, variant, compress, sentinel, digestFile string
	var preserve, asJSON bool
	cmd := &cobra.Command{
		Use:   "copy SRC DST",
		Short: "Copy an image between registries, OCI layouts and the store",
		Long: "Copy an image, with its whole list when the source is one, and print the digest of what was written.\n" +
			"References: NAME or docker://NAME, oci:DIR[:NAME], store:NAME.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			src, err := parseRef(args[0])
			if err != nil {
				return err
			}
			dst, err := parseRef(args[1])
			if err != nil {
				return err
			}
			o := &copy.Options{Sentinel: sentinel, Preserve: preserve}
			if o.Platform, err = parsePlatform(platform); err != nil {
				return err
			}
			if o.Compress, err = copy.ParseCompression(compress); err != nil {
				return err
			}
			if o.Prefer, err = preference(variant, dst); err != nil {
				return err
			}
			bars := newProgress(os.Stderr)
			env, done, err := a.env(bars, src, dst)
			if err != nil {
				return err
			}
			defer closing(&err, done)
			res, err := copy.Copy(cmd.Context(), env, src, dst, o)
			bars.wait()
			if err != nil {
				return err
			}
			return printCopied(cmd, res, digestFile, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&platform, "platform", "", "copy one platform's image instead of the whole list: OS/ARCH[/VARIANT] or local")
	f.StringVar(&variant, "variant", "auto", "with --platform: plain, sentinel, or auto (the sentinel variant into the store, else plain)")
	f.StringVar(&compress, "compress", "", "encode layers: gzip, zstd, zstd:chunked or none, with :LEVEL")
	f.StringVar(&sentinel, "sentinel", "", "publish a sentinel variant: none, hidden, upstream or only (default hidden with --compress zstd:chunked)")
	f.BoolVar(&preserve, "preserve-digests", false, "fail rather than change a digest")
	f.StringVar(&digestFile, "digestfile", "", "write the digest to this file too")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// preference says which instance answers for a platform. "auto" prefers the variant where it can be consumed.
func preference(variant string, dst manifest.Ref) (manifest.Prefer, error) {
	switch variant {
	case "plain":
		return manifest.PreferPlain, nil
	case "sentinel":
		return manifest.OnlyVariant, nil
	case "auto":
		if dst.Transport == manifest.Store {
			return manifest.PreferVariant, nil
		}
		return manifest.PreferPlain, nil
	}
	return 0, usage(fmt.Errorf("--variant %q is not plain, sentinel or auto", variant))
}

func printCopied(cmd *cobra.Command, res *copy.Result, digestFile string, asJSON bool) error {
	for _, n := range res.Notes {
		fmt.Fprintln(os.Stderr, "note:", n)
	}
	if digestFile != "" {
		if err := os.WriteFile(digestFile, []byte(res.Digest), 0o644); err != nil {
			return err
		}
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
			Digest    string
			MediaType string
			Instances int
			Notes     []string `json:",omitempty"`
		}{res.Digest.String(), res.MediaType, res.Instances, res.Notes})
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), res.Digest)
	return err
}
