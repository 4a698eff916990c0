package copy

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// A wish that was never made is an error before anything is read.
func TestAlgorithmUnset(t *testing.T) { // D2
	w := newWorld(t, 2)
	if _, err := w.try(w.docker("nothing:1"), "dir:"+w.dir+"/to", &Options{Digests: &manifest.DigestWish{}}); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("%v", err)
	}
	if n := len(w.front.Log()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// What cannot change is refused with both reasons, before the destination is asked or written.
func TestAlgorithmRefused(t *testing.T) { // D8, D18, D19, D20, D22, rule 60, rule 62
	w := newWorld(t, 2)
	src, _ := w.single()
	k := newKeys(t)
	w.copy(src, "dir:"+w.dir+"/signed", &Options{Signatures: Signing{Signers: []Signer{k.gpg}, Identity: "reg.example/a:1"}})
	at := w.situation(src).top.digest
	one, _, _ := w.schema1()
	b := w.build("about")
	subject := b.image("linux/amd64", algoGzip, small(t)...)
	about := b.name(b.artifact(subject, "says something"), "x")
	for _, c := range []struct {
		name, src, dst string
		o              Options
		want           error
		both           string
	}{
		{"preserved", src, w.docker("a:1"), Options{Preserve: true}, ErrPreserve, "--preserve-digests was given"},
		{"digested", src, w.docker("a@" + at.String()), Options{}, ErrPreserve, "the destination names a digest"},
		{"signed", "dir:" + w.dir + "/signed", w.docker("a:1"), Options{}, ErrPreserve, "it is signed"},
		{"schema 1", one, w.docker("a:1"), Options{}, manifest.ErrUnsupported, ""},
		{"a subject", about, w.docker("a:1"), Options{}, ErrPreserve, "it names its subject as sha256:"},
		{"into the store", src, "store:a:1", Options{}, ErrPreserve, "the store takes images as they are"},
	} {
		w.front.Forget()
		c.o.Digests = must(t, digest.SHA512)
		_, err := w.try(c.src, c.dst, &c.o)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.both != "" && (!strings.Contains(err.Error(), "must be sha512") || !strings.Contains(err.Error(), c.both)) {
			t.Errorf("%s: not both reasons: %v", c.name, err)
		}
		if n := w.front.Count("POST", "") + w.front.Count("PUT", ""); n != 0 {
			t.Errorf("%s: %d writes", c.name, n)
		}
		// A preference is none where nothing can change.
		c.o.Digests = prefer(t, digest.SHA512)
		if c.want == ErrPreserve && c.name != "signed" {
			if res, err := w.try(c.src, c.dst, &c.o); err != nil || res.Digest.Algorithm() != digest.SHA256 {
				t.Errorf("%s, preferred: %v %v", c.name, res, err)
			}
		}
	}
}

// A sha512 image is not changed for a registry that cannot hold it unless that was asked for; a preference that it
// cannot hold is a note.
func TestAlgorithmPlace(t *testing.T) { // D1, D3, D17, D18
	w := newWorld(t, 2)
	src, _ := w.single()
	was := w.situation(src).top.digest
	big := w.layout("big") + ":x"
	w.copy(src, big, &Options{Digests: must(t, digest.SHA512)})
	_, f, at := w.registryLike(front.OnlySHA256)
	if _, err := w.try(big, at+"a:1", nil); !errors.Is(err, ErrPreserve) || !errors.Is(err, manifest.ErrUnsupported) {
		t.Errorf("nothing was asked for: %v", err)
	}
	nothingSent(t, f, "nothing was asked for")
	if res := w.copy(big, at+"a:1", &Options{Digests: must(t, digest.SHA256)}); res.Digest != was {
		t.Errorf("in sha256 again: %s, was %s", res.Digest, was)
	}
	res := w.copy(src, at+"b:1", &Options{Digests: prefer(t, digest.SHA512)})
	if res.Digest != was || len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "did not become sha512") {
		t.Errorf("preferred: %+v", res)
	}
	if res := w.copy(src, w.docker("b:1"), &Options{Digests: prefer(t, digest.SHA512)}); res.Digest.Algorithm() != digest.SHA512 {
		t.Errorf("preferred, and it can be: %+v", res)
	}
	w.scan(w.docker("b:1"), digest.SHA512)
	// The same bytes may be named by another digest at the destination; that fixes them.
	top := digest.SHA512.FromBytes(w.raw(src))
	if res := w.copy(src, w.docker("c@"+top.String()), nil); res.Digest != top || w.reg.Manifest("c", top.String()) == nil {
		t.Errorf("digested: %+v", res)
	}
	wrong := digest.SHA512.FromString("x")
	if _, err := w.try(src, w.docker("c@"+wrong.String()), &Options{Digests: must(t, digest.SHA512)}); !errors.Is(err, ErrPreserve) {
		t.Errorf("digested, wrong: %v", err)
	}
}

