// Package manifest says what the signed bytes of an image say: references,
// platforms, manifests, configs, lists, the annotations that lead to a table
// of contents, the sentinel, and how far each image may be trusted.
//
// Everything here is a pure function of bytes. The package does not read
// files, ask registries or wait; see store, copy and copy/registry for that.
// It does not parse the table of contents itself either: see chunked.
//
// Documents are read strictly (a field spelled in another case, a key given
// twice or a document that is both list and manifest is refused) and edited
// by splicing: whatever an edit does not mean to change keeps its bytes.
package manifest
