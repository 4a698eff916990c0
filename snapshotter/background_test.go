package snapshotter

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/tocsin/tocsin/chunked/fill"
)

// A layer is completed while a snapshot holds it, whichever image that is of, and not
// after the last one went.
func TestRemoveEndsCompletion(t *testing.T) {
	r := newRegistry()
	r.gate = make(chan struct{})
	base := tarOf(t, "a", "content of the one file")
	one := r.variant(t, r.plain(t, 1, base), true)
	two := r.variant(t, r.plain(t, 1, base, tarOf(t, "b", "b")), true)
	d := startPool(t, t.TempDir(), r, Options{}, fill.Options{Background: true})
	names := mustPull(t, d, "n", one)
	other := mustPull(t, d, "n", two)
	await(t, r, "content", 2)
	remove := func(names []string) {
		for _, name := range slices.Backward(names) {
			if err := d.Remove(context.Background(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The sentinel and the first layer are one snapshot each for both images: only the second image's own one goes.
	remove(other[2:])
	await(t, r, "ended", 1)
	if n := r.log()["ended"]; n != 1 {
		t.Errorf("%d fetches ended with one layer", n)
	}
	remove(names)
	await(t, r, "ended", 1)
	if n := r.log()["content"]; n != 0 {
		t.Errorf("%d requests after everything was removed", n)
	}
}

// await returns when something was asked for n times.
func await(t *testing.T, r *registry, what string, n int) {
	t.Helper()
	tick, deadline := time.NewTicker(time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for {
		r.mu.Lock()
		got := r.asked[what]
		r.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s was asked for %d times, want %d", what, got, n)
		}
	}
}