// The old digest is verified in the pass that computes the new one: wrong bytes never get a right name.
func TestAlgorithmCorrupt(t *testing.T) { // D7, D11, rule 16
	for _, victim := range []string{"config", "layer"} {
		for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			w := newWorld(t, 2)
			src, _ := w.single()
			w.copy(src, w.docker("a:1"), nil)
			m := w.situation(src).instances[0].image.Manifest
			d := m.Config
			if victim == "layer" {
				d = m.Layers[1]
			}
			other, _, at := w.registryLike(func(h http.Handler) http.Handler { return h })
			w.front.Add(front.Rule{Method: "GET", Path: d.Digest.String(), Do: front.FlipBit(100)})
			for _, to := range []string{w.layout("to") + ":x", "dir:" + filepath.Join(w.dir, "dir"), at + "b:1"} {
				if _, err := w.try(w.docker("a:1"), to, &Options{Digests: must(t, alg)}); !errors.Is(err, manifest.ErrDigestMismatch) {
					t.Errorf("%s to %s in %s: %v", victim, to, alg, err)
				}
			}
			if other.Manifest("b", "1") != nil {
				t.Errorf("%s in %s: written to the registry", victim, alg)
			}
		}
	}
}

// What was verified under both digests once is not sent again; what was not is, and that is said.
func TestAlgorithmReuse(t *testing.T) { // D10, D12, D14, rule 64
	w := newWorld(t, 2)
	src, _ := w.single()
	w.copy(src, w.docker("a:1"), nil)
	o := &Options{Digests: must(t, digest.SHA512)}
	first := w.copy(src, w.docker("a:2"), o)
	if n := notesOf(first, "is copied again"); n != 3 {
		t.Errorf("%d notes about blobs that are there: %q", n, first.Notes)
	}
	w.front.Forget()
	second := w.copy(src, w.docker("a:2"), o)
	if n := w.front.Count("POST", "/uploads/"); n != 0 || second.Digest != first.Digest || len(second.Notes) != 0 {
		t.Errorf("the second run sent %d blobs: %+v", n, second)
	}
	// Another machine knows nothing of it.
	w.env = w.machine(2)
	if third := w.copy(src, w.docker("a:2"), o); third.Digest != first.Digest || notesOf(third, "is copied again") != 3 {
		t.Errorf("another machine: %+v", third)
	}
	w.env.Store = nil // and one without a store can still copy
	w.copy(src, w.docker("a:3"), o)
}

func notesOf(res *Result, text string) (n int) {
	for _, note := range res.Notes {
		if strings.Contains(note, text) {
			n++
		}
	}
	return n
}

// An image in sha512 goes everywhere and back without a change, and its signatures with it, under names of that digest.
func TestAlgorithmRoundTrip(t *testing.T) { // D1, D21, D22, rule 16, rule 58, L23, L24, L25
	w := newWorld(t, 4)
	k := newKeys(t)
	w.env.Trust = &Trust{Registries: w.lookasideAt("file://"+w.dir+"/sigs", "file://"+w.dir+"/sigs")}
	b := w.build("chunked")
	src := b.name(b.image("linux/amd64", algoChunked, small(t)...), "x")
	sign := Signing{Signers: []Signer{k.gpg}, Identity: "reg.example/a:1"}
	start := w.copy(src, w.docker("start:1"), &Options{Digests: must(t, digest.SHA512), Signatures: sign})
	want := w.raw(w.docker("start:1"))
	if _, err := os.Stat(filepath.Join(w.dir, "sigs", "start@sha512="+start.Digest.Encoded(), "signature-1")); err != nil {
		t.Error(err)
	}
	dir := "dir:" + filepath.Join(w.dir, "d")
	steps := []string{w.docker("start:1"), dir, "store:kept:1", w.docker("end:1")}
	for i := 1; i < len(steps); i++ {
		res := w.copy(steps[i-1], steps[i], &Options{Layers: Layers{KeepBlobs: strings.HasPrefix(steps[i], "store:")}, Preserve: true})
		if res.Digest != start.Digest || !bytes.Equal(w.raw(steps[i]), want) {
			t.Errorf("%s: %s, not %s", steps[i], res.Digest, start.Digest)
		}
		if sigs := w.signaturesOf(steps[i])[start.Digest]; len(sigs) != 1 {
			t.Errorf("%s: %d signatures", steps[i], len(sigs))
		}
	}
	w.scan(w.docker("end:1"), digest.SHA512)
	w.copy(w.docker("end:1"), w.layout("l")+":x", &Options{Signatures: Signing{Remove: true}, Preserve: true})
	w.copy(w.layout("l")+":x", "oci-archive:"+w.dir+"/a.tar", &Options{Preserve: true})
	w.scan("oci-archive:"+w.dir+"/a.tar", digest.SHA512)
	// By ranges and lazily, from its tables of contents; the files are named in sha512 too.
	w.env = w.machine(4)
	w.copy(w.docker("end:1"), "store:lazy", nil)
	if got := w.stored("store:lazy", manifest.TOCUnbound); len(got) != 2 || !bytes.Equal(got[1], small(t)[1]) {
		t.Errorf("%d tars from the store", len(got))
	}
	if _, err := os.Stat(filepath.Join(w.env.Store.Root(), "objects", "sha512")); err != nil {
		t.Error(err)
	}
}

