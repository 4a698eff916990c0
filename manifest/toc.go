package manifest

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The annotations on a layer descriptor that lead to its table of contents.
const (
	annTOCDigest      = "io.github.containers.zstd-chunked.manifest-checksum"
	annTOCPosition    = "io.github.containers.zstd-chunked.manifest-position"
	annTarSplit       = "io.github.containers.zstd-chunked.tarsplit-position"
	annTarSplitDigest = "io.github.containers.zstd-chunked.tarsplit-checksum" // deprecated, never believed

	annStargzTOCDigest   = "io.containers.zstd-chunked.manifest-checksum"
	annStargzTOCPosition = "io.containers.zstd-chunked.manifest-position"
	annEStargz           = "containerd.io/snapshot/stargz/toc.digest"
	annEStargzSize       = "io.containers.estargz.uncompressed-size"
)

// Limits on what an annotation may claim. That of the compressed TOC is
// containers/storage's, which takes no more than that decompressed either: a
// TOC of a million files is longer. A tar-split holds the tar's headers, about
// 1 KiB for each file. Neither is ever in memory decompressed.
const (
	MaxTOCSize      int64 = 150 << 20
	MaxTOCRaw       int64 = 1 << 30
	MaxTarSplitSize int64 = 150 << 20
	MaxTarSplitRaw  int64 = 1 << 30
)

// The two spellings of the TOC annotations.
const (
	DialectContainers = "containers"
	DialectStargz     = "stargz"
)

// Range is a run of bytes in a blob. TOCRefOf and the parsers of chunked only
// hand out ranges with Off, Len >= 0 whose end does not overflow.
type Range struct{ Off, Len int64 }

// End returns the offset of the first byte behind the range.
func (r Range) End() int64 { return r.Off + r.Len }

// within reports whether the range is not empty and lies in a blob of size.
func (r Range) within(size int64) bool {
	return r.Off >= 0 && r.Len > 0 && r.Len <= size && r.Off <= size-r.Len
}

// TOCRef says where a layer's table of contents is and what it must hash to.
// Only the digest is authoritative: it is bound by the manifest's own digest.
// Positions and lengths merely say where to look and what to allocate at most.
type TOCRef struct {
	Digest         digest.Digest // of the compressed TOC
	TOC            Range
	TOCRawLen      int64 // decompressed
	TarSplit       Range // Len 0: none
	TarSplitRawLen int64 // decompressed
	Dialect        string
}

// TOCRefOf reads the TOC annotations of a layer descriptor. Without a
// zstd:chunked TOC it returns nil, nil; an eStargz TOC alone counts as none.
// Contradictory or broken annotations are ErrMalformed; a TOC or tar-split
// beyond MaxTOCSize or MaxTarSplitSize, or a digest algorithm that is not
// available, is ErrUnsupported.
func TOCRefOf(layer v1.Descriptor) (*TOCRef, error) {
	ref, err := tocRef(layer.Annotations, layer.Size)
	if err != nil {
		return nil, fmt.Errorf("TOC annotations of layer %s: %w", layer.Digest, err)
	}
	return ref, nil
}

func tocRef(ann map[string]string, size int64) (*TOCRef, error) {
	ref := &TOCRef{Dialect: DialectContainers}
	sum, ours := ann[annTOCDigest]
	old, older := ann[annStargzTOCDigest]
	pos := ann[annTOCPosition]
	switch {
	case !ours && !older:
		return nil, nil
	case ours && hasKey(ann, annEStargz):
		return nil, fmt.Errorf("%w: both zstd:chunked and eStargz TOC", ErrMalformed)
	case ours && older && (sum != old || pos != ann[annStargzTOCPosition]):
		return nil, fmt.Errorf("%w: the two spellings name different TOCs", ErrMalformed)
	case !ours:
		sum, pos, ref.Dialect = old, ann[annStargzTOCPosition], DialectStargz
	}
	ref.Digest = digest.Digest(sum)
	if err := ValidDigest(ref.Digest); err != nil {
		return nil, err
	}
	if err := ref.setTOC(pos, size); err != nil {
		return nil, err
	}
	split, ok := ann[annTarSplit]
	if !ok || !ours {
		return ref, nil
	}
	return ref, ref.setTarSplit(split, size)
}

