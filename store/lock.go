package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// patience is how long a writer keeps this process's readers waiting while another process has index.lock.
	patience = 200 * time.Millisecond
	// stuckTimeout bounds the waits after one that was in vain, until the lock could be had again.
	stuckTimeout = time.Second
	// pollFirst and pollMost are the pauses between two looks at a lock. A wait in flock(2) could not be broken off.
	pollFirst, pollMost = 50 * time.Microsecond, 5 * time.Millisecond
)

// lockQueue is where the goroutines of this process wait for index.lock.
type lockQueue struct {
	turn  chan struct{}
	stuck atomic.Bool // the last wait was in vain
}

// lockIndex takes index.lock on a descriptor of its own and returns what gives it back. The lock orders processes, and
// goroutines too. Whoever wants it comes by s.queue.turn, where a writer holds up those after it while it waits, or readers
// that come and go would keep it out for ever. ErrLocked after Options.LockTimeout.
func (s *Store) lockIndex(ctx context.Context, how int) (unlock func(), err error) {
	f, err := os.OpenFile(s.path("index.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	bound := s.lockTimeout
	if s.queue.stuck.Load() {
		bound = min(bound, stuckTimeout)
	}
	wait, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	err = s.lockInTurn(wait, f, how)
	if err == nil {
		s.queue.stuck.Store(false)
		return func() { f.Close() }, nil
	}
	err = s.lockFailed(ctx, f.Name(), err)
	f.Close()
	return nil, err
}

// lockInTurn waits for its turn and then for f. A writer that waits for another process lets readers pass now and then:
// they may get the lock that it does not get.
func (s *Store) lockInTurn(ctx context.Context, f *os.File, how int) error {
	for {
		select {
		case s.queue.turn <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if how == unix.LOCK_SH {
			<-s.queue.turn
			return pollLock(ctx, f, how)
		}
		once, cancel := context.WithTimeout(ctx, patience)
		err := pollLock(once, f, how)
		cancel()
		<-s.queue.turn
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// lockFailed says why a lock could not be had: because the caller gave up, or because of who has it.
func (s *Store) lockFailed(ctx context.Context, path string, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", path, context.Cause(ctx))
	case errors.Is(err, context.DeadlineExceeded):
		s.queue.stuck.Store(true)
		return fmt.Errorf("%s: %w by %s", path, ErrLocked, LockHolder(path))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// pollLock waits for a lock on f until ctx ends, and returns its cause then.
func pollLock(ctx context.Context, f *os.File, how int) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := pollFirst; ; pause = min(2*pause, pollMost) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
