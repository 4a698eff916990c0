package copy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// importer takes images apart into the store: files become objects, layers become rows with an index.
type importer struct {
	env      *Env
	from     source
	slots    *semaphore.Weighted // layers under way, of all images
	layers   flights[layerKey, uint64]
	blobs    flights[digest.Digest, struct{}]
	blobsToo bool // layers stay as blobs as well
	pin      string

	mu     sync.Mutex
	target store.PinTarget                   // what gc must keep until the records are committed
	kept   map[digest.Digest][]digest.Digest // blobs by the manifest that they stay with
	notes  []string
	left   []error // why images were left out, each
}

// runImport carries out a plan whose destination is the store. Nothing has a name before everything is there.
func runImport(ctx context.Context, env *Env, from source, dst manifest.Ref, s situation, p *copyPlan) (_ *Result, err error) {
	im := &importer{
		env: env, from: from, slots: semaphore.NewWeighted(int64(env.jobs())), pin: "copy/" + rand.Text(),
		blobsToo: p.keepBlobs, kept: make(map[digest.Digest][]digest.Digest), notes: absentNote(s.instances),
	}
	work, err := env.Store.Begin() // gc leaves alone what is brought and reused until the records are committed
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, env.Store.Unpin(im.pin), work.End()) }()
	var lists []document
	if s.top, lists, err = keptTop(s, p); err != nil {
		return nil, err
	}
	images := leaves(p.images)
	records := make([]*store.Record, len(images))
	err = forEach(ctx, len(images), func(ctx context.Context, i int) (err error) {
		ip := images[i]
		if ip.image == nil {
			err = im.artifact(ctx, ip)
		} else {
			records[i], err = im.image(ctx, ip)
		}
		if errors.Is(err, registry.ErrNoRanges) && len(images) > 1 {
			im.leaveOut(ip, err)
			return nil
		}
		if err != nil {
			err = fmt.Errorf("instance %s: %w", ip.doc.digest, err)
		}
		return err
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	c := commitOf(dst, s, lists, images, records)
	c.Kept = im.kept
	if len(c.Records) == 0 && len(im.left) > 0 {
		return nil, errors.Join(errors.Join(im.left...), fmt.Errorf("%s holds no container image that can be kept: %w", s.top.digest, ErrNotFound))
	}
	if p.signatures != nil {
		if c.Signatures, err = p.signatures.stored(env.Store, c.Manifests); err != nil {
			return nil, err
		}
	}
	if err := env.Store.Commit(c); err != nil {
		return nil, err
	}
	return &Result{Digest: s.top.digest, MediaType: s.top.mediaType, Instances: len(images) - len(im.left), Notes: im.notes}, nil
}

func (im *importer) note(format string, args ...any) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.notes = append(im.notes, fmt.Sprintf(format, args...))
}

// leaveOut goes on without a variant that this source cannot serve: its plain sibling has a record of its own.
func (im *importer) leaveOut(ip imagePlan, why error) {
	im.note("%s was left out: %v", ip.doc.digest, why)
	im.mu.Lock()
	defer im.mu.Unlock()
	im.left = append(im.left, why)
}

// commitOf puts together what makes the images visible in one transaction. Images without a record are not. An image
// chosen from a list has the list beside it, so that either digest finds it (rule 53).
func commitOf(dst manifest.Ref, s situation, lists []document, images []imagePlan, records []*store.Record) store.Commit {
	c := store.Commit{Top: s.top.digest}
	c.Name = dst.StoreName()
	var list digest.Digest
	if s.list != nil {
		list = s.top.digest
	}
	docs := append([]document{s.top}, lists...)
	if s.flattened != nil {
		list = s.flattened.digest
		docs = append(docs, *s.flattened)
	}
	for i, ip := range images {
		if ip.doc.digest != s.top.digest {
			docs = append(docs, ip.doc)
		}
		if rec := records[i]; rec != nil {
			rec.List = list
			c.Records = append(c.Records, *rec)
		}
	}
	for _, doc := range docs {
		c.Manifests = append(c.Manifests, store.RawManifest{Digest: doc.digest, MediaType: doc.mediaType, Raw: doc.raw})
	}
	return c
}

// keptTop is the top-level manifest that the store keeps, and the lists in it. Only stripped entries make one of them
// another than the source's.
func keptTop(s situation, p *copyPlan) (document, []document, error) {
	out, err := unedited(p.images)
	if err != nil {
		return document{}, nil, err
	}
	var lists []document
	for _, w := range out {
		lists = append(lists, w.below...)
	}
	top, err := assemble(s, p, out)
	return top, lists, err
}

// unedited is what a copy that takes no layer apart writes. Below are lists only, each after those that it lists.
func unedited(images []imagePlan) ([]written, error) {
	out := make([]written, len(images))
	for i, ip := range images {
		if ip.skipped || !ip.plain {
			continue
		}
		doc := ip.doc
		if ip.list != nil {
			children, err := unedited(ip.children)
			if err != nil {
				return nil, err
			}
			if ip.changed() {
				if doc, err = list(ip.list, ip.forms[0], ip.children, children, ""); err != nil {
					return nil, err
				}
			}
			for _, c := range children {
				out[i].below = append(out[i].below, c.below...)
			}
			out[i].below = append(out[i].below, doc)
		}
		out[i].plain = &doc
	}
	return out, nil
}

// image brings one image's layers and config into the store and describes them. The layers come first, because an
// image that cannot be had leaves nothing behind then.
func (im *importer) image(ctx context.Context, ip imagePlan) (*store.Record, error) {
	img := ip.image
	layers := img.DataLayers()
	numbers := make([]uint64, len(layers))
	err := forEach(ctx, len(layers), func(ctx context.Context, i int) (err error) {
		l := layers[i]
		if im.blobsToo { // first, so that the files in it are read from there
			if err := im.keepBlobs(ctx, ip.doc.digest, l.Descriptor); err != nil {
				return err
			}
		}
		numbers[i], err = im.layers.do(ctx, layerKey{l.Digest, l.DiffID, img.Trust}, func() (uint64, error) {
			return im.layer(ctx, img.Trust, l)
		})
		if err != nil {
			err = fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	size, err := im.size(numbers, ip)
	if err != nil {
		return nil, err
	}
	config := img.Manifest.Config
	if err := im.env.Store.PutBlob(ctx, config.Digest, bytes.NewReader(img.Config.Raw)); err != nil {
		return nil, fmt.Errorf("config %s: %w", config.Digest, err)
	}
	return &store.Record{
		Size:     size,
		Manifest: ip.doc.digest,
		Config:   config.Digest,
		Platform: manifest.FormatPlatform(img.Config.Platform),
		Trust:    img.Trust.String(),
		Layers:   numbers,
	}, nil
}

// size is what an image amounts to (L37): the files of each of its layers, the manifest and the config.
func (im *importer) size(layers []uint64, ip imagePlan) (int64, error) {
	size := int64(len(ip.doc.raw) + len(ip.image.Config.Raw))
	for _, n := range layers {
		l, err := im.env.Pool.Layer(n)
		if err != nil {
			return 0, err
		}
		size += l.Index().ContentBytes()
	}
	return size, nil
}
