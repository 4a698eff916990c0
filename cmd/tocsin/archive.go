package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
)

// encoding adds the flags that say what becomes of layers and digests on the way.
func (c *copyFlags) encoding(f *pflag.FlagSet) {
	f.StringVar(&c.compress, "compress", "", "encode layers: gzip, zstd, zstd:chunked or none, with :LEVEL")
	f.BoolVar(&c.recompress, "recompress", false, "with --compress: encode layers that are in that encoding already too, for another level perhaps")
	f.StringSliceVar(&c.add, "add-compression", nil, "give every platform of the list an instance in this compression too, if it has none: gzip, zstd or zstd:chunked, with :LEVEL; several with commas")
	f.StringVarP(&c.format, "format", "f", "", "write manifests and lists as oci or docker (v2s2); default: each stays what it is")
	f.StringVar(&c.sentinel, "sentinel", "", "publish a sentinel variant: none, hidden, upstream or only (default hidden with --compress zstd:chunked)")
	f.StringVar(&c.sentinelType, "sentinel-type", "", "with --sentinel: the media type of the sentinel, oci or upstream (default upstream with --sentinel upstream, else oci)")
	f.BoolVar(&c.preserve, "preserve-digests", false, "fail rather than change a digest")
	c.digests.flags(f)
	c.signatures.made(f)
}

func newPush(a *app) *cobra.Command {
	var c copyFlags
	var r recipeFlags
	var expect string
	cmd := &cobra.Command{
		Use: "push FILE|DIR [NAME|@N] REF", Short: "Copy an image out of an archive or layout into a registry", Args: cobra.RangeArgs(2, 3),
		Long: "Copy an image out of an archive or layout into a registry. What the file or directory is shows in its contents: an OCI layout,\n" +
			"a tar of one, what docker save writes (each compressed or not), or skopeo's dir:; - is standard input. Of several images\n" +
			"NAME, or @N counted from 0, picks one. Every layer's tar is compared with its diffID. tocsin digest foretells the digest\n" +
			"that is printed, and --expect fails before a manifest is written if it is another one.",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			dst, err := parseRegistryRef(args[len(args)-1])
			if err != nil {
				return err
			}
			path, done, err := inputPath(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer closing(&err, done)
			found, err := copy.ReadContents(cmd.Context(), path)
			if err != nil {
				return err
			}
			which := ""
			if len(args) == 3 {
				which = args[1]
			}
			i, err := found.Pick(which)
			if err != nil {
				return err
			}
			o, err := c.options(dst)
			if err != nil {
				return err
			}
			if o.Push.Recipe, err = r.value(); err != nil {
				return err
			}
			o.Push.Tars, o.Push.Expect = true, digest.Digest(expect)
			if expect != "" && manifest.ValidDigest(o.Push.Expect) != nil {
				return usage(fmt.Errorf("--expect %q is no digest", expect))
			}
			return a.copyWith(cmd, found.Ref(i), dst, c, o)
		},
	}
	c.where(cmd.Flags(), "", "push one platform's image instead of the whole list: OS/ARCH[/VARIANT] or local")
	c.encoding(cmd.Flags())
	r.flags(cmd.Flags())
	cmd.Flags().StringVar(&expect, "expect", "", "fail with exit code 4 if the digest is not this one, before any manifest is written")
	a.limits.flags(cmd.Flags())
	return cmd
}

