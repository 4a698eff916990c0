package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Work is a transaction under way: something that writes and reuses files, and claims them with a row in the end. Gc
// leaves alone what was written or reused since the oldest work under way began, in whatever process, however long it
// takes. What is older and nobody claims goes meanwhile.
type Work struct {
	s     *Store
	since time.Time
	lock  *os.File // in pins/, with since in its name; the lock on it says that the work is under way
}

// workPrefix begins the names of the lock files of work: then the process, the time and something random.
const workPrefix = "work-"

// Begin begins work. The caller ends it after everything that it wrote or reused is claimed by a row, or given up.
// When the process dies the work ends.
func (s *Store) Begin() (*Work, error) {
	w := &Work{s: s, since: s.stamp()}
	var err error
	if w.lock, err = s.lockFile(fmt.Sprintf("%s%d-%d-", workPrefix, os.Getpid(), w.since.UnixNano())); err != nil {
		return nil, fmt.Errorf("begin work on the store: %w", err)
	}
	s.held.mu.Lock()
	s.held.works[w] = struct{}{}
	s.held.mu.Unlock()
	return w, nil
}

// End ends work. Ending twice is fine.
func (w *Work) End() error {
	w.s.held.mu.Lock()
	_, under := w.s.held.works[w]
	delete(w.s.held.works, w)
	w.s.held.mu.Unlock()
	if !under {
		return nil
	}
	err := w.s.disk.unlink(w.lock.Name())
	if cerr := w.lock.Close(); err == nil {
		err = cerr
	}
	return err
}

// stamp is the time that what is written or reused now gets: never before work of this process began, even if the
// clock was set back since.
func (s *Store) stamp() time.Time {
	t := s.now()
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	for w := range s.held.works {
		if w.since.After(t) {
			t = w.since
		}
	}
	return t
}

// lockFile makes a file in pins/ that is locked until it is closed or the process dies.
func (s *Store) lockFile(prefix string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(s.path("pins"), prefix)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), s.lockTimeout)
		err = pollLock(ctx, f, unix.LOCK_EX)
		cancel()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if sameFile(f, f.Name()) { // else gc took it for a leftover before it was locked
			return f, nil
		}
		f.Close()
	}
}

// oldestWork finds the work under way that began first. The zero time: none is.
func (s *Store) oldestWork() (since time.Time, name string, err error) {
	names, err := readNames(s.path("pins"))
	if err != nil {
		return since, "", err
	}
	for _, n := range names {
		t, ok := workSince(n)
		if ok && (since.IsZero() || t.Before(since)) && s.lockHeld(n) {
			since, name = t, filepath.Join("pins", n)
		}
	}
	return since, name, nil
}

// workSince reads when work began out of the name of its lock file.
func workSince(name string) (time.Time, bool) {
	rest, ok := strings.CutPrefix(name, workPrefix)
	part := strings.Split(rest, "-")
	if !ok || len(part) != 3 {
		return time.Time{}, false
	}
	ns, err := strconv.ParseInt(part[1], 10, 64)
	return time.Unix(0, ns), err == nil
}

// yield keeps g from what was touched since the oldest work under way began. It is asked before each step, because work
// can begin while gc runs, and the clock be set back.
func (g *gcRun) yield() error {
	since, name, err := g.s.oldestWork()
	if err != nil || since.IsZero() {
		return err
	}
	since = since.Add(-1) // what has exactly this time is younger
	if !young(g.cutoff, since) {
		return nil
	}
	if name != g.yielded {
		g.found("kept", name, "what is younger than "+since.Format(time.RFC3339)+", for a transaction under way", 0)
		g.yielded = name
	}
	g.cutoff = since
	return nil
}
