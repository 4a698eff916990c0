package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// PartialKey names an object being filled. Only layers whose chunk lists agree share one, because a hostile TOC
// could claim another file's digest with chunks of its own.
type PartialKey struct {
	Digest digest.Digest // of the whole content
	List   digest.Digest // of the chunk list, the "c" of design.md 3
	Size   int64         // of the whole content, in bytes
}

// Span is where one chunk lies in the content. A span without a digest is zeros.
type Span struct {
	Off, Size int64
	Digest    digest.Digest
}

// Partial is an object being filled, by any number of processes at once. Its methods may be called concurrently,
// except Close, after which none may be called.
type Partial struct {
	s     *Store
	key   PartialKey
	path  string
	spans func(i int) Span
	n     int
	f     *os.File // with a shared lock: nobody removes it while we fill
	m     *chunkMap

	finish sync.Mutex
	done   bool
}

// OpenPartial opens the object for filling, and makes it if nobody has begun. spans gives chunk i of n and must stay
// usable until Close. ErrComplete when the object is there. Chunks that another boot left are verified before this
// returns (43 us for each 64 KiB of them), so Has is true only for bytes that may be served.
func (s *Store) OpenPartial(k PartialKey, spans func(i int) Span, n int) (*Partial, error) {
	if err := errors.Join(checkDigest("object", k.Digest), checkDigest("chunk list", k.List)); err != nil {
		return nil, err
	}
	if k.Size < 0 || n < 0 {
		return nil, fmt.Errorf("partial object %s: %w: size %d in %d chunks", k.Digest, ErrConflict, k.Size, n)
	}
	path := s.path(partialRel(k.Digest, k.List))
	p := &Partial{s: s, key: k, path: path, spans: spans, n: n}
	if s.HasObject(k.Digest, k.Size) {
		return nil, fmt.Errorf("object %s: %w", k.Digest, ErrComplete)
	}
	if err := s.disk.mkdir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	for {
		again, err := p.open()
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("partial object %s: %w", k.Digest, err)
		}
		if !again {
			return p, nil
		}
	}
}

// open makes one attempt; again when the file was removed between its opening and its lock.
func (p *Partial) open() (again bool, err error) {
	p.f, err = os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrPermission) {
		return p.published(err)
	}
	if err != nil {
		return false, err
	}
	if err := pollLock(context.Background(), p.f, unix.LOCK_SH); err != nil {
		return false, err
	}
	if p.s.HasObject(p.key.Digest, p.key.Size) { // completed while we waited, or just before we made an empty file
		p.removeIfAlone()
		return false, ErrComplete
	}
	if ok, err := p.ready(); err != nil || !ok {
		p.f.Close()
		p.f = nil
		return err == nil, err
	}
	p.m, err = openChunkMap(p.path+".map", p.n, p.s.boot, p.recheck)
	return false, err
}

// published deals with a file that publish has made read-only and whose partial name is still there, because another
// process is between the two or died there; only root opens it all the same. again when it can be opened now.
func (p *Partial) published(cause error) (again bool, err error) {
	if p.s.HasObject(p.key.Digest, p.key.Size) {
		return false, errors.Join(ErrComplete, p.dropName())
	}
	if err := os.Chmod(p.path, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, errors.Join(cause, err)
	}
	return true, nil
}

// ready says that the name still is this file and the file has its size. A file gets its size last, under the lock of
// its directory and after any older map of that name is gone: so no map ever speaks of a file it was not made for.
func (p *Partial) ready() (bool, error) {
	if !p.named() {
		return false, nil
	}
	fi, err := p.f.Stat()
	if err != nil || fi.Size() == p.key.Size {
		return true, err
	}
	dir, err := os.Open(filepath.Dir(p.path))
	if err != nil {
		return false, err
	}
	defer dir.Close()
	if err := pollLock(context.Background(), dir, unix.LOCK_EX); err != nil {
		return false, err
	}
	if fi, err = p.f.Stat(); err != nil || fi.Size() == p.key.Size {
		return true, err
	}
	if fi.Size() != 0 {
		return false, fmt.Errorf("%w: %d bytes, want %d", ErrCorrupt, fi.Size(), p.key.Size)
	}
	if err := p.s.disk.unlink(p.path + ".map"); err != nil {
		return false, err
	}
	if err := p.s.disk.step("truncate", p.path); err != nil {
		return false, err
	}
	return true, p.f.Truncate(p.key.Size)
}

