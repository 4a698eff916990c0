package copy

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// contents indexes a finished archive and reads all of it.
func contents(t *testing.T, path string) map[string]string {
	t.Helper()
	f, x, err := openArchive(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]string{}
	for name := range x.files {
		raw, err := x.readUnverified(name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(raw)
	}
	return out
}

func descOf(content string) v1.Descriptor {
	return v1.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}
}

// blobs of unknown size that are made at once, aborted and given twice leave the archive as if they had come in order.
func TestTarOutBlobs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	o, err := newTarOut(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	begin := func(content string) spool {
		t.Helper()
		s, err := o.blob()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(s, content); err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := begin("first")
	if _, ok := first.(*straightBlob); !ok {
		t.Errorf("the first blob takes a detour: %T", first)
	}
	second, aborted := begin("second"), begin("aborted")
	if _, ok := second.(*looseBlob); !ok {
		t.Errorf("two blobs are in the archive's file at once: %T", second)
	}
	if err := errors.Join(first.commit(ctx, descOf("first")), second.commit(ctx, descOf("second")), aborted.abort()); err != nil {
		t.Fatal(err)
	}
	if err := begin(strings.Repeat("gone", 1000)).abort(); err != nil {
		t.Fatal(err)
	}
	if err := begin("first").commit(ctx, descOf("first")); err != nil { // what is there is not written twice
		t.Fatal(err)
	}
	if err := begin("short").commit(ctx, descOf("longer than that")); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Errorf("a blob of the wrong length: %v", err)
	}
	if err := o.addBytes(ctx, "last", []byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := o.finish(ctx); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"blobs/sha256/" + hexOf("first"): "first", "blobs/sha256/" + hexOf("second"): "second", "last": "last"}
	got := contents(t, path)
	if len(got) != len(want) {
		t.Errorf("files %v", got)
	}
	for name, content := range want {
		if got[name] != content {
			t.Errorf("%s: %q", name, got[name])
		}
	}
	if err := o.addBytes(ctx, "later", nil); err == nil {
		t.Error("wrote behind the end")
	}
}

// A blob that fails is taken back, and what comes after it stands where it began.
func TestTarOutTakesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	o, err := newTarOut(path)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the line broke")
	body := func(err error) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, 100<<10)), failing{err})), nil
		}
	}
	if err := o.add(t.Context(), "a", 200<<10, body(broken)); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if err := o.add(t.Context(), "a", 200<<10, body(io.EOF)); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Errorf("half a blob: %v", err)
	}
	if err := errors.Join(o.addBytes(t.Context(), "a", []byte("a")), o.finish(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, path); len(got) != 1 || got["a"] != "a" {
		t.Errorf("files %v", got)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Many writers take turns; who waits can be called off.
func TestTarOutTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	o, err := newTarOut(path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			content := strings.Repeat("x", i*100)
			s, err := o.blob()
			if err == nil {
				_, err = io.WriteString(s, content)
			}
			if err == nil {
				err = s.commit(t.Context(), descOf(content))
			}
			if err == nil {
				err = o.addBytes(t.Context(), strings.Repeat("n", i+90), []byte(content))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := o.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.addBytes(ctx, "never", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("waited: %v", err)
	}
	o.release()
	if err := o.finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, path); len(got) != 80 {
		t.Errorf("%d files", len(got))
	}
}

func TestTarHeader(t *testing.T) {
	for name, blocks := range map[string]int{"blobs/sha256/" + strings.Repeat("a", 64): 1, "blobs/sha512/" + strings.Repeat("a", 128): 3} {
		for _, size := range []int64{0, 1, maxUSTAR - 1, maxUSTAR, 1 << 50} {
			raw, err := tarHeader(name, size)
			if err != nil {
				t.Fatal(err)
			}
			h, err := tar.NewReader(bytes.NewReader(raw)).Next()
			if err != nil || h.Name != name || h.Size != size || len(raw) != blocks*tarBlock {
				t.Errorf("%s of %d bytes: %+v in %d bytes, %v", name, size, h, len(raw), err)
			}
		}
	}
}
