package integration

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
)

var printOne = []string{"python3", "-c", "print(1)"}

// readAll reads every file of a Debian image that is not this test's.
var readAll = []string{"sh", "-c", "find / -xdev -type f ! -name 'tocsin-*' -print0 | xargs -0 -n 50 -P 16 cat | wc -c"}

// A pushed sentinel variant is pulled and run by plain ctr, and only what is read is fetched, once.
func TestLazyWithPlainCtr(t *testing.T) {
	harness.Need(t)
	layout := harness.Image(t, "debian-python")
	for _, version := range []string{"2.4", "2.1"} {
		t.Run("containerd "+version, func(t *testing.T) {
			l := newLab(t, &harness.Options{Containerd: version, Serve: true, Config: backgroundOff})
			l.convert(layout, "gzip", "only", "python:lazy")
			im := l.image("python", "lazy")
			ref := l.pullCounted("python", "lazy")
			for _, d := range l.contents() {
				if d != im.digest && d != im.manifest.Config.Digest {
					t.Errorf("containerd's content store holds %s", d)
				}
			}
			tocs := l.blobBytes()
			l.python("first container", ref)
			l.checkEconomy(im, tocs)
			if more := l.python("second container", ref); more != 0 {
				t.Errorf("the second container fetched %d bytes", more)
			}
			_, needed := l.stopServe()
			content := l.blobBytes() - tocs
			t.Logf("%d bytes for %d of chunks that were read: %.2f times", content, needed, float64(content)/float64(needed))
			if 2*content > 3*needed || needed == 0 {
				t.Errorf("fetched %d bytes for %d that were read", content, needed)
			}
			l.must("", l.StartServe())
			if more := l.python("restarted daemon", ref); more != 0 {
				t.Errorf("after a restart of the daemon python fetched %d bytes", more)
			}
			l.whatIsThere(layout, ref)
		})
	}
}

// whatIsThere makes the whole image local; then neither a restarted daemon nor another image with the same files may
// fetch any of it.
func (l *lab) whatIsThere(layout, ref string) {
	l.t.Helper()
	size := l.run(ref, readAll...)
	l.restartServe()
	l.front.Forget()
	if again := l.run(ref, readAll...); again != size {
		l.t.Errorf("read %s bytes, then %s", size, again)
	}
	if n := l.front.Count("", "/"); n != 0 {
		l.t.Errorf("a restarted daemon made %d requests for what is local", n)
	}
	repacked := repack(l.t, layout)
	l.convert(repacked, "repacked", "only", "python:repacked")
	was, is := l.image("python", "lazy"), l.image("python", "repacked")
	for i, layer := range is.manifest.Layers[1:] {
		if layer.Digest == was.manifest.Layers[1:][min(i, len(was.manifest.Layers)-2)].Digest {
			l.t.Fatalf("layer %d was not repacked", i)
		}
	}
	other := l.pullCounted("python", "repacked")
	l.front.Forget()
	if again := l.run(other, readAll...); again != size {
		l.t.Errorf("read %s bytes, of the second image %s", size, again)
	}
	if n := l.front.Count("", "/"); n != 0 {
		l.t.Errorf("the second image made %d requests for files that the first one has, e.g. %s", n, l.front.Log()[0])
	}
	if got := l.run(other, "cat", "/tocsin-top"); got != "top\n" {
		l.t.Errorf("the top layer's file is %q", got)
	}
	if b := l.blobBytes(); b == 0 || b > 100 {
		l.t.Errorf("a file of 4 bytes took %d", b)
	}
}

// python runs it and returns how many bytes of blobs that took.
func (l *lab) python(what, ref string) int64 {
	l.t.Helper()
	before, requests := l.blobBytes(), l.front.Count("", "/blobs/")
	if out := l.run(ref, printOne...); out != "1\n" {
		l.t.Fatalf("%s: python printed %q", what, out)
	}
	more := l.blobBytes() - before
	l.t.Logf("%s: %d bytes in %d requests", what, more, l.front.Count("", "/blobs/")-requests)
	return more
}

// blobBytes is what the registry sent of layers: ranges. Configs are read whole.
func (l *lab) blobBytes() int64 {
	var n int64
	for _, r := range l.front.Log() {
		if r.Range != "" {
			n += r.Bytes
		}
	}
	return n
}

