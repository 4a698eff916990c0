package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
)

// Ranged is one blob of a repository, read in parts. It is safe for concurrent use.
type Ranged struct {
	// Whole allows a registry without ranges to be read all the same: the blob is downloaded from its start and the
	// parts are cut out. Without it such a registry is ErrNoRanges, before any byte of the body is read: what a
	// sentinel image must be answered with, and the moment to pull the whole blob once instead.
	Whole bool

	repo *Repo
	d    digest.Digest
	size int64
}

// Ranged returns the blob of that digest and size, with Whole unset.
func (r *Repo) Ranged(d digest.Digest, size int64) *Ranged {
	return &Ranged{repo: r, d: d, size: size}
}

// ReadRanges is Ranged(d, size).ReadRanges.
func (r *Repo) ReadRanges(ctx context.Context, d digest.Digest, size int64, ranges []manifest.Range, fn func(r manifest.Range, body io.Reader) error) error {
	return r.Ranged(d, size).ReadRanges(ctx, ranges, fn)
}

// rangeSupport is what is known of ranges from earlier requests, without asking, of the server that answered last.
func (r *Repo) rangeSupport() (single, multi Support, err error) {
	r.mu.Lock()
	e := r.served
	r.mu.Unlock()
	if e == nil {
		if err := r.check(); err != nil {
			return Unknown, Unknown, err
		}
		list, _, err := r.c.endpoints(r.host, docker.HostCapabilityPull)
		if err != nil {
			return Unknown, Unknown, err
		}
		e = list[0]
	}
	single, multi = e.ranges.get(r.c.now())
	return single, multi, nil
}

