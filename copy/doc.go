// Package copy moves images between places: registries, OCI layouts, archives, directories and the local store.
//
// A copy is two steps. plan is a pure function that decides everything: which instances, which layers are kept or
// encoded anew, whether a manifest may be edited and why not, where a sentinel variant goes. run then moves bytes and
// decides nothing. What signed bytes mean is not said here (see manifest), neither is the layer format (see chunked),
// nor how ranges of objects are fetched (see chunked/fill), nor how a registry, containerd or docker is spoken to (see
// copy/registry, copy/containerd, copy/dockerd), nor how a tar is compressed (see copy/compression), nor what a signature is
// worth (see copy/policy).
package copy
