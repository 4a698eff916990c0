package chunked

import (
	"errors"
	"fmt"
)

// The sentinels of this package; every error it returns for bad input wraps one of them.
var (
	// ErrDigestMismatch says that bytes are not the ones a digest names. Nothing of them was returned.
	ErrDigestMismatch = errors.New("digest mismatch")
	// ErrMalformed says that bytes break the format, or say something this project refuses (spec/zstd-chunked.md 1.6).
	ErrMalformed = errors.New("malformed")
	// ErrTooBig says that a size, claimed or found, is over a limit of this package.
	ErrTooBig = errors.New("too big")
	// ErrPathTwice says that a tar names one path twice, which a TOC cannot say: write it as plain zstd instead.
	ErrPathTwice = errors.New("path named twice in one layer")
	// ErrUnsayable says that a tar is sound but holds what a TOC, or a strict reader of one, does not take: sparse files,
	// global headers, names that are not UTF-8 or leave the root. Write it as plain zstd instead. An error that wraps
	// ErrPathTwice wraps this one too.
	ErrUnsayable = errors.New("no TOC can say this tar")
	// ErrTwoReadings says that a TOC and a tar are each sound, and not the same files. It is a kind of ErrMalformed.
	ErrTwoReadings = fmt.Errorf("the table of contents and the tar are not the same files: %w", ErrMalformed)
	// ErrNoTarSplit says that a layer has no usable tar-split, so its TOC cannot be proved to agree with its tar.
	ErrNoTarSplit = errors.New("no tar-split")
)

// strictly returns the error for what a tar may well say and a TOC may not: it wraps ErrMalformed and ErrUnsayable.
func strictly(format string, args ...any) error {
	return fmt.Errorf("%w: %w: %s", ErrMalformed, ErrUnsayable, fmt.Sprintf(format, args...))
}