// ReadRanges calls fn once for each range, in their order, with a body of exactly r.Len bytes; what fn leaves of it is
// skipped. Ranges must be ascending, apart, not empty and inside the blob. The bytes are NOT verified; their places are,
// as far as the server states them. A body that breaks off is continued by another request without fn noticing; when
// that fails too, fn's reader returns the error and so does ReadRanges. An error of fn ends it and is returned as it is.
// The call holds one of the client's places, so fn must not wait for another read of the same client.
func (g *Ranged) ReadRanges(ctx context.Context, ranges []manifest.Range, fn func(r manifest.Range, body io.Reader) error) error {
	if err := g.check(ranges); err != nil {
		return err
	}
	if len(ranges) == 0 {
		return nil
	}
	leave, err := g.repo.places.read(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s := &stream{g: g, todo: append([]manifest.Range(nil), ranges...), budget: budget{client: g.repo.c}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.ctx = ctx
	defer s.drop()
	for _, r := range ranges {
		body := &piece{s: s}
		if err := fn(r, body); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return err
		}
		body.err = io.ErrClosedPipe // fn may have kept it
		s.todo = s.todo[1:]
	}
	s.finish()
	return nil
}

func (g *Ranged) check(ranges []manifest.Range) error {
	if err := manifest.ValidDigest(g.d); err != nil {
		return err
	}
	at := int64(0)
	for _, r := range ranges {
		if r.Off < at || r.Len <= 0 || r.Len > g.size-r.Off {
			return fmt.Errorf("blob %s of %d bytes: range %d+%d: %w", g.d, g.size, r.Off, r.Len, manifest.ErrMalformed)
		}
		at = r.End()
	}
	return nil
}

// stream is one ReadRanges under way: the ranges still to be given to fn, the first of them shortened by what was
// read, and the requests that fetch them. After any failure the requests are dropped and planned again from todo.
type stream struct {
	g      *Ranged
	ctx    context.Context //nolint:containedctx // one call's, inside a reader that the call hands out
	todo   []manifest.Range
	budget budget

	queue []*fetch // the first is being read
	segs  segments
	seg   *segment
	got   int64 // since the last failure
	plans int
}

// piece is the body that fn reads: the rest of todo[0].
type piece struct {
	s   *stream
	err error
}

func (p *piece) Read(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	r := &p.s.todo[0]
	if r.Len == 0 {
		return 0, io.EOF
	}
	if int64(len(b)) > r.Len {
		b = b[:r.Len]
	}
	if len(b) == 0 {
		return 0, nil
	}
	n, err := p.s.read(b)
	r.Off, r.Len = r.Off+int64(n), r.Len-int64(n)
	p.err = err
	return n, err
}

// read reads what stands at todo[0].Off, over as many requests as it takes.
func (s *stream) read(b []byte) (int, error) {
	for {
		err := s.seek(s.todo[0].Off)
		if err == nil {
			var n int
			n, err = s.seg.body.Read(b)
			s.seg.Off, s.seg.Len = s.seg.Off+int64(n), s.seg.Len-int64(n)
			s.got += int64(n)
			if n > 0 {
				return n, nil // a failure will be there at the next read
			}
			if err == nil {
				continue
			}
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
		}
		if err = s.resume(err); err != nil {
			return 0, fmt.Errorf("blob %s: %w", s.g.d, err)
		}
	}
}

// errPlanAgain: the server was found to do less than the plan needs; no failure.
var errPlanAgain = errors.New("plan again")

// resume drops all requests, so that what is left is planned again, and waits if err may pass. It returns the error
// to end with otherwise. A server that cannot answer for several ranges is asked for one at a time from then on.
func (s *stream) resume(err error) error {
	if errors.Is(err, errShape) && len(s.queue) > 0 && s.queue[0].several() && s.queue[0].resp != nil {
		s.queue[0].ep().ranges.learn(true, false, s.g.repo.c.now())
		err = errPlanAgain
	}
	s.drop()
	if errors.Is(err, errPlanAgain) {
		if s.plans < maxPlans {
			return nil
		}
		err = fmt.Errorf("%w: its ranges come and go", ErrBadAnswer)
	}
	s.budget.progress(s.got)
	s.got = 0
	if !passing(err) && !errors.Is(err, errShape) || errors.Is(err, ErrRetriesExhausted) {
		return err
	}
	return s.budget.again(s.ctx, err, askedPause(err))
}

// finish reads the end of the last answer, so that its connection can be used again.
func (s *stream) finish() {
	if len(s.queue) == 1 && s.seg != nil && s.seg.Len == 0 {
		drain(s.queue[0].resp.Response)
	}
}

func (s *stream) drop() {
	for _, f := range s.queue {
		f.abandon()
	}
	s.queue, s.segs, s.seg = nil, nil, nil
}

// seek makes seg a segment that goes on at off.
func (s *stream) seek(off int64) error {
	for {
		if s.seg != nil && s.seg.Off <= off && off < s.seg.End() {
			skip := off - s.seg.Off
			n, err := io.CopyN(io.Discard, s.seg.body, skip)
			s.seg.Off, s.seg.Len = s.seg.Off+n, s.seg.Len-n
			return err
		}
		if s.seg != nil && s.seg.Off > off {
			return s.misplaced(off)
		}
		if s.segs == nil {
			if err := s.open(); err != nil {
				return err
			}
		}
		seg, err := s.segs.next()
		switch {
		case err == io.EOF:
			if s.queue[0].covers(off) {
				return s.misplaced(off)
			}
			s.queue[0].abandon()
			s.queue, s.segs, s.seg = s.queue[1:], nil, nil
		case err != nil:
			return err
		default:
			s.seg = seg
		}
	}
}

// misplaced: the answer has parts in another order, or not all of them.
func (s *stream) misplaced(off int64) error {
	return fmt.Errorf("%w: offset %d asked for and not sent", errShape, off)
}

// open waits for the first request of the queue, made anew if there is none, and starts those that come after it.
func (s *stream) open() error {
	if len(s.queue) == 0 {
		plan, err := s.plan()
		if err != nil {
			return err
		}
		s.queue = plan
	}
	f := s.queue[0]
	f.start(s.ctx, func() {})
	resp, err := f.wait()
	if err != nil {
		return err
	}
	if err := s.accept(f, resp); err != nil {
		return err
	}
	s.segs, err = segmentsOf(resp.Response, s.g.size)
	if err == nil {
		s.ahead()
	}
	return err
}

// accept learns from the status of an answer, and returns an error if it holds nothing for us.
func (s *stream) accept(f *fetch, resp *response) error {
	now, know := s.g.repo.c.now(), &resp.ep.ranges
	all := len(f.runs) == 1 && f.runs[0] == manifest.Range{Off: 0, Len: s.g.size}
	switch {
	case f.whole:
		return nil
	case resp.StatusCode == http.StatusPartialContent:
		know.learn(f.several(), true, now)
		return nil
	case all && resp.StatusCode == http.StatusOK:
		return nil // a server may answer so, and it says nothing about its ranges
	case f.several():
		// Some servers know single ranges only, and answer this with everything or with an error.
		know.learn(true, false, now)
		return errPlanAgain
	}
	know.learn(false, false, now)
	switch {
	case s.g.Whole && resp.StatusCode == http.StatusOK:
		for _, f := range s.queue[1:] {
			f.abandon()
		}
		s.queue = s.queue[:1]
		return nil // the bytes are already on their way
	case s.g.Whole:
		return errPlanAgain
	}
	return s.noRanges(resp.StatusCode)
}

func (s *stream) noRanges(status int) error {
	why := "known from an earlier request"
	if status != 0 {
		why = "answered " + strconv.Itoa(status) + " to a range"
	}
	return fmt.Errorf("%s: %w (%s)", s.g.repo, ErrNoRanges, why)
}

// maxParts bounds the ranges of one request, so that its header stays near 2 KiB; lookAhead the requests under way
// while one is read.
const (
	maxParts  = 96
	lookAhead = 3
	// maxPlans is more than what can be learned of the servers of one host.
	maxPlans = 16
)

// plan makes the requests for todo by what is known about the server that will be asked.
func (s *stream) plan() ([]*fetch, error) {
	s.plans++
	single, multi, err := s.g.repo.rangeSupport()
	if err != nil {
		return nil, err
	}
	if single == No {
		if !s.g.Whole {
			return nil, s.noRanges(0)
		}
		return []*fetch{{g: s.g, runs: []manifest.Range{{Off: 0, Len: s.g.size}}, whole: true}}, nil
	}
	most := maxParts
	if multi == No {
		most = 1
	}
	var queue []*fetch
	for _, runs := range batches(s.todo, most) {
		queue = append(queue, &fetch{g: s.g, runs: runs})
	}
	return queue, nil
}

// batches joins ranges that touch and deals them out, at most so many to a batch.
func batches(todo []manifest.Range, most int) [][]manifest.Range {
	var runs []manifest.Range
	for _, r := range todo {
		switch last := len(runs) - 1; {
		case r.Len == 0:
		case last >= 0 && runs[last].End() == r.Off:
			runs[last].Len += r.Len
		default:
			runs = append(runs, r)
		}
	}
	var out [][]manifest.Range
	for len(runs) > 0 {
		n := min(most, len(runs))
		out = append(out, runs[:n])
		runs = runs[n:]
	}
	return out
}

// ahead starts the next requests where the client has places free. It never waits for one: two calls that each held
// what the other waits for would never end.
func (s *stream) ahead() {
	for _, f := range s.queue[1:min(len(s.queue), 1+lookAhead)] {
		if f.started() {
			continue
		}
		leave := s.g.repo.places.tryRead()
		if leave == nil {
			return
		}
		f.start(s.ctx, leave)
	}
}

// rangeHeader spells the ranges of a request.
func rangeHeader(runs []manifest.Range) string {
	var b strings.Builder
	b.WriteString("bytes=")
	for i, r := range runs {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d-%d", r.Off, r.End()-1)
	}
	return b.String()
}
