// Package forge writes zstd:chunked layers and images for tests that can lie in every field.
//
// A zstd:chunked layer says what it holds three times: in the tar that its frames decompress to, in its table of
// contents (TOC), and in its tar-split. A Layer has these three as plain lists, and New fills all of them honestly from
// the members of a tar. A lie is then an edit of one list, and lies compose:
//
//	l, err := forge.New(forge.Dir("bin/"), forge.File("bin/tool", []byte("good")))
//	l.Entry("bin/tool").Content = []byte("evil") // the TOC shows another content, which lies in a hidden frame
//	l.Split = slices.Delete(l.Split, 3, 4)        // and the tar-split has no line for the good one
//	blob, err := l.Write()
//
// Nothing is checked, and what follows from an edited field follows: digests, sizes, chunks, offsets, lengths and
// annotations are computed last, from whatever the lists say. What is computed can be falsified too, one step later each:
// Member.Edit sees the blocks of a tar header, Entry.Edit the lines of a TOC entry with their digests and offsets,
// Layer.EditTOC and Layer.EditSplit the JSON, Layer.EditRef the positions, Layer.EditDescriptor the descriptor.
//
// Content that the TOC names and the tar has not lies in a skippable frame, which readers of the tar do not see.
// Layer.Hidden puts more of those into the blob.
//
// An Image joins layers, with or without a sentinel and with whatever diff_ids; a Bundle of it is written as an OCI
// layout or pushed to a registry.
//
// Lies has the named lies that tests of every door share, each with the kind of claim it is about.
//
// The package shares no code with the writer of package chunked, so that what tocsin reads was not written by itself.
package forge
