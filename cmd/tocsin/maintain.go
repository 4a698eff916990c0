package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/store"
)

// errFindings: check found something wrong that it could not, or was not asked to, repair.
var errFindings = errors.New("the store is not clean")

func newGC(a *app) *cobra.Command {
	var o store.GCOptions
	cmd := &cobra.Command{
		Use: "gc", Short: "Remove what no name and no pin leads to", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Objects = objectsOf
			return a.maintain(cmd, func(ctx context.Context, st *store.Store) ([]store.Finding, error) {
				return st.GC(ctx, o)
			}, func(store.Finding) bool { return true })
		},
	}
	cmd.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "say what would go, and remove nothing")
	cmd.Flags().DurationVar(&o.Grace, "grace", store.DefaultGrace, "keep what is younger; negative: keep nothing")
	return cmd
}

func newCheck(a *app) *cobra.Command {
	var o store.CheckOptions
	cmd := &cobra.Command{
		Use: "check", Short: "Compare the store with itself; exit 4 on findings", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Objects = objectsOf
			o.Index = func(b []byte) error { _, err := chunked.OpenIndex(b); return err }
			o.View = func(b []byte) error { _, err := chunked.OpenView(b); return err }
			return a.maintain(cmd, func(ctx context.Context, st *store.Store) ([]store.Finding, error) {
				return st.Check(ctx, o)
			}, func(f store.Finding) bool { return f.Done })
		},
	}
	cmd.Flags().BoolVar(&o.Verify, "verify", false, "hash every blob and object")
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "remove corrupt objects that can be fetched again")
	return cmd
}

// maintain runs gc or check and prints one line per finding and a total. A finding that is not settled is a failure.
func (a *app) maintain(cmd *cobra.Command, run func(context.Context, *store.Store) ([]store.Finding, error), settled func(store.Finding) bool) (err error) {
	st, err := store.Open(a.config.Root, &store.Options{Logger: a.log})
	if err != nil {
		return err
	}
	defer closing(&err, st.Close)
	findings, err := run(cmd.Context(), st)
	var bytes int64
	open := 0
	out := cmd.OutOrStdout()
	for _, f := range findings {
		fmt.Fprintf(out, "%s\t%s\t%s\n", f.Kind, f.Object, f.Problem)
		bytes += f.Bytes
		if !settled(f) {
			open++
		}
	}
	fmt.Fprintf(out, "total\t%d\t%d bytes\n", len(findings), bytes)
	if err == nil && open > 0 {
		return fmt.Errorf("%d findings: %w", open, errFindings)
	}
	return err
}

// objectsOf lists the content that a layer index names, for the store, which does not know the format.
func objectsOf(index []byte) ([]store.ObjectRef, error) {
	x, err := chunked.OpenIndex(index)
	if err != nil {
		return nil, err
	}
	refs := make([]store.ObjectRef, x.NumObjects())
	for i := range refs {
		o := x.Object(i)
		refs[i] = store.ObjectRef{Digest: o.Digest, Size: o.Size, List: o.List}
	}
	return refs, nil
}
