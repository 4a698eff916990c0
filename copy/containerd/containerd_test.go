package containerd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/contentd"
)

// server is a containerd's stores and a client of it.
func server(t *testing.T) (*contentd.Server, *Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "c") // a socket's path has room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := contentd.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	return s, c
}

func of(mediaType string, raw []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

// count is how many blobs the namespace has after a collection.
func count(t *testing.T, s *contentd.Server, namespace string) int {
	t.Helper()
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	blobs, err := s.Blobs(t.Context(), namespace)
	if err != nil {
		t.Fatal(err)
	}
	return len(blobs)
}

// What is written stays through collections: under the lease first, then under the image record, and what no record
// holds on to goes.
func TestCollection(t *testing.T) {
	s, c := server(t)
	ctx := t.Context()
	ns := c.Namespace("n")
	w, err := ns.Writer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	layer, config, stray := []byte("layer"), []byte("{}"), []byte("stray")
	ld, cd := of(v1.MediaTypeImageLayerGzip, layer), of(v1.MediaTypeImageConfig, config)
	for _, b := range [][]byte{layer, config, stray} {
		if err := w.Put(ctx, of("", b), bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	}
	md := of(v1.MediaTypeImageManifest, []byte(`{"m":1}`))
	// Twice: the second time it is there already, with fewer labels.
	if err := w.PutManifest(ctx, md, strings.NewReader(`{"m":1}`), nil); err != nil {
		t.Fatal(err)
	}
	if err := w.PutManifest(ctx, md, strings.NewReader(`{"m":1}`), []v1.Descriptor{cd, ld, ld}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "n"); n != 4 {
		t.Errorf("%d blobs under the lease", n)
	}
	if err := w.Name(ctx, "docker.io/library/x:1", md); err != nil {
		t.Fatal(err)
	}
	if err := w.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.Release(ctx); err != nil {
		t.Errorf("released twice: %v", err)
	}
	if n := count(t, s, "n"); n != 3 {
		t.Errorf("%d blobs of the image", n)
	}
	if got, err := ns.Image(ctx, "docker.io/library/x:1"); err != nil || got.Digest != md.Digest || got.Size != md.Size || got.MediaType != md.MediaType {
		t.Errorf("%+v, %v", got, err)
	}
	if l, err := s.Leases(ctx, "n"); err != nil || len(l) != 0 {
		t.Errorf("leases %v, %v", l, err)
	}
	// Another namespace has none of it.
	if _, err := c.Namespace("other").Image(ctx, "docker.io/library/x:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := c.Namespace("other").Size(ctx, ld.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// A writer that finds a blob of a dead writer's makes it its own before that one's lease ends.
func TestHold(t *testing.T) {
	s, c := server(t)
	ctx := t.Context()
	dead, err := c.Namespace("n").Writer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte("blob")
	if err := dead.Put(ctx, of("", b), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	w, err := c.Namespace("n").Writer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := w.Hold(ctx, of("", b)); err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	if ok, err := w.Hold(ctx, of("", []byte("absent"))); err != nil || ok {
		t.Errorf("%v, %v", ok, err)
	}
	if ok, err := w.Hold(ctx, v1.Descriptor{Digest: digest.FromBytes(b), Size: 3}); err != nil || ok {
		t.Errorf("another size: %v, %v", ok, err)
	}
	if err := dead.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "n"); n != 1 {
		t.Errorf("%d blobs", n)
	}
	if err := w.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "n"); n != 0 {
		t.Errorf("%d blobs without a lease", n)
	}
}

// Nothing that is not what its digest says gets in, and nothing is left of it.
func TestPutRefuses(t *testing.T) { // rule 17, rule 45
	s, c := server(t)
	ctx := t.Context()
	w, err := c.Namespace("n").Writer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d := of("", []byte("right"))
	broken := errors.New("broken")
	for name, r := range map[string]io.Reader{
		"wrong":  strings.NewReader("wrong"),
		"short":  strings.NewReader("righ"),
		"long":   strings.NewReader("right and more"),
		"broken": io.MultiReader(strings.NewReader("ri"), &failing{broken}),
	} {
		err := w.Put(ctx, d, r)
		if err == nil || name == "broken" && !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, err := w.Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(p, "wrong"); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(ctx, d); err == nil {
		t.Error("committed wrong bytes")
	}
	if p, err = w.Create(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(p, "right"); err != nil {
		t.Fatal(err)
	}
	if err := p.Abort(ctx); err != nil {
		t.Error(err)
	}
	blobs, err := s.Blobs(ctx, "n")
	left, err2 := s.Ingests(ctx, "n")
	if err != nil || err2 != nil || len(blobs)+len(left) != 0 {
		t.Errorf("left %v %v (%v, %v)", blobs, left, err, err2)
	}
	for range 2 { // the second finds it there
		if p, err = w.Create(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(p, "right"); err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(ctx, d); err != nil {
			t.Error(err)
		}
	}
	if left, err := s.Ingests(ctx, "n"); err != nil || len(left) != 0 {
		t.Errorf("left %v (%v)", left, err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

// Ranges are read where they are, and a read ends with its context.
func TestOpen(t *testing.T) {
	_, c := server(t)
	ctx, cancel := context.WithCancel(t.Context())
	ns := c.Namespace("n")
	w, err := ns.Writer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	if err := w.Put(ctx, of("", big), bytes.NewReader(big)); err != nil {
		t.Fatal(err)
	}
	b, err := ns.OpenUnverified(ctx, of("", big).Digest)
	if err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 2<<20)
	if n, err := b.ReadAt(part, 1<<20+5); err != nil || n != len(part) || !bytes.Equal(part, big[1<<20+5:][:2<<20]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	stream := b.Stream()
	if got, err := io.ReadAll(stream); err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	cancel()
	if _, err := b.ReadAt(part, 0); err == nil {
		t.Error("read after its context ended")
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
	if _, err := ns.OpenUnverified(t.Context(), of("", []byte("absent")).Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// No containerd is an error that says where none is.
func TestNobody(t *testing.T) {
	path := t.TempDir() + "/none.sock"
	c, err := New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Namespace("n").Image(t.Context(), "x"); err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

// A containerd that hashes in any algorithm and one that knows sha256 are told apart, and nothing of the question stays.
func TestHoldsDigests(t *testing.T) { // D17
	s, c := server(t)
	n := c.Namespace("ours")
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		if err := n.HoldsDigests(t.Context(), alg); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	if n := count(t, s, "ours"); n != 0 {
		t.Errorf("%d blobs stay", n)
	}
	s.Old.Store(true)
	if err := n.HoldsDigests(t.Context(), digest.SHA512); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("sha256 only: %v", err)
	}
	if err := n.HoldsDigests(t.Context(), digest.SHA256); err != nil {
		t.Errorf("sha256: %v", err)
	}
	if err := n.HoldsDigests(t.Context(), "sha999"); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("sha999: %v", err)
	}
	if n := count(t, s, "ours"); n != 0 {
		t.Errorf("%d blobs stay", n)
	}
	leases, err := s.Leases(t.Context(), "ours")
	if ingests, err2 := s.Ingests(t.Context(), "ours"); err != nil || err2 != nil || len(leases)+len(ingests) != 0 {
		t.Errorf("%v %v (%v, %v)", leases, ingests, err, err2)
	}
}
