package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/snapshotter"
	"github.com/tocsin/tocsin/store"
)

// errFindings: check found something wrong that it could not, or was not asked to, repair.
var errFindings = errors.New("the store is not clean")

func newGC(a *app) *cobra.Command {
	var o store.GCOptions
	cmd := &cobra.Command{
		Use: "gc", Short: "Remove what no name and no pin leads to", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Objects = fill.IndexObjects
			return a.gc(cmd, o)
		},
	}
	cmd.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "say what would go, and remove nothing")
	cmd.Flags().DurationVar(&o.Grace, "grace", store.DefaultGrace, "keep what is younger; negative: keep nothing")
	return cmd
}

func newCheck(a *app) *cobra.Command {
	var o store.CheckOptions
	var rebuild bool
	cmd := &cobra.Command{
		Use: "check", Short: "Compare the store with itself; exit 4 on findings", Args: cobra.NoArgs,
		Long: `Compare the store with itself, print a line for each finding, and end with exit code 4 if one is left.

--repair writes again what is damaged: layer indexes and tar-splits from the registries that have their layers, views from layer
indexes (with a new number), rows of index.db from each other. It removes objects and blobs that are damaged; what of them no
registry is known for comes back when the image is pulled again.

--rebuild is for an index.db that cannot be opened. It makes another one of what can still be read of it and of what is in the
store, keeps the damaged one as index.db.damaged-TIME, says what is lost, and goes on as --repair. A daemon on this store
must be started again afterwards.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Objects, o.Chunks = fill.IndexObjects, fill.IndexChunks
			o.Index = func(b []byte) error { _, err := chunked.OpenIndex(b); return err }
			o.View = func(b []byte) error { _, err := chunked.OpenView(b); return err }
			if rebuild {
				o.Repair = true
				findings, err := store.Rebuild(a.config.Root, &store.Options{Logger: a.log}, o.Index)
				printFindings(cmd.OutOrStdout(), findings)
				if err != nil {
					return err
				}
			}
			return a.check(cmd, o)
		},
	}
	cmd.Flags().BoolVar(&o.Verify, "verify", false, "hash every blob and object")
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "mend what is damaged, from the registries that it came from where need be")
	cmd.Flags().BoolVar(&rebuild, "rebuild", false, "make index.db again, of what can be read of it and what is in the store; then as --repair")
	return cmd
}

// errNotRepaired: a repair was asked for, and something is left that it could not mend.
var errNotRepaired = errors.New("the store is not clean yet")

func (a *app) check(cmd *cobra.Command, o store.CheckOptions) (err error) {
	client, err := a.registry()
	if err != nil {
		return err
	}
	l, err := a.openLocal(client, false)
	if err != nil {
		return err
	}
	defer closing(&err, l.close)
	o.Mend, o.Remake = l.pool.Mend, l.pool.ViewOf
	left := errFindings
	if o.Repair {
		left = errNotRepaired
	}
	findings, err := l.store.Check(cmd.Context(), o)
	if err := snapshotter.CheckMetadata(l.store.Root()); err != nil {
		findings = append(findings, store.Finding{Kind: "corrupt", Object: "snapshots/metadata.db", Problem: err.Error()})
	}
	return a.report(cmd, findings, err, left, func(f store.Finding) bool { return f.Done })
}

func (a *app) gc(cmd *cobra.Command, o store.GCOptions) (err error) {
	st, err := store.Open(a.config.Root, &store.Options{Logger: a.log})
	if err != nil {
		return err
	}
	defer closing(&err, st.Close)
	findings, err := st.GC(cmd.Context(), o)
	return a.report(cmd, findings, err, nil, func(store.Finding) bool { return true })
}

// report prints one line per finding and a total. One that is not settled is a failure: left says of what kind.
func (a *app) report(cmd *cobra.Command, findings []store.Finding, err, left error, settled func(store.Finding) bool) error {
	bytes, open := printFindings(cmd.OutOrStdout(), findings), 0
	for _, f := range findings {
		if !settled(f) {
			open++
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "total\t%d\t%d bytes\n", len(findings), bytes)
	if err == nil && open > 0 {
		return fmt.Errorf("%d findings: %w", open, left)
	}
	return err
}

func printFindings(out io.Writer, findings []store.Finding) (bytes int64) {
	for _, f := range findings {
		fmt.Fprintf(out, "%s\t%s\t%s\n", f.Kind, f.Object, f.Problem)
		bytes += f.Bytes
	}
	return bytes
}