func (l *lab) checkEconomy(im published, tocs int64) {
	l.t.Helper()
	fetched := l.front.Bytes(http.MethodGet, "/blobs/")
	l.t.Logf("%d of the image's %d bytes, %.1f %%, TOCs %d", fetched, im.size(), 100*float64(fetched)/float64(im.size()), tocs)
	if 4*fetched > im.size() {
		l.t.Errorf("fetched %d of the image's %d bytes, more than 25 %%", fetched, im.size())
	}
}

// pullCounted pulls a lazy image and wants the requests to be: containerd's for the tag's manifest and the config, and one
// range for each layer, all of them under way at once.
func (l *lab) pullCounted(repo, tag string) string {
	l.t.Helper()
	im := l.image(repo, tag)
	layers := map[string]manifest.Range{} // blob path -> what a pull reads of it
	for _, layer := range im.manifest.Layers[1:] {
		layers["/v2/"+repo+"/blobs/"+layer.Digest.String()] = tocRange(l.t, layer)
	}
	l.front.Forget()
	l.front.Add(front.Rule{Ranged: true, Times: len(layers), Do: together(len(layers))})
	ref := l.pull(repo + ":" + tag)
	l.front.Behave()
	manifests, configs := 0, 0
	for _, r := range l.front.Log() {
		switch want, isLayer := layers[r.Path]; {
		case isLayer:
			delete(layers, r.Path) // a second request is one too many
			if r.Range != fmt.Sprintf("bytes=%d-%d", want.Off, want.End()-1) {
				l.t.Errorf("%s, want the TOC and tar-split at %+v", r, want)
			}
		case strings.HasSuffix(r.Path, "/blobs/"+im.manifest.Config.Digest.String()):
			configs++
		case strings.Contains(r.Path, "/manifests/"):
			manifests++
		default:
			l.t.Errorf("superfluous request: %s", r)
		}
	}
	if len(layers) != 0 || configs != 1 || manifests > 2 { // a HEAD for the tag, a GET for the digest
		l.t.Errorf("%d layers not asked for, %d requests for the config, %d for the manifest:\n%v", len(layers), configs, manifests, l.front.Log())
	}
	return ref
}

// tocRange is the shortest range with a layer's TOC and tar-split.
func tocRange(t *testing.T, d v1.Descriptor) manifest.Range {
	t.Helper()
	toc, err := manifest.TOCRefOf(d)
	if err != nil || toc == nil {
		t.Fatalf("TOC of layer %s: %v", d.Digest, err)
	}
	from := min(toc.TOC.Off, toc.TarSplit.Off)
	return manifest.Range{Off: from, Len: max(toc.TOC.End(), toc.TarSplit.End()) - from}
}

// together holds every request back until n of them are there; if they come one after the other they never are.
func together(n int) front.Action {
	var mu sync.Mutex
	here, all := 0, make(chan struct{})
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		if here++; here == n {
			close(all)
		}
		mu.Unlock()
		select {
		case <-all:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}
}

// repack makes an image with the files of another's layers in tars that begin with a file more, and a layer on top.
func repack(t *testing.T, layout string) string {
	t.Helper()
	var layers []mkimage.Layer
	for i, d := range gzipLayers(t, layout) {
		layers = append(layers, mkimage.Layer{CreatedBy: "repacked", Tar: func(_ context.Context, w io.Writer) error {
			return retar(w, filepath.Join(layout, "blobs", "sha256", d.Encoded()), fmt.Sprintf("tocsin-%d", i))
		}})
	}
	layers = append(layers, mkimage.File("/tocsin-top", []byte("top\n")))
	out := filepath.Join(t.TempDir(), "layout")
	if _, err := mkimage.Write(t.Context(), out, "repacked", layers, nil); err != nil {
		t.Fatal(err)
	}
	return out
}

// retar writes a gzipped layer's tar again, after a file with another name.
func retar(w io.Writer, blob, name string) error {
	file, err := os.Open(blob)
	if err != nil {
		return err
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	tw, tr := tar.NewWriter(w), tar.NewReader(unzipped)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(name))}); err != nil {
		return err
	}
	if _, err := io.WriteString(tw, name); err != nil {
		return err
	}
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return tw.Close()
		}
		if err == nil {
			err = tw.WriteHeader(header)
		}
		if err == nil {
			_, err = io.Copy(tw, tr)
		}
		if err != nil {
			return err
		}
	}
}
