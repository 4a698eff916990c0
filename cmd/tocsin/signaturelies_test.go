package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/contentd"
	"github.com/tocsin/tocsin/integration/forge"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// lieBench is a registry that answers every request for a manifest of the repository evil with one document. The layers
// that it names are there.
type lieBench struct {
	t          *testing.T
	reg        *front.Registry
	containerd *contentd.Server
	host, dir  string
	evil       digest.Digest // the layer of what a liar wants to be run

	raw, mediaType string // what is answered
}

func newLieBench(t *testing.T) *lieBench {
	b := &lieBench{t: t, reg: front.NewRegistry(), dir: t.TempDir()}
	f := front.New(b.reg)
	f.Add(front.Rule{Method: http.MethodGet, Path: "/v2/evil/manifests/", Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, ".sig") { // where signatures of others would be
			next.ServeHTTP(w, r)
			return
		}
		w.Header()["Content-Type"] = nil // net/http would guess
		if b.mediaType != "" {
			w.Header().Set("Content-Type", b.mediaType)
		}
		_, _ = io.WriteString(w, b.raw)
	}})
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	b.host = strings.TrimPrefix(srv.URL, "http://")
	socket, err := os.MkdirTemp("", "c") // a socket's path has room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socket) })
	if b.containerd, err = contentd.Start(t.Context(), socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.containerd.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, value := range map[string]string{
		"HOME": b.dir, "TMPDIR": b.dir, "TOCSIN_ROOT": filepath.Join(b.dir, "root"), "XDG_CACHE_HOME": filepath.Join(b.dir, "cache"),
		"CONTAINERD_ADDRESS": b.containerd.Address,
	} {
		t.Setenv(name, value)
	}
	b.evil = b.put(forge.EmptyLayer())
	if b.evil != forge.EmptyLayerDigest {
		t.Fatal(b.evil)
	}
	return b
}

func (b *lieBench) put(blob []byte) digest.Digest {
	return digest.Digest(b.reg.AddBlob("evil", blob))
}

// run runs a command of tocsin in this process.
func (b *lieBench) run(args ...string) (int, error) {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	err := root.ExecuteContext(b.t.Context())
	if err == nil {
		return exitOK, nil
	}
	return exitCode(context.Background(), err), err
}

// door is one way in which a document of a reference is used; arguments may have REF in them.
type door struct {
	args []string
	left func() bool // whether something got the name that was asked for; nil: nothing gets one
}

// doors are all of them for a new name.
func (b *lieBench) doors(name string) []door {
	file := func(place string) (string, func() bool) {
		path := filepath.Join(b.dir, name+place)
		return path, func() bool { _, err := os.Lstat(path); return err == nil }
	}
	dir, _ := file("-dir")
	_, inDir := file("-dir/manifest.json")
	layout, _ := file("-layout")
	_, inLayout := file("-layout/index.json")
	ociArchive, inOCI := file("-oci.tar")
	dockerArchive, inDocker := file("-docker.tar")
	saved, inSaved := file("-saved.tar")
	tagged := func(tag string) func() bool { return func() bool { return b.reg.Manifest("out", tag) != nil } }
	stored := func() bool { code, _ := b.run("inspect", "store:"+name); return code == exitOK }
	inContainerd := func() bool {
		list, err := b.containerd.Images(b.t.Context(), "ns")
		return err != nil || slices.ContainsFunc(list, func(im images.Image) bool { return strings.Contains(im.Name, name) })
	}
	return []door{
		{[]string{"copy", "REF", "store:" + name}, stored},
		{[]string{"copy", "REF", "dir:" + dir}, inDir},
		{[]string{"copy", "REF", "oci:" + layout + ":x"}, inLayout},
		{[]string{"copy", "REF", "docker://" + b.host + "/out:" + name}, tagged(name)},
		{[]string{"copy", "--format", "oci", "REF", "docker://" + b.host + "/out:oci-" + name}, tagged("oci-" + name)},
		{[]string{"copy", "REF", "oci-archive:" + ociArchive}, inOCI},
		{[]string{"copy", "REF", "docker-archive:" + dockerArchive}, inDocker},
		{[]string{"copy", "REF", "containerd:ns/" + name}, inContainerd},
		{[]string{"copy", "--dry-run", "REF", "store:" + name}, stored},
		{[]string{"save", "-o", saved, "--format", "oci", "REF"}, inSaved},
		{[]string{"digest", "--full-ref", "REF"}, nil},
		{[]string{"digest", "--algorithm", "sha512", "REF"}, nil},
		{[]string{"manifest", "REF"}, nil},
		{[]string{"inspect", "REF"}, nil},
		{[]string{"verify", "REF"}, nil},
	}
}

// remote are the doors that only take images of registries.
func (b *lieBench) remote(name string) []door {
	return append(b.doors(name),
		door{[]string{"pull", "REF"}, nil},
		door{[]string{"pull", "--into", "containerd:ns/into-" + name, "REF"}, nil},
		door{[]string{"tag", "REF", "again"}, nil},
	)
}

