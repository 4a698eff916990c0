package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/store"
)

// Source is one blob somewhere. Its methods must be safe for concurrent use.
type Source interface {
	// ReadRanges calls fn once for each range, in the order given (ascending,
	// disjoint), with a body of exactly r.Len bytes. The bytes are not
	// verified. It returns fn's error, and must return when ctx is done.
	ReadRanges(ctx context.Context, ranges []chunked.Range, fn func(r chunked.Range, body io.Reader) error) error
}

// Connect opens a source that the store recorded, perhaps in another process.
type Connect func(ctx context.Context, src store.Source) (Source, error)

// sources are the places one layer can be fetched from.
type sources struct {
	mu   sync.Mutex
	list []*place  // the one that worked last is first
	read time.Time // when the store was asked last for want of one
}

// rereadEvery is how often the store is asked for sources of a layer that has none
// left: a program that insists on reading must not make us open its index each time.
const rereadEvery = 5 * time.Second

// rereadDue says whether the store is to be asked now, and notes it.
func (s *sources) rereadDue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.read.IsZero() && now.Sub(s.read) < rereadEvery {
		return false
	}
	s.read = now
	return true
}

// place is one source of one layer.
type place struct {
	store.Source           // where it is; what it says of a quarantine is not kept up to date
	conn         Source    // nil: not connected yet
	until        time.Time // in quarantine before that
}

// resting says whether the place gave wrong bytes lately: it is not asked before
// until. Guarded by the mu of its sources.
func (p *place) resting() bool { return time.Now().Before(p.until) }

// merge adds a source, or gives a known one a connection. A source that gave
// wrong bytes is left alone until its quarantine ends, or somebody names it with
// a connection: then an image is pulled from it anew.
func (s *sources) merge(src store.Source, conn Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.list {
		if p.Host == src.Host && p.Repo == src.Repo && p.Blob == src.Blob {
			switch {
			case conn != nil:
				p.conn, p.until = conn, time.Time{}
			case src.Quarantined != "":
				p.until = src.Until
			}
			return
		}
	}
	s.list = append(s.list, &place{Source: src, conn: conn, until: src.Until})
}

// pick returns the first source that is neither quarantined nor in tried, one at
// the preferred host if there is any.
func (s *sources) pick(tried []*place, prefer string) (first *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.list {
		switch {
		case p.resting() || slices.Contains(tried, p):
		case p.Host == prefer:
			return p
		case first == nil:
			first = p
		}
	}
	return first
}

// left counts the sources that pick may still give.
func (s *sources) left(tried []*place) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.list {
		if !p.resting() && !slices.Contains(tried, p) {
			n++
		}
	}
	return n
}

// host returns the host that pick would choose, "" if there is none.
func (s *sources) host() string {
	if p := s.pick(nil, ""); p != nil {
		return p.Host
	}
	return ""
}

// elsewhere returns a host of a source that may be asked beside the one given.
func (s *sources) elsewhere(host string) (other string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.list {
		if p.Host != host && !p.resting() {
			return p.Host, true
		}
	}
	return "", false
}

// demote makes others be tried before p from now on.
func (s *sources) demote(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.list, p); i >= 0 {
		s.list = append(slices.Delete(s.list, i, i+1), p)
	}
}

// condemn quarantines p and says whether this call did it.
func (s *sources) condemn(p *place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.resting() {
		return false
	}
	p.until = time.Now().Add(store.FirstQuarantine)
	return true
}

// rest sets when p may be asked again.
func (s *sources) rest(p *place, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.until = until
}

// source returns the next source to try for l, connected, with the sources
// that other processes recorded meanwhile. A source that cannot be connected
// to is passed over; the last reason is in the error.
func (l *Layer) source(ctx context.Context, tried []*place, prefer string) (*place, Source, []*place, error) {
	var why error
	reread := false
	for {
		pl := l.src.pick(tried, prefer)
		if pl == nil && !reread && l.src.rereadDue(time.Now()) {
			reread = true
			if err := l.mergeRow(); err != nil {
				why = err
			}
			continue
		}
		if pl == nil {
			err := fmt.Errorf("layer %d: %w", l.n, ErrNoSource)
			return nil, nil, tried, errors.Join(err, why)
		}
		conn, err := l.connect(ctx, pl)
		if err == nil {
			return pl, conn, tried, nil
		}
		why = err
		tried = append(tried, pl)
	}
}

func (l *Layer) connect(ctx context.Context, pl *place) (Source, error) {
	l.src.mu.Lock()
	conn := pl.conn
	l.src.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	if l.pool.opt.Connect == nil {
		return nil, fmt.Errorf("%s/%s: no way to connect", pl.Host, pl.Repo)
	}
	conn, err := l.pool.opt.Connect(ctx, pl.Source)
	if err != nil {
		return nil, fmt.Errorf("connect to %s/%s: %w", pl.Host, pl.Repo, err)
	}
	l.src.mu.Lock()
	pl.conn = conn
	l.src.mu.Unlock()
	return conn, nil
}

// quarantine keeps a source that gave wrong bytes from being asked again for
// some time, in this process and in others.
func (l *Layer) quarantine(pl *place, why error) {
	if pl == nil || !l.src.condemn(pl) {
		return
	}
	log := l.pool.opt.Logger.With("layer", l.n, "host", pl.Host, "repo", pl.Repo, "blob", pl.Blob)
	log.Error("source quarantined", "err", why)
	if pl.Blob == "" {
		return // never recorded
	}
	until, err := l.pool.st.Quarantine(l.n, pl.Source, why.Error())
	if err != nil {
		log.Error("cannot record the quarantine", "err", err)
		return
	}
	l.src.rest(pl, until)
}
