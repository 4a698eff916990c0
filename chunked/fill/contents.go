package fill

import (
	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/store"
)

// IndexObjects lists the contents that a layer index names, for the store, which
// does not know the format: see store.GCOptions and store.CheckOptions.
func IndexObjects(index []byte) ([]store.ObjectRef, error) {
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

// IndexChunks lists the chunks of the ith content that IndexObjects lists.
func IndexChunks(index []byte, i int) ([]store.Span, error) {
	x, err := chunked.OpenIndex(index)
	if err != nil {
		return nil, err
	}
	spans := make([]store.Span, x.NumChunks(i))
	for j := range spans {
		spans[j] = spanOf(x.Chunk(i, j))
	}
	return spans, nil
}

// spanOf is a chunk as the store knows it.
func spanOf(c chunked.Chunk) store.Span {
	s := store.Span{Off: c.Off, Size: c.Size}
	if !c.Zeros {
		s.Digest = c.Digest
	}
	return s
}