// walk wants each door to end with the code, and nothing to be left behind one that is shut.
func (b *lieBench) walk(what, ref string, doors []door, want int) {
	b.t.Helper()
	for _, d := range doors {
		args := slices.Clone(d.args)
		for i, a := range args {
			if a == "REF" {
				args[i] = ref
				if (args[0] == "pull" || args[0] == "tag") && strings.HasPrefix(ref, "docker://") {
					args[i] = strings.TrimPrefix(ref, "docker://")
				}
			}
		}
		code, err := b.run(append([]string{"--plain-http"}, args...)...)
		if code != want {
			b.t.Errorf("%s: %s: exit code %d, want %d (%v)", what, strings.Join(args, " "), code, want, err)
		}
		if want != exitOK && d.left != nil && d.left() {
			b.t.Errorf("%s: %s: something has the name", what, strings.Join(args, " "))
		}
	}
}

// contentTypes are what a registry may say of a manifest of schema 1.
var contentTypes = []string{
	manifest.DockerSchema1Signed, manifest.DockerSchema1, "", "application/json", "text/plain", v1.MediaTypeImageManifest, "application/x-unknown",
}

// A digest that somebody pinned, and a tag, are never answered with a document whose signatures are of another one.
func TestSignatureLiesThroughEveryDoor(t *testing.T) {
	b := newLieBench(t)
	body := forge.Schema1(b.evil)
	genuine := map[string]string{"OCI": `{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageManifest + `","config":{},"layers":[]}`, "schema 1": forge.Schema1(digest.FromString("good"))}
	n := 0
	for kind, pinned := range genuine {
		lies := forge.SignatureLies(body, pinned)
		for _, vector := range []string{"mismatched-payload", "invalid-signatures", "extra-fields"} {
			raw, err := os.ReadFile(filepath.Join("..", "..", "manifest", "testdata", "image-v5.42.1", "v2s1-"+vector+".manifest.json"))
			if err != nil {
				t.Fatal(err)
			}
			lies["vector "+vector] = string(raw)
		}
		for lie, raw := range lies {
			// The kinds of a wrong length and a wrong tail with every type; the rest with one of them each.
			types := []string{contentTypes[n%len(contentTypes)]}
			if lie == "whole tail" || lie == "length 0" || lie == "empty" {
				types = contentTypes
			} else if kind != "OCI" {
				continue
			}
			for _, mediaType := range types {
				n++
				b.raw, b.mediaType = raw, mediaType
				what := fmt.Sprintf("%s, %s, served as %q", kind, lie, mediaType)
				name := fmt.Sprint("n", n)
				b.walk(what, "docker://"+b.host+"/evil@"+digest.FromString(pinned).String(), b.remote(name), exitVerify)
				if kind == "OCI" { // to a tag it is nothing what somebody pinned
					b.walk(what, "docker://"+b.host+"/evil:latest", b.remote(name+"-tag"), exitVerify)
				}
			}
			if lie == "whole tail" || lie == "vector mismatched-payload" || n%8 == 0 { // the places read manifests in one function each
				b.local(kind+", "+lie, raw, pinned, fmt.Sprint("l", n))
			}
		}
	}
}

// local walks with a document that lies in a directory and in a layout, under the digest of what it is not and under its own.
func (b *lieBench) local(what, raw, pinned, name string) {
	b.t.Helper()
	dir := filepath.Join(b.dir, name+"-from")
	b.write(filepath.Join(dir, "version"), "Directory Transport Version: 1.1\n")
	b.write(filepath.Join(dir, "manifest.json"), raw)
	b.write(filepath.Join(dir, b.evil.Encoded()), string(forge.EmptyLayer()))
	b.walk(what+", in a directory", "dir:"+dir, b.doors(name+"d"), exitVerify)
	for i, d := range []digest.Digest{digest.FromString(pinned), digest.FromString(raw)} {
		layout := filepath.Join(b.dir, fmt.Sprintf("%s-from%d", name, i))
		desc := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: d, Size: int64(len(raw))}
		index, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{desc}})
		if err != nil {
			b.t.Fatal(err)
		}
		b.write(filepath.Join(layout, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
		b.write(filepath.Join(layout, "index.json"), string(index))
		b.write(filepath.Join(layout, "blobs", "sha256", d.Encoded()), raw)
		b.walk(fmt.Sprintf("%s, in a layout as %s", what, d), "oci:"+layout, b.doors(fmt.Sprintf("%so%d", name, i)), exitVerify)
	}
}

func (b *lieBench) write(path, text string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// The same doors are open to an honest document of schema 1, so that what shuts them is the lie.
func TestHonestSignaturesThroughEveryDoor(t *testing.T) {
	b := newLieBench(t)
	plain := forge.Schema1(b.evil)
	for i, raw := range []string{plain, forge.Sign(plain)} {
		for k, mediaType := range contentTypes[:5] {
			b.raw, b.mediaType = raw, mediaType
			name := fmt.Sprintf("n%d-%d", i, k)
			what := fmt.Sprintf("served as %q", mediaType)
			b.walk(what, "docker://"+b.host+"/evil@"+digest.FromString(plain).String(), b.doors(name), exitOK)
			b.walk(what, "docker://"+b.host+"/evil:latest", b.remote(name+"-tag"), exitOK)
		}
	}
}
