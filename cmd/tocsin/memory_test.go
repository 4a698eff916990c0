package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/front"
)

const (
	bigSize   = 512 << 20
	maxMemory = 200 << 20
)

// measured is tocsin that writes its largest resident set into a file when it ends.
func measured() {
	code := run(os.Args[1:])
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		_, after, _ := strings.Cut(string(status), "VmHWM:")
		err = os.WriteFile(os.Getenv("TOCSIN_TEST_MEMORY"), []byte(strings.Fields(after + " 0")[0]), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = exitOther
	}
	os.Exit(code)
}

// diskRegistry serves one image with a layer that is a file, and takes uploads without keeping them.
type diskRegistry struct {
	*front.Registry
	layer v1.Descriptor
	file  string
}

func (g *diskRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "big/blobs/"+g.layer.Digest.String()):
		http.ServeFile(w, r, g.file)
	case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/uploads/"):
		hash := sha256.New()
		_, err := io.Copy(hash, r.Body)
		d := digest.NewDigest(digest.SHA256, hash)
		if want := r.URL.Query().Get("digest"); err != nil || want != d.String() {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Docker-Content-Digest", d.String())
		w.WriteHeader(http.StatusCreated)
	default:
		g.Registry.ServeHTTP(w, r)
	}
}

// bigLayer writes a gzip layer of one file that does not compress, and returns it and its diffID. The gzip stores, so
// that what is measured is not the time of a compressor.
func bigLayer(t *testing.T, name string) (v1.Descriptor, digest.Digest) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	blob, content := sha256.New(), sha256.New()
	count := &counting{}
	z, err := gzip.NewWriterLevel(io.MultiWriter(f, blob, count), gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(io.MultiWriter(z, content))
	err = tw.WriteHeader(&tar.Header{Name: "big", Mode: 0o644, Size: bigSize, Typeflag: tar.TypeReg})
	block := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(block)
	for i := uint64(0); i < bigSize>>20 && err == nil; i++ {
		for at := 0; at < len(block); at += 4 << 10 { // no two pages are the same
			binary.LittleEndian.PutUint64(block[at:], i)
		}
		_, err = tw.Write(block)
	}
	if err := errors.Join(err, tw.Close(), z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: digest.NewDigest(digest.SHA256, blob), Size: count.n},
		digest.NewDigest(digest.SHA256, content)
}

type counting struct{ n int64 }

func (c *counting) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// bigImage puts an image of that one layer into the registry.
func bigImage(t *testing.T, g *diskRegistry, diffID digest.Digest) {
	t.Helper()
	config, err := json.Marshal(v1.Image{Platform: v1.Platform{OS: "linux", Architecture: localPlatform().Architecture},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.Digest(g.AddBlob("big", config)), Size: int64(len(config))},
		Layers: []v1.Descriptor{g.layer}})
	if err != nil {
		t.Fatal(err)
	}
	g.AddManifest("big", "1", v1.MediaTypeImageManifest, raw)
}

// Memory does not grow with the size of a blob: acceptance 5 of the copy engine.
func TestMemoryIsFlat(t *testing.T) {
	if testing.Short() {
		t.Skip("it moves some gigabytes")
	}
	dir := t.TempDir()
	g := &diskRegistry{Registry: front.NewRegistry(), file: filepath.Join(dir, "layer")}
	var diffID digest.Digest
	g.layer, diffID = bigLayer(t, g.file)
	bigImage(t, g, diffID)
	srv := httptest.NewServer(g)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, c := range []struct {
		name string
		args []string
	}{
		{"registry to oci", []string{"docker://" + host + "/big:1", "oci:" + dir + "/out:x"}},
		{"oci to registry", []string{"oci:" + dir + "/out:x", "docker://" + host + "/other:1"}},
		{"registry to store", []string{"docker://" + host + "/big:1", "store:big"}},
		{"gzip to zstd:chunked", []string{"--compress", "zstd:chunked", "docker://" + host + "/big:1", "docker://" + host + "/chunked:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := memoryOf(t, dir, append([]string{"copy"}, c.args...)...); got > maxMemory {
				t.Errorf("%d MiB for a blob of %d MiB, more than %d", got>>20, bigSize>>20, maxMemory>>20)
			} else {
				t.Logf("%d MiB", got>>20)
			}
		})
		if c.name == "oci to registry" {
			if err := os.RemoveAll(filepath.Join(dir, "out")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if raw := g.Manifest("other", "1"); digest.FromBytes(raw) != digest.FromBytes(g.Manifest("big", "1")) {
		t.Error("the copy is another image")
	}
}

// memoryOf runs tocsin and returns the most memory that it had.
func memoryOf(t *testing.T, dir string, args ...string) int64 {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = append([]string{"tocsin-measured"}, args...)
	out := filepath.Join(dir, "memory")
	cmd.Env = append(os.Environ(), "TOCSIN_ROOT="+filepath.Join(dir, "root"), "HOME="+dir, "TMPDIR="+dir, "TOCSIN_TEST_MEMORY="+out)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("tocsin %s: %v\n%s", strings.Join(args, " "), err, &said)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	kib, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || kib == 0 {
		t.Fatalf("memory %q: %v", raw, err)
	}
	return kib << 10
}
