package manifest

import "errors"

// The errors of this package; each is wrapped with the object and the
// operation, and found with errors.Is.
var (
	// ErrDigestMismatch: the bytes are not those the digest names.
	ErrDigestMismatch = errors.New("digest mismatch")
	// ErrFixed: a digest must be of one algorithm, and cannot change from
	// another.
	ErrFixed = errors.New("the digest cannot change")
	// ErrMalformed: the document, reference, digest or annotation breaks its
	// format, or could be read in two ways.
	ErrMalformed = errors.New("malformed")
	// ErrNotFound: a list has no instance for the platform asked for.
	ErrNotFound = errors.New("not found")
	// ErrSentinel: the image claims to be a sentinel variant and is not a
	// correct one, or carries a sentinel where none may be.
	ErrSentinel = errors.New("invalid zstd:chunked sentinel image")
	// ErrUnsupported: correct as far as one can tell, but tocsin does not
	// handle it.
	ErrUnsupported = errors.New("unsupported")
)
