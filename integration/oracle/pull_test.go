package oracle

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/signature"
	istorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"

	"github.com/tocsin/tocsin/chunked"
)

// newStore opens a containers/storage of its own that pulls partially, or skips.
func newStore(t *testing.T) storage.Store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers/storage with overlay needs root")
	}
	dir := t.TempDir()
	store, err := storage.GetStore(storage.StoreOptions{
		GraphRoot: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), GraphDriverName: "overlay",
		PullOptions: map[string]string{"enable_partial_images": "true"},
	})
	if err != nil {
		t.Skipf("containers/storage cannot use overlay here: %v", err)
	}
	t.Cleanup(func() {
		if _, err := store.Shutdown(true); err != nil {
			t.Errorf("shut down the store: %v", err)
		}
		// The driver keeps its home mounted on itself.
		_ = syscall.Unmount(filepath.Join(dir, "root", "overlay"), syscall.MNT_DETACH)
	})
	return store
}

// layerOf compresses a tar with our writer and returns the blob, its descriptor and its diffID.
func layerOf(t *testing.T, raw []byte) ([]byte, v1.Descriptor, digest.Digest) {
	t.Helper()
	var blob bytes.Buffer
	w, err := chunked.Compress(&blob, bytes.NewReader(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	return blob.Bytes(), v1.Descriptor{
		MediaType: v1.MediaTypeImageLayerZstd, Digest: w.Digest, Size: w.Size, Annotations: w.TOC.Annotations(),
	}, w.DiffID
}

// publish puts an image of one layer into the registry.
func publish(t *testing.T, r *registry, name string, blob []byte, layer v1.Descriptor, diffID digest.Digest) {
	t.Helper()
	config, err := json.Marshal(v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, name, blob)
	m, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: r.put(t, name, config), Size: int64(len(config))},
		Layers: []v1.Descriptor{layer},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.tag(t, name, "latest", v1.MediaTypeImageManifest, m)
}

// pull copies an image from the registry into the store with containers/image: the tag latest, or NAME@DIGEST.
func pull(t *testing.T, r *registry, store storage.Store, name string) error {
	t.Helper()
	from := name + ":latest"
	if repo, _, digested := strings.Cut(name, "@"); digested {
		from, name = name, repo
	}
	src, err := docker.ParseReference("//" + r.host + "/" + from)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := istorage.Transport.ParseStoreReference(store, "localhost/"+name+":latest")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := signature.NewPolicyContext(&signature.Policy{
		Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = policy.Destroy() }()
	cache := t.TempDir()
	_, err = copy.Image(t.Context(), policy, dst, src, &copy.Options{
		SourceCtx: &types.SystemContext{
			DockerInsecureSkipTLSVerify: types.OptionalBoolTrue, BlobInfoCacheDir: cache,
			OSChoice: "linux", ArchitectureChoice: "amd64", SystemRegistriesConfPath: os.DevNull, AuthFilePath: filepath.Join(cache, "auth.json"),
		},
		DestinationCtx: &types.SystemContext{BlobInfoCacheDir: cache, OSChoice: "linux", ArchitectureChoice: "amd64"},
	})
	return err
}

// pulledLayer returns the one layer of a pulled image.
func pulledLayer(t *testing.T, store storage.Store, name string) *storage.Layer {
	t.Helper()
	img, err := store.Image("localhost/" + name + ":latest")
	if err != nil {
		t.Fatal(err)
	}
	l, err := store.Layer(img.TopLayer)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What our writer wrote, containers/image pulls by its TOC, proves by its tar-split, and unpacks to the same files.
func TestTheyPullOurs(t *testing.T) {
	store, r := newStore(t), newRegistry(t)
	for name, raw := range layers(t) {
		if name == "nothing" || name == "whiteouts" { // an empty layer is never fetched; whiteouts show only on another layer
			continue
		}
		t.Run(name, func(t *testing.T) {
			blob, desc, diffID := layerOf(t, raw)
			publish(t, r, name, blob, desc, diffID)
			if err := pull(t, r, store, name); err != nil {
				t.Fatal(err)
			}
			if _, ranged, whole := r.of(desc.Digest); ranged == 0 || whole != 0 {
				t.Errorf("%d requests for ranges and %d for the whole blob: that was no partial pull", ranged, whole)
			}
			l := pulledLayer(t, store, name)
			if l.UncompressedDigest != diffID {
				t.Errorf("they find the diffID %s, we said %s", l.UncompressedDigest, diffID)
			}
			dir, err := store.Mount(l.ID, "")
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if _, err := store.Unmount(l.ID, true); err != nil {
					t.Error(err)
				}
			}()
			compareTree(t, dir, raw)
		})
	}
}

// compareTree compares an unpacked layer with its tar.
func compareTree(t *testing.T, dir string, raw []byte) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		switch hdr.Typeflag {
		case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
			continue // left out of partial pulls by containers/storage
		}
		path := filepath.Join(dir, hdr.Name)
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			t.Errorf("%q: %v", hdr.Name, err)
			continue
		}
		if got, want := describe(t, path, &st, hdr), describeHeader(t, hdr, tr); got != want {
			t.Errorf("%q is\n%s, not\n%s", hdr.Name, got, want)
		}
		for key, want := range hdr.PAXRecords {
			if name, ok := bytes.CutPrefix([]byte(key), []byte("SCHILY.xattr.")); ok {
				buf := make([]byte, 256)
				n, err := syscall.Getxattr(path, string(name), buf)
				if err != nil || string(buf[:n]) != want {
					t.Errorf("%q: xattr %s is %q, %v", hdr.Name, name, buf[:max(n, 0)], err)
				}
			}
		}
	}
}

