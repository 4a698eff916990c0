package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
)

// copyFlags are the flags of the commands that copy.
type copyFlags struct {
	platform, variant, digestFile, metadataFile string
	asJSON                                      bool
	encodeFlags
	progress   progressFlags
	selection  selection
	trust      trustFlags
	signatures signatureFlags
	skopeo     skopeoFlags
}

// encodeFlags say what is made anew, and what must not be.
type encodeFlags struct {
	compress, format       string
	sentinel, sentinelType string
	add                    []string
	preserve, keepBlobs    bool
	recompress, foreign    bool
	digests                algorithmFlags
}

// where adds the flags that say which image is taken and how the outcome is told.
func (c *copyFlags) where(f *pflag.FlagSet, platform, usage string) {
	f.StringVar(&c.platform, "platform", platform, usage)
	f.StringVar(&c.variant, "variant", "auto", "with one --platform: plain or sentinel and nothing else, or auto (the sentinel variant first into the store, else the plain image)")
	f.StringVar(&c.digestFile, "digestfile", "", "write the digest to this file too")
	f.BoolVar(&c.asJSON, "json", false, "print one JSON object")
	f.StringVar(&c.metadataFile, "metadata-file", "", "write the digest, descriptor and name as buildx does, in JSON, to this file too")
	c.progress.flags(f)
	c.selection.flags(f, platform)
	c.trust.flags(f)
	c.signatures.carried(f)
	f.BoolVar(&c.foreign, "download-foreign", false, "fetch layers of non-distributable types from the URLs in their manifests, and make them ordinary ones")
}

// intoStore adds the flags of commands that copy into the store.
func (c *copyFlags) intoStore(f *pflag.FlagSet) {
	f.BoolVar(&c.keepBlobs, "keep-blobs", false, "keep the layer blobs in the store too, so that the image can be copied out of it with its digests")
}

func (c *copyFlags) options(dst manifest.Ref) (o *copy.Options, err error) {
	o = &copy.Options{Sentinel: c.sentinel, Preserve: c.preserve, Layers: copy.Layers{KeepBlobs: c.keepBlobs, DownloadForeign: c.foreign}}
	if err := c.selection.apply(c.platform, o); err != nil {
		return nil, err
	}
	if err := c.encode(o); err != nil {
		return nil, err
	}
	if o.Digests, err = c.digests.wish(); err != nil {
		return nil, err
	}
	if o.Signatures, err = c.signatures.signing(); err != nil {
		return nil, err
	}
	o.Prefer, err = preference(c.variant, dst)
	return o, err
}

// encode says in o what is made anew, and as what.
func (c *copyFlags) encode(o *copy.Options) error {
	compress, err := c.skopeo.compression(c.compress)
	if err != nil {
		return err
	}
	if o.Compress, err = copy.ParseCompression(compress); err != nil {
		return err
	}
	if o.Compress.Anew = c.recompress; c.recompress && o.Compress.Algorithm == "" {
		return usage(errors.New("--recompress needs --compress, to say how"))
	}
	for _, text := range c.add {
		add, err := copy.ParseCompression(text)
		if err != nil {
			return err
		}
		o.Select.Add = append(o.Select.Add, add)
	}
	if o.Format, err = copy.ParseFormat(c.format); err != nil {
		return err
	}
	if c.sentinelType != "" {
		if o.SentinelType, err = manifest.ParseSentinelType(c.sentinelType); err != nil {
			return usage(fmt.Errorf("--sentinel-type is oci or upstream: %w", err))
		}
	}
	return nil
}

func newCopy(a *app) *cobra.Command {
	var c copyFlags
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "copy SRC DST",
		Short: "Copy an image between registries, layouts, archives and the store",
		Long: "Copy an image, with its whole list when the source is one, and print the digest of what was written.\n" +
			"References: NAME or docker://NAME, oci:DIR[:NAME], dir:DIR, oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], store:NAME,\n" +
			"containerd:NAMESPACE/NAME, docker-daemon:NAME; as SRC also tarball:FILE, an image of one layer made of a root file system's tar. FILE may be - for standard input or output.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := parseRef(args[0])
			if err != nil {
				return err
			}
			dst, err := parseRef(args[1])
			if err != nil {
				return err
			}
			if dryRun {
				return a.dryRun(cmd, src, dst, c)
			}
			return a.copy(cmd, src, dst, c)
		},
	}
	f := cmd.Flags()
	c.where(f, "", "copy one platform's image instead of the whole list, or a list of several with commas: OS/ARCH[/VARIANT] or local")
	c.encoding(f)
	c.skopeo.flags(f)
	c.intoStore(f)
	a.limits.flags(f)
	a.sides.flags(f)
	f.BoolVar(&dryRun, "dry-run", false, "print what would be copied, encoded and changed, and why, and change nothing")
	return cmd
}

// copy runs one copy with its progress on stderr and prints what was written.
func (a *app) copy(cmd *cobra.Command, src, dst manifest.Ref, c copyFlags) error {
	o, err := c.options(dst)
	if err != nil {
		return err
	}
	return a.copyWith(cmd, src, dst, c, o)
}

func (a *app) copyWith(cmd *cobra.Command, src, dst manifest.Ref, c copyFlags, o *copy.Options) (err error) {
	bars, err := newProgress(os.Stderr, c.progress)
	if err != nil {
		return err
	}
	env, done, err := a.env(bars, src, dst)
	if err != nil {
		return err
	}
	done = a.withPairs(env, o, done)
	defer closing(&err, done)
	if err := a.trust(env, c.trust, src); err != nil {
		return err
	}
	res, err := copy.Copy(cmd.Context(), env, src, dst, o)
	bars.wait()
	if err != nil {
		return err
	}
	if dst.Path == "-" && (dst.Transport == manifest.OCIArchive || dst.Transport == manifest.DockerArchive) {
		cmd.SetOut(os.Stderr) // standard output is the archive
	}
	return c.print(cmd, dst.String(), res)
}

// preference says which instance answers for a platform. "auto" prefers the variant where it can be consumed.
func preference(variant string, dst manifest.Ref) (manifest.Prefer, error) {
	switch variant {
	case "plain":
		return manifest.OnlyPlain, nil
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

// print tells what was written, in every way that was asked for.
func (c *copyFlags) print(cmd *cobra.Command, name string, res *copy.Result) error {
	for _, n := range res.Notes {
		fmt.Fprintln(os.Stderr, "note:", n)
	}
	if c.digestFile != "" {
		if err := os.WriteFile(c.digestFile, []byte(res.Digest), 0o644); err != nil {
			return err
		}
	}
	if c.metadataFile != "" {
		if err := writeMetadata(c.metadataFile, name, res); err != nil {
			return err
		}
	}
	if c.asJSON {
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

// writeMetadata writes what `docker buildx build --metadata-file` says of an image that it pushed, by its keys.
func writeMetadata(file, name string, res *copy.Result) error {
	type descriptor struct {
		MediaType string        `json:"mediaType"`
		Digest    digest.Digest `json:"digest"`
	}
	raw, err := json.MarshalIndent(struct {
		Digest     digest.Digest `json:"containerimage.digest"`
		Descriptor descriptor    `json:"containerimage.descriptor"`
		Name       string        `json:"image.name"`
	}{res.Digest, descriptor{res.MediaType, res.Digest}, name}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}
