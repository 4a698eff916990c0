package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
)

// five writes layout five:x, a list of five platforms that share a layer, and an attestation.
func (b *killBench) five() {
	b.t.Helper()
	dir := filepath.Join(b.dir, "five")
	r := rand.NewChaCha8([32]byte{5})
	file := func(name string) mkimage.Layer {
		content := make([]byte, fileSize)
		_, _ = r.Read(content)
		return mkimage.File(name, content)
	}
	shared := file("shared")
	var list []v1.Descriptor
	for _, arch := range []string{"amd64", "arm64", "s390x", "ppc64le", "riscv64"} {
		d, err := mkimage.Write(b.t.Context(), dir, arch, []mkimage.Layer{shared, file(arch)}, nil)
		if err != nil {
			b.t.Fatal(err)
		}
		d.Annotations, d.Platform = nil, &v1.Platform{OS: "linux", Architecture: arch}
		list = append(list, d)
	}
	blob := func(mediaType string, raw []byte) v1.Descriptor {
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Digest.Encoded()), raw, 0o644); err != nil {
			b.t.Fatal(err)
		}
		return d
	}
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest}
	m.SchemaVersion = 2
	m.Config = blob(v1.MediaTypeImageConfig, []byte(`{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}`))
	m.Layers = []v1.Descriptor{blob("application/vnd.in-toto+json", []byte(`{"_type":"statement"}`))}
	raw, err := json.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	attestation := blob(v1.MediaTypeImageManifest, raw)
	attestation.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	top := blob(v1.MediaTypeImageIndex, manifest.NewIndex(append(list, attestation)))
	top.Annotations = map[string]string{v1.AnnotationRefName: "x"}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), manifest.NewIndex([]v1.Descriptor{top}), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// lines runs a command to its end and counts the events that it tells.
func (b *killBench) lines(root string, args ...string) (out string, n int) {
	b.t.Helper()
	cmd := b.command(b.t.Context(), root, append(args, "--progress", "json")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	raw, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("tocsin %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return string(raw), strings.Count(stderr.String(), "\n")
}

// killedAtLine runs a command and kills it when it has told n events, wherever it is then. One that tells fewer ends.
func (b *killBench) killedAtLine(n int, root string, args ...string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	cmd := b.command(ctx, root, append(args, "--progress", "json")...)
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for i := 0; i < n && lines.Scan(); i++ {
	}
	_ = cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, stderr)
	_ = cmd.Wait()
}

// A list goes registry, layout, directory, store, registry, and is killed at three random moments in every step. Every
// digest stays; so do the signatures, on the way that can hold them.
func TestKillChain(t *testing.T) { // rule 12, rule 56, L33
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	b := newKillBench(t)
	b.five()
	key := filepath.Join(b.dir, "private.pem")
	if err := os.WriteFile(key, newPrivateKey(t), 0o600); err != nil {
		t.Fatal(err)
	}
	registry := "docker://" + b.host + "/"
	want := b.run("unused", "copy", "oci:five:x", registry+"plain:1")
	b.run("unused", "copy", "--sign-by-sigstore-key", key, "oci:five:x", registry+"signed:1")
	for _, way := range [][]string{
		{registry + "plain:1", "oci:%s/oci:x", "dir:%s/dir", "store:x", registry + "%s/plain:1"},
		{registry + "signed:1", "dir:%s/signed", "store:signed", registry + "%s/signed:1"},
	} {
		for _, dir := range []string{"whole", "killed"} {
			if err := os.MkdirAll(filepath.Join(b.dir, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		at := func(ref, dir string) string { return strings.ReplaceAll(ref, "%s", dir) }
		for i, to := range way[1:] {
			step := func(dir string) []string {
				args := []string{"copy", "--preserve-digests", "--with", "sigs", at(way[i], dir), at(to, dir)}
				if strings.HasPrefix(to, "store:") {
					args = append(args, "--keep-blobs")
				}
				return args
			}
			got, events := b.lines(filepath.Join(b.dir, "whole-root"), step("whole")...)
			if got != want {
				t.Fatalf("%s: %s", to, got)
			}
			root := filepath.Join(b.dir, "killed-root")
			for range 3 {
				n := random.IntN(events + 1)
				b.killedAtLine(n, root, step("killed")...)
				if strings.HasPrefix(to, "store:") {
					b.run(root, "check", "--verify")
				}
			}
			if got := b.run(root, step("killed")...); got != want {
				t.Errorf("%s: %s after kills", to, got)
			}
		}
		last := at(way[len(way)-1], "killed")
		if got := b.run("unused", "copy", "--preserve-digests", "--remove-signatures", last, "oci:verified:x"); got != want { // verifies every blob
			t.Errorf("%s: %s", last, got)
		}
	}
	b.sameSignatures("signed", "killed/signed")
	b.run(filepath.Join(b.dir, "killed-root"), "gc", "--grace=-1s")
	b.run(filepath.Join(b.dir, "killed-root"), "check", "--verify")
	b.run(filepath.Join(b.dir, "killed-root"), "copy", "--preserve-digests", "--remove-signatures", "store:x", "oci:after-gc:x")
}

// sameSignatures demands that every manifest of five:x has the same attached signatures in two repositories.
func (b *killBench) sameSignatures(one, two string) {
	b.t.Helper()
	var list v1.Index
	if err := json.Unmarshal(b.reg.Manifest(one, "1"), &list); err != nil {
		b.t.Fatal(err)
	}
	subjects := []digest.Digest{digest.FromBytes(b.reg.Manifest(one, "1"))}
	for _, d := range list.Manifests {
		subjects = append(subjects, d.Digest)
	}
	for _, d := range subjects {
		tag := fmt.Sprintf("%s-%s.sig", d.Algorithm(), d.Encoded())
		var was, is v1.Manifest
		err := errors.Join(json.Unmarshal(b.reg.Manifest(one, tag), &was), json.Unmarshal(b.reg.Manifest(two, tag), &is))
		if err != nil || len(was.Layers) != 1 || len(is.Layers) != 1 || was.Layers[0].Digest != is.Layers[0].Digest {
			b.t.Errorf("signatures of %s: %+v and %+v (%v)", d, was.Layers, is.Layers, err)
		}
	}
}

func newPrivateKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
