package fill

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin/tocsin/chunked"
)

// level orders demands; a lower one goes first.
type level int

const (
	levelRead       level = iota // somebody waits for it
	levelAhead                   // a sequential reader will want it soon
	levelBackground              // completion; nobody waits
	numLevels
)

// demand is one chunk of one object that is to be fetched through one layer.
// There is at most one per chunk in a process; everybody who wants the chunk
// waits on done.
type demand struct {
	layer *Layer
	sched *scheduler
	obj   *object
	i     int // index of the chunk in the object's list
	chunk chunked.Chunk

	level level // guarded by scheduler.mu
	taken bool  // guarded by scheduler.mu: no longer in a queue

	read atomic.Bool           // a read, not only read-ahead or completion, wants it
	run  atomic.Pointer[batch] // nil while queued

	twin twin

	done chan struct{} // closed with the object's mu held
	err  error         // valid after done is closed
}

// twin leads from a demand to a second request for the same chunk, and back.
type twin struct {
	first  *demand // nil for what is no second request
	second atomic.Pointer[demand]
}

// settled says whether the demand was answered, by itself or by the one that it
// is the second request for.
func (d *demand) settled() bool {
	select {
	case <-d.done:
		return true
	default:
		return d.twin.first != nil && d.twin.first.settled()
	}
}

// came is what arrives of d's request, or while it waits for one, of its host.
func (d *demand) came() *arrival {
	if b := d.run.Load(); b != nil {
		return &b.came
	}
	return &d.sched.came
}

// idle returns how long nothing has moved for the demand since the given time.
func (d *demand) idle(since time.Time) time.Duration {
	idle := d.came().idle(since)
	if twin := d.twin.second.Load(); twin != nil {
		idle = min(idle, twin.idle(since))
	}
	return idle
}

// host is the one that the demand is answered by, or waits for.
func (d *demand) host() string {
	if b := d.run.Load(); b != nil {
		if pl := b.from.Load(); pl != nil {
			return pl.Host
		}
	}
	return d.sched.host
}

// batch is what one request slot fetches: demands of one layer.
type batch struct {
	layer     *Layer
	sched     *scheduler // nil for a table of contents
	demands   []*demand
	level     level
	from      atomic.Pointer[place]                   // that is asked
	abandoned atomic.Bool                             // ends before the next attempt
	end       atomic.Pointer[context.CancelCauseFunc] // of the attempt under way
	came      arrival
}

// prefers is the host to ask first, "" for the order of the layer's sources: a
// second request goes where the first one did not.
func (b *batch) prefers() string {
	if slices.ContainsFunc(b.demands, func(d *demand) bool { return d.twin.first != nil }) {
		return b.sched.host
	}
	return ""
}

// settleTwins ends second requests that the first ones were faster than.
func (b *batch) settleTwins() {
	for _, d := range b.demands {
		if d.twin.first != nil {
			d.obj.settle(d, errAbandoned)
		}
	}
}

// abandon breaks the batch off.
func (b *batch) abandon() {
	b.abandoned.Store(true)
	if end := b.end.Load(); end != nil {
		(*end)(errAbandoned)
	}
}

// scheduler holds the demands that wait for one of the request slots of one
// host: a host that does not answer must not keep others waiting. Demands that
// arrive while all slots are taken pile up per layer and leave together,
// which is what makes few large requests out of many small reads.
type scheduler struct {
	host       string
	mu         sync.Mutex
	slots      int
	running    map[*batch]bool // as many as slots are used
	background int             // of these, batches of levelBackground
	maxRange   int64
	order      [numLevels][]*Layer // layers with queued demands, longest waiting first
	queues     [numLevels]map[*Layer][]*demand
	start      func(*batch) // must not block
	closed     bool

	came arrival       // from the host
	tocs chan struct{} // slots for tables of contents
}

// mixed bounds the bytes that nobody waits for in a request that somebody
// waits for.
const mixed = 2 << 20

