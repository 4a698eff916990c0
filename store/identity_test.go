package store

import (
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
)

// The index of a store under a process that has it open is lost, replaced or set back. No number that the process knows
// is answered any more; a process that opens the store then works.
func TestReplacedIndex(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, s *Store, older []byte){
		"lost": func(t *testing.T, s *Store, _ []byte) { ok(t, os.Remove(s.path("index.db"))) },
		"another": func(t *testing.T, s *Store, _ []byte) {
			ok(t, os.Remove(s.path("index.db")))
			other := must[*Store](t)(Open(s.Root(), nil))
			for _, l := range []string{"x", "y", "z"} { // the same numbers, and more transactions
				putTOC(t, other, l)
				ok(t, other.Pin(l, PinTarget{}, PinOptions{}))
			}
		},
		"older": func(t *testing.T, s *Store, older []byte) { ok(t, os.WriteFile(s.path("index.db"), older, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			before := must[Identity](t)(s.Identity())
			older := must[[]byte](t)(os.ReadFile(s.path("index.db")))
			n := putTOC(t, s, "a")
			if now := must[Identity](t)(s.Identity()); !now.Knows(before) || before.Knows(now) {
				t.Fatalf("%+v after %+v", now, before)
			}
			replace(t, s, older)
			_, err := s.Layer(n)
			wantIs(t, err, ErrReplaced)
			_, err = s.PutLayer(LayerRow{TOC: digest.FromString("b")}, testIndex(), nil)
			wantIs(t, err, ErrReplaced)
			_, err = s.Layer(n)
			wantIs(t, err, ErrReplaced)
			again := must[*Store](t)(Open(s.Root(), nil))
			putTOC(t, again, "b")
			wantClean(t, again)
		})
	}
}
