// Package policy answers one question: may this manifest be used, given who
// signed it. It reads containers' policy.json, verifies and makes the two kinds
// of signatures that it knows (simple signing with OpenPGP keys, sigstore with
// plain keys), and says by which names signatures are stored beside an image.
//
// Everything here is a function of bytes: key files come through a callback,
// signatures as blobs. The package does not fetch or store anything; see copy
// for what asks it, copy/registry for attachments and store for what is kept.
// It is not the place of digests and references either; see manifest.
//
// A manifest is checked before anybody parses it. Nothing is read from a
// signature, in turn, before its key has vouched for every byte of it.
package policy
