package differential

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/integration/forge"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// specimen is one case: the layers of an image, as they are published.
type specimen struct {
	layers []*forge.Layer
	blobs  []*forge.Blob
	lies   int
	door   string
}

// grow makes a case of choices. nil: there is none, because a header could not be written.
func grow(c *choices) *specimen {
	g := &grower{choices: c, chunk: of(c, 1000, 512, 64, 65536)}
	s := &specimen{}
	for range of(c, 1, 1, 2, 3) {
		t := forge.Tar{}
		g.layer, g.files, g.below = nil, nil, slices.Clone(g.names)
		for range 1 + g.n(12) {
			m := g.member()
			if !writable(m) {
				continue
			}
			t.Members = append(t.Members, m)
		}
		t.End = g.end()
		l := layerOf(t)
		l.ChunkSize = g.chunk
		l.Algorithm, l.DiffID = of(c, digest.SHA256, digest.SHA256, digest.SHA512), of(c, digest.SHA256, digest.SHA256, digest.SHA512)
		for range of(c, 0, 1, 1, 2) {
			g.lie(l)
			s.lies++
		}
		s.layers = append(s.layers, l)
	}
	s.door = of(c, "pool", "pool", "pool", "copy", "tar", "tar", "variant")
	if !s.write() {
		return nil
	}
	return s
}

// write makes the blobs; false: they cannot be made.
func (s *specimen) write() bool {
	s.blobs = nil
	for _, l := range s.layers {
		b, err := l.Write()
		if err != nil {
			return false
		}
		s.blobs = append(s.blobs, b)
	}
	return true
}

func writable(m forge.Member) bool {
	_, err := (&forge.Tar{Members: []forge.Member{m}}).Bytes()
	return err == nil
}

// layerOf is the honest layer of a tar, or if that cannot be read, of what its members would be without their edits.
func layerOf(t forge.Tar) *forge.Layer {
	if l, err := forge.Of(t); err == nil {
		return l
	}
	plain := forge.Tar{}
	for _, m := range t.Members {
		m.Edit, m.Size = nil, 0
		plain.Members = append(plain.Members, m)
	}
	l, err := forge.Of(plain)
	if err != nil {
		l = &forge.Layer{}
	}
	l.Tar = t
	if split, err := forge.SplitOf(&t); err == nil {
		l.Split = split
	}
	return l
}

// bench is the machine of one case: a store and its pool.
type bench struct {
	dir  string
	st   *store.Store
	pool *fill.Pool
}

func openBench(dir string) (*bench, error) {
	st, err := store.Open(filepath.Join(dir, "store"), &store.Options{Logger: quiet()})
	if err != nil {
		return nil, err
	}
	return &bench{dir, st, fill.New(st, &fill.Options{Window: -1})}, nil
}

func (b *bench) close() error { return errors.Join(b.pool.Close(), b.st.Close()) }

// bytesSource serves a blob from memory.
type bytesSource []byte

func (s bytesSource) ReadRanges(_ context.Context, ranges []manifest.Range, fn func(manifest.Range, io.Reader) error) error {
	for _, r := range ranges {
		if r.Off < 0 || r.Len < 0 || r.End() > int64(len(s)) {
			return fmt.Errorf("no range %v in %d bytes", r, len(s))
		}
		if err := fn(r, bytes.NewReader(s[r.Off:r.End()])); err != nil {
			return err
		}
	}
	return nil
}

// byTOC brings the layers into the store by their tables of contents, each proved against the digest of its tar.
func (b *bench) byTOC(ctx context.Context, s *specimen) (layers []uint64, err error) {
	for _, blob := range s.blobs {
		d := blob.Descriptor
		if _, err := manifest.TOCRefOf(d); err != nil {
			return nil, err
		}
		n, err := b.pool.AddLayer(ctx, fill.LayerSpec{Blob: d, TOC: blob.TOC, Source: store.Source{Host: "h", Repo: "r", Blob: d.Digest, Size: d.Size}}, bytesSource(blob.Bytes))
		if err != nil {
			return nil, err
		}
		if err := b.pool.VerifyDiffID(ctx, n, blob.DiffID); err != nil {
			return nil, err
		}
		layers = append(layers, n)
	}
	return layers, nil
}

// verdict is what became of a case.
type verdict struct {
	refused error    // tocsin's own refusal
	apply   error    // containerd's
	wrong   []string // an image that was accepted and should not have been, or shows another tree
}

func (v *verdict) accepted() bool { return v.refused == nil }

// A door is a way into the store. It returns the layers that it took in.
type door func(ctx context.Context, b *bench, s *specimen) (layers []uint64, err error)

func doors() map[string]door {
	return map[string]door{
		"pool": func(ctx context.Context, b *bench, s *specimen) ([]uint64, error) { return b.byTOC(ctx, s) },
		"copy": func(ctx context.Context, b *bench, s *specimen) ([]uint64, error) {
			return b.copied(ctx, s, &forge.Image{})
		},
		"tar": func(ctx context.Context, b *bench, s *specimen) ([]uint64, error) {
			return b.copied(ctx, s, &forge.Image{EditManifest: func(m *v1.Manifest) {
				for i := range m.Layers {
					m.Layers[i].Annotations = nil
				}
			}})
		},
		"variant": func(ctx context.Context, b *bench, s *specimen) ([]uint64, error) {
			return b.copied(ctx, s, &forge.Image{Sentinel: manifest.SentinelTypeOCI, ChainBound: true})
		},
	}
}

