package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// imageRow is one line of `images`: an image of one platform under one name.
type imageRow struct {
	Name     string
	Digest   digest.Digest
	Platform string
	Size     int64 // bytes of content
	Local    int   // per cent of Size that is here
}

func newImages(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "images", Short: "List the images of the store", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			client, err := a.registry()
			if err != nil {
				return err
			}
			l, err := a.openLocal(client, false)
			if err != nil {
				return err
			}
			defer closing(&err, l.close)
			rows, err := l.imageRows()
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(rows)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tDIGEST\tPLATFORM\tSIZE\tLOCAL")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d%%\n", r.Name, r.Digest, r.Platform, r.Size, r.Local)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON array")
	return cmd
}

func (l *local) imageRows() ([]imageRow, error) {
	records, err := l.store.Records()
	if err != nil {
		return nil, err
	}
	rows := []imageRow{}
	for _, rec := range records {
		local, err := l.localPercent(rec)
		if err != nil {
			return nil, err
		}
		names := rec.Names
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			rows = append(rows, imageRow{familiar(name), rec.Manifest, rec.Platform, rec.Size, local})
		}
	}
	tops, err := l.store.Names()
	if err != nil {
		return nil, err
	}
	for name, top := range tops { // artifacts, and lists without an image
		if row := (imageRow{Name: familiar(name), Digest: top, Local: 100}); !slices.ContainsFunc(rows, func(r imageRow) bool { return r.Name == row.Name }) {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b imageRow) int {
		return strings.Compare(a.Name+" "+a.Platform+string(a.Digest), b.Name+" "+b.Platform+string(b.Digest))
	})
	return rows, nil
}

// localPercent is how much of a record's content is complete here.
func (l *local) localPercent(rec store.Record) (int, error) {
	var have, all int64
	for _, n := range rec.Layers {
		layer, err := l.pool.Layer(n)
		if err != nil {
			return 0, err
		}
		ix := layer.Index()
		for i := range ix.NumObjects() {
			o := ix.Object(i)
			all += o.Size
			if l.store.HasObject(o.Digest, o.Size) {
				have += o.Size
			}
		}
	}
	if all == 0 {
		return 100, nil
	}
	return int(have * 100 / all), nil
}

// familiar is a store name as a user would type it.
func familiar(name string) string {
	if name == "" {
		return "<none>"
	}
	r, err := manifest.ParseRef("store:" + name)
	if err != nil {
		return name
	}
	return r.FamiliarName()
}

func newRemove(a *app) *cobra.Command {
	return &cobra.Command{
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
				switch r.Transport {
				case manifest.Store:
					local = append(local, r)
				case manifest.Docker:
					remote = append(remote, r)
				default:
					return usage(fmt.Errorf("%s: only images of the store and of registries can be removed", arg))
				}
			}
			var errs []error
			client, err := a.registry(remote...)
			if err != nil {
				return err
			}
			for _, r := range remote {
				errs = append(errs, removeRemote(cmd.Context(), client, r))
			}
			if len(local) > 0 {
				errs = append(errs, a.removeLocal(local))
			}
			return errors.Join(errs...)
		},
	}
}

func (a *app) removeLocal(refs []manifest.Ref) (err error) {
	st, err := store.Open(a.config.Root, &store.Options{Logger: a.log})
	if err != nil {
		return err
	}
	defer closing(&err, st.Close)
	var errs []error
	for _, r := range refs {
		errs = append(errs, st.Remove(r))
	}
	return errors.Join(errs...)
}
