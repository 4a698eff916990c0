package chunked

import "github.com/tocsin/tocsin/manifest"

// Limits on what this package takes from others. docs/trust.md lists them with what happens beyond. manifest has those on
// the sizes of a TOC and of a tar-split.
const (
	// MaxEntries bounds the names of one layer, directories that are only implied included.
	MaxEntries = 2 << 20
	// MaxChunks bounds the chunks of one layer.
	MaxChunks = 4 << 20
	// MaxImageEntries bounds the names of all layers of one view.
	MaxImageEntries = 4 << 20
	// MaxLayers bounds the layers of one view; overlayfs takes 500.
	MaxLayers = 1 << 10

	// MaxChunkSize bounds one data chunk, because a chunk is decoded in memory. Chunks of zeros and the one chunk of a
	// file that came from a tar have no such bound.
	MaxChunkSize = 256 << 20
	// MaxZeros bounds one chunk of zeros: as many zeros as the longest one has are hashed when a TOC is read.
	MaxZeros = 4 << 30
	// MaxZerosHashed bounds the zeros that are hashed to complete the files of one layer, see Index.Completable.
	MaxZerosHashed = 64 << 30

	// MaxTarContent bounds the contents of a tar that proves a TOC: all of them are hashed, however often one is given.
	MaxTarContent = 1 << 40

	// maxName, maxPath and maxTarget are Linux' limits on a component of a path, on a path, and on a symlink's target.
	maxName   = 255
	maxPath   = 4096
	maxTarget = 4095
	// maxLinks is how many symlinks one path may follow, as containerd has it.
	maxLinks = 255
	// maxNested is how many of them may be met inside of the targets of others: containerd lets Linux follow those, which
	// gives up after 40.
	maxNested = 38
	// maxLooked bounds how many names one view may cost that are looked at to follow the links of lower layers.
	maxLooked = 16 << 20
	// maxXattrName and maxXattrValue are Linux' limits on one attribute. maxXattrs names of that length are as many as
	// listxattr can return.
	maxXattrName  = 255
	maxXattrValue = 65535
	maxXattrs     = 256
	// maxStrings bounds the names, targets and attributes of one layer or view together.
	maxStrings = 1 << 30

	// maxWindow is the largest zstd window of a chunk, what `zstd --long` makes by default; a chunk is decoded into memory
	// that is there anyway. maxStreamWindow is that of a TOC and of a tar-split, for which a window is memory: every level
	// of zstd but those of --ultra stays below it.
	maxWindow       = 128 << 20
	maxStreamWindow = 32 << 20
	// maxJSONValue bounds one value of a TOC: an entry with its attributes, or a field that this package does not know.
	maxJSONValue = 4 << 20
	// maxSplitLine bounds one line of a tar-split: a header with its extensions, or a run of padding, in base64.
	maxSplitLine = 16 << 20
)

// BuildCost returns an upper bound of the heap, in bytes, that IndexTOC takes with a Region, with the compressed TOC and
// tar-split that its caller may hold. It believes ref.
func BuildCost(ref *manifest.TOCRef) int64 {
	const fixed = 16 << 20 // buffers, and tables while they are small
	window := min(ref.TOCRawLen, maxStreamWindow)
	sorted := min(ref.TOCRawLen/4, 48<<20) // numbers of names, objects and chunks; an entry has 25 bytes or more
	return ref.TOC.Len + ref.TarSplit.Len + fixed + window + sorted
}

// MergeCost returns an upper bound of the heap, in bytes, that Merge takes with a Region, for layers of so many entries
// together.
func MergeCost(entries int64) int64 { return 16<<20 + 2*min(entries, MaxImageEntries) }
