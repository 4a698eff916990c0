package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// Remote reads from the registry that an image reference names, as containerd gives
// it. What it returns is verified here, so it need not verify. All methods may be
// called concurrently.
type Remote interface {
	// Manifest returns the bytes and the media type of the manifest d.
	Manifest(ctx context.Context, image string, d digest.Digest) ([]byte, string, error)
	// Blob returns all bytes of a small blob.
	Blob(ctx context.Context, image string, d v1.Descriptor) ([]byte, error)
	// Layer returns a layer's blob for range reads, and how the store shall remember
	// where it is. It should contact nobody yet.
	Layer(ctx context.Context, image string, d v1.Descriptor) (fill.Source, store.Source, error)
}

// Content reads containerd's content store, which has the manifest and the config
// of an image before its first Prepare. ctx carries containerd's namespace.
type Content interface {
	// ReadBlob returns the bytes of d, at most max of them; an error if it has more.
	// They are verified here.
	ReadBlob(ctx context.Context, d digest.Digest, max int64) ([]byte, error)
}

// pullTTL is how long the layers of an image that is being pulled are kept without a
// snapshot that holds them: a pull that failed half way is usually repeated.
const pullTTL = 24 * time.Hour

// tocTimeout bounds the fetch of an image's TOCs, beyond the Prepare that began it.
const tocTimeout = 10 * time.Minute

// image is a manifest with its config, and its layers in the store once fetched.
type image struct {
	*manifest.Image
	chains []digest.Digest // chains[i] is what layer i's extraction asks for

	mu     sync.Mutex
	layers []uint64 // store numbers by index in Image.Layers, 0 for the sentinel; nil before the fetch
	until  time.Time
}

func (im *image) fetched() ([]uint64, bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.layers, time.Now().Before(im.until)
}

func (im *image) keep(layers []uint64, until time.Time) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.layers, im.until = layers, until
}

// images resolves the images that extractions name. One pull asks once per layer, so
// the latest ones are remembered.
type images struct {
	store   *store.Store
	pool    *fill.Pool
	content Content // may be nil
	remote  Remote  // may be nil
	flights *flights

	mu    sync.Mutex
	known map[digest.Digest]*image
}

// Of the images that are remembered there are at most so many, and their manifests and configs are at most so many bytes,
// but for the latest: each may be as large as manifest.MaxManifestSize and MaxConfigSize allow, and takes some times as
// much memory as it has bytes.
const (
	maxKnownImages = 16
	maxKnownBytes  = 16 << 20
)

func (im *image) bytes() int { return len(im.Manifest.Raw) + len(im.Config.Raw) }

// remember keeps im for the next extraction, and others as far as there is room.
func (g *images) remember(d digest.Digest, im *image) {
	g.mu.Lock()
	defer g.mu.Unlock()
	left := maxKnownBytes - im.bytes()
	for _, other := range g.known {
		left -= other.bytes()
	}
	for old, other := range g.known {
		if len(g.known) < maxKnownImages && left >= 0 {
			break
		}
		delete(g.known, old)
		left += other.bytes()
	}
	g.known[d] = im
}

// get returns the image that x names, verified from x.manifest down to its diff_ids.
func (g *images) get(ctx context.Context, x extraction) (*image, error) {
	g.mu.Lock()
	im := g.known[x.manifest]
	g.mu.Unlock()
	if im != nil {
		return im, nil
	}
	v, err := wait(ctx, g.flights.start(ctx, "image "+x.manifest.String()+" "+x.image, tocTimeout, func(ctx context.Context) (any, error) {
		return g.load(ctx, x)
	}))
	if err != nil {
		return nil, fmt.Errorf("read image %q, manifest %s: %w", x.image, x.manifest, err)
	}
	return v.(*image), nil
}