// A dry run says what digests will do, and asks no registry, because a probe writes.
func TestAlgorithmDryRun(t *testing.T) { // D1
	w := newWorld(t, 2)
	src, _ := w.single()
	out, err := DryRun(t.Context(), w.env, w.ref(src), w.ref(w.docker("a:1")), &Options{Digests: must(t, digest.SHA512)})
	if err != nil {
		t.Fatal(err)
	}
	if out.Digest != "" || !strings.Contains(out.Edit, "digests become sha512") || !strings.Contains(out.Instances[0].Edit, "digests become sha512") {
		t.Errorf("%+v", out)
	}
	for _, b := range out.Instances[0].Blobs {
		if b.Action != ActionCopy || !strings.Contains(b.Reason, "sha512") {
			t.Errorf("%+v", b)
		}
	}
	if n := w.front.Count("POST", "") + w.front.Count("PUT", ""); n != 0 {
		t.Errorf("%d writes", n)
	}
}

// What is expected is the digest that the outcome has at the destination.
func TestAlgorithmExpected(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	res := w.copy(src, w.layout("a")+":x", &Options{Digests: must(t, digest.SHA512)})
	w.copy(src, w.layout("b")+":x", &Options{Digests: must(t, digest.SHA512), Push: Pushing{Expect: res.Digest}})
	_, err := w.try(src, w.layout("c")+":x", &Options{Digests: must(t, digest.SHA512), Push: Pushing{Expect: w.situation(src).top.digest}})
	if !errors.Is(err, ErrExpect) {
		t.Errorf("the digest that it had: %v", err)
	}
}

// A list that would be another one than was expected is refused before any of its manifests is written, whatever edits
// it.
func TestExpectedList(t *testing.T) { // D1
	w := newWorld(t, 4)
	if err := w.env.Registry.Repo(w.host, "asked").HoldsDigests(t.Context(), digest.SHA512); err != nil { // and not again
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		src string
		o   Options
	}{
		"kept":       {w.multi(algoGzip), Options{}},
		"encoded":    {w.multi(algoGzip), Options{Compress: Compression{Algorithm: algoZstd}}},
		"variants":   {w.multi(algoGzip), Options{Compress: Compression{Algorithm: algoChunked}}},
		"nested":     {w.nest(), Options{Compress: Compression{Algorithm: algoZstd}}},
		"renamed":    {w.nest(), Options{Digests: must(t, digest.SHA512)}},
		"both":       {w.multi(algoGzip), Options{Compress: Compression{Algorithm: algoChunked}, Digests: must(t, digest.SHA512)}},
		"wrapped":    {w.build("one").name(w.build("one").image("linux/amd64", algoGzip, small(t)...), "x"), Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: "hidden"}},
		"reinvented": {w.multi(algoGzip), Options{Format: "docker", Select: Select{Platforms: []v1.Platform{plat(t, "linux/amd64")}, Strip: true}}},
	} {
		want := w.copy(c.src, w.layout("want-"+name)+":x", &c.o).Digest
		c.o.Push.Expect = digest.FromString("something else")
		w.front.Forget()
		if _, err := w.try(c.src, w.docker(name+":1"), &c.o); !errors.Is(err, ErrExpect) {
			t.Errorf("%s: %v", name, err)
		}
		if n := w.front.Count("PUT", "/manifests/"); n != 0 {
			t.Errorf("%s: %d manifests", name, n)
		}
		c.o.Push.Expect = want
		if res := w.copy(c.src, w.docker(name+":1"), &c.o); res.Digest != want {
			t.Errorf("%s: %s, want %s", name, res.Digest, want)
		}
	}
}
