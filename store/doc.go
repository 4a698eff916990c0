// Package store keeps image content on local disk: blobs, file contents (objects), objects that are still being
// filled, layer indexes, views, manifests, records, names and pins. Several processes use one root at the same time.
//
// It knows digests and numbers. It does not know what is inside a layer index or a view (see package chunked), it
// does not fetch anything (see chunked/fill and copy), and it does not mount (see snapshotter/lazyfs).
//
// The order of writes is the whole of its crash safety: a file is durable before the index names it, and the index
// forgets it before it is unlinked. So a file may outlive its index entry, and an index entry never its file.
package store
