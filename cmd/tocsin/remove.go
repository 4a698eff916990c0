package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// removal is one run of rm.
type removal struct {
	dry bool      // tell what would go, and remove nothing
	all bool      // a registry's tag goes with its manifest and every other tag of that
	out io.Writer // what would go, a line each
}

func newRemove(a *app) *cobra.Command {
	var rm removal
	cmd := &cobra.Command{
		Use: "rm REF...", Short: "Remove images: of the store when spelled store:NAME, else of a registry",
		Long: "Remove images. store:NAME goes alone: the image stays under its other names, and gc frees one that has none. store:ID and\n" +
			"store:@DIGEST remove the image with all its names. An image that is mounted is not left without a name. A reference of a\n" +
			"registry is a tag, which goes alone, or has a digest, and then the manifest goes with all its tags.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			var local, remote []manifest.Ref
			for _, arg := range args {
				r, err := parseRef(arg)
				if err != nil {
					return err
				}
				switch {
				case r.Transport == manifest.Store && rm.all:
					return usage(fmt.Errorf("%s: --all-tags-of is for registries; store:ID and store:@DIGEST go with all names", arg))
				case r.Transport == manifest.Store:
					local = append(local, r)
				case r.Transport == manifest.Docker:
					remote = append(remote, r)
				default:
					return usage(fmt.Errorf("%s: only images of the store and of registries can be removed", arg))
				}
			}
			rm.out = cmd.OutOrStdout()
			client, err := a.registry(remote...)
			if err != nil {
				return err
			}
			var errs []error
			for _, r := range remote {
				errs = append(errs, rm.remote(cmd.Context(), client.Repo(r.Host, r.Repo), r))
			}
			if len(local) > 0 {
				errs = append(errs, rm.local(a, local))
			}
			return errors.Join(errs...)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&rm.dry, "dry-run", "n", false, "print what would be removed, and remove nothing")
	f.BoolVar(&rm.all, "all-tags-of", false, "of a registry: remove the manifest that the tag names, and so every tag of it")
	return cmd
}

func (rm removal) local(a *app, refs []manifest.Ref) (err error) {
	st, err := store.Open(a.config.Root, &store.Options{Logger: a.log})
	if err != nil {
		return err
	}
	defer closing(&err, st.Close)
	var errs []error
	for _, r := range refs {
		if rm.dry {
			errs = append(errs, rm.tellLocal(st, r))
		} else {
			errs = append(errs, st.Remove(r))
		}
	}
	return errors.Join(errs...)
}

func (rm removal) tellLocal(st *store.Store, r manifest.Ref) error {
	names, records, err := st.WouldRemove(r)
	for _, name := range names {
		fmt.Fprintf(rm.out, "name store:%s\n", familiar(name))
	}
	for _, d := range records {
		fmt.Fprintf(rm.out, "image %s\n", d)
	}
	return err
}

// remote removes a tag alone, or with a digest the manifest and so every tag of it. Many registries cannot remove a
// tag alone; that is said, and nothing else is removed in its place.
func (rm removal) remote(ctx context.Context, repo *registry.Repo, r manifest.Ref) error {
	what := r.Reference()
	if rm.dry || rm.all {
		raw, _, err := repo.Manifest(ctx, what)
		if err != nil {
			return err
		}
		if rm.all {
			what = digestOf(r, raw).String()
		}
	}
	whole := rm.all || r.Digest != ""
	switch {
	case rm.dry && whole:
		_, err := fmt.Fprintf(rm.out, "manifest %s@%s with every tag of it\n", repo, what)
		return err
	case rm.dry:
		_, err := fmt.Fprintf(rm.out, "tag %s:%s\n", repo, what)
		return err
	}
	err := repo.DeleteManifest(ctx, what)
	var answer *registry.Error
	if !whole && errors.As(err, &answer) && (answer.Status == 405 || answer.Status == 400) {
		return fmt.Errorf("this registry cannot remove a tag alone; --all-tags-of removes the manifest and every tag of it: %w", err)
	}
	return err
}
