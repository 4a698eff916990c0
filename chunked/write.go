package chunked

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// WriterOptions are the options of Compress. They never change the tar that is said; equal options give equal bytes
// whatever the number of workers.
type WriterOptions struct {
	Level   int // of zstd's own numbers, 1 to 22; 0 is 3
	Workers int // goroutines that compress; 0 is GOMAXPROCS

	Algorithm digest.Algorithm // of files, chunks, tar-split, TOC and blob; "" is sha256
	DiffID    digest.Algorithm // of the tar; "" is sha256

	Workspace *Workspace // for what grows with the number of files
}

// filled is o with its zero fields replaced, which may be nil. An error if a field is out of range.
func (o *WriterOptions) filled() (WriterOptions, error) {
	var f WriterOptions
	if o != nil {
		f = *o
	}
	if f.Level == 0 {
		f.Level = 3
	}
	if f.Workers == 0 {
		f.Workers = runtime.GOMAXPROCS(0)
	}
	for _, alg := range []*digest.Algorithm{&f.Algorithm, &f.DiffID} {
		if *alg == "" {
			*alg = digest.SHA256
		}
		if !alg.Available() {
			return f, fmt.Errorf("compress: digest algorithm %.100q: %w", string(*alg), manifest.ErrUnsupported)
		}
	}
	if f.Level < 1 || f.Level > 22 || f.Workers < 1 {
		return f, fmt.Errorf("compress: level %d, %d workers: out of range", f.Level, f.Workers)
	}
	return f, nil
}

// Written is what Compress says of the blob it has written.
type Written struct {
	TOC     *manifest.TOCRef // its Annotations go on the layer's descriptor
	DiffID  digest.Digest    // of the tar
	Digest  digest.Digest    // of the blob
	Size    int64            // of the blob
	TarSize int64
}

// Compress reads a tar and writes it to dst as a zstd:chunked blob, in one pass. The frames of the blob, decoded one
// after the other, give the tar's exact bytes. Files are cut by their content, into chunks of about 64 KiB and holes of
// 1 KiB and more, and every chunk is a frame of its own, so that workers compress them side by side.
//
// Memory does not grow with the size of files, only with their number. nil options are the default ones. An error of tar
// or dst comes back wrapped; ErrUnsayable (ErrPathTwice among them) and ErrTooBig mean that this tar should be written as
// plain zstd, ErrMalformed that it is no tar. After an error what was written to dst is of no use.
func Compress(dst io.Writer, tar io.Reader, o *WriterOptions) (*Written, error) {
	p, err := newPipeline(dst, o)
	if err != nil {
		return nil, err
	}
	return p.run(tar)
}

// skippableMagic begins a frame that zstd decoders skip (spec/zstd-chunked.md 1.1).
const skippableMagic = 0x184D2A50

// errStopped makes the splitter stop when the committer has failed.
var errStopped = errors.New("stopped")

// pipeline moves batches from the splitter through three stages that work side by side (workers that compress, a
// goroutine for the tar's digest, one for the digests of files and the tar-split) to the committer, which writes them in
// order. There is a fixed number of batches, and a channel can hold all of them, so only taking a free one ever waits.
type pipeline struct {
	free, encode, hash, describe, commit chan *batch

	ws   *Workspace
	enc  *zstd.Encoder
	diff digest.Digester
	desc *describer
	com  *committer

	failed chan struct{} // closed by the committer after its error
	done   chan error    // of the committer, once
}

func newPipeline(dst io.Writer, o *WriterOptions) (*pipeline, error) {
	f, err := o.filled()
	if err != nil {
		return nil, err
	}
	// A frame takes the encoder as many positions further as the window is long, and when they run out it clears its
	// tables: with the usual 8 MiB every 256 frames.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(f.Level)),
		zstd.WithEncoderConcurrency(f.Workers), zstd.WithEncoderCRC(true), zstd.WithWindowSize(maxChunk))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	desc, err := newDescriber(f.Algorithm)
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	com, err := newCommitter(dst, f.Algorithm)
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	p := &pipeline{
		ws: f.Workspace, enc: enc, diff: f.DiffID.Digester(), desc: desc, com: com,
		failed: make(chan struct{}), done: make(chan error, 1),
	}
	p.start(f.Workers, f.Algorithm)
	return p, nil
}

func (p *pipeline) start(workers int, alg digest.Algorithm) {
	n := 2*workers + 2
	p.free, p.encode, p.hash = make(chan *batch, n), make(chan *batch, n), make(chan *batch, n)
	p.describe, p.commit = make(chan *batch, n), make(chan *batch, n)
	for range n {
		p.free <- &batch{}
	}
	for range workers {
		go func() {
			for b := range p.encode {
				b.encode(p.enc, alg)
				b.stages.Done()
			}
		}()
	}
	go func() {
		for b := range p.hash {
			p.diff.Hash().Write(b.raw)
			b.stages.Done()
		}
	}()
	go func() {
		var err error
		for b := range p.describe {
			if err == nil {
				err = p.desc.describe(b)
			}
			b.tooMuch = err
			b.stages.Done()
		}
	}()
	go func() { p.done <- p.commitAll() }()
}

