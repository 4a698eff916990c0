package fill

import (
	"errors"
	"fmt"

	"github.com/tocsin/tocsin/manifest"
)

var (
	// ErrDigestMismatch means that a source gave bytes that are not what the
	// TOC says, or that a whole object is not what its digest says. It wraps
	// manifest.ErrDigestMismatch.
	ErrDigestMismatch = fmt.Errorf("fill: %w", manifest.ErrDigestMismatch)
	// ErrNoSource means that a layer has no source left to fetch from: none
	// was recorded, none can be connected to, or all are quarantined.
	ErrNoSource = errors.New("fill: no usable source")
	// ErrDiffID means that the tar built from the TOC view of a layer is not
	// the tar that the image's config names.
	ErrDiffID = errors.New("fill: layer content does not match its diffID")
	// ErrTimeout means that no byte arrived within Options.ReadTimeout.
	ErrTimeout = errors.New("fill: no progress within the read timeout")
	// ErrSlow means that bytes arrived too slowly to wait for them: for a TOC, or
	// while there is another source to ask.
	ErrSlow = errors.New("fill: source is too slow")
	// ErrMemory means that a layer or a view is too large for Options.Memory.
	ErrMemory = errors.New("fill: does not fit into the memory budget")
	// ErrClosed means that the pool was closed.
	ErrClosed = errors.New("fill: pool is closed")
)
