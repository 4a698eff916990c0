// Package oracle holds tests only: it lets containers/storage and containers/image, the implementation that the
// zstd:chunked format comes from, read what chunked writes and write what chunked reads. It is a module of its own, so
// that their dependencies are not ours; see README.md for how to run it.
package oracle