func (g *images) load(ctx context.Context, x extraction) (*image, error) {
	raw, mediaType, err := g.manifest(ctx, x)
	if err != nil {
		return nil, err
	}
	m, err := manifest.ParseManifest(raw, mediaType)
	if err != nil {
		return nil, err
	}
	if raw, err = g.config(ctx, x, m.Config); err != nil {
		return nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	c, err := manifest.ParseConfig(raw)
	if err != nil {
		return nil, err
	}
	built, err := manifest.NewImage(m, c)
	if err != nil {
		return nil, err
	}
	im := &image{Image: built, chains: manifest.ChainIDs(c.DiffIDs)}
	g.remember(x.manifest, im)
	return im, nil
}

// place is where a document may be.
type place struct {
	name string
	read func() (raw []byte, mediaType string, err error)
}

// firstVerified returns the first bytes that have the digest. Wrong bytes in one place
// are no reason to give up on the next.
func firstVerified(d digest.Digest, places []place) ([]byte, string, error) {
	failed := errNowhere
	for _, p := range places {
		raw, mediaType, err := p.read()
		if err == nil {
			if raw, err = manifest.Covered(raw, d); err == nil {
				return raw, mediaType, nil
			}
		}
		if failed == errNowhere {
			failed = fmt.Errorf("%s: %w", p.name, err)
		} else {
			failed = fmt.Errorf("%s: %w; %w", p.name, err, failed)
		}
	}
	return nil, "", failed
}

func (g *images) manifest(ctx context.Context, x extraction) ([]byte, string, error) {
	places := []place{{"store", func() ([]byte, string, error) { return g.store.Manifest(x.manifest) }}}
	if g.content != nil {
		places = append(places, place{"containerd", func() ([]byte, string, error) {
			raw, err := g.content.ReadBlob(ctx, x.manifest, manifest.MaxManifestSize)
			return raw, "", err
		}})
	}
	if g.remote != nil {
		places = append(places, place{"registry", func() ([]byte, string, error) {
			return g.remote.Manifest(ctx, x.image, x.manifest)
		}})
	}
	return firstVerified(x.manifest, places)
}

func (g *images) config(ctx context.Context, x extraction, d v1.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > manifest.MaxConfigSize {
		return nil, fmt.Errorf("%w: %d bytes", manifest.ErrMalformed, d.Size)
	}
	places := []place{{"store", func() ([]byte, string, error) {
		f, err := g.store.OpenBlob(d.Digest)
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		raw, err := io.ReadAll(io.LimitReader(f, manifest.MaxConfigSize+1))
		return raw, "", err
	}}}
	if g.content != nil {
		places = append(places, place{"containerd", func() ([]byte, string, error) {
			raw, err := g.content.ReadBlob(ctx, d.Digest, manifest.MaxConfigSize)
			return raw, "", err
		}})
	}
	if g.remote != nil {
		places = append(places, place{"registry", func() ([]byte, string, error) {
			raw, err := g.remote.Blob(ctx, x.image, d)
			return raw, "", err
		}})
	}
	raw, _, err := firstVerified(d.Digest, places)
	return raw, err
}

// layers returns the store's numbers of im's layers. The first call for an image
// fetches all TOCs at once and keeps the layers for pullTTL. Whoever names the image
// by another reference asks there: that its first registry hangs is not his fault.
func (g *images) layers(ctx context.Context, ref string, im *image) ([]uint64, error) {
	if layers, ok := im.fetched(); ok {
		return layers, nil
	}
	v, err := wait(ctx, g.flights.start(ctx, "layers "+im.Manifest.Digest.String()+" "+ref, tocTimeout, func(ctx context.Context) (any, error) {
		return g.fetch(ctx, ref, im)
	}))
	if err != nil {
		return nil, fmt.Errorf("tables of contents of image %s: %w", im.Manifest.Digest, err)
	}
	return v.([]uint64), nil
}

func (g *images) fetch(ctx context.Context, ref string, im *image) (_ []uint64, err error) {
	if g.remote == nil {
		return nil, fill.ErrNoSource
	}
	work, err := g.store.Begin() // until the pin holds what was added
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, work.End()) }()
	layers := make([]uint64, len(im.Layers))
	first := len(im.Layers) - len(im.DataLayers())
	for try := 0; ; try++ {
		gr, gctx := errgroup.WithContext(ctx)
		for i, l := range im.DataLayers() {
			gr.Go(func() (err error) {
				layers[first+i], err = g.add(gctx, ref, l)
				return err
			})
		}
		if err := gr.Wait(); err != nil {
			return nil, err
		}
		expires := time.Now().Add(pullTTL)
		err := g.store.Pin(pullPin(im), store.PinTarget{Layers: layers[first:]}, store.PinOptions{Expires: expires})
		if err == nil {
			im.keep(layers, expires.Add(-pullTTL/2))
			return layers, nil
		}
		// A layer that was known already may have been collected before the pin.
		if try > 0 || !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
}

func pullPin(im *image) string { return "pull/" + im.Manifest.Digest.String() }

// done lets go of the layers of a pulled image. The next pull asks for them again,
// which costs no request while they are here. A leftover pin expires.
func (g *images) done(im *image) {
	im.keep(nil, time.Time{})
	_ = g.store.Unpin(pullPin(im))
}

func (g *images) add(ctx context.Context, ref string, l manifest.Layer) (uint64, error) {
	src, place, err := g.remote.Layer(ctx, ref, l.Descriptor)
	if err != nil {
		return 0, fmt.Errorf("layer %s of %q: %w", l.Digest, ref, err)
	}
	n, err := g.pool.AddLayer(ctx, fill.LayerSpec{Blob: l.Descriptor, TOC: l.TOC, Source: place}, src)
	if err != nil {
		return 0, fmt.Errorf("layer %s of %q: %w", l.Digest, ref, err)
	}
	return n, nil
}