func newScheduler(host string, slots int, maxRange int64, start func(*batch)) *scheduler {
	s := &scheduler{host: host, slots: slots, maxRange: maxRange, start: start, tocs: make(chan struct{}, slots), running: make(map[*batch]bool)}
	for i := range s.queues {
		s.queues[i] = make(map[*Layer][]*demand)
	}
	return s
}

// submit queues new demands. It returns false when the scheduler was closed;
// the demands are the caller's then.
func (s *scheduler) submit(ds []*demand) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	for _, d := range ds {
		s.push(d)
	}
	s.dispatch()
	return true
}

// promote moves a demand that still waits to a more urgent level.
func (s *scheduler) promote(d *demand, to level) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.taken || s.closed || to >= d.level {
		return
	}
	d.level = to // the entry in the old queue is passed over when its turn comes
	s.push(d)
	s.dispatch()
}

// release gives a batch's slot back.
func (s *scheduler) release(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, b)
	if b.level == levelBackground {
		s.background--
	}
	s.dispatch()
}

// withdraw takes back what is fetched of a layer and nobody waits for: it returns
// the demands that are still queued, and breaks off the requests under way.
func (s *scheduler) withdraw(l *Layer) (rest []*demand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, lv := range []level{levelAhead, levelBackground} {
		for _, d := range s.queues[lv][l] {
			if !d.taken && d.level == lv {
				d.taken = true
				rest = append(rest, d)
			}
		}
	}
	for b := range s.running {
		if b.layer == l && b.level != levelRead {
			b.abandon()
		}
	}
	return rest
}

// close refuses further demands and returns those that wait.
func (s *scheduler) close() []*demand {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var rest []*demand
	for lv := range numLevels {
		for _, q := range s.queues[lv] {
			for _, d := range q {
				if !d.taken {
					d.taken = true
					rest = append(rest, d)
				}
			}
		}
		s.order[lv], s.queues[lv] = nil, nil
	}
	return rest
}

func (s *scheduler) push(d *demand) {
	q := s.queues[d.level]
	if len(q[d.layer]) == 0 {
		s.order[d.level] = append(s.order[d.level], d.layer)
	}
	q[d.layer] = append(q[d.layer], d)
}

func (s *scheduler) dispatch() {
	for len(s.running) < s.slots {
		b := s.next()
		if b == nil {
			return
		}
		s.running[b] = true
		if b.level == levelBackground {
			s.background++
		}
		s.start(b)
	}
}

// next takes the most urgent batch out of the queues, nil if there is none.
// Completion leaves one slot to readers, who would otherwise wait for the end
// of a request of several megabytes.
func (s *scheduler) next() *batch {
	if s.closed {
		return nil
	}
	for lv := range numLevels {
		if lv == levelBackground && s.slots > 1 && s.background >= s.slots-1 {
			return nil
		}
		for len(s.order[lv]) > 0 {
			l := s.order[lv][0]
			s.order[lv] = slices.Delete(s.order[lv], 0, 1) // forgets the layer, which may be removed
			b := &batch{layer: l, sched: s, level: lv}
			have := s.take(b, lv, 0)
			if len(s.queues[lv][l]) > 0 {
				s.order[lv] = append(s.order[lv], l)
			}
			if len(b.demands) == 0 {
				continue
			}
			if lv == levelRead {
				s.take(b, levelAhead, max(have, s.maxRange-mixed))
			}
			return b
		}
	}
	return nil
}

// take moves demands of b's layer into b, oldest first, while they fit. A
// queue that gets empty through the read-ahead of a read stays in order and is
// passed over later.
func (s *scheduler) take(b *batch, lv level, have int64) int64 {
	q := s.queues[lv][b.layer]
	for len(q) > 0 {
		d := q[0]
		if !d.taken && d.level == lv {
			if !fits(have, len(b.demands), d.chunk.Blob.Len, s.maxRange) {
				break
			}
			have += d.chunk.Blob.Len
			d.taken = true
			d.run.Store(b)
			b.demands = append(b.demands, d)
		}
		q = q[1:]
	}
	if len(q) == 0 {
		delete(s.queues[lv], b.layer)
	} else {
		s.queues[lv][b.layer] = q
	}
	return have
}
