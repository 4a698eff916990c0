package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// retars says that diff_ids of an image that name tars become another algorithm's. Those that name tables of contents
// or the sentinel follow these, and nothing else.
func (o *Options) retars(im *manifest.Image) bool {
	alg := o.wish().TarAlgorithm()
	return alg != "" && slices.ContainsFunc(im.Layers, func(l manifest.Layer) bool {
		return l.Binding == manifest.BindTar && l.DiffID.Algorithm() != alg
	})
}

// checkDiffIDs refuses a wish for diff_ids where nothing is edited.
func checkDiffIDs(s situation, o *Options) error {
	if s.toStore && o.wish().TarAlgorithm() != "" {
		return fmt.Errorf("the store takes images as they are, so --diffid-algorithm means nothing there: %w", ErrUsage)
	}
	return nil
}

// renameTars gives an image a configuration whose diff_ids are of alg. Each tar is compared with the one that it had.
func (r *runner) renameTars(ctx context.Context, im *manifest.Image, alg digest.Algorithm) (*manifest.Image, document, error) {
	diffIDs := slices.Clone(im.Config.DiffIDs)
	err := forEach(ctx, len(diffIDs), func(ctx context.Context, i int) (err error) {
		if diffIDs[i].Algorithm() == alg {
			return nil
		}
		if err := r.slots.Acquire(ctx, 1); err != nil {
			return err
		}
		defer r.slots.Release(1)
		if diffIDs[i], err = r.tarDigest(ctx, im.Layers[i], alg); err != nil {
			err = fmt.Errorf("layer %d (%s): %w", i, im.Layers[i].Digest, err)
		}
		return err
	})
	if err != nil {
		return nil, document{}, err
	}
	return withDiffIDs(im, diffIDs)
}

// tarDigest hashes a layer's tar in two algorithms: that of its diff_id, which it must have, and alg.
func (r *runner) tarDigest(ctx context.Context, l manifest.Layer, alg digest.Algorithm) (digest.Digest, error) {
	meter := r.env.progress().Start("tar of "+shortDigest(l.Digest), l.Size)
	old, sum := l.DiffID.Algorithm().Digester(), alg.Digester()
	tar, err := r.ownTar(ctx, l, meter)
	if err == nil {
		_, err = io.CopyBuffer(io.MultiWriter(old.Hash(), sum.Hash()), struct{ io.Reader }{tar}, make([]byte, streamBuffer))
		err = errors.Join(err, tar.Close())
	}
	if err == nil {
		err = checkDiffID(l, old.Digest())
	}
	meter.Done(err)
	return sum.Digest(), err
}

// withDiffIDs is an image whose tars are named otherwise. It is pure.
func withDiffIDs(im *manifest.Image, diffIDs []digest.Digest) (*manifest.Image, document, error) {
	rawConfig, err := manifest.ReplaceDiffIDs(im.Config, diffIDs)
	if err != nil {
		return nil, document{}, err
	}
	c, err := manifest.ParseConfig(rawConfig)
	if err != nil {
		return nil, document{}, err
	}
	config := im.Manifest.Config
	config.Digest, config.Size = config.Digest.Algorithm().FromBytes(rawConfig), int64(len(rawConfig))
	config.Data, config.URLs = nil, nil
	raw, err := manifest.ReplaceLayers(im.Manifest, config, slices.Clone(im.Manifest.Layers), "")
	if err != nil {
		return nil, document{}, err
	}
	m, err := manifest.ParseManifest(raw, im.Manifest.MediaType)
	if err != nil {
		return nil, document{}, err
	}
	edited, err := manifest.NewImage(m, c)
	return edited, made(raw, m.MediaType), err
}
