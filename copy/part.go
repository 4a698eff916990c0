package copy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// partPrefix begins the names of big blobs that are not there whole, and partLife is how long one that nobody goes on
// with is kept.
const (
	partPrefix = tempPrefix + "part-"
	partLife   = 7 * 24 * time.Hour
)

// partSizes say how a big blob is fetched; zero fields mean the default.
type partSizes struct {
	from  int64 // blobs smaller than this are fetched in one piece
	block int64 // what the journal has a byte for
	run   int   // blocks in one request, when several are under way
	// near is how long the first block takes at most when it comes from so near that one request for all the rest
	// keeps this machine busy; several would only be in each other's way. Negative: none is near.
	near time.Duration
}

func (s partSizes) orDefault() partSizes {
	if s.from == 0 {
		s.from = 32 << 20
	}
	if s.block == 0 {
		s.block = 1 << 20
	}
	if s.run == 0 {
		s.run = 8
	}
	if s.near == 0 {
		s.near = 16 * time.Millisecond // 64 MiB/s, the request included
	}
	return s
}

// part is a file that a big blob is fetched into, block by block in any order: the blob's bytes in their places, then
// the journal, a byte for each block, 1 when the block was written. It survives its process, so that the next copy of
// the blob fetches the rest only. The journal saves fetching and proves nothing: whoever uses the file hashes all of
// it. The file is locked while a process fills it.
type part struct {
	file  *os.File
	size  int64
	sizes partSizes

	mu      sync.Mutex
	changed sync.Cond
	have    []bool
	claimed []bool // by a request under way, or have
	next    int    // no block before it is unclaimed
	resumed int    // blocks that were there at the beginning
	failed  error  // nothing more will come
}

// openPart opens or makes the part of a blob in dir. nil means that another process is at it.
func openPart(dir string, d v1.Descriptor, sizes partSizes) (*part, error) {
	if err := manifest.ValidDigest(d.Digest); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, partPrefix+d.Digest.Algorithm().String()+"-"+d.Digest.Encoded())
	f, err := lockedPart(name)
	if err != nil || f == nil {
		return nil, err
	}
	p := &part{file: f, size: d.Size, sizes: sizes}
	p.changed.L = &p.mu
	if err := p.load(); err != nil {
		return nil, fmt.Errorf("part of blob %s: %w", d.Digest, errors.Join(err, f.Close()))
	}
	return p, nil
}

func lockedPart(name string) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, f.Close()
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
		}
		mine, err := f.Stat()
		named, nameErr := os.Lstat(name)
		if err == nil && nameErr == nil && os.SameFile(mine, named) {
			return f, nil
		}
		// Whoever had the lock before us finished the blob, or swept the file away.
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
}

func (p *part) blocks() int { return int((p.size + p.sizes.block - 1) / p.sizes.block) }

// load reads the journal. A file of another size is not one of ours, and is begun anew.
func (p *part) load() error {
	whole := p.size + int64(p.blocks())
	st, err := p.file.Stat()
	if err != nil {
		return err
	}
	if st.Size() != whole {
		return p.reset()
	}
	journal := make([]byte, p.blocks())
	if _, err := p.file.ReadAt(journal, p.size); err != nil {
		return err
	}
	p.have, p.claimed, p.resumed = parseJournal(journal)
	return nil
}

// parseJournal says which blocks are there. Bytes that mean nothing mean that the block is not. It is pure.
func parseJournal(journal []byte) (have, claimed []bool, n int) {
	have = make([]bool, len(journal))
	for i, b := range journal {
		if b == 1 {
			have[i] = true
			n++
		}
	}
	return have, append([]bool(nil), have...), n
}

// reset empties the file, so that nothing of the blob is there.
func (p *part) reset() error {
	p.have, p.claimed = make([]bool, p.blocks()), make([]bool, p.blocks())
	p.next, p.resumed, p.failed = 0, 0, nil
	if err := p.file.Truncate(0); err != nil {
		return err
	}
	return p.file.Truncate(p.size + int64(p.blocks()))
}

// claim gives the next run of blocks that nobody has fetched or is fetching, as ranges of the blob; none are left when
// it is empty.
func (p *part) claim(most int) []manifest.Range {
	p.mu.Lock()
	defer p.mu.Unlock()
	var run []manifest.Range
	for ; p.next < len(p.claimed) && len(run) < most; p.next++ {
		i := p.next
		if p.claimed[i] && len(run) > 0 {
			break
		}
		if p.claimed[i] {
			continue
		}
		p.claimed[i] = true
		off := int64(i) * p.sizes.block
		run = append(run, manifest.Range{Off: off, Len: min(p.sizes.block, p.size-off)})
	}
	return run
}

// wrote notes in the journal that a block is there, after its bytes are.
func (p *part) wrote(r manifest.Range) error {
	i := r.Off / p.sizes.block
	if _, err := p.file.WriteAt([]byte{1}, p.size+i); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.have[i] = true
	p.changed.Broadcast()
	return nil
}

// end tells readers that nothing more will come, and why; nil: all is there.
func (p *part) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = err
	p.changed.Broadcast()
}

// await returns how many bytes stand at off, as far as the end of its block, once they are there.
func (p *part) await(off int64) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := int(off / p.sizes.block)
	for !p.have[i] {
		if p.failed != nil {
			return 0, p.failed
		}
		p.changed.Wait()
	}
	return min(int64(i+1)*p.sizes.block, p.size) - off, nil
}

// whole cuts the journal off: the file is the blob, or will be begun anew.
func (p *part) whole() error { return p.file.Truncate(p.size) }

// leave gives the file up for another copy to go on with, or removes it when what is in it is of no use.
func (p *part) leave(useful bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if !useful {
		err = os.Remove(p.file.Name()) // before the lock is gone
	}
	return errors.Join(err, p.file.Close())
}

// staleTemp says whether a file that nobody holds is to be removed: a part may be continued for a while. It is pure.
func staleTemp(name string, changed, now time.Time) bool {
	return !strings.HasPrefix(filepath.Base(name), partPrefix) || now.Sub(changed) > partLife
}

// staleFile is staleTemp for an open file.
func staleFile(f fs.File, name string) bool {
	st, err := f.Stat()
	return err == nil && staleTemp(name, st.ModTime(), time.Now())
}
