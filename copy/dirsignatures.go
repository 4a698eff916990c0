package copy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/manifest"
)

// dirSignature is the file of a subject's n-th signature.
func dirSignature(of subject, n int) (string, error) {
	instance := of.digest
	if of.top {
		instance = ""
	}
	return policy.DirSignatureName(instance, n)
}

// signatures reads the files up to the first that is not there.
func (d *dir) signatures(_ context.Context, of subject, _ lookFor) ([]policy.Signature, error) {
	return numbered(func(n int) ([]byte, error) {
		name, err := dirSignature(of, n)
		if err != nil {
			return nil, err
		}
		return d.read(name, policy.MaxSignatureSize)
	})
}

// numbered reads signature 1, 2 and so on, until one is fs.ErrNotExist.
func numbered(read func(n int) ([]byte, error)) ([]policy.Signature, error) {
	var out []policy.Signature
	for n := 1; ; n++ {
		raw, err := read(n)
		if errors.Is(err, fs.ErrNotExist) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if n > maxSignatures {
			return nil, fmt.Errorf("more than %d: %w", maxSignatures, manifest.ErrMalformed)
		}
		sig, err := policy.ParseSignature(raw)
		if err != nil {
			return nil, fmt.Errorf("signature %d: %w", n, err)
		}
		out = append(out, sig)
	}
}

func (d *dir) holds(context.Context, policy.Format, []digest.Digest) error { return nil }

// putSignatures writes the files and removes those behind the last.
func (d *dir) putSignatures(_ context.Context, of subject, sigs []policy.Signature) error {
	return putNumbered(sigs, func(n int, raw []byte) error {
		name, err := dirSignature(of, n)
		if err != nil {
			return err
		}
		if raw == nil {
			return os.Remove(filepath.Join(d.path, name))
		}
		return d.write(name, raw)
	})
}

// putNumbered writes signatures from 1, and removes (raw is nil) what is behind them until that is fs.ErrNotExist, so
// that no stale tail stays (rule 59).
func putNumbered(sigs []policy.Signature, put func(n int, raw []byte) error) error {
	for i, sig := range sigs {
		raw, err := sig.Blob()
		if err != nil {
			return err
		}
		if err := put(i+1, raw); err != nil {
			return err
		}
	}
	for n := len(sigs) + 1; ; n++ {
		err := put(n, nil)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var (
	_ signedSource      = (*dir)(nil)
	_ signedDestination = (*dir)(nil)
)
