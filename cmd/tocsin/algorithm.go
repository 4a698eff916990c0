package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
)

// algorithmFlags say which algorithm digests are written in.
type algorithmFlags struct{ must, prefer, diffIDs string }

func (a *algorithmFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&a.must, "digest-algorithm", "", "write every digest in sha256, sha384 or sha512, or fail before anything is sent; layers with a table of contents of another algorithm are encoded anew")
	f.StringVar(&a.prefer, "prefer-digest-algorithm", "", "the same where nothing forbids it; no layer is encoded anew for it")
	f.StringVar(&a.diffIDs, "diffid-algorithm", "", "write the diff_ids of configs in sha256, sha384 or sha512; every tar is read once more for that")
}

// wish is nil without a flag.
func (a *algorithmFlags) wish() (*manifest.DigestWish, error) {
	if a.must == "" && a.prefer == "" && a.diffIDs == "" {
		return nil, nil
	}
	w, err := manifest.NoWish(), error(nil)
	if a.must != "" {
		w, err = manifest.MustUse(digest.Algorithm(a.must))
	}
	if a.prefer != "" && err == nil {
		w, err = w.Prefer(digest.Algorithm(a.prefer))
	}
	if err == nil {
		w, err = w.Tars(digest.Algorithm(a.diffIDs))
	}
	if err != nil {
		return nil, usage(fmt.Errorf("--digest-algorithm, --prefer-digest-algorithm, --diffid-algorithm: %w", err))
	}
	return &w, nil
}

// withPairs lends a copy that changes digests the store, if there is one that can be opened: it knows which digests name
// the same bytes, so that these need not be sent again. Without it they are.
func (a *app) withPairs(env *copy.Env, o *copy.Options, done func() error) func() error {
	if o.Digests == nil || env.Store != nil {
		return done
	}
	if _, err := os.Stat(filepath.Join(a.config.Root, "index.db")); err != nil {
		return done
	}
	l, err := a.openLocal(env.Registry, false)
	if err != nil {
		a.log.Warn("the store is not asked which digests name the same bytes", slog.Any("error", err))
		return done
	}
	env.Store, env.Pool = l.store, l.pool
	return func() error { return errors.Join(done(), l.close()) }
}
