package main

import (
	"encoding/json"
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
		objects, err := layer.Objects()
		if err != nil {
			return 0, err
		}
		for _, o := range objects {
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
