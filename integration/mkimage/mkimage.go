// Package mkimage makes images for tests: OCI layouts written layer by layer from tar streams, with the config, history
// and digests that a builder would write, the same bytes every time for the same input.
//
// It is a test's builder and deliberately shares no code with package copy, so that what tocsin reads was made by
// somebody else. It makes no zstd:chunked layers and no sentinel; see chunked and copy for those.
package mkimage

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// created is the time that every image of this package says it was made at.
var created = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// Layer is one change set of an image under construction.
type Layer struct {
	// CreatedBy is the layer's line in the image's history.
	CreatedBy string
	// Tar writes the layer's uncompressed tar. It may be called more than once and writes the same bytes each time.
	Tar func(ctx context.Context, w io.Writer) error
}

// Diff is the layer that turns the tree lower into the tree upper, as containerd's differ writes it, whiteouts
// included. Lower "" is the empty tree.
func Diff(createdBy, lower, upper string) Layer {
	return Layer{CreatedBy: createdBy, Tar: func(ctx context.Context, w io.Writer) error {
		from := lower
		if from == "" {
			empty, err := os.MkdirTemp("", "mkimage-empty")
			if err != nil {
				return err
			}
			defer os.Remove(empty)
			from = empty
		}
		if err := archive.WriteDiff(ctx, w, from, upper); err != nil {
			return fmt.Errorf("mkimage: difference of %q and %q: %w", lower, upper, err)
		}
		return nil
	}}
}

// Options say how an image is written. Nil means gzip and no command.
type Options struct {
	// Compression is "gzip" (also when empty), "zstd" or "none".
	Compression string
	// Cmd is what the image runs when nothing else is said.
	Cmd []string
}

var suffixes = map[string]string{"": "+gzip", "gzip": "+gzip", "zstd": "+zstd", "none": ""}

// Write adds the image made of layers, bottom to top, to the OCI layout at dir, which is made if need be, and names
// it: an image of that name that was there before loses the name. It returns the manifest's descriptor as it stands in
// index.json. Not for concurrent use on one layout.
func Write(ctx context.Context, dir, name string, layers []Layer, o *Options) (v1.Descriptor, error) {
	if o == nil {
		o = &Options{}
	}
	suffix, ok := suffixes[o.Compression]
	if !ok {
		return v1.Descriptor{}, fmt.Errorf("mkimage: no such compression: %q", o.Compression)
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return v1.Descriptor{}, err
	}
	config := v1.Image{
		Created:  &created,
		Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config: v1.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: o.Cmd,
		},
		RootFS: v1.RootFS{Type: "layers"},
	}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, layer := range layers {
		desc, diffID, err := writeLayer(ctx, dir, layer, o.Compression)
		if err != nil {
			return v1.Descriptor{}, fmt.Errorf("mkimage: layer %q: %w", layer.CreatedBy, err)
		}
		desc.MediaType = v1.MediaTypeImageLayer + suffix
		manifest.Layers = append(manifest.Layers, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		config.History = append(config.History, v1.History{Created: &created, CreatedBy: layer.CreatedBy})
	}
	var err error
	if manifest.Config, err = writeJSON(dir, v1.MediaTypeImageConfig, config); err != nil {
		return v1.Descriptor{}, err
	}
	desc, err := writeJSON(dir, v1.MediaTypeImageManifest, manifest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	desc.Platform = &config.Platform
	desc.Annotations = map[string]string{v1.AnnotationRefName: name}
	return desc, addToIndex(dir, desc)
}

// writeLayer streams one layer through both hashes and the compressor into the layout.
func writeLayer(ctx context.Context, dir string, layer Layer, compression string) (v1.Descriptor, digest.Digest, error) {
	file, err := os.CreateTemp(dir, ".layer-")
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	blob := &hashing{w: file, h: sha256.New()}
	compressed, err := compressor(blob, compression)
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	tar := &hashing{w: compressed, h: sha256.New()}
	if err := layer.Tar(ctx, tar); err != nil {
		return v1.Descriptor{}, "", err
	}
	if err := errors.Join(compressed.Close(), file.Chmod(0o644), file.Close()); err != nil {
		return v1.Descriptor{}, "", err
	}
	desc := v1.Descriptor{Digest: blob.digest(), Size: blob.n}
	return desc, tar.digest(), os.Rename(file.Name(), blobPath(dir, desc.Digest))
}

func compressor(w io.Writer, compression string) (io.WriteCloser, error) {
	switch compression {
	case "none":
		return nopCloser{w}, nil
	case "zstd":
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	default:
		return gzip.NewWriterLevel(w, gzip.DefaultCompression)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// hashing counts and hashes what passes through it.
type hashing struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (h *hashing) Write(p []byte) (int, error) {
	n, err := h.w.Write(p)
	h.h.Write(p[:n])
	h.n += int64(n)
	return n, err
}

func (h *hashing) digest() digest.Digest { return digest.NewDigest(digest.SHA256, h.h) }

func blobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded())
}

func writeJSON(dir, mediaType string, document any) (v1.Descriptor, error) {
	raw, err := json.Marshal(document)
	if err != nil {
		return v1.Descriptor{}, err
	}
	desc := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	return desc, os.WriteFile(blobPath(dir, desc.Digest), raw, 0o644)
}

// addToIndex puts desc into index.json and takes its name away from any other.
func addToIndex(dir string, desc v1.Descriptor) error {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("mkimage: %s: %w", dir, err)
	}
	var kept []v1.Descriptor
	for _, other := range index.Manifests {
		if other.Annotations[v1.AnnotationRefName] != desc.Annotations[v1.AnnotationRefName] {
			kept = append(kept, other)
		}
	}
	index.Manifests = append(kept, desc)
	if raw, err = json.Marshal(index); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "index.json"), raw, 0o644)
}