// run takes a whole tar through the pipeline, once.
func (p *pipeline) run(tar io.Reader) (*Written, error) {
	s := newSplitter(p.ws, tar, p.next)
	err := s.run()
	if last := s.out; err == nil && len(last.raw) > 0 {
		p.hand(last)
	}
	if werr := p.wait(); werr != nil {
		return nil, werr // and not errStopped, which it causes
	}
	if err != nil {
		return nil, err
	}
	return p.finish()
}

// next hands full on, unless it is nil, and returns an empty batch.
func (p *pipeline) next(full *batch) (*batch, error) {
	if full != nil {
		p.hand(full)
	}
	select {
	case b := <-p.free:
		return b, nil
	case <-p.failed:
		return nil, errStopped
	}
}

func (p *pipeline) hand(b *batch) {
	b.stages.Add(3)
	p.encode <- b
	p.hash <- b
	p.describe <- b
	p.commit <- b
}

// commitAll writes batches until there are no more. After an error it only waits for them.
func (p *pipeline) commitAll() error {
	var err error
	for b := range p.commit {
		b.stages.Wait()
		if err != nil {
			continue
		}
		if err = p.com.commit(b); err != nil {
			close(p.failed)
			continue
		}
		b.reset()
		p.free <- b
	}
	return err
}

// wait ends all goroutines and returns the committer's error. No batch may be handed on after it.
func (p *pipeline) wait() error {
	close(p.encode)
	close(p.hash)
	close(p.describe)
	close(p.commit)
	return <-p.done
}

// finish writes what follows the data. Only after wait, without an error.
func (p *pipeline) finish() (*Written, error) {
	split, err := p.desc.split.z.finish()
	if err != nil {
		return nil, err
	}
	w, err := p.com.finish(split, p.desc.split.z.raw)
	if err != nil {
		return nil, err
	}
	w.DiffID = p.diff.Digest()
	return w, nil
}

// committer writes finished batches and keeps the TOC.
type committer struct {
	dst     io.Writer
	alg     digest.Algorithm
	sum     digest.Digester
	size    int64 // of the blob so far
	tarSize int64
	toc     *tocWriter
	chunks  []Chunk // of the file under way
	chunk   Chunk   // under way
}

func newCommitter(dst io.Writer, alg digest.Algorithm) (*committer, error) {
	toc, err := newTOCWriter()
	return &committer{dst: dst, alg: alg, sum: alg.Digester(), toc: toc}, err
}

// commit writes the frames of b and notes where its chunks are.
func (c *committer) commit(b *batch) error {
	if b.tooMuch != nil {
		return b.tooMuch
	}
	start := c.size
	if err := c.write(b.out); err != nil {
		return err
	}
	c.tarSize += int64(len(b.raw))
	for i := range b.items {
		it := &b.items[i]
		switch {
		case it.content:
			c.content(it, start)
			if !it.final {
				continue
			}
		case it.entry == nil || it.entry.Size > 0:
			continue
		}
		if err := c.toc.add(it.entry.lines(c.chunks)); err != nil {
			return err
		}
		c.chunks = c.chunks[:0]
	}
	return nil
}

// content adds one item to the chunk under way; start is where the batch of it begins in the blob.
func (c *committer) content(it *item, start int64) {
	if c.chunk.Blob.Len == 0 {
		c.chunk.Blob.Off = start + it.frames.Off
	}
	c.chunk.Blob.Len += it.frames.Len
	if it.size == 0 {
		return
	}
	c.chunk.Size, c.chunk.Digest, c.chunk.Zeros = it.size, it.digest, it.zeros
	c.chunks = append(c.chunks, c.chunk)
	c.chunk = Chunk{Off: c.chunk.End()}
	if it.final {
		c.chunk.Off = 0
	}
}

// write appends p to the blob.
func (c *committer) write(p []byte) error {
	n, err := c.dst.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write blob at %d: %w", c.size, err)
	}
	c.sum.Hash().Write(p)
	c.size += int64(n)
	return nil
}

// skippable appends a frame that decoders skip, and returns where its payload is.
func (c *committer) skippable(payload []byte) (Range, error) {
	head := binary.LittleEndian.AppendUint32(nil, skippableMagic)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(payload)))
	if err := c.write(head); err != nil {
		return Range{}, err
	}
	r := Range{Off: c.size, Len: int64(len(payload))}
	return r, c.write(payload)
}

// finish writes TOC, tar-split and footer.
func (c *committer) finish(split []byte, splitRaw int64) (*Written, error) {
	toc, err := c.toc.finish(c.alg.FromBytes(split))
	if err != nil {
		return nil, err
	}
	ref := &manifest.TOCRef{
		Digest: c.alg.FromBytes(toc), TOCRawLen: c.toc.z.raw, TarSplitRawLen: splitRaw,
		Dialect: manifest.DialectContainers,
	}
	if ref.TOC, err = c.skippable(toc); err != nil {
		return nil, err
	}
	if ref.TarSplit, err = c.skippable(split); err != nil {
		return nil, err
	}
	foot := Footer{TOC: ref.TOC, TOCRawLen: ref.TOCRawLen, TarSplit: ref.TarSplit, TarSplitRawLen: ref.TarSplitRawLen}
	if _, err = c.skippable(foot.Bytes()); err != nil {
		return nil, err
	}
	return &Written{
		TOC: ref, Digest: c.sum.Digest(), Size: c.size, TarSize: c.tarSize,
	}, nil
}
