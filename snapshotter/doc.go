// Package snapshotter is containerd's Snapshotter over the store: an ordinary
// overlayfs snapshotter that, for images whose table of contents can be trusted,
// answers an extraction before any layer has arrived.
//
// It keeps containerd's side only: names, parents, labels, one directory per
// ordinary snapshot, and one row that says which layer a lazy snapshot stands for.
// It is not where content lives (see store), how it arrives (see chunked/fill), or
// what a mounted tree looks like (see chunked and snapshotter/lazyfs), and it knows
// no registry: remote bytes come through Remote, which cmd provides.
package snapshotter
