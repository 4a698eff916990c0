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
		root := fmt.Sprint(root, i)
		// Behind manifest, config and the layer's first block comes its rest, in one request or several: which of them
		// a machine takes depends on how near it finds the registry.
		if !b.killed(3, root, "copy", src, place) {
			t.Fatalf("%s: the rest was not asked for: %v", place, b.front.Log())
		}
		b.front.Forget()
		if got := b.run(root, "copy", src, place); got != want {
			t.Errorf("%s: the next run made %s of %s", place, got, want)
		}
		if got := b.front.Bytes("GET", "/blobs/"); got > 40<<20-(1<<20)+64<<10 {
			t.Errorf("%s: the next run fetched %d bytes", place, got)
		}
		if i < 2 {
			b.run(root, "copy", place, fmt.Sprintf("oci:read%d:x", i)) // verifies every blob
		} else {
			b.run(root, "check", "--verify")
		}
	}
}