// copied copies the case as such an image into the store, with tocsin's own copy.
func (b *bench) copied(ctx context.Context, s *specimen, im *forge.Image) ([]uint64, error) {
	im.Layers = s.blobs
	bundle, err := im.Bundle()
	if err != nil {
		return nil, err
	}
	if err := bundle.Layout(filepath.Join(b.dir, "layout"), "x"); err != nil {
		return nil, err
	}
	if err := b.copy(ctx, "oci:"+filepath.Join(b.dir, "layout")+":x", "store:x"); err != nil {
		return nil, err
	}
	records, _, err := b.st.Resolve("docker.io/library/x:latest")
	if err != nil {
		return nil, err
	}
	return records[0].Layers, nil
}

func (b *bench) copy(ctx context.Context, from, to string) error {
	src, err := manifest.ParseRef(from)
	if err != nil {
		return err
	}
	dst, err := manifest.ParseRef(to)
	if err != nil {
		return err
	}
	_, err = copy.Copy(ctx, &copy.Env{Store: b.st, Pool: b.pool}, src, dst, nil)
	return err
}

// tars are those of the case as containerd would get them; of a variant, which has none, those that tocsin writes of it.
func (b *bench) tars(ctx context.Context, s *specimen) (tars [][]byte, err error) {
	if s.door != "variant" {
		for _, blob := range s.blobs {
			tars = append(tars, blob.Tar)
		}
		return tars, nil
	}
	archive := filepath.Join(b.dir, "archive.tar")
	if err := b.copy(ctx, "store:x", "docker-archive:"+archive+":x"); err != nil {
		return nil, err
	}
	return savedLayers(archive)
}

// savedLayers reads the layers of a docker archive, in order.
func savedLayers(archive string) ([][]byte, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := map[string][]byte{}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeSymlink {
			files[h.Name] = files[filepath.Join(filepath.Dir(h.Name), h.Linkname)]
		}
	}
	var saved []struct{ Layers []string }
	if err := json.Unmarshal(files["manifest.json"], &saved); err != nil {
		return nil, err
	}
	var tars [][]byte
	for _, name := range saved[0].Layers {
		tars = append(tars, files[name])
	}
	return tars, nil
}

// judge runs one case in a directory of its own. An error is one of the machine.
func judge(ctx context.Context, root string, s *specimen) (v *verdict, err error) {
	dir, err := os.MkdirTemp(root, "case-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := openBench(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	v = &verdict{}
	layers, err := doors()[s.door](ctx, b, s)
	if err != nil {
		v.refused = err
		return v, nil
	}
	got, err := shown(ctx, b.st, b.pool, layers)
	if err != nil {
		if errors.Is(err, chunked.ErrTooBig) || errors.Is(err, chunked.ErrMalformed) {
			v.refused = err
			return v, nil
		}
		return nil, fmt.Errorf("what tocsin shows: %w", err)
	}
	tars, err := b.tars(ctx, s)
	if err != nil {
		v.refused = err // only that of a variant can be
		return v, nil
	}
	want, err := unpacked(ctx, dir, tars)
	switch asTar := s.door == "tar" || s.door == "copy"; {
	case errors.Is(err, errRefused) && excused(err, asTar):
	case errors.Is(err, errRefused):
		v.apply = err
		v.wrong = []string{err.Error()}
	case err != nil:
		return nil, err
	default:
		if s.door == "tar" || s.door == "copy" {
			want.dropAufs()
		}
		v.wrong = differences(want, got)
	}
	return v, nil
}

// hiddenParent is containerd's failure to copy the attributes of a directory of a lower layer.
var hiddenParent = regexp.MustCompile(`layer (\d+): lstat \S*/l(\d+)/`)

// excused says that a layer may be shown although containerd does not unpack it: because the path is too long where it
// unpacks, or because of what it finds in a lower layer where it looks for the attributes of a directory, which another
// layer hides; as a tar, because of old GNU's sparse files and of what tocsin drops.
func excused(err error, asTar bool) bool {
	if errors.Is(err, unix.ENAMETOOLONG) {
		return true
	}
	if m := hiddenParent.FindStringSubmatch(err.Error()); m != nil && m[1] != m[2] {
		return true
	}
	return asTar && (strings.Contains(err.Error(), "unhandled tar header type 83") || strings.Contains(err.Error(), "/.wh..wh."))
}

// String describes a case for a report.
func (s *specimen) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, "door", s.door)
	for i, l := range s.layers {
		fmt.Fprintf(&b, "layer %d (%s)\n", i, s.blobs[i].Descriptor.Digest.Algorithm())
		for _, m := range l.Tar.Members {
			fmt.Fprintf(&b, "  tar  %c %q -> %q %o %d:%d %v %d bytes xattrs %q edited %v\n", m.Typeflag, m.Name, m.Linkname, m.Mode, m.Uid, m.Gid, m.ModTime.UnixNano(), len(m.Content), m.PAXRecords, m.Edit != nil)
		}
		if l.Tar.End != nil {
			fmt.Fprintf(&b, "  tar  ends with %d bytes\n", len(l.Tar.End))
		}
		for _, e := range l.TOC {
			fmt.Fprintf(&b, "  toc  %s %q -> %q %o %d:%d %v %d bytes\n", e.Type, e.Name, e.LinkName, e.Mode, e.UID, e.GID, e.ModTime.UnixNano(), len(e.Content))
		}
		for _, line := range l.Split {
			if line.Size != 0 || line.GetName() != "" {
				fmt.Fprintf(&b, "  split %q %d\n", line.GetName(), line.Size)
			} else {
				fmt.Fprintf(&b, "  split segment of %d\n", len(line.Payload))
			}
		}
	}
	return b.String()
}
