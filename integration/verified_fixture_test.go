package integration_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// far is a registry behind a front, and a client of it as tocsin has one.
type far struct {
	reg    *front.Registry
	front  *front.Front
	host   string
	client *registry.Client
}

func newFar(t *testing.T) *far {
	t.Helper()
	reg := front.NewRegistry()
	f := front.New(reg)
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	return &far{reg, f, host, newClient()}
}

// newClient tries again once, so that faults that last do not take minutes.
func newClient() *registry.Client {
	return registry.New(&registry.Options{Retries: 1, Logger: quiet()})
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// content is the files of a layer, by path.
type content map[string][]byte

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// holed is a file of 2n-1 chunks: n pieces of noise with holes between them.
func holed(seed byte, n int) []byte {
	var b []byte
	for i := range n {
		if i > 0 {
			b = append(b, make([]byte, 1500)...)
		}
		b = append(b, noise(seed+byte(i), 1500)...)
	}
	return b
}

// smallLayer has a file of several chunks, small ones, and one of everything that a tree shows besides.
func smallLayer() (content, []tar.Header) {
	return content{"holed": holed(10, 3), "small": []byte("hello\n"), "words": bytes.Repeat([]byte("word "), 300), "empty": nil},
		[]tar.Header{
			{Typeflag: tar.TypeLink, Name: "zz-hard", Linkname: "small", Mode: 0o644},
			{Typeflag: tar.TypeSymlink, Name: "zz-soft", Linkname: "../small"},
			{Typeflag: tar.TypeFifo, Name: "zz-fifo", Mode: 0o600, Uid: 7},
			{Typeflag: tar.TypeDir, Name: "zz-dir", Mode: 0o1777, PAXRecords: map[string]string{"SCHILY.xattr.user.k": "v"}},
		}
}

func layerOf(files content, more []tar.Header) mkimage.Layer {
	return mkimage.Layer{CreatedBy: "a test", Tar: func(_ context.Context, w io.Writer) error {
		tw := tar.NewWriter(w)
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
				return err
			}
			if _, err := tw.Write(files[name]); err != nil {
				return err
			}
		}
		for _, h := range more {
			if err := tw.WriteHeader(&h); err != nil {
				return err
			}
		}
		return tw.Close()
	}}
}

// publish puts an image of the layers into the registry as tocsin writes it, in a sentinel layout ("none": plain
// zstd:chunked), and returns what its manifest says.
func (f *far) publish(t *testing.T, repo, sentinel string, layers ...mkimage.Layer) *manifest.Image {
	t.Helper()
	return f.publishAs(t, repo, &copy.Options{Compress: copy.Compression{Algorithm: "zstd:chunked"}, Sentinel: sentinel}, layers...)
}

func (f *far) publishAs(t *testing.T, repo string, o *copy.Options, layers ...mkimage.Layer) *manifest.Image {
	t.Helper()
	f.front.Behave()
	layout := filepath.Join(t.TempDir(), "layout")
	if _, err := mkimage.Write(t.Context(), layout, "x", layers, nil); err != nil {
		t.Fatal(err)
	}
	env := &copy.Env{Registry: f.client}
	if _, err := copy.Copy(t.Context(), env, ref(t, "oci:"+layout+":x"), ref(t, f.ref(repo)), o); err != nil {
		t.Fatal(err)
	}
	im := f.image(t, repo)
	f.front.Forget()
	return im
}

func (f *far) ref(repo string) string { return "docker://" + f.host + "/" + repo + ":t" }

