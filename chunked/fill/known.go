package fill

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/store"
)

// known returns the layer of spec if the store has all of it that spec asks for,
// as it was kept. store.ErrNotFound if it has to be fetched: for the first time,
// because its files or its row are damaged, or because the image that named it
// first did so without the tar-split.
func (p *Pool) known(spec LayerSpec) (uint64, error) {
	row, err := p.st.LayerByTOC(spec.TOC.Digest)
	if err != nil {
		return 0, missing(err)
	}
	if err := p.st.LayerFiles(row); err != nil {
		return 0, missing(err)
	}
	if row.TOCRef == nil { // made again from its key, after its row was damaged
		return 0, fmt.Errorf("place of the TOC of layer %d: %w", row.Number, store.ErrNotFound)
	}
	if spec.TOC.TarSplit.Len > 0 && row.SplitDigest == "" && !row.NoSplit && !p.hasOldSplit(row) {
		return 0, fmt.Errorf("layer %d has no tar-split: %w", row.Number, store.ErrNotFound)
	}
	if row.IndexDigest != "" {
		return row.Number, nil
	}
	if _, err := p.Layer(row.Number); err != nil { // kept by a program that kept no digest
		return 0, missing(err)
	}
	return row.Number, p.st.SealLayer(row.Number, true, false)
}

// hasOldSplit says whether there is a tar-split that was kept without its digest.
func (p *Pool) hasOldSplit(row *store.LayerRow) bool {
	_, err := p.st.TarSplit(row.Number)
	return err == nil
}

// missing makes damage at rest the same as what was never there: both are fetched.
func missing(err error) error {
	if errors.Is(err, store.ErrCorrupt) || errors.Is(err, chunked.ErrMalformed) {
		return fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	return err
}

// Mend fetches the table of contents of layer n from one of its recorded sources
// and writes its files again if they are damaged. It fails for a layer that was
// taken from a tar, which only another copy of the image brings back.
func (p *Pool) Mend(ctx context.Context, n uint64) error {
	row, err := p.st.Layer(n)
	if err != nil {
		return err
	}
	if row.TOC == "" || row.TOCRef == nil || p.opt.Connect == nil {
		return fmt.Errorf("mend layer %d: %w", n, ErrNoSource)
	}
	err = fmt.Errorf("layer %d: %w", n, ErrNoSource)
	for _, src := range row.Sources {
		if err := ctx.Err(); err != nil {
			return err
		}
		conn, cerr := p.opt.Connect(ctx, src)
		if cerr != nil {
			err = errors.Join(err, cerr)
			continue
		}
		spec := LayerSpec{Blob: v1.Descriptor{MediaType: src.MediaType, Digest: src.Blob, Size: src.Size}, TOC: row.TOCRef, Source: src}
		if _, ferr := p.fetchLayer(ctx, spec, conn); ferr != nil {
			err = errors.Join(err, ferr)
			continue
		}
		return nil
	}
	return fmt.Errorf("mend: %w", err)
}

// soundView returns the view of a chain. Not ok: there is none, or n is one that
// is damaged.
func (p *Pool) soundView(c store.Chain) (n uint64, ok bool, err error) {
	n, ok, err = p.st.ViewByKey(c)
	if errors.Is(err, store.ErrCorrupt) {
		return n, false, nil
	}
	if err != nil || !ok {
		return 0, false, err
	}
	tree, err := p.st.View(n)
	if err == nil {
		_, err = chunked.OpenView(tree.Bytes())
		tree.Close()
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, chunked.ErrMalformed) {
		p.opt.Logger.Warn("a damaged view is made again", "view", n, "err", err)
		return n, false, nil
	}
	return n, err == nil, err
}
