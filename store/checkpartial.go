package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// checkPartial compares the chunks of a partial object that its map calls verified with their digests.
func (c *checkRun) checkPartial(row *LayerRow, i int, ref ObjectRef) {
	rel := partialRel(ref.Digest, ref.List)
	if !c.o.Verify || c.o.Chunks == nil || !exists(c.s.path(rel)) {
		return
	}
	index, err := c.s.mapIndex(row.Number)
	if err != nil {
		return // checkLayer has looked at it
	}
	defer index.Close()
	spans, err := c.o.Chunks(index.Bytes(), i)
	if err != nil {
		c.found("corrupt", rel, "%v", err)
		return
	}
	p, err := c.s.OpenPartial(PartialKey(ref), func(i int) Span { return spans[i] }, len(spans))
	if errors.Is(err, ErrComplete) {
		return
	}
	if err != nil {
		f := c.found("corrupt", rel, "%v", err)
		if c.o.Repair {
			c.settle(f, c.s.dropPartial(rel))
		}
		return
	}
	defer p.Close()
	if err := p.rot(c.o.Repair); err != nil {
		c.found("corrupt", rel, "%v", err).Done = c.o.Repair
	}
}

// rot looks for chunks that are not what their digests say, and makes them missing if it is to mend.
func (p *Partial) rot(mend bool) error {
	if mend {
		return p.unmarkRot()
	}
	for i := range p.n {
		if p.Has(i) && !p.recheck(i) {
			return ErrCorrupt
		}
	}
	return nil
}

// dropPartial removes a partial object that cannot be used, unless a process fills it.
func (s *Store) dropPartial(rel string) error {
	f, err := os.Open(s.path(rel))
	if err != nil {
		return err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return ErrInUse
	}
	return errors.Join(s.disk.unlink(s.path(rel+".map")), s.disk.unlink(s.path(rel)))
}
