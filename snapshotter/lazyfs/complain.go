package lazyfs

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// quietFor is how long nothing more is logged about a file after a failure, and complaintsMost how many files are
	// logged in that time: a program that insists must not fill the disk.
	quietFor       = time.Minute
	complaintsMost = 100
)

// complaints logs what goes wrong with files.
type complaints struct {
	views *views
	log   *slog.Logger
	image func(view uint64) string
	said  quiet
}

// about logs that something failed for a node of a view.
func (c *complaints) about(what string, view uint64, entry uint32, err error) {
	if !c.said.due(viewNode(view, entry), time.Now()) {
		return
	}
	image := ""
	if c.image != nil {
		image = c.image(view)
	}
	c.log.Error("fuse: "+what, "image", image, "path", c.views.path(view, entry), "view", view, "entry", entry, "err", err)
}

// quiet remembers what was said lately.
type quiet struct {
	mu        sync.Mutex
	began     time.Time // of what now holds
	now, then map[uint64]time.Time
}

// due says whether something may be said about a node, and notes that it is.
func (q *quiet) due(node uint64, at time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.now == nil || at.Sub(q.began) >= quietFor {
		q.began, q.then, q.now = at, q.now, map[uint64]time.Time{}
	}
	for _, said := range []map[uint64]time.Time{q.now, q.then} {
		if last, ok := said[node]; ok && at.Sub(last) < quietFor {
			return false
		}
	}
	if len(q.now) >= complaintsMost {
		return false
	}
	q.now[node] = at
	return true
}

// path is the name of an entry in a view that is open, "" in one that is not.
func (vs *views) path(n uint64, e uint32) string {
	vs.mu.RLock()
	defer vs.mu.RUnlock()
	v := vs.open[n]
	if v == nil || int(e) >= v.tree.NumEntries() {
		return ""
	}
	return "/" + v.tree.Path(e)
}

const (
	// rememberFailure is how long something that could not be opened is not tried again, and failuresMost how many
	// such things are remembered.
	rememberFailure = 5 * time.Second
	failuresMost    = 1024
)

// failures are things that could not be opened lately: who insists must not make us open the index of the store each
// time.
type failures struct {
	mu sync.Mutex
	m  map[uint64]failure
}

type failure struct {
	err   error
	until time.Time
}

// get returns why n could not be opened lately, nil if it may be tried.
func (f *failures) get(n uint64, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x, ok := f.m[n]; ok && now.Before(x.until) {
		return x.err
	}
	return nil
}

// note remembers the outcome of a try.
func (f *failures) note(n uint64, err error, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.m, n)
		return
	}
	if f.m == nil || len(f.m) >= failuresMost {
		f.m = map[uint64]failure{}
	}
	f.m[n] = failure{err, now.Add(rememberFailure)}
}
