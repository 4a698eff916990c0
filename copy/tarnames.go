package copy

import (
	"archive/tar"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// Bounds of what an archive may make us remember. Images have tens of layers; an archive of a whole registry's worth
// of them is still far below.
const (
	maxArchiveEntries = 1 << 16
	maxArchiveName    = 4096 // bytes, PATH_MAX
	maxArchiveLinks   = 8    // from one name to the file
)

// archiveFiles is what it takes to find out what an archive holds and to describe an image of it.
type archiveFiles interface {
	// readUnverified reads a small file whole. Nothing was compared with a digest. ErrNotFound when there is none.
	readUnverified(name string, limit int64) ([]byte, error)
	// exists returns nil if there is a file of that name, ErrNotFound if not.
	exists(name string) error
	// tarDigest is the digest of the tar in a file, whatever that is compressed with.
	tarDigest(ctx context.Context, name string) (digest.Digest, error)
}

// tarNames are the files and links of a tar by their names. It refuses what two readers could understand in two ways:
// names and links that leave the archive, one name for different contents, sparse files.
type tarNames[T any] struct {
	files map[string]T
	links map[string]string // names inside the archive to names inside the archive
}

func newTarNames[T any]() tarNames[T] {
	return tarNames[T]{files: make(map[string]T), links: make(map[string]string)}
}

// enter files a tar's entry. take is called for a regular file and says what it is. When its name was there before,
// that is old, and take refuses if the contents differ: crane writes a configuration once for each name of an image.
func (x *tarNames[T]) enter(h *tar.Header, take func(name string, old *T) (T, error)) error {
	name, err := archiveName(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if isSparse(h) {
			return fmt.Errorf("a sparse file: %w", manifest.ErrUnsupported)
		}
		if _, ok := x.links[name]; ok {
			return fmt.Errorf("a file and a link of one name: %w", manifest.ErrMalformed)
		}
		var before *T
		if old, ok := x.files[name]; ok {
			before = &old
		}
		x.files[name], err = take(name, before)
		return err
	case tar.TypeSymlink:
		target := h.Linkname
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		return x.addLink(name, target)
	case tar.TypeLink:
		return x.addLink(name, h.Linkname)
	case tar.TypeGNUSparse:
		return fmt.Errorf("a sparse file: %w", manifest.ErrUnsupported)
	}
	return nil // directories; and devices, which nothing can name as a blob
}

// errTwice is what is wrong with one name for two contents.
func errTwice() error { return fmt.Errorf("twice, with different contents: %w", manifest.ErrMalformed) }

// isSparse reports whether a file's bytes are not simply behind its header.
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (x *tarNames[T]) addLink(name, target string) error {
	target, err := archiveName(target)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	_, file := x.files[name]
	if old, ok := x.links[name]; file || ok && old != target {
		return fmt.Errorf("a link and something else of one name: %w", manifest.ErrMalformed)
	}
	x.links[name] = target
	return nil
}

// archiveName is an entry's name in the one spelling that the index uses. Absolute names and ".." are refused.
func archiveName(name string) (string, error) {
	switch {
	case name == "" || len(name) > maxArchiveName:
		return "", fmt.Errorf("a name of %d bytes: %w", len(name), manifest.ErrMalformed)
	case path.IsAbs(name):
		return "", fmt.Errorf("the absolute name %.200q: %w", name, manifest.ErrMalformed)
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "", fmt.Errorf("%.200q leaves the archive: %w", name, manifest.ErrMalformed)
	}
	return path.Clean(name), nil
}

// find follows links to a file.
func (x *tarNames[T]) find(name string) (T, error) {
	var none T
	at := name
	for range maxArchiveLinks {
		if file, ok := x.files[at]; ok {
			return file, nil
		}
		next, ok := x.links[at]
		if !ok {
			return none, fmt.Errorf("the archive has no %.200q: %w", name, ErrNotFound)
		}
		at = next
	}
	return none, fmt.Errorf("%.200q: more than %d links: %w", name, maxArchiveLinks, manifest.ErrMalformed)
}

func (x *tarNames[T]) exists(name string) error {
	_, err := x.find(name)
	return err
}

func (x *tarNames[T]) findBlob(d digest.Digest) (T, error) {
	name, err := blobName(d)
	if err != nil {
		var none T
		return none, err
	}
	return x.find(name)
}

// tarEnd says whether a tar that ended at position at, with its last content before end, had its end marker. One that
// has none was cut off between two entries.
func tarEnd(end, at int64) error {
	if at < (end+tarBlock-1)/tarBlock*tarBlock+tarBlock {
		return fmt.Errorf("the tar ends without its end marker, so it was cut off: %w", manifest.ErrMalformed)
	}
	return nil
}

// contentSize is how many bytes follow an entry's header: a header of the kinds that have none may claim a size.
func contentSize(h *tar.Header) int64 {
	switch h.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return 0
	}
	return h.Size
}
