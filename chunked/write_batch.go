package chunked

import (
	"hash"
	"hash/crc64"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/storage"
)

// batchSize is how many bytes of tar a batch gathers before it is handed on. It bounds what the writer holds in memory
// (together with the number of batches) and decides where frames of tar headers end, so it is a constant.
const batchSize = 512 << 10

// batch is a run of the tar on its way through the writer. The splitter fills raw and items; then the three stages
// work on it at the same time, each on fields of its own; then the committer, alone again.
type batch struct {
	raw     []byte
	items   []item
	out     []byte // frames, by the encoder
	tooMuch error  // of the describer

	stages sync.WaitGroup // the three that must be done before the committer
}

// item is a run of a batch's bytes that belongs together.
type item struct {
	entry    *wireEntry // whose header or content this is; nil for the end of the tar
	from, to int        // in raw
	content  bool       // else headers and padding
	zeros    bool       // of a chunk of zeros
	size     int64      // of the whole chunk, on its last item; else 0
	whole    bool       // all content of its file
	final    bool       // the last content of its file

	frames Range         // in out, by the encoder
	digest digest.Digest // of the chunk, on its last item, by the encoder
}

// reset makes b empty and keeps its memory, unless one huge header made it grow.
func (b *batch) reset() {
	if cap(b.raw) > 4*batchSize {
		b.raw, b.out = nil, nil
	}
	clear(b.items)
	b.raw, b.items, b.out, b.tooMuch = b.raw[:0], b.items[:0], b.out[:0], nil
}

// encode compresses a batch: one frame for each item of content, one for each run of headers between them. It depends
// on nothing but the batch, so batches may be encoded in any order.
func (b *batch) encode(enc *zstd.Encoder, alg digest.Algorithm) {
	for i := 0; i < len(b.items); {
		it := &b.items[i]
		start, to := len(b.out), it.to
		for i++; !it.content && i < len(b.items) && !b.items[i].content; i++ {
			to = b.items[i].to
		}
		if to > it.from {
			b.out = enc.EncodeAll(b.raw[it.from:to], b.out)
		}
		it.frames = Range{Off: int64(start), Len: int64(len(b.out) - start)}
		if it.size > 0 {
			it.digest = b.chunkDigest(it, alg)
		}
	}
}

// chunkDigest returns the digest of the chunk that ends with it. Data chunks are one item; a chunk of zeros may have
// begun in earlier batches, but then its size says everything.
func (b *batch) chunkDigest(it *item, alg digest.Algorithm) digest.Digest {
	if !it.zeros {
		return alg.FromBytes(b.raw[it.from:it.to])
	}
	d := alg.Digester()
	for left := it.size; left > 0; left -= int64(len(zeroBlock)) {
		d.Hash().Write(zeroBlock[:min(left, int64(len(zeroBlock)))])
	}
	return d.Digest()
}

// describer follows the tar in order and keeps what takes every byte of a file: its digest, and the tar-split with the
// checksum that its readers compare.
type describer struct {
	split *splitWriter
	crc   hash.Hash
	sum   digest.Digester
}

func newDescriber(alg digest.Algorithm) (*describer, error) {
	split, err := newSplitWriter()
	if err != nil {
		return nil, err
	}
	return &describer{split: split, crc: crc64.New(storage.CRCTable), sum: alg.Digester()}, nil
}

// describe takes the next batch. After an error it must not be called again.
func (d *describer) describe(b *batch) error {
	for i := range b.items {
		it := &b.items[i]
		raw := b.raw[it.from:it.to]
		if !it.content {
			if err := d.split.segment(raw); err != nil {
				return err
			}
			if it.entry != nil && it.entry.Size == 0 {
				if err := d.split.file(it.entry.Name, 0, nil); err != nil {
					return err
				}
			}
			continue
		}
		if err := d.content(it, raw); err != nil {
			return err
		}
	}
	return nil
}

func (d *describer) content(it *item, raw []byte) error {
	d.crc.Write(raw)
	if !it.whole {
		d.sum.Hash().Write(raw)
	}
	if !it.final {
		return nil
	}
	if !it.whole {
		it.entry.Digest = d.sum.Digest()
		d.sum.Hash().Reset()
	}
	crc := d.crc.Sum(nil)
	d.crc.Reset()
	return d.split.file(it.entry.Name, it.entry.Size, crc)
}
