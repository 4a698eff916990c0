package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/tocsin/tocsin/integration/mkimage"
)

// A copy of a big blob that is killed goes on where it was, at any place that keeps blobs as files: what has arrived is
// not fetched again. Acceptance 2. rule 17, rule 56
func TestKillInBigBlob(t *testing.T) {
	b := newKillBench(t)
	content := make([]byte, 40<<20)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(content)
	layers := []mkimage.Layer{mkimage.File("big", content)}
	if _, err := mkimage.Write(t.Context(), filepath.Join(b.dir, "img"), "big", layers, nil); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(b.dir, "root")
	src := "docker://" + b.host + "/big:1"
	want := b.run(root, "copy", "oci:img:big", src)
	for i, place := range []string{"oci:out", "dir:dir", "store:x"} {
		// The layer is asked for in at least six requests. Before the one that kills, some blocks have arrived.
		for _, n := range []int{4, 5} {
			root, dst := fmt.Sprint(root, i, n), fmt.Sprint(place, n)
			if !b.killed(n, root, "copy", src, dst) {
				t.Fatalf("%s: request %d was not made: %v", dst, n, b.front.Log())
			}
			b.front.Forget()
			if got := b.run(root, "copy", src, dst); got != want {
				t.Errorf("%s, killed at %d: the next run made %s of %s", dst, n, got, want)
			}
			if got := b.front.Bytes("GET", "/blobs/"); got > 40<<20-(1<<20)+64<<10 {
				t.Errorf("%s, killed at %d: the next run fetched %d bytes", dst, n, got)
			}
			out := fmt.Sprintf("oci:read%d%d:x", i, n)
			if i < 2 {
				b.run(root, "copy", dst, out) // verifies every blob
			} else {
				b.run(root, "check", "--verify")
			}
		}
	}
}
