package snapshotter

import "errors"

// Errors that cross the socket are classes of containerd/errdefs; these are for the
// reasons behind them.
var (
	// ErrConfig: options that contradict each other.
	ErrConfig = errors.New("configuration")

	errNoRef    = errors.New("a sentinel variant is pulled, not unpacked: it needs a client that tells the snapshotter its image, as containerd's pull does (ctr without --local)")
	errNoLabels = errors.New("the client names no image: containerd >= 2.1 with enable_remote_snapshot_annotations does")
	errOrdinary = errors.New("lazy layers need a store and a mount, and this snapshotter has none")
	errNowhere  = errors.New("nowhere to read it from")
)