// named says whether the open file is still what its name stands for.
func (p *Partial) named() bool { return sameFile(p.f, p.path) }

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// recheck verifies a chunk at rest against its span.
func (p *Partial) recheck(i int) bool {
	sp := p.spans(i)
	if sp.Off < 0 || sp.Size < 0 || sp.Size > p.key.Size || sp.Off > p.key.Size-sp.Size {
		return false
	}
	r := io.NewSectionReader(p.f, sp.Off, sp.Size)
	if sp.Digest == "" {
		return isZeros(r)
	}
	if checkDigest("chunk", sp.Digest) != nil {
		return false
	}
	v := sp.Digest.Verifier()
	n, err := io.Copy(v, r)
	return err == nil && n == sp.Size && v.Verified()
}

func isZeros(r io.Reader) bool {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		for _, c := range buf[:n] {
			if c != 0 {
				return false
			}
		}
		if err != nil {
			return err == io.EOF
		}
	}
}

// Has says whether chunk i may be read. Once true it stays true until Close, unless Finish finds that it rotted.
func (p *Partial) Has(i int) bool { return i >= 0 && i < p.n && p.m.has(i) }

// Missing counts the chunks that are not there yet.
func (p *Partial) Missing() int { return p.m.missing() }

// Write keeps data as chunk i. The caller has verified it against the chunk's digest; nothing here does. It is not
// synced: after a power cut the chunk is verified again or fetched again. Writing a chunk twice is harmless.
func (p *Partial) Write(i int, data []byte) error {
	sp, err := p.span(i)
	if err != nil {
		return err
	}
	if int64(len(data)) != sp.Size {
		return fmt.Errorf("partial object %s: chunk %d: %w: %d bytes, want %d", p.key.Digest, i, ErrConflict, len(data), sp.Size)
	}
	if _, err := p.f.WriteAt(data, sp.Off); err != nil {
		return fmt.Errorf("partial object %s: chunk %d: %w", p.key.Digest, i, err)
	}
	return p.mark(i)
}

