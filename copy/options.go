package copy

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/containerd"
	"github.com/tocsin/tocsin/copy/dockerd"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// Options says what a copy does. The zero value copies everything unmodified.
type Options struct {
	// Platform, if not nil, chooses one instance of a list and copies it as a single image. Nil takes the whole list.
	Platform *v1.Platform
	// Select leaves instances of a list out. It needs Platform to be nil.
	Select Select
	// Prefer says which of a plain instance and its sentinel variant answers for Platform. The zero value is the
	// plain one.
	Prefer manifest.Prefer
	// Compress encodes the layers that are not in that form yet. The zero value keeps layers as they are.
	Compress Compression
	// Format writes manifests and lists in that dialect. The zero value keeps each in its own, unless what is asked for
	// needs another or the destination takes only another.
	Format Format
	// Sentinel adds a sentinel variant in that layout; "none" adds none. "" means hidden together with zstd:chunked,
	// otherwise none.
	Sentinel string
	// Push says how an archive's image is sent, and what is compared besides what always is.
	Push Pushing
	// Signatures says what becomes of signatures and referrers, and who makes new ones.
	Signatures Signing
	// Layers says which layers' blobs come along that need not.
	Layers
	// Digests says which algorithm digests are written in. Nil keeps that of each; a zero value is an error.
	Digests *manifest.DigestWish
	// Preserve turns the default of keeping digests into a promise: ErrPreserve rather than an edit.
	Preserve bool
	// Snapshotter is the name of tocsin's snapshotter in the containerd that is copied to. A sentinel variant of a registry
	// is prepared there and its layers stay where they are; the image's name may be the digest of the list that it was
	// chosen from. It needs Platform. "" copies layers always.
	Snapshotter string
}

// Layers are wishes about layers and their blobs. The zero value has none.
type Layers struct {
	// SentinelType is the media type of the sentinels that are made, one that manifest.IsSentinelType knows. "" means
	// that of the layout, and that variants which are made again in the layout that they have keep theirs.
	SentinelType string
	// DownloadForeign fetches foreign layers, which the source need not have, from the URLs that their manifests name, and
	// makes them ordinary layers. False leaves them where they are and copies their descriptors.
	DownloadForeign bool
	// KeepBlobs keeps the layer blobs in the store too, besides the files in them, so that the image can be copied out
	// of it without a change. Without it only artifacts keep theirs.
	KeepBlobs bool
}

// Pushing is what a push of an archive asks for. The zero value asks for nothing.
type Pushing struct {
	// Recipe is what plain layers of an image become whose archive has no manifest: "gzip.v1", or "none" (as with "")
	// for what they are. An image that has a manifest is not changed.
	Recipe string
	// Tars compares every layer that is copied as it is with its diffID too, not only with its digest.
	Tars bool
	// Expect, if not "", is the digest that the outcome must have: when it has another one, ErrExpect before any manifest
	// is written, and if nothing is to be changed before a blob moves.
	Expect digest.Digest
}

// Compression is a layer encoding and its level. The zero value means no change.
type Compression struct {
	Algorithm string // "", "gzip", "zstd", "zstd:chunked", "none"
	Level     int    // 1 to 22, 0: the algorithm's default (zstd:chunked: 3)
	Anew      bool   // also what is in that encoding already, at whatever level
}

// The encodings that --compress names.
const (
	algoGzip    = "gzip"
	algoZstd    = "zstd"
	algoChunked = "zstd:chunked"
	algoNone    = "none"
)

// ParseCompression reads ALGO[:LEVEL], where zstd:chunked is one word. "" is no change.
func ParseCompression(s string) (Compression, error) {
	algo, level := s, ""
	if rest, ok := strings.CutPrefix(s, algoChunked); ok && (rest == "" || rest[0] == ':') {
		algo, level = algoChunked, strings.TrimPrefix(rest, ":")
	} else if a, l, ok := strings.Cut(s, ":"); ok {
		algo, level = a, l
	}
	switch algo {
	case "", algoGzip, algoZstd, algoChunked, algoNone:
	default:
		return Compression{}, fmt.Errorf("compression %q is not gzip, zstd, zstd:chunked or none: %w", s, ErrUsage)
	}
	c := Compression{Algorithm: algo}
	if level == "" {
		return c, nil
	}
	n, err := strconv.Atoi(level)
	if err != nil || n < 1 || n > maxLevel(algo) {
		return Compression{}, fmt.Errorf("compression level %q of %s is not a number from 1 to %d: %w", level, algo, maxLevel(algo), ErrUsage)
	}
	c.Level = n
	return c, nil
}

func maxLevel(algo string) int {
	switch algo {
	case algoGzip:
		return 9
	case algoZstd, algoChunked:
		return 22
	}
	return 0
}

// Env is what a copy works with. It is shared by copies that run at once.
type Env struct {
	Registry *registry.Client // needed for docker://
	// Destination, if not nil, stands in for Registry where a copy writes.
	Destination *registry.Client
	Store       *store.Store       // needed for store:
	Pool        *fill.Pool         // needed for store:
	Containerd  *containerd.Client // needed for containerd:
	Dockerd     *dockerd.Client    // needed for docker-daemon:
	Progress    Progress           // nil: silent
	Jobs        int                // blobs under way at once; 0: 6
	Trust       *Trust             // nil: every image is accepted
	Locations   *Locations         // nil: blobs are mounted from the source's repository only
	Facts       *Facts             // nil: a layer that has to be made anew always is

	inside
}

// inside is what an Env has of the package's own.
type inside struct {
	parts  partSizes
	bundle *bundle // of Save: where archives go
	// dry stands in for running a plan (DryRun).
	dry func(ctx context.Context, from source, s situation, p *copyPlan, o *Options) (*Result, error)
}

// Result is what a copy wrote.
type Result struct {
	Digest    digest.Digest // of the top-level manifest at the destination
	MediaType string
	Instances int      // images copied
	Notes     []string // what the user should know: digests that changed, layers that became plain zstd
}

// Progress shows how far blobs are. Its methods are called from many goroutines.
type Progress interface {
	// Start begins a line for one blob; size is in bytes, or -1 when nobody knows.
	Start(name string, size int64) Meter
}

// Meter is one blob's line. Done is called exactly once.
type Meter interface {
	Add(n int64)
	Done(err error)
}

type silent struct{}

func (silent) Start(string, int64) Meter { return silent{} }
func (silent) Add(int64)                 {}
func (silent) Done(error)                {}

func (e *Env) progress() Progress {
	if e.Progress == nil {
		return silent{}
	}
	return e.Progress
}

func (e *Env) jobs() int {
	if e.Jobs <= 0 {
		return 6
	}
	return e.Jobs
}
