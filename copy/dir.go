package copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// The fixed names of a dir: place, and its versions: 1.2 is 1.1 with names of other digests than sha256 (L23).
const (
	dirManifest  = "manifest.json"
	dirVersion   = "version"
	dirVersion11 = "Directory Transport Version: 1.1\n"
	dirVersion12 = "Directory Transport Version: 1.2\n"
)

// dir is a directory with one image or list in it: manifest.json, the manifests of instances, blobs and signatures,
// each a file of its own. A blob's name is its digest.
type dir struct {
	path string

	mu   sync.Mutex
	kept map[string]bool // names that belong to what is being written
}

func openDir(ref manifest.Ref) (*dir, error) {
	d := &dir{path: ref.Path}
	_, err := d.version()
	return d, err
}

// version reads the version file. A directory without one was not finished, or is something else.
func (d *dir) version() (string, error) {
	raw, err := d.read(dirVersion, 1<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is no directory of an image, it has no %s file: %w", d.path, dirVersion, ErrNotFound)
	}
	if err != nil {
		return "", err
	}
	switch v := string(raw); v {
	case dirVersion11, dirVersion12:
		return v, nil
	default:
		return "", fmt.Errorf("%s: the version %.60q is not 1.1 or 1.2: %w", d.path, v, manifest.ErrUnsupported)
	}
}

// read reads a small file whole. Its bytes are not compared with anything.
func (d *dir) read(name string, limit int64) ([]byte, error) {
	return readLimited(filepath.Join(d.path, name), limit)
}

// dirName is a blob's file: hex alone means sha256.
func dirName(d digest.Digest) (string, error) {
	if err := manifest.ValidDigest(d); err != nil {
		return "", err
	}
	if d.Algorithm() == digest.SHA256 {
		return d.Encoded(), nil
	}
	return d.Algorithm().String() + "-" + d.Encoded(), nil
}

// dirManifestName is the file of an instance's manifest.
func dirManifestName(d digest.Digest) (string, error) {
	name, err := dirName(d)
	return name + "." + dirManifest, err
}

func (d *dir) top(context.Context) (document, error) {
	raw, err := d.read(dirManifest, manifest.MaxManifestSize)
	if errors.Is(err, fs.ErrNotExist) {
		return document{}, fmt.Errorf("%s has no %s, a copy to it was not finished: %w", d.path, dirManifest, ErrNotFound)
	}
	if err != nil {
		return document{}, err
	}
	// Nothing there names it, so its name is of the algorithm by which it names the rest.
	doc, err := manifest.NameDocument(raw, manifest.NamedIn(raw))
	if err != nil {
		return document{}, fmt.Errorf("%s of %s: %w", dirManifest, d.path, err)
	}
	return covered(doc, manifest.GuessMediaType(raw)), nil
}

func (d *dir) manifest(_ context.Context, desc v1.Descriptor) (document, error) {
	name, err := dirManifestName(desc.Digest)
	if err != nil {
		return document{}, err
	}
	raw, err := d.read(name, manifest.MaxManifestSize)
	if errors.Is(err, fs.ErrNotExist) {
		return document{}, fmt.Errorf("instance %s of %s: %w", desc.Digest, d.path, ErrNotFound)
	}
	if err != nil {
		return document{}, err
	}
	return described(raw, desc)
}

func (d *dir) open(desc v1.Descriptor) (*os.File, error) {
	name, err := dirName(desc.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(d.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s of %s: %w", desc.Digest, d.path, ErrNotFound)
	}
	return f, err
}

func (d *dir) blob(_ context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	f, err := d.open(desc)
	if err != nil {
		return nil, err
	}
	return newVerified(f, desc), nil
}

func (d *dir) blobSize(_ context.Context, of digest.Digest) (int64, error) {
	f, err := d.open(v1.Descriptor{Digest: of})
	if err != nil {
		return 0, err
	}
	st, err := f.Stat()
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (d *dir) layer(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	return d.blob(ctx, desc)
}

func (d *dir) ranged(desc v1.Descriptor) (fill.Source, store.Source) {
	return readerRanges{func(context.Context) (readerAtCloser, error) { return d.open(desc) }}, store.Source{}
}

// createDir makes the directory, or takes one that is empty or holds an image already. Nothing of that image goes
// before the new one is complete.
func createDir(ref manifest.Ref) (*dir, error) {
	d := &dir{path: ref.Path, kept: make(map[string]bool)}
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return nil, err
	}
	if err := sweepTemps(d.path, tempPrefix); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return d, d.write(dirVersion, []byte(dirVersion11))
	}
	if _, err := d.version(); errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%s is not empty and holds no image: %w", d.path, ErrUsage)
	} else if err != nil {
		return nil, err
	}
	return d, nil
}

func (d *dir) keep(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept[name] = true
}

