package copy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

// L14, S4, S5: what is broken in a list, or not there, is said where it is; the rest is described, lists in the list too.
func TestInspectList(t *testing.T) {
	w := newWorld(t, 2)
	b := w.build("src")
	whole := b.image("linux/amd64", algoGzip, small(t)...)
	broken := b.broken(manifest.SentinelTypeOCI, manifest.SentinelTypeUpstream)["the sentinel twice"]
	gone := b.image("linux/s390x", algoGzip, small(t)[1])
	inner := b.list(b.image("linux/arm64", algoGzip, small(t)[0]), broken)
	lost := b.list(gone)
	src := b.name(b.list(whole, broken, gone, inner, lost), "x")
	for _, d := range []string{gone.Digest.Encoded(), lost.Digest.Encoded()} {
		if err := os.Remove(filepath.Join(b.dir, "blobs/sha256", d)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := Inspect(t.Context(), w.env, w.ref(src), &Options{})
	if err != nil {
		t.Fatal(err)
	}
	check := func(at string, got []InspectedInstance, want ...string) {
		if len(got) != len(want) {
			t.Fatalf("%s: %d instances, want %d", at, len(got), len(want))
		}
		for i, in := range got {
			if !strings.Contains(in.Trust+" "+in.Why, want[i]) {
				t.Errorf("%s %d: %q %q, want %q", at, i, in.Trust, in.Why, want[i])
			}
		}
	}
	check("top", out.Instances, "TarOnly", "invalid zstd:chunked sentinel", "not found", "it is a list", "not found")
	check("inner", out.Instances[3].Instances, "TarOnly", "invalid zstd:chunked sentinel")
	// A copy takes none of that.
	if _, err := w.try(src, w.layout("out")+":x", nil); !errors.Is(err, manifest.ErrSentinel) && !errors.Is(err, ErrNotFound) {
		t.Errorf("copy: %v", err)
	}
}
