// Package chunked is the zstd:chunked format and what this project makes of it: the TOC and the tar-split that
// proves it, the layer index and the merged view in their mmap-able forms, verified reads of chunks, reassembly of the
// tar, and the parallel writer.
//
// It works on bytes and io.ReaderAt only. It is not a cache and does not fetch: what is present on this machine is
// chunked/fill's business, where it lies is store's, and which of a layer's two readings may be believed is decided in
// manifest (see manifest.Trust).
package chunked