// WriteZeros makes chunk i a hole.
func (p *Partial) WriteZeros(i int) error {
	sp, err := p.span(i)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(p.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, sp.Off, sp.Size)
	if sp.Size > 0 && err != nil { // this filesystem has no holes
		_, err = io.Copy(io.NewOffsetWriter(p.f, sp.Off), io.LimitReader(zeros{}, sp.Size))
	}
	if sp.Size > 0 && err != nil {
		return fmt.Errorf("partial object %s: zero chunk %d: %w", p.key.Digest, i, err)
	}
	return p.mark(i)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func (p *Partial) mark(i int) error {
	if err := p.m.put(i, chunkThere); err != nil {
		return fmt.Errorf("partial object %s: mark chunk %d: %w", p.key.Digest, i, err)
	}
	return nil
}

// span gives chunk i, never one that lies outside the object.
func (p *Partial) span(i int) (Span, error) {
	if i < 0 || i >= p.n {
		return Span{}, fmt.Errorf("partial object %s: %w: chunk %d of %d", p.key.Digest, ErrConflict, i, p.n)
	}
	sp := p.spans(i)
	if sp.Off < 0 || sp.Size < 0 || sp.Size > p.key.Size || sp.Off > p.key.Size-sp.Size {
		return Span{}, fmt.Errorf("partial object %s: %w: chunk %d at %d+%d of %d bytes", p.key.Digest, ErrConflict, i,
			sp.Off, sp.Size, p.key.Size)
	}
	return sp, nil
}

// ReadAt reads content. Only the bytes of chunks for which Has is true mean anything; others read as zeros or as
// somebody's unfinished write. It follows io.ReaderAt at the end of the object.
func (p *Partial) ReadAt(b []byte, off int64) (int, error) { return p.f.ReadAt(b, off) }

// Finish turns a full partial object into an object: hashes the whole, compares, syncs, and gives it its name. Nil
// means the object is there, whoever completed it. ErrDigestMismatch: the chunks are right and the whole is not, so
// the TOC contradicts itself; the partial object is removed as soon as nobody fills it. ErrCorrupt: chunks are no
// longer what was written; they are missing again. p stays readable until Close.
func (p *Partial) Finish() error { return p.FinishContext(context.Background()) }

// FinishContext is Finish that stops hashing when ctx ends, and returns its cause: holes are not read, but hashed, and
// those of a sparse file of 64 GiB take half a minute. What is there stays, and the next Finish hashes it again.
func (p *Partial) FinishContext(ctx context.Context) error {
	p.finish.Lock()
	defer p.finish.Unlock()
	if p.done || p.s.HasObject(p.key.Digest, p.key.Size) {
		return p.dropName()
	}
	if n := p.Missing(); n > 0 {
		return fmt.Errorf("finish object %s: %w: %d of %d chunks are missing", p.key.Digest, ErrConflict, n, p.n)
	}
	err := p.verifyWhole(ctx)
	if errors.Is(err, ErrDigestMismatch) {
		if rerr := p.unmarkRot(); rerr != nil {
			err = rerr
		} else {
			p.removeIfAlone()
		}
	}
	if err != nil {
		return fmt.Errorf("finish object %s: %w", p.key.Digest, err)
	}
	if err := p.publish(); err != nil {
		return fmt.Errorf("finish object %s: %w", p.key.Digest, err)
	}
	p.done = true
	return p.dropName()
}

func (p *Partial) verifyWhole(ctx context.Context) error {
	v := p.key.Digest.Verifier()
	n, err := copySparse(ctx, v, p.f)
	if err != nil {
		return err
	}
	if n != p.key.Size || !v.Verified() {
		return fmt.Errorf("%w: %d bytes, want %d", ErrDigestMismatch, n, p.key.Size)
	}
	return nil
}

// untilDone reads r until ctx ends.
type untilDone struct {
	ctx context.Context //nolint:containedctx // lives for one call
	r   io.Reader
}

func (u *untilDone) Read(b []byte) (int, error) {
	if err := context.Cause(u.ctx); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}

// unmarkRot looks for chunks that are not what their digests say and makes them missing again. Nil: there are none.
func (p *Partial) unmarkRot() error {
	rotten := 0
	for i := range p.n {
		if !p.Has(i) || p.recheck(i) {
			continue
		}
		rotten++
		if err := p.m.put(i, 0); err != nil {
			return err
		}
	}
	if rotten == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d of %d chunks changed at rest", ErrCorrupt, rotten, p.n)
}

// publish links the hashed file itself, by descriptor. A rename would go by name, and the name may belong to an
// empty file of a process that came when another had just completed the object.
func (p *Partial) publish() error {
	path := p.s.path(objectRel(p.key.Digest))
	if err := p.s.disk.mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := p.f.Chmod(0o444); err != nil {
		return err
	}
	if err := p.s.disk.touch(p.path); err != nil && !notExist(err) { // another process may have dropped the name
		return err
	}
	if err := p.s.disk.sync(p.f); err != nil {
		return err
	}
	err := p.s.placeObject(p.key.Digest, p.key.Size, func(path string) error { return p.s.disk.link(p.f, path) })
	if err != nil {
		return err
	}
	return p.s.disk.syncDir(filepath.Dir(path))
}

// dropName removes the names under which the object was filled, map first. Whatever has them now is garbage, for the
// object is there.
func (p *Partial) dropName() error {
	return errors.Join(p.s.disk.unlink(p.path+".map"), p.s.disk.unlink(p.path))
}

// removeIfAlone removes the partial object unless somebody else fills it too; the last one to find out does. It ends
// the shared lock, so the caller must not write any more.
func (p *Partial) removeIfAlone() {
	if unix.Flock(int(p.f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !p.named() {
		return
	}
	if err := p.dropName(); err != nil {
		p.s.log.Warn("partial object not removed", "path", p.path, "err", err)
	}
}

// Close gives the partial object up. What was written stays for the next one who opens it.
func (p *Partial) Close() error {
	var err error
	if p.m != nil {
		err = p.m.close()
		p.m = nil
	}
	if p.f != nil {
		err = errors.Join(err, p.f.Close())
		p.f = nil
	}
	return err
}
