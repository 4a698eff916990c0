package copy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
)

// Schema 1 is read, and never made (rule 32): it goes through as it is where the place takes it and nothing was asked
// for that changes it, and becomes a Docker schema 2 image otherwise, for which every layer is read to know its diffID.

// isSchema1 reports whether a document is one.
func isSchema1(mediaType string) bool {
	return mediaType == manifest.DockerSchema1 || mediaType == manifest.DockerSchema1Signed
}

// sizer is a place that can say how big a blob is of which only the digest is known.
type sizer interface {
	blobSize(ctx context.Context, d digest.Digest) (int64, error)
}

// readSchema1 makes an instance that is copied as it is.
func readSchema1(ctx context.Context, src source, in instance) (instance, error) {
	var err error
	if in.schema1, err = manifest.ParseSchema1(in.doc.raw); err != nil {
		return in, err
	}
	if j, ok := src.(*judged); ok {
		src = j.source
	}
	place, ok := src.(sizer)
	if !ok {
		return in, fmt.Errorf("manifest %s: schema 1 says no sizes, and neither does this place: %w", in.doc.digest, manifest.ErrUnsupported)
	}
	var all []digest.Digest
	all = append(all, in.schema1.All...)
	slices.Sort(all)
	for _, d := range slices.Compact(all) {
		size, err := place.blobSize(ctx, d)
		if err != nil {
			return in, fmt.Errorf("layer %s of %s: %w", d, in.doc.digest, err)
		}
		in.blobs = append(in.blobs, v1.Descriptor{MediaType: "application/vnd.docker.container.image.rootfs.diff+x-gtar", Digest: d, Size: size})
	}
	return in, nil
}

// passesSchema1 says whether schema 1 can go to a place as it is. It is pure.
func passesSchema1(to manifest.Transport, o *Options) bool {
	return (to == manifest.Docker || to == manifest.Dir) && o.Format == "" && o.Compress.Algorithm == "" &&
		(o.Sentinel == "" || o.Sentinel == sentinelNone)
}

// raised is the Docker schema 2 image of a schema 1 manifest. It reads every layer once, compares it with its digest,
// and hashes the tar inside.
func raised(ctx context.Context, src source, in instance) (instance, error) {
	diffIDs, layers := make([]digest.Digest, len(in.schema1.Blobs)), make([]v1.Descriptor, len(in.schema1.Blobs))
	err := forEach(ctx, len(layers), func(ctx context.Context, i int) (err error) {
		k := slices.IndexFunc(in.blobs, func(d v1.Descriptor) bool { return d.Digest == in.schema1.Blobs[i] })
		layers[i] = in.blobs[k]
		if layers[i].MediaType, diffIDs[i], err = tarOfBlob(ctx, src, layers[i]); err != nil {
			err = fmt.Errorf("layer %s: %w", layers[i].Digest, err)
		}
		return err
	})
	if err != nil {
		return in, err
	}
	raw, err := in.schema1.Config(diffIDs)
	if err != nil {
		return in, err
	}
	c, err := manifest.ParseConfig(raw)
	if err != nil {
		return in, err
	}
	config := v1.Descriptor{MediaType: manifest.DockerConfig, Digest: c.Digest, Size: int64(len(raw))}
	form := manifest.DockerManifest
	if slices.ContainsFunc(layers, func(l v1.Descriptor) bool { _, err := manifest.ToDocker(l.MediaType); return err != nil }) {
		form, config.MediaType = v1.MediaTypeImageManifest, v1.MediaTypeImageConfig
	}
	doc := made(manifest.NewManifest(config, layers, form), form)
	m, err := manifest.ParseManifest(doc.raw, form)
	if err != nil {
		return in, err
	}
	im, err := manifest.NewImage(m, c)
	return instance{desc: descriptorOf(doc), doc: doc, image: im}, err
}

// tarOfBlob reads a layer of which nothing but the digest is known.
func tarOfBlob(ctx context.Context, src source, d v1.Descriptor) (mediaType string, diffID digest.Digest, err error) {
	body, err := src.blob(ctx, d)
	if err != nil {
		return "", "", err
	}
	w := &watched{meter: silent{}}
	in := w.reader(body)
	tar, err := compression.NewReader(in)
	if err != nil {
		return "", "", errors.Join(err, in.Close())
	}
	diffID, err = digestOf(ctx, tar)
	if err := errors.Join(err, tar.Close(), in.Close()); err != nil {
		return "", "", err
	}
	mediaType = layerMediaType(compression.Sniff(w.head))
	if docker, err := manifest.ToDocker(mediaType); err == nil {
		mediaType = docker
	}
	return mediaType, diffID, nil
}

// raise makes a situation of a schema 1 manifest one of an image, where it cannot go as it is, and says so.
func (s *situation) raise(ctx context.Context, judge *judged, to manifest.Transport, o *Options) (note []string, err error) {
	if s.list != nil || s.instances[0].schema1 == nil {
		return nil, nil
	}
	if alg := o.wish().Must(); alg != "" && alg != digest.SHA256 { // rule 64
		return nil, fmt.Errorf("manifest %s is of schema 1, whose digests are of sha256 and not of %s: %w", s.top.digest, alg, manifest.ErrUnsupported)
	}
	if !judge.raise && passesSchema1(to, o) {
		return nil, nil
	}
	reason := cannotModify(*s, o)
	if reason != "" {
		return nil, fmt.Errorf("the manifest is of schema 1, which %s cannot be given as it is, and it would change, but %s: %w", to, reason, ErrPreserve)
	}
	in, err := raised(ctx, judge.source, s.instances[0])
	if err != nil {
		return nil, fmt.Errorf("schema 1 manifest %s: %w", s.top.digest, err)
	}
	note = []string{fmt.Sprintf("%s is of schema 1, so a configuration and a new manifest were made", s.top.digest)}
	s.top, s.instances = in.doc, []instance{in}
	return note, nil
}
