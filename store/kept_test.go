package store

import (
	"context"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

// keptImage commits an image and an artifact of a type that nobody knows, each with a blob that is kept for it.
func keptImage(t testing.TB, s *Store) (im image, artifact RawManifest, blobs []digest.Digest) {
	im = putImage(t, s, "linux/amd64")
	artifact = raw(map[string]any{"mediaType": "application/vnd.example.unheard-of", "blobs": []any{}})
	blobs = []digest.Digest{putBytes(t, s, []byte("a layer as it came")), putBytes(t, s, []byte("what the artifact has"))}
	ok(t, s.Commit(Commit{Records: []Record{im.record}, Manifests: append(im.manifests, artifact), Name: "img"}))
	ok(t, s.Commit(Commit{Top: artifact.Digest, Name: "artifact", Kept: map[digest.Digest][]digest.Digest{
		im.record.Manifest: {blobs[0]}, artifact.Digest: {blobs[1]},
	}}))
	return im, artifact, blobs
}

// rule 12: kept blobs stay as long as their manifest, whatever its type, and a later commit without them takes none.
func TestKept(t *testing.T) {
	s := newStore(t)
	im, artifact, blobs := keptImage(t, s)
	has := func(want ...bool) {
		t.Helper()
		gcAll(t, s, GCOptions{})
		for i, b := range blobs {
			if _, there := s.HasBlob(b); there != want[i] {
				t.Errorf("blob %d: %v, want %v", i, there, want[i])
			}
		}
	}
	has(true, true)
	ok(t, s.Commit(Commit{Records: []Record{im.record}, Manifests: im.manifests, Name: "img"}))
	more := putBytes(t, s, []byte("another blob"))
	ok(t, s.Commit(Commit{Top: im.record.Manifest, Kept: map[digest.Digest][]digest.Digest{im.record.Manifest: {more, blobs[0], more}}}))
	want := []digest.Digest{blobs[0], more}
	slices.Sort(want)
	if got := must[[]digest.Digest](t)(s.Kept(im.record.Manifest)); !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	ok(t, s.RemoveName("artifact"))
	has(true, false)
	if got := must[[]digest.Digest](t)(s.Kept(artifact.Digest)); len(got) != 0 {
		t.Errorf("kept for a manifest that is gone: %v", got)
	}
	ok(t, s.RemoveName("img"))
	has(false, false)
}

// What is promised must be there: at the commit, and whenever check looks.
func TestKeptMissing(t *testing.T) {
	s := newStore(t)
	im, _, blobs := keptImage(t, s)
	nowhere := digest.FromString("nowhere")
	wantIs(t, s.Commit(Commit{Top: im.record.Manifest, Kept: map[digest.Digest][]digest.Digest{im.record.Manifest: {nowhere}}}), ErrNotFound)
	wantIs(t, s.Commit(Commit{Top: im.record.Manifest, Kept: map[digest.Digest][]digest.Digest{nowhere: blobs}}), ErrNotFound)
	if got := must[[]digest.Digest](t)(s.Kept(im.record.Manifest)); !slices.Equal(got, blobs[:1]) {
		t.Errorf("a failed commit left %v", got)
	}
	wantClean(t, s)
	path := must[string](t)(s.BlobPath(blobs[1]))
	ok(t, os.Chmod(path, 0o600))
	ok(t, os.WriteFile(path, []byte("rot"), 0o600))
	ok(t, os.Remove(must[string](t)(s.BlobPath(blobs[0]))))
	findings := must[[]Finding](t)(s.Check(context.Background(), checkAll()))
	got := map[string]string{}
	for _, f := range findings {
		got[f.Object] = f.Kind
	}
	if len(findings) != 2 || got[blobRel(blobs[0])] != "missing" || got[blobRel(blobs[1])] != "corrupt" {
		t.Errorf("findings %+v", findings)
	}
}

// A blob that is kept for a manifest while gc is under way stays, although gc had read the manifest before.
func TestKeptDuringGC(t *testing.T) {
	s := newStore(t)
	_, artifact, _ := keptImage(t, s)
	late := putBytes(t, s, []byte("late"))
	must[uint64](t)(s.PutView(Chain{Layers: nil}, []byte("tree"))) // garbage, whose end is the moment
	gcAll(t, s, GCOptions{DropView: func(uint64) error {
		return s.Commit(Commit{Top: artifact.Digest, Kept: map[digest.Digest][]digest.Digest{artifact.Digest: {late}}})
	}})
	if _, there := s.HasBlob(late); !there {
		t.Error("gc took a blob that is kept")
	}
}
