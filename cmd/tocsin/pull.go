package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/manifest"
)

func newPull(a *app) *cobra.Command {
	var c copyFlags
	var into, snapshotter string
	cmd := &cobra.Command{
		Use: "pull REF", Short: "Copy an image of a registry into the store or a containerd, for this platform", Args: cobra.ExactArgs(1),
		Long: "Copy an image of a registry into the store under its own name: this platform's, a sentinel variant before its plain sibling.\n" +
			"With --into the image becomes one of containerd's. A sentinel variant is prepared by the snapshotter of tocsin serve, so that it\n" +
			"runs at once with ctr run --snapshotter tocsin, with every containerd from 2.0 on and also if REF is the digest of a list. Of a plain\n" +
			"image the layers are copied, and containerd unpacks them. The policy and signatures are asked before either.",
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := parseRegistryRef(args[0])
			if err != nil {
				return err
			}
			if into != "" {
				return a.pullInto(cmd, src, into, snapshotter, c)
			}
			if cmd.Flags().Changed("snapshotter") {
				return usage(errors.New("--snapshotter is one of the containerd that --into names"))
			}
			dst := src
			dst.Transport = manifest.Store
			return a.copy(cmd, src, dst, c)
		},
	}
	c.where(cmd.Flags(), "local", "another platform than this machine's: OS/ARCH[/VARIANT]")
	c.intoStore(cmd.Flags())
	a.limits.flags(cmd.Flags())
	cmd.Flags().StringVar(&into, "into", "", "into this namespace of containerd instead of the store, under REF's name or another: containerd:NAMESPACE[/NAME]")
	cmd.Flags().StringVar(&snapshotter, "snapshotter", "tocsin", "with --into: what containerd's configuration calls tocsin's snapshotter")
	return cmd
}

// pullInto copies an image into a containerd, a sentinel variant by its snapshotter.
func (a *app) pullInto(cmd *cobra.Command, src manifest.Ref, into, snapshotter string, c copyFlags) error {
	dst, err := parseInto(into, src)
	if err != nil {
		return err
	}
	switch {
	case c.keepBlobs:
		return usage(errors.New("--keep-blobs is about the store, and --into leaves the store alone"))
	case snapshotter == "":
		return usage(errors.New("--snapshotter needs a name"))
	}
	o, err := c.options(dst)
	if err != nil {
		return err
	}
	o.Snapshotter = snapshotter
	o.Signatures.Remove = true // they were checked; containerd has no place for them
	if o.Prefer == manifest.PreferPlain {
		o.Prefer = manifest.PreferVariant // which can be consumed here
	}
	return a.copyWith(cmd, src, dst, c, o)
}

// parseInto reads --into: a namespace alone stands for the image's own name in it.
func parseInto(text string, src manifest.Ref) (manifest.Ref, error) {
	rest, ok := strings.CutPrefix(text, string(manifest.Containerd)+":")
	if !ok {
		return manifest.Ref{}, usage(fmt.Errorf("--into %q is not containerd:NAMESPACE[/NAME]", text))
	}
	if _, _, named := strings.Cut(rest, "/"); !named {
		of, err := parseRef(text + "/name")
		src.Transport, src.Namespace = manifest.Containerd, of.Namespace
		return src, err
	}
	dst, err := parseRef(text)
	if err == nil && dst.Repo == "" {
		err = usage(fmt.Errorf("--into %q has a digest and no name", text))
	}
	return dst, err
}