func newLoad(a *app) *cobra.Command {
	var c copyFlags
	var input, name string
	cmd := &cobra.Command{
		Use: "load [-i FILE|DIR] [NAME|@N]", Short: "Copy the images of an archive or layout into the store, for this platform", Args: cobra.MaximumNArgs(1),
		Long: "Copy the images of an archive or layout into the store under the names that they have there: all of them, or the one that\n" +
			"NAME, or @N counted from 0, picks. What the file is shows in its contents, as for push.",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			path, done, err := inputPath(cmd.Context(), input)
			if err != nil {
				return err
			}
			defer closing(&err, done)
			found, err := copy.ReadContents(cmd.Context(), path)
			if err != nil {
				return err
			}
			jobs, err := toLoad(found, strings.Join(args, ""), name)
			if err != nil {
				return err
			}
			for _, j := range jobs {
				if err := a.copy(cmd, j.src, j.dst, c); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&input, "input", "i", "-", "the archive or layout; - is standard input")
	f.StringVar(&name, "name", "", "store the one image under this name instead of its own")
	c.where(f, "local", "another platform than this machine's: OS/ARCH[/VARIANT]")
	c.intoStore(f)
	a.limits.flags(f)
	return cmd
}

// loadJob is one image on its way into the store under one name.
type loadJob struct{ src, dst manifest.Ref }

// toLoad says which images go where. An image whose name is only a tag, or that has none, needs one from the user.
func toLoad(found *copy.Contents, which, name string) ([]loadJob, error) {
	var positions []int
	if which == "" && name == "" {
		for i := range found.Images {
			positions = append(positions, i)
		}
	} else {
		i, err := found.Pick(which)
		if err != nil {
			return nil, err
		}
		positions = []int{i}
	}
	var jobs []loadJob
	for _, i := range positions {
		names := wholeNames(found.Images[i].Names)
		if name != "" {
			names = []string{name}
		}
		if len(names) == 0 {
			return nil, usage(fmt.Errorf("image @%d of %s has no name to be stored under; say one with --name", i, found.Path))
		}
		for _, n := range names {
			dst, err := parseRef("store:" + n)
			if err != nil {
				return nil, err
			}
			jobs = append(jobs, loadJob{found.Ref(i), dst})
		}
	}
	if len(jobs) == 0 {
		return nil, fmt.Errorf("%s holds no image: %w", found.Path, copy.ErrNotFound)
	}
	return jobs, nil
}

// wholeNames are the different names that say a repository: "latest" alone, as layouts may have it, is a tag.
func wholeNames(names []string) []string {
	var out []string
	for _, n := range names {
		if !strings.ContainsAny(n, "/:") {
			continue
		}
		ref, err := manifest.ParseRef("store:" + n)
		if err == nil && ref.Digest == "" && !slices.Contains(out, ref.StoreName()) {
			out = append(out, ref.StoreName())
		}
	}
	return out
}

// inputPath is the path by which an archive can be opened more than once. Standard input becomes a file without a name,
// which done closes.
func inputPath(ctx context.Context, path string) (_ string, done func() error, err error) {
	if path != "-" {
		return path, func() error { return nil }, nil
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		return "", nil, usage(errors.New("standard input is a terminal; name a file"))
	}
	f, err := os.CreateTemp("", "tocsin-input-")
	if err != nil {
		return "", nil, err
	}
	err = os.Remove(f.Name())
	if err == nil {
		stop := context.AfterFunc(ctx, func() { _ = os.Stdin.Close() })
		_, err = io.Copy(f, os.Stdin)
		stop()
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("read standard input: %w", err), f.Close())
	}
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd()), f.Close, nil
}

func newSave(a *app) *cobra.Command {
	var c copyFlags
	var output, format string
	cmd := &cobra.Command{
		Use: "save -o FILE REF...", Short: "Copy images into one archive", Args: cobra.MinimumNArgs(1),
		Long: "Copy images into one archive and print their digests. The docker form, which docker, podman, ctr and crane read, holds one\n" +
			"platform of each, its layers as plain tars, and is an OCI layout too; the oci form keeps whole lists and every digest.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return usage(errors.New("-o FILE is needed; - is standard output"))
			}
			to := copy.Saved{Path: output, Transport: manifest.DockerArchive}
			switch {
			case format == "oci":
				to.Transport = manifest.OCIArchive
			case format != "docker":
				return usage(fmt.Errorf("--format %q is not docker or oci", format))
			case c.platform == "":
				c.platform = "local"
			}
			var refs []manifest.Ref
			for _, arg := range args {
				ref, err := parseRef(arg)
				if err != nil {
					return err
				}
				refs = append(refs, ref)
			}
			return a.save(cmd, to, refs, c)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "the archive; - is standard output")
	f.StringVar(&format, "format", "docker", "docker or oci")
	a.limits.flags(f)
	c.where(f, "", "save one platform's image: OS/ARCH[/VARIANT] or local (default local in the docker form, the whole list in the oci form)")
	f.StringVar(&c.compress, "compress", "", "oci form: encode layers with gzip, zstd, zstd:chunked or none, with :LEVEL")
	c.digests.flags(f)
	return cmd
}

func (a *app) save(cmd *cobra.Command, to copy.Saved, refs []manifest.Ref, c copyFlags) (err error) {
	o, err := c.options(manifest.Ref{Transport: to.Transport})
	if err != nil {
		return err
	}
	bars, err := newProgress(os.Stderr, c.progress)
	if err != nil {
		return err
	}
	env, done, err := a.env(bars, refs...)
	if err != nil {
		return err
	}
	done = a.withPairs(env, o, done)
	defer closing(&err, done)
	if err := a.trust(env, c.trust, refs...); err != nil {
		return err
	}
	results, err := copy.Save(cmd.Context(), env, to, refs, o)
	bars.wait()
	if err != nil {
		return err
	}
	if to.Path == "-" {
		cmd.SetOut(os.Stderr) // standard output is the archive
	}
	for i, res := range results {
		if err := c.print(cmd, refs[i].String(), res); err != nil {
			return err
		}
	}
	return nil
}