// setTOC reads offset:length:rawLength:type, where type 1 is the only one.
func (t *TOCRef) setTOC(position string, blob int64) error {
	n, err := numbers(position, 4)
	if err != nil {
		return fmt.Errorf("manifest-position: %w", err)
	}
	if n[3] != 1 {
		return fmt.Errorf("manifest-position: %w: TOC type %d", ErrMalformed, n[3])
	}
	t.TOC, t.TOCRawLen = Range{n[0], n[1]}, n[2]
	if err := checkPlace(t.TOC, blob, t.TOCRawLen, MaxTOCSize, MaxTOCRaw); err != nil {
		return fmt.Errorf("manifest-position: %w", err)
	}
	return nil
}

// setTarSplit reads offset:length:rawLength.
func (t *TOCRef) setTarSplit(position string, blob int64) error {
	n, err := numbers(position, 3)
	if err != nil {
		return fmt.Errorf("tarsplit-position: %w", err)
	}
	t.TarSplit, t.TarSplitRawLen = Range{n[0], n[1]}, n[2]
	if err := checkPlace(t.TarSplit, blob, t.TarSplitRawLen, MaxTarSplitSize, MaxTarSplitRaw); err != nil {
		return fmt.Errorf("tarsplit-position: %w", err)
	}
	if t.TarSplit.Off < t.TOC.End() && t.TOC.Off < t.TarSplit.End() {
		return fmt.Errorf("tarsplit-position: %w: overlaps the TOC", ErrMalformed)
	}
	return nil
}

// checkPlace checks a range of a blob that becomes raw bytes, and both against
// their limits.
func checkPlace(r Range, blob, raw, limit, rawLimit int64) error {
	switch {
	case !r.within(blob):
		return fmt.Errorf("%w: bytes %d+%d are not in a blob of %d", ErrMalformed, r.Off, r.Len, blob)
	case raw <= 0:
		return fmt.Errorf("%w: uncompressed length %d", ErrMalformed, raw)
	case r.Len > limit || raw > rawLimit:
		return fmt.Errorf("%w: %d bytes, %d uncompressed, limits %d and %d", ErrUnsupported, r.Len, raw, limit, rawLimit)
	}
	return nil
}

// numbers splits s into exactly n decimal numbers with colons between them;
// signs, spaces and anything behind the last digit are refused.
func numbers(s string, n int) ([]int64, error) {
	parts := strings.Split(s, ":")
	if len(parts) != n {
		return nil, fmt.Errorf("%w: %.100q is not %d numbers", ErrMalformed, s, n)
	}
	out := make([]int64, n)
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 64)
		if err != nil || v > math.MaxInt64 {
			return nil, fmt.Errorf("%w: %.100q is not a number", ErrMalformed, p)
		}
		out[i] = int64(v)
	}
	return out, nil
}

// Annotations returns what a writer puts on the descriptor of the layer, in
// the containers spelling whatever the Dialect. The map is the caller's.
func (t *TOCRef) Annotations() map[string]string {
	ann := map[string]string{
		annTOCDigest:   t.Digest.String(),
		annTOCPosition: fmt.Sprintf("%d:%d:%d:1", t.TOC.Off, t.TOC.Len, t.TOCRawLen),
	}
	if t.TarSplit.Len > 0 {
		ann[annTarSplit] = fmt.Sprintf("%d:%d:%d", t.TarSplit.Off, t.TarSplit.Len, t.TarSplitRawLen)
	}
	return ann
}

// StripTOCAnnotations returns a copy of ann without any annotation that
// describes the compressed form of a layer: the five of zstd:chunked, the
// stargz spelling and eStargz. Whoever recompresses a layer must drop them.
// An empty result is nil.
func StripTOCAnnotations(ann map[string]string) map[string]string {
	out := maps.Clone(ann)
	for _, key := range []string{
		annTOCDigest, annTOCPosition, annTarSplit, annTarSplitDigest,
		annStargzTOCDigest, annStargzTOCPosition, annEStargz, annEStargzSize,
	} {
		delete(out, key)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// usableTOC is TOCRefOf for building an Image: a TOC that tocsin cannot use
// is no TOC, one that is broken is an error.
func usableTOC(layer v1.Descriptor) (*TOCRef, error) {
	ref, err := TOCRefOf(layer)
	if errors.Is(err, ErrUnsupported) {
		return nil, nil
	}
	return ref, err
}

func hasKey(ann map[string]string, key string) bool {
	_, ok := ann[key]
	return ok
}
