// Package containerd reads and writes images of a containerd through its socket: the content store, the images and the
// leases of one namespace.
//
// It does not know what a manifest says; who writes one tells which blobs it holds on to. It unpacks nothing, and is not
// the snapshotter (see snapshotter). It is the only place of the copy engine where containerd's API is spoken.
package containerd
