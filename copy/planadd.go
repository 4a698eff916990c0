package copy

import (
	"fmt"

	"github.com/tocsin/tocsin/manifest"
)

// checkAdd refuses compressions that cannot be added: where there is no list, where only some of it is copied, so that
// nobody knows what the rest has (L11), and where layers are not kept as blobs.
func checkAdd(s situation, o *Options) error {
	switch {
	case len(o.Select.Add) == 0:
		return nil
	case s.toStore:
		return fmt.Errorf("the store keeps files, not layers, so --add-compression means nothing there: %w", ErrUsage)
	case s.list == nil:
		return fmt.Errorf("--add-compression adds instances to a list, and %s is a single image: %w", s.top.digest, ErrUsage)
	case !o.Select.all():
		return fmt.Errorf("--add-compression needs the whole list, not a selection of it: %w", ErrUsage)
	}
	for _, c := range o.Select.Add {
		if c.Algorithm != algoGzip && c.Algorithm != algoZstd && c.Algorithm != algoChunked {
			return fmt.Errorf("--add-compression takes gzip, zstd and zstd:chunked, not %q: %w", c.Algorithm, ErrUsage)
		}
	}
	return nil
}

// add plans an instance of each platform's image in every compression that is to be there and is not (rule 9, L11).
// They come after the others; of what is listed twice in one platform the first is taken.
func (pl *planner) add(images []imagePlan) ([]imagePlan, error) {
	for _, c := range pl.o.Select.Add {
		have := make(map[string]bool)
		for _, ip := range images {
			if ip.addable() && ip.has(c) {
				have[platformKey(ip.instance)] = true
			}
		}
		for _, ip := range images {
			if !ip.addable() || ip.added || have[platformKey(ip.instance)] {
				continue
			}
			have[platformKey(ip.instance)] = true
			p := imagePlan{instance: ip.instance, compress: c, plain: true, added: true}
			for _, l := range ip.image.Layers {
				p.encode = append(p.encode, encodeLayer(l, c, pl.have(l)))
			}
			if err := pl.shape(&p); err != nil {
				return nil, fmt.Errorf("%s in %s: %w", ip.desc.Digest, c.Algorithm, err)
			}
			images = append(images, p)
		}
	}
	return images, nil
}

// addable says that the entry will be a plain image.
func (p imagePlan) addable() bool {
	return p.image != nil && p.plain && !p.skipped && (p.strip || !p.image.Sentinel())
}

// has says that all layers will be in a compression. Zstd:chunked is zstd too.
func (p imagePlan) has(c Compression) bool {
	for i, l := range p.image.Layers {
		switch {
		case l.Binding == manifest.BindSentinel:
		case p.encode[i] && (p.compress.Algorithm == c.Algorithm || p.compress.Algorithm == algoChunked && c.Algorithm == algoZstd):
		case p.encode[i] || encodeLayer(l, c, true):
			return false
		}
	}
	return true
}
