package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/harness"
)

// convert: gzip layers to zstd:chunked, layout to layout, next to gunzip and one zstd encoder on one goroutine, both at
// level 3. MB are of tar.
func convert(ctx context.Context) error {
	fmt.Printf("conversion of gzip layers, MB of tar a second\n%-14s %22s %22s %7s\n", "image", "tocsin, zstd:chunked", "one encoder, zstd", "ratio")
	for _, image := range images {
		layout, err := layoutOf(image.name)
		if err != nil {
			return err
		}
		size, single, err := singleThreaded(layout)
		if err != nil {
			return err
		}
		took, err := convertOnce(ctx, layout)
		if err != nil {
			return err
		}
		ours, theirs := float64(size)/1e6/took.Seconds(), float64(size)/1e6/single.Seconds()
		fmt.Printf("%-14s %17.1f MB/s %17.1f MB/s %7.2f\n", image.name, ours, theirs, ours/theirs)
	}
	fmt.Println()
	return nil
}

func convertOnce(ctx context.Context, layout string) (took time.Duration, err error) {
	m, err := harness.New(nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	start := time.Now()
	_, err = m.Tocsin(ctx, "copy", "--compress", "zstd:chunked", "oci:"+layout+":gzip", "oci:"+m.Dir+"/converted:c")
	return time.Since(start), err
}

// singleThreaded recompresses every layer in turn into a file and returns how much tar there was.
func singleThreaded(layout string) (size int64, took time.Duration, err error) {
	layers, err := gzipLayers(layout)
	if err != nil {
		return 0, 0, err
	}
	out, err := os.CreateTemp("", "bench-")
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	encoder, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(3)))
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	for _, layer := range layers {
		n, err := recompress(encoder, layer)
		if err != nil {
			return 0, 0, err
		}
		size += n
	}
	err = encoder.Close()
	return size, time.Since(start), err
}

func recompress(encoder io.Writer, layer string) (int64, error) {
	file, err := os.Open(layer)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", layer, err)
	}
	return io.Copy(encoder, unzipped)
}

// gzipLayers are the files of the image that a layout calls gzip.
func gzipLayers(layout string) ([]string, error) {
	manifest, err := namedImage(layout, "gzip")
	if err != nil {
		return nil, err
	}
	var files []string
	for _, layer := range manifest.Layers {
		files = append(files, blobFile(layout, layer))
	}
	return files, nil
}

func blobFile(layout string, d v1.Descriptor) string {
	return filepath.Join(layout, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())
}

// namedImage is the manifest of the image that a layout calls name.
func namedImage(layout, name string) (*v1.Manifest, error) {
	read := func(name string, into any) error {
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, into)
	}
	var index v1.Index
	if err := read(filepath.Join(layout, "index.json"), &index); err != nil {
		return nil, err
	}
	for _, desc := range index.Manifests {
		if desc.Annotations[v1.AnnotationRefName] == name {
			var manifest v1.Manifest
			return &manifest, read(blobFile(layout, desc), &manifest)
		}
	}
	return nil, fmt.Errorf("no image %s in %s", name, layout)
}
