package chunked

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// Range is a run of bytes in a blob.
type Range = manifest.Range

// The types of a TOC entry, as spelled in the JSON (spec/zstd-chunked.md 1.4). An Entry is never of type "chunk":
// ParseTOC merges those into the file they belong to.
const (
	TypeReg      = "reg"
	TypeDir      = "dir"
	TypeSymlink  = "symlink"
	TypeHardlink = "hardlink"
	TypeChar     = "char"
	TypeBlock    = "block"
	TypeFifo     = "fifo"
	typeChunk    = "chunk"
)

// Entry is one path of a layer. Names and times are as the tar header or the TOC says them; a zero time means that
// nothing was said, which counts as the epoch.
type Entry struct {
	Type     string
	Name     string
	LinkName string // target of a symlink or hardlink
	Mode     int64  // as in the tar header
	Size     int64
	UID, GID int

	ModTime, AccessTime, ChangeTime time.Time

	DevMajor, DevMinor int64
	Xattrs             map[string][]byte
	Digest             digest.Digest // whole content; empty for a file without content and for what is no file
	Chunks             []Chunk       // in order, contiguous from 0 to Size; nil when Size is 0

	known chunkList // in place of Chunks
}

// Chunk is a part of one file's content that can be verified alone.
type Chunk struct {
	Off, Size int64 // in the file
	Digest    digest.Digest
	Zeros     bool  // all zero bytes: nothing has to be read for it
	Blob      Range // compressed bytes in the blob; Len 0 for zeros and for content that came from a tar
}

// End returns the offset in the file of the first byte after c.
func (c Chunk) End() int64 { return c.Off + c.Size }

// TOC is a verified table of contents.
type TOC struct {
	Entries        []Entry       // in the order of the JSON
	TarSplitDigest digest.Digest // of the compressed tar-split; empty: none
}

// ObjectKey names the content of one regular file as one chunk list gives it. Two chunk lists of one content are two
// keys (design.md 3, partial objects).
type ObjectKey struct {
	Digest digest.Digest
	Size   int64
	List   digest.Digest // sha256 of the chunk list, see ListDigest
}

// Name returns "<hex>-<c>", the name under objects/<algo>/<xx>/ and partial/<algo>/<xx>/.
func (k ObjectKey) Name() string { return k.Digest.Encoded() + "-" + k.List.Encoded() }

// Number returns the first 61 bits of sha256("<algo>:<hex>-<c>"), by which an object's inode is found again without
// any memory of it (spec/mounts.md A3). Different keys may share a number, if ever so rarely.
func (k ObjectKey) Number() uint64 {
	h := sha256.Sum256([]byte(string(k.Digest) + "-" + k.List.Encoded()))
	return numberOf(&h)
}

// appendKey appends what Number hashes.
func appendKey(b []byte, d digest.Digest, list []byte) []byte {
	return hex.AppendEncode(append(append(b, d...), '-'), list)
}

func numberOf(sum *[sha256.Size]byte) uint64 { return binary.BigEndian.Uint64(sum[:]) >> 3 }

// ListDigest returns the digest of a chunk list: of offset, size, zeros and digest of each chunk, never of its place
// in a blob. Lists with equal digests may share a partial object.
func ListDigest(chunks []Chunk) digest.Digest {
	s := sha256.Sum256(appendList(make([]byte, 0, 64+len(chunks)*96), chunks))
	return digest.NewDigestFromBytes(digest.SHA256, s[:])
}

// appendList appends what the sha256 of is a ListDigest.
func appendList(b []byte, chunks []Chunk) []byte {
	b = append(b, listMagic...)
	for i := range chunks {
		b = appendListed(b, &chunks[i])
	}
	return b
}

const listMagic = "tocsin chunk list 1\n"

// appendListed appends what a ListDigest says of one chunk.
func appendListed(b []byte, c *Chunk) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(c.Off))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.Size))
	if c.Zeros {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = append(b, c.Digest...)
	return append(b, '\n')
}

// SingleList returns the ListDigest of a file that is one data chunk, as files that came from a tar are.
func SingleList(d digest.Digest, size int64) digest.Digest {
	return ListDigest([]Chunk{{Size: size, Digest: d}})
}

// malformed returns an error that wraps ErrMalformed.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// tooBig returns an error that wraps ErrTooBig.
func tooBig(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrTooBig, fmt.Sprintf(format, args...))
}
