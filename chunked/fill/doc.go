// Package fill makes content present: it fetches the tables of contents of
// layers, and ranges of the files they describe, verifies them chunk by chunk
// and leaves them in the store, where every image on the machine finds them.
//
// It answers "make these bytes of this object be here": plan the requests,
// keep one fetch per chunk under way however many readers wait for it, bound
// the requests in flight, read ahead, give up after a deadline, try the next
// source, and never return a byte that was not compared with its digest.
//
// It does not talk to a registry (a Source does, see copy/registry), does not
// know the format's encoding (see chunked) or the store's layout (see store),
// and does not decide which image may be read by its TOC (see manifest.Trust).
package fill
