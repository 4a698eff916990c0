package copy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Facts remember which blobs hold the same tar, so that a layer need not be made anew where a place has one that was made
// before. Only what a process of this user has hashed itself, blob and tar to their ends, is a fact (rule 18): what a
// manifest, a configuration or a registry says never is. Safe for concurrent use; nil remembers nothing. Processes that
// save at once may lose each other's newest facts, and no more than these.
type Facts struct {
	path string

	mu     sync.Mutex
	loaded bool
	list   []fact // the newest last
	added  bool   // something is not in the file yet
}

// fact says that a blob is a tar in a compression.
type fact struct {
	Tar  digest.Digest `json:"tar"`
	Blob digest.Digest `json:"blob"`
	Size int64         `json:"size"`
	// As is the compression: zstd:chunked only for blobs that were made here, because nobody has compared another's
	// table of contents with its tar.
	As string `json:"as"`
	// TOC are the annotations that describe a zstd:chunked blob; nil for others.
	TOC map[string]string `json:"toc,omitempty"`
}

// factLine is a fact at rest, with a checksum: a flipped bit would make another fact, which decides what a manifest names.
type factLine struct {
	fact
	Sum uint32 `json:"sum"` // CRC-32C of the fact alone
}

func (f fact) sum() uint32 {
	raw, err := json.Marshal(f)
	if err != nil {
		return 0
	}
	return crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli))
}

const (
	maxFacts     = 4096
	maxFactsFile = 4 << 20
)

// OpenFacts remembers in a file, which need not be there and is read when it is first needed. A file that cannot be read
// or that somebody else may have written is as good as none, and is written anew.
func OpenFacts(path string) *Facts { return &Facts{path: path} }

// descriptor describes the blob as a layer.
func (f fact) descriptor() v1.Descriptor {
	return v1.Descriptor{MediaType: layerMediaType(f.As), Digest: f.Blob, Size: f.Size, Annotations: maps.Clone(f.TOC)}
}

// valid says that a fact is one that this package could have written.
func (f fact) valid() bool {
	if manifest.ValidDigest(f.Tar) != nil || manifest.ValidDigest(f.Blob) != nil || f.Size <= 0 {
		return false
	}
	switch f.As {
	case algoGzip, recipeGzip, algoZstd, algoNone:
		return len(f.TOC) == 0
	case algoChunked:
		toc, err := manifest.TOCRefOf(f.descriptor())
		return err == nil && toc != nil && toc.TarSplit.Len > 0 && toc.Digest.Algorithm() == f.Blob.Algorithm() && maps.Equal(f.TOC, toc.Annotations())
	}
	return false
}

// readFacts reads a file that nobody but this user can have written: facts decide which bytes a manifest names.
func readFacts(path string) []fact {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Mode().Perm()&0o022 != 0 {
		return nil
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || int(sys.Uid) != os.Geteuid() {
		return nil
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFactsFile+1))
	if err != nil || len(raw) > maxFactsFile {
		return nil
	}
	return parseFacts(raw)
}

// parseFacts reads one fact from each line and skips the lines that are none. It is pure.
func parseFacts(raw []byte) []fact {
	var out []fact
	for line := range bytes.Lines(raw) {
		var l factLine
		if json.Unmarshal(line, &l) == nil && l.Sum == l.sum() && l.valid() {
			out = append(out, l.fact)
		}
	}
	return mergeFacts(nil, out)
}

func formatFacts(list []fact) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, f := range list {
		if err := enc.Encode(factLine{f, f.sum()}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// mergeFacts puts newer facts behind older ones, one for each blob, and drops the oldest beyond the bound. What is known
// of a table of contents stays known when the blob is met again without it. It is pure.
func mergeFacts(older, newer []fact) []fact {
	at := make(map[digest.Digest]int, len(older)+len(newer))
	var out []fact
	for _, f := range slices.Backward(slices.Concat(older, newer)) {
		i, have := at[f.Blob]
		switch {
		case !have && len(out) < maxFacts:
			at[f.Blob] = len(out)
			out = append(out, f)
		case have && out[i].Tar == f.Tar && out[i].As == algoZstd && f.As == algoChunked:
			out[i] = f
		}
	}
	slices.Reverse(out)
	return out
}

// add remembers a fact; what is none is not remembered.
func (s *Facts) add(f fact) {
	if s == nil || !f.valid() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load()
	s.list, s.added = mergeFacts(s.list, []fact{f}), true
}

// load reads the file once. The caller holds the lock.
func (s *Facts) load() {
	if !s.loaded {
		s.list, s.loaded = readFacts(s.path), true
	}
}

// tarOf is the digest of the tar in a blob, "" if nobody here has seen it.
func (s *Facts) tarOf(blob digest.Digest) digest.Digest {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load()
	for _, f := range s.list {
		if f.Blob == blob {
			return f.Tar
		}
	}
	return ""
}

// of are the blobs that hold a tar, the newest first.
func (s *Facts) of(tar digest.Digest) (out []fact) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load()
	for _, f := range slices.Backward(s.list) {
		if f.Tar == tar {
			out = append(out, f)
		}
	}
	return out
}

// Save writes the file if there is something new, with what other processes have written since.
func (s *Facts) Save() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.added {
		return nil
	}
	list := mergeFacts(readFacts(s.path), s.list)
	raw, err := formatFacts(list)
	for err == nil && len(raw) > maxFactsFile {
		list = list[len(list)/2:]
		raw, err = formatFacts(list)
	}
	err = errors.Join(err, os.MkdirAll(filepath.Dir(s.path), 0o700)) // nobody else's business
	if err == nil {
		err = replaceFile(s.path, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember which blobs hold the same tar: %w", err)
	}
	s.added = false
	return nil
}