// has trusts a file of the right name and size: blobs enter by rename, when they are whole and verified.
func (d *dir) has(_ context.Context, desc v1.Descriptor) (bool, error) {
	name, err := dirName(desc.Digest)
	if err != nil {
		return false, err
	}
	st, err := os.Stat(filepath.Join(d.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || st.Size() != desc.Size {
		return false, err
	}
	d.keep(name)
	return true, nil
}

func (d *dir) put(ctx context.Context, desc v1.Descriptor, open func() (io.ReadCloser, error)) error {
	name, err := dirName(desc.Digest)
	if err != nil {
		return err
	}
	body, err := open()
	if err != nil {
		return err
	}
	err = d.enter(name, &contextReader{ctx, body})
	return errors.Join(err, body.Close())
}

// enter writes one file in one step: it has its name when all of it is on the disk.
func (d *dir) enter(name string, body io.Reader) error {
	out, err := d.temp()
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{body}, make([]byte, streamBuffer)); err != nil {
		return errors.Join(err, out.abort())
	}
	return out.name(name)
}

func (d *dir) write(name string, raw []byte) error {
	return d.enter(name, bytes.NewReader(raw))
}

func (d *dir) create() (spool, error) { return d.temp() }

func (d *dir) temp() (*dirSpool, error) {
	f, err := lockedTemp(d.path, tempPrefix)
	if err != nil {
		return nil, err
	}
	return &dirSpool{spoolFile: newSpoolFile(f), dir: d}, nil
}

func (d *dir) partDir() string { return d.path }

func (d *dir) adopt(f *os.File) spool { return &dirSpool{spoolFile: newSpoolFile(f), dir: d} }

// dirSpool is a file that has no name yet.
type dirSpool struct {
	*spoolFile
	dir *dir
}

func (s *dirSpool) commit(_ context.Context, desc v1.Descriptor) error {
	name, err := dirName(desc.Digest)
	if err != nil {
		return errors.Join(err, s.abort())
	}
	return s.name(name)
}

func (s *dirSpool) name(name string) error {
	if err := finish(s.File, nil, filepath.Join(s.dir.path, name), 0o644); err != nil {
		return fmt.Errorf("write %s of %s: %w", name, s.dir.path, err)
	}
	s.dir.keep(name)
	return nil
}

func (s *dirSpool) abort() error { return errors.Join(s.Close(), os.Remove(s.Name())) }

func (d *dir) putManifest(_ context.Context, doc document) error {
	name, err := dirManifestName(doc.digest)
	if err != nil {
		return err
	}
	return d.write(name, doc.sent())
}

// commit replaces manifest.json. What belonged to the image before, and not to this one, goes after it.
func (d *dir) commit(ctx context.Context, doc document) error {
	before, err := d.top(ctx)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, manifest.ErrMalformed) {
		return err
	}
	needs := dirVersionOf(d.kept)
	if needs == dirVersion12 { // a reader of 1.1 must not find names that it does not know
		if err := d.write(dirVersion, []byte(needs)); err != nil {
			return err
		}
	}
	if err := d.write(dirManifest, doc.sent()); err != nil {
		return err
	}
	if err := d.sweep(before.digest == doc.digest); err != nil {
		return err
	}
	return errors.Join(d.write(dirVersion, []byte(needs)), syncDir(d.path))
}

// dirVersionOf is the oldest version that can say these names.
func dirVersionOf(names map[string]bool) string {
	for name := range names {
		if m := dirFile.FindStringSubmatch(name); m != nil && strings.Contains(m[1], "-") {
			return dirVersion12
		}
	}
	return dirVersion11
}

// dirFile matches the files of an image: blobs, manifests of instances, signatures of the top (no digest) and of
// instances. The digest's name is the first group, what follows it the second.
var dirFile = regexp.MustCompile(`^((?:sha384-|sha512-)?[0-9a-f]{64,128})?(\.manifest\.json|\.?signature-[1-9][0-9]*)?$`)

// stale says whether a file belongs to an image that the directory held before. It is pure.
func stale(name string, kept map[string]bool, sameTop bool) bool {
	m := dirFile.FindStringSubmatch(name)
	if m == nil || kept[name] {
		return false
	}
	switch key, kind := m[1], m[2]; {
	case key == "" && strings.HasPrefix(kind, "signature-"):
		return !sameTop
	case key == "":
		return false
	case strings.HasPrefix(kind, ".signature-"):
		return !kept[key+"."+dirManifest]
	case strings.HasPrefix(kind, "signature-"):
		return false
	}
	return true
}

// sweep removes what is stale. Signatures of what is still here stay.
func (d *dir) sweep(sameTop bool) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !stale(e.Name(), d.kept, sameTop) {
			continue
		}
		if err := os.Remove(filepath.Join(d.path, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (d *dir) close() error { return nil }
