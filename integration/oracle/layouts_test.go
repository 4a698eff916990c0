package oracle

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"
)

// hidden publishes an image in that layout and returns the digests of its two instances.
func hidden(t *testing.T, r *registry) (plain, variant digest.Digest) {
	t.Helper()
	src, _ := layoutOf(t)
	tocsin := program(t)
	ourCopy(t, tocsin, "--compress=zstd:chunked", "oci:"+src+":image", "docker://"+r.host+"/layouts:latest")
	raw, err := crane.Manifest(r.host + "/layouts:latest")
	if err != nil {
		t.Fatal(err)
	}
	var list v1.Index
	if err := json.Unmarshal(raw, &list); err != nil || len(list.Manifests) != 2 {
		t.Fatalf("%s: %v", raw, err)
	}
	return list.Manifests[0].Digest, list.Manifests[1].Digest
}

// TestHiddenVariant: the tag of a hidden variant is the plain image to crane and to containers/image with a store, and the
// variant itself neither exports nor stores: nothing of it stays.
func TestHiddenVariant(t *testing.T) { // S9, S31
	r := newRegistry(t)
	plain, variant := hidden(t, r)
	t.Run("crane", func(t *testing.T) {
		platform := crane.WithPlatform(&ggcr.Platform{OS: "linux", Architecture: "amd64"})
		im, err := crane.Pull(r.host+"/layouts:latest", platform)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := im.Digest(); err != nil || d.String() != plain.String() {
			t.Errorf("the tag is %s, %v", d, err)
		}
		tar := mutate.Extract(im)
		if n, err := io.Copy(io.Discard, tar); err != nil || n == 0 {
			t.Errorf("export: %d bytes, %v", n, err)
		}
		_ = tar.Close()
		ref, err := name.NewDigest(r.host + "/layouts@" + variant.String())
		if err != nil {
			t.Fatal(err)
		}
		im, err = remote.Image(ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := crane.Export(im, io.Discard); err == nil {
			t.Error("crane exported the variant")
		}
	})
	t.Run("containers-storage", func(t *testing.T) {
		store := newStore(t)
		if err := pull(t, r, store, "layouts@"+variant.String()); err == nil {
			t.Error("the variant was stored")
		}
		nothingStored(t, store)
		if err := pull(t, r, store, "layouts"); err != nil {
			t.Fatal(err)
		}
		img, err := store.Image("localhost/layouts:latest")
		if err != nil {
			t.Fatal(err)
		}
		dir, err := store.Mount(img.TopLayer, "")
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(raw) != "amd642" {
			t.Errorf("the file is %q, %v", raw, err)
		}
		if _, err := store.Unmount(img.TopLayer, true); err != nil {
			t.Error(err)
		}
	})
}

func nothingStored(t *testing.T, store storage.Store) {
	t.Helper()
	images, err := store.Images()
	if err != nil || len(images) != 0 {
		t.Errorf("images left: %+v, %v", images, err)
	}
	layers, err := store.Layers()
	if err != nil || len(layers) != 0 {
		t.Errorf("layers left: %d, %v", len(layers), err)
	}
}
