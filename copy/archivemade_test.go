package copy

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/compression"
)

// member is an entry of an archive under test.
type member struct {
	name    string
	content string
	link    string // symlink, or with hard a hard link
	hard    bool
}

func archive(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content)), Typeflag: tar.TypeReg}
		switch {
		case m.hard:
			h.Typeflag, h.Linkname = tar.TypeLink, m.link
		case m.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, m.link
		case strings.HasSuffix(m.name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func hexOf(content string) string { return digest.FromString(content).Encoded() }

func compress(t testing.TB, algo, content string) string {
	t.Helper()
	var b bytes.Buffer
	enc, err := compression.NewWriter(&b, algo, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(enc, content); err != nil {
		t.Fatal(err)
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// config is docker's configuration of an image with these tars.
func config(t testing.TB, tars ...[]byte) string {
	t.Helper()
	var ids []digest.Digest
	for _, raw := range tars {
		ids = append(ids, digest.FromBytes(raw))
	}
	return asJSON(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"sh"}}, "docker_version": "1.10.3",
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
}

// saved is docker save of 1.10 to 24: directories of old ids, a layer that was there already as a symlink.
func saved(t testing.TB, a, b []byte) []byte {
	both, one := config(t, a, b), config(t, a)
	id := func(n int) string { return strings.Repeat(fmt.Sprint(n), 64) }
	return archive(t,
		member{name: id(1) + "/"}, member{name: id(1) + "/VERSION", content: "1.0"}, member{name: id(1) + "/json", content: "{}"},
		member{name: id(1) + "/layer.tar", content: string(a)},
		member{name: id(2) + "/"}, member{name: id(2) + "/layer.tar", content: string(b)},
		member{name: hexOf(both) + ".json", content: both},
		member{name: id(3) + "/"}, member{name: id(3) + "/layer.tar", link: "../" + id(1) + "/layer.tar"},
		member{name: hexOf(one) + ".json", content: one},
		member{name: "manifest.json", content: asJSON(t, []savedImage{
			{Config: hexOf(both) + ".json", RepoTags: []string{"ours/both:1", "registry.example:5000/both:2"}, Layers: []string{id(1) + "/layer.tar", id(2) + "/layer.tar"}},
			{Config: hexOf(one) + ".json", RepoTags: []string{"one:latest"}, Layers: []string{id(3) + "/layer.tar"}},
		})},
		member{name: "repositories", content: `{"ours/both":{"1":"` + id(2) + `"}}`},
	)
}

// legacy is docker save before 1.10: only layers, each with what it stands on.
func legacy(t testing.TB, a, b []byte) []byte {
	id := func(n int) string { return strings.Repeat(fmt.Sprint(n), 64) }
	layer := func(n, parent int, cmd string) member {
		l := map[string]any{
			"id": id(n), "created": "2015-06-01T12:00:00Z", "author": "them", "architecture": "amd64", "os": "linux",
			"container_config": map[string]any{"Cmd": []string{"/bin/sh", "-c", cmd}}, "config": map[string]any{"Env": []string{"A=b"}},
		}
		if parent > 0 {
			l["parent"] = id(parent)
		}
		return member{name: id(n) + "/json", content: asJSON(t, l)}
	}
	return archive(t,
		layer(1, 0, "ADD base"), member{name: id(1) + "/layer.tar", content: string(a)}, member{name: id(1) + "/VERSION", content: "1.0"},
		layer(2, 1, "make"), member{name: id(2) + "/layer.tar", content: string(b)},
		member{name: "repositories", content: `{"both":{"old":"` + id(2) + `"},"base":{"old":"` + id(1) + `"}}`},
	)
}

// stored is an OCI layout with manifest.json, as docker writes since 25 (algo none) and the containerd image store
// (algo gzip): both platforms are in the index, one is there.
func stored(t testing.TB, algo string, a, b []byte) (raw []byte, image digest.Digest) {
	var members []member
	add := func(mediaType, content string) v1.Descriptor {
		members = append(members, member{name: "blobs/sha256/" + hexOf(content), content: content})
		return v1.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
	}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Config = add(v1.MediaTypeImageConfig, config(t, a, b))
	entry := savedImage{Config: "blobs/sha256/" + m.Config.Digest.Encoded(), RepoTags: []string{"both:1"}}
	for _, l := range [][]byte{a, b} {
		d := add(layerMediaType(algo), compress(t, algo, string(l)))
		m.Layers = append(m.Layers, d)
		entry.Layers = append(entry.Layers, "blobs/sha256/"+d.Digest.Encoded())
	}
	raw, err := json.MarshalIndent(m, "", "   ")
	if err != nil {
		t.Fatal(err)
	}
	md := add(v1.MediaTypeImageManifest, string(raw))
	absent := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("of another platform"), Size: 19}
	absent.Platform, md.Platform = &v1.Platform{OS: "linux", Architecture: "arm64"}, &v1.Platform{OS: "linux", Architecture: "amd64"}
	list := add(v1.MediaTypeImageIndex, asJSON(t, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{absent, md},
	}))
	members = append(members,
		member{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`},
		member{name: "index.json", content: asJSON(t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{list}})},
		member{name: "manifest.json", content: asJSON(t, []savedImage{entry})},
	)
	return archive(t, members...), md.Digest
}

// crane is what crane pull writes: compressed layers under the digests of their compressed bytes, and no manifest.
func crane(t testing.TB, algo string, a, b []byte) []byte {
	c, x, y := config(t, a, b), compress(t, algo, string(a)), compress(t, algo, string(b))
	return archive(t,
		member{name: "sha256:" + hexOf(c), content: c},
		member{name: hexOf(x) + ".tar.gz", content: x}, member{name: hexOf(y) + ".tar.gz", content: y},
		member{name: "manifest.json", content: asJSON(t, []savedImage{{
			Config: "sha256:" + hexOf(c), RepoTags: []string{"r.example/both:v"}, Layers: []string{hexOf(x) + ".tar.gz", hexOf(y) + ".tar.gz"},
		}})},
	)
}
