package store

import (
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestPanicInATransaction: a panic of bbolt is an error, and the next transaction gets the file all the same.
func TestPanicInATransaction(t *testing.T) {
	s := newStore(t)
	s.lockTimeout = 5 * time.Second
	for range 2 {
		wantIs(t, s.update(func(*bolt.Tx) error { panic("a damaged page") }), ErrCorrupt)
		wantIs(t, s.view(func(*bolt.Tx) error { panic("a damaged page") }), ErrCorrupt)
		ok(t, s.view(func(*bolt.Tx) error { return nil }))
		ok(t, s.update(func(*bolt.Tx) error { return nil }))
	}
	wantClean(t, s)
}
