package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// A variant with tar diff_ids must be complete before it is answered. When that takes longer than a Prepare may, the pull
// fails, the fetch goes on, and a later pull finds it done and runs.
func TestPrepareIsBounded(t *testing.T) {
	harness.Need(t)
	l := newLab(t, &harness.Options{Serve: true, Config: backgroundOff + "prepare_timeout = \"2s\"\n", LayerTypes: true})
	l.convert(writeImage(t, treelistLayer(t), mkimage.File("/data/file", noiseOf(1<<20))), "gzip", "upstream", "image:both")
	l.variantAlone("image", "both", "variant")
	im := l.image("image", "variant")
	tocs := map[string]bool{}
	for _, layer := range im.manifest.Layers[1:] {
		r := tocRange(t, layer)
		tocs[fmt.Sprintf("bytes=%d-%d", r.Off, r.End()-1)] = true
	}
	open := make(chan struct{})
	l.front.Add(front.Rule{Ranged: true, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !tocs[r.Header.Get("Range")] {
			select {
			case <-open:
			case <-r.Context().Done():
				return
			}
		}
		next.ServeHTTP(w, r)
	}})
	said := l.fails("images", "pull", "--plain-http", "--snapshotter", "tocsin", l.far+"/image:variant")
	if !strings.Contains(said, "pull again") {
		t.Errorf("ctr said: %s", said)
	}
	asked := l.blobRequests()
	close(open)
	ref := l.pull("image:variant")
	l.hasFile(l.run(ref, "/treelist", "/data"), string(noiseOf(1<<20)))
	for path, n := range l.blobRequests() {
		if n > max(asked[path], 2) { // the TOC and the content
			t.Errorf("%s was asked for %d times:\n%v", path, n, l.front.Log())
		}
	}
	l.removeAll(ref)
	l.checkNothingLeft()
}

// blobRequests counts the ranges asked of each blob.
func (l *lab) blobRequests() map[string]int {
	asked := map[string]int{}
	for _, r := range l.front.Log() {
		if r.Range != "" {
			asked[r.Path]++
		}
	}
	return asked
}

// Containers that start at once, in two namespaces that pull at once, fetch what one would.
func TestManyAtOnce(t *testing.T) {
	harness.Need(t)
	layout := harness.Image(t, "debian-python")
	l := newLab(t, &harness.Options{Serve: true, Config: backgroundOff})
	l.convert(layout, "gzip", "only", "python:lazy")
	ref := l.far + "/python:lazy"
	namespaces := []string{l.Namespace, l.Namespace + "-2"}
	together := func(n int, do func(i int) error) {
		t.Helper()
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { errs[i] = do(i) })
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	together(2, func(i int) error {
		_, err := l.Ctr(t.Context(), "--namespace", namespaces[i], "images", "pull", "--plain-http", "--snapshotter", "tocsin", ref)
		return err
	})
	im := l.image("python", "lazy")
	if n := l.count(func(r front.Request) bool { return r.Range != "" }); n != len(im.manifest.Layers)-1 {
		t.Errorf("%d ranges for %d layers pulled twice at once", n, len(im.manifest.Layers)-1)
	}
	tocs := l.blobBytes()
	together(6, func(i int) error {
		out, err := l.Ctr(t.Context(), append([]string{"--namespace", namespaces[i%2], "run", "--rm", "--snapshotter", "tocsin", ref, fmt.Sprintf("c%d", i)}, printOne...)...)
		if err == nil && out != "1\n" {
			err = fmt.Errorf("python printed %q", out)
		}
		return err
	})
	many := l.blobBytes() - tocs
	l.removeAll(ref)
	l.ctr("--namespace", namespaces[1], "images", "rm", "--sync", ref)
	l.checkNothingLeft()
	_, needed := l.stopServe()
	t.Logf("six containers at once fetched %d bytes for %d of chunks that were read", many, needed)
	if 2*many > 3*needed || needed == 0 {
		t.Errorf("fetched %d bytes for %d that were read", many, needed)
	}
}