func ref(t *testing.T, s string) manifest.Ref {
	t.Helper()
	r, err := manifest.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// image reads an image's manifest and config out of the registry's memory.
func (f *far) image(t *testing.T, repo string) *manifest.Image {
	t.Helper()
	m, err := manifest.ParseManifest(f.reg.Manifest(repo, "t"), "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := manifest.ParseConfig(f.reg.Blob(repo, m.Config.Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	im, err := manifest.NewImage(m, c)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// local is a store with what fills it from a far.
type local struct {
	store *store.Store
	pool  *fill.Pool
}

func openLocal(t *testing.T, root string, f *far) *local {
	t.Helper()
	st, err := store.Open(root, &store.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	l := &local{st, fill.New(st, &fill.Options{Window: -1, Connect: func(_ context.Context, s store.Source) (fill.Source, error) {
		return f.client.Repo(s.Host, s.Repo).Ranged(s.Blob, s.Size), nil
	}})}
	t.Cleanup(l.close)
	return l
}

// close may be called twice.
func (l *local) close() {
	_ = l.pool.Close()
	_ = l.store.Close()
}

// add makes the data layers of an image known and returns the number of its view.
func (l *local) add(ctx context.Context, f *far, repo string, im *manifest.Image) (view uint64, layers []uint64, err error) {
	for _, layer := range im.DataLayers() {
		n, err := l.addLayer(ctx, f, repo, layer.Descriptor, layer.TOC)
		if err != nil {
			return 0, nil, err
		}
		layers = append(layers, n)
	}
	view, err = l.pool.View(ctx, layers)
	return view, layers, err
}

func (l *local) addLayer(ctx context.Context, f *far, repo string, d v1.Descriptor, toc *manifest.TOCRef) (uint64, error) {
	src := store.Source{Host: f.host, Repo: repo, Blob: d.Digest, Size: d.Size, MediaType: d.MediaType}
	return l.pool.AddLayer(ctx, fill.LayerSpec{Blob: d, TOC: toc, Source: src}, f.client.Repo(f.host, repo).Ranged(d.Digest, d.Size))
}

// shown is a tree as lines by path: all that stat, readlink and listxattr say, and for files the digest of their bytes.
type shown map[string]string

func line(mode, uid, gid uint32, mtime, size int64, rest string) string {
	return fmt.Sprintf("%o %d:%d %d %d %s", mode, uid, gid, mtime, size, rest)
}

// read reads a whole view without a kernel, as the FUSE server does with one. A path that cannot be read is in failed
// instead.
func (l *local) read(ctx context.Context, view uint64) (tree shown, failed map[string]error, err error) {
	m, err := l.store.View(view)
	if err != nil {
		return nil, nil, err
	}
	defer m.Close()
	v, err := chunked.OpenView(m.Bytes())
	if err != nil {
		return nil, nil, fmt.Errorf("view %d: %w", view, err)
	}
	chain, err := l.store.ViewChain(view)
	if err != nil {
		return nil, nil, err
	}
	if v.NumLayers() != len(chain.Layers) {
		return nil, nil, fmt.Errorf("view %d: %d layers, recorded with %d", view, v.NumLayers(), len(chain.Layers))
	}
	tree, failed = shown{}, map[string]error{}
	for name, e := range v.Walk() {
		a := v.Attr(e)
		rest := fmt.Sprintf("links %d target %q", a.Nlink, v.Readlink(e))
		for i := range v.NumXattrs(e) {
			key, value := v.Xattr(e, i)
			rest += fmt.Sprintf(" %s=%q", key, value)
		}
		if slot, obj, ok := v.Content(e); ok {
			sum, err := l.sum(ctx, chain.Layers[slot], obj)
			if err != nil {
				failed[name] = err
				continue
			}
			rest += " " + sum
		}
		tree[name] = line(a.Mode, a.UID, a.GID, a.MtimeSec, a.Size, rest)
	}
	return tree, failed, nil
}

// sum reads an object of a layer in pieces.
func (l *local) sum(ctx context.Context, layer uint64, obj int) (string, error) {
	ly, err := l.pool.Layer(layer)
	if err != nil {
		return "", err
	}
	f, err := ly.Open(obj)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1000)
	for off := int64(0); off < f.Size(); off += int64(len(buf)) {
		n, err := f.ReadAt(ctx, buf, off)
		if err != nil && err != io.EOF {
			return "", err
		}
		h.Write(buf[:n])
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sameOrFailed demands that every path of want is shown just so or failed, and nothing else is shown.
func sameOrFailed(t *testing.T, what string, want, got shown, failed map[string]error) {
	t.Helper()
	for name, row := range got {
		if want[name] != row {
			t.Fatalf("%s: WRONG: %s is\n%s, want\n%s", what, name, row, want[name])
		}
	}
	for name := range want {
		if _, ok := got[name]; !ok && failed[name] == nil {
			t.Fatalf("%s: %s is missing", what, name)
		}
	}
}