// describe spells what is on the disk, as describeHeader does what should be.
func describe(t *testing.T, path string, st *syscall.Stat_t, hdr *tar.Header) string {
	s := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Typeflag == tar.TypeLink {
			return fmt.Sprintf("link of %d names or more", min(st.Nlink, 2))
		}
		return s + fmt.Sprintf(" %d %s at %d.%d", len(content), digest.FromBytes(content), st.Mtim.Sec, st.Mtim.Nsec)
	case syscall.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		return target
	}
	return s
}

func describeHeader(t *testing.T, hdr *tar.Header, r io.Reader) string {
	mode := map[byte]uint32{tar.TypeReg: syscall.S_IFREG, tar.TypeDir: syscall.S_IFDIR}[hdr.Typeflag]
	s := fmt.Sprintf("%o %d:%d", mode|uint32(hdr.Mode), hdr.Uid, hdr.Gid)
	switch hdr.Typeflag {
	case tar.TypeReg:
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return s + fmt.Sprintf(" %d %s at %d.%d", len(content), digest.FromBytes(content), hdr.ModTime.Unix(), hdr.ModTime.Nanosecond())
	case tar.TypeLink:
		return "link of 2 names or more"
	case tar.TypeSymlink:
		return hdr.Linkname
	}
	return s
}

// A layer that shares nearly all files, or chunks of them, with one that is there costs nearly nothing.
func TestTheyReuseOurs(t *testing.T) {
	store, r := newStore(t), newRegistry(t)
	big := noise(1, 8<<20)
	first := makeTar(t, reg("same", noise(2, 4<<20)), reg("big", big))
	second := makeTar(t, reg("same", noise(2, 4<<20)), reg("new", noise(3, 10_000)), reg("other", big))
	blob, desc, diffID := layerOf(t, first)
	publish(t, r, "first", blob, desc, diffID)
	if err := pull(t, r, store, "first"); err != nil {
		t.Fatal(err)
	}
	blob, desc, diffID = layerOf(t, second)
	publish(t, r, "second", blob, desc, diffID)
	if err := pull(t, r, store, "second"); err != nil {
		t.Fatal(err)
	}
	if n, ranged, whole := r.of(desc.Digest); n > 200_000 || ranged == 0 || whole != 0 {
		t.Errorf("%d of %d bytes were fetched in %d ranged and %d whole requests", n, desc.Size, ranged, whole)
	}
}

// The check of containers/image that our layers pass is on.
func TestTheyRefuseAWrongDiffID(t *testing.T) {
	store, r := newStore(t), newRegistry(t)
	blob, desc, _ := layerOf(t, makeTar(t, reg("f", noise(1, 1000))))
	publish(t, r, "wrong", blob, desc, digest.FromString("something else"))
	if err := pull(t, r, store, "wrong"); err == nil || !strings.Contains(err.Error(), "config claims") {
		t.Errorf("a layer with another diffID than the config says: %v", err)
	}
}
