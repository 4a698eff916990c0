package integration

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// With background completion on, as it is by default, a pulled image becomes local though nobody reads it, and then needs
// no registry. Another image on the same lower layers costs one range, for its own layer.
func TestBackground(t *testing.T) {
	harness.Need(t)
	lower := []mkimage.Layer{treelistLayer(t)}
	var contents []string
	for i := range 12 {
		contents = append(contents, string(noiseOf(1+i*i*20_000)))
		lower = append(lower, mkimage.File(fmt.Sprintf("/data/%d", i), []byte(contents[i])))
	}
	l := newLab(t, &harness.Options{Serve: true})
	l.convert(writeImage(t, lower...), "gzip", "only", "image:one")
	l.convert(writeImage(t, append(lower, mkimage.File("/other", []byte("other\n")))...), "gzip", "only", "image:two")
	one := l.pull("image:one")
	l.waitFor(contents)
	l.front.Forget()
	two := l.pull("image:two")
	if n := l.count(func(r front.Request) bool { return r.Range != "" && r.Bytes > 0 }); n > 2 { // TOC; perhaps the file already
		t.Errorf("%d ranges for one new layer:\n%v", n, l.front.Log())
	}
	l.waitFor([]string{"other\n"})
	l.front.Add(front.Rule{Do: front.Status(http.StatusServiceUnavailable, "UNAVAILABLE")})
	l.restartServe()
	l.front.Forget()
	for _, ref := range []string{one, two} {
		out := l.run(ref, "/treelist", "/")
		for _, c := range contents {
			l.hasFile(out, c)
		}
	}
	if n := l.front.Count("", "/"); n != 0 {
		t.Errorf("%d requests for an image that is local:\n%v", n, l.front.Log())
	}
}

// waitFor returns when the store has a complete object for each of the contents.
func (l *lab) waitFor(contents []string) {
	l.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for _, c := range contents {
		hex := digest.FromString(c).Encoded()
		object := filepath.Join(l.Root(), "objects", "sha256", hex[:2], hex)
		for {
			_, err := os.Stat(object)
			if err == nil {
				break
			}
			if !errors.Is(err, os.ErrNotExist) {
				l.t.Fatal(err)
			}
			select {
			case <-poll.C:
			case <-deadline.C:
				l.t.Fatalf("an object of %d bytes did not become local", len(c))
			}
		}
	}
}
