package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Image is layers under one manifest, bottom to top.
type Image struct {
	Layers []*Blob
	// Sentinel is the media type of the sentinel that comes first; "": there is none.
	Sentinel string
	// ChainBound makes each diff_id the layer's TOC digest instead of its tar's digest.
	ChainBound bool
	// DiffIDs, if not nil, are those of the config instead, the sentinel's included.
	DiffIDs   []digest.Digest
	Algorithm digest.Algorithm // of manifest and config; "": sha256

	EditConfig   func(*v1.Image)
	EditManifest func(*v1.Manifest)
}

// Bundle is an image or a list with all that it needs.
type Bundle struct {
	Top       v1.Descriptor
	Blobs     map[digest.Digest][]byte
	Manifests map[digest.Digest]Document // Top's included
}

// Document is a manifest or a list.
type Document struct {
	MediaType string
	Raw       []byte
}

// Bundle returns the image's manifest and config with its layers.
func (im *Image) Bundle() (*Bundle, error) {
	alg := im.Algorithm
	if alg == "" {
		alg = digest.SHA256
	}
	b := &Bundle{Blobs: map[digest.Digest][]byte{}, Manifests: map[digest.Digest]Document{}}
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
	if im.Sentinel != "" {
		sentinel := manifest.SentinelDescriptor(im.Sentinel, alg)
		b.Blobs[sentinel.Digest] = manifest.SentinelContent()
		m.Layers = append(m.Layers, sentinel)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, sentinel.Digest)
	}
	for _, l := range im.Layers {
		b.Blobs[l.Descriptor.Digest] = l.Bytes
		m.Layers = append(m.Layers, l.Descriptor)
		diffID := l.DiffID
		if im.ChainBound {
			diffID = l.TOC.Digest
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	if im.DiffIDs != nil {
		config.RootFS.DiffIDs = im.DiffIDs
	}
	if im.EditConfig != nil {
		im.EditConfig(&config)
	}
	raw, err := json.Marshal(&config)
	if err != nil {
		return nil, fmt.Errorf("forge: config: %w", err)
	}
	m.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: alg.FromBytes(raw), Size: int64(len(raw))}
	b.Blobs[m.Config.Digest] = raw
	if im.EditManifest != nil {
		im.EditManifest(&m)
	}
	return b, b.setTop(alg, m.MediaType, &m)
}

// setTop adds a document and makes it the one that the bundle is of.
func (b *Bundle) setTop(alg digest.Algorithm, mediaType string, document any) error {
	raw, err := json.Marshal(document)
	if err != nil {
		return fmt.Errorf("forge: manifest: %w", err)
	}
	b.Top = v1.Descriptor{MediaType: mediaType, Digest: alg.FromBytes(raw), Size: int64(len(raw))}
	b.Manifests[b.Top.Digest] = Document{mediaType, raw}
	return nil
}

// List returns a list of instances. Their descriptors in it have this machine's platform; edit, if not nil, changes the
// list before it is written.
func List(alg digest.Algorithm, edit func(*v1.Index), instances ...*Bundle) (*Bundle, error) {
	if alg == "" {
		alg = digest.SHA256
	}
	b := &Bundle{Blobs: map[digest.Digest][]byte{}, Manifests: map[digest.Digest]Document{}}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	for _, instance := range instances {
		maps.Copy(b.Blobs, instance.Blobs)
		maps.Copy(b.Manifests, instance.Manifests)
		desc := instance.Top
		desc.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
		index.Manifests = append(index.Manifests, desc)
	}
	if edit != nil {
		edit(&index)
	}
	return b, b.setTop(alg, index.MediaType, &index)
}

// Layout adds the bundle to the OCI layout at dir, which is made if need be, under a name.
func (b *Bundle) Layout(dir, name string) error {
	for d, raw := range b.all() {
		file := filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded())
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("forge: %w", err)
		}
		if err := os.WriteFile(file, raw, 0o644); err != nil {
			return fmt.Errorf("forge: %w", err)
		}
	}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	file := filepath.Join(dir, "index.json")
	if raw, err := os.ReadFile(file); err == nil {
		if err := json.Unmarshal(raw, &index); err != nil {
			return fmt.Errorf("forge: %s: %w", file, err)
		}
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[v1.AnnotationRefName] == name })
	top := b.Top
	top.Annotations = map[string]string{v1.AnnotationRefName: name}
	index.Manifests = append(index.Manifests, top)
	raw, err := json.Marshal(&index)
	if err != nil {
		return fmt.Errorf("forge: %s: %w", file, err)
	}
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		return fmt.Errorf("forge: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, v1.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

func (b *Bundle) all() map[digest.Digest][]byte {
	all := maps.Clone(b.Blobs)
	for d, doc := range b.Manifests {
		all[d] = doc.Raw
	}
	return all
}

// Push uploads the bundle to the registry at base, "http://host", and tags it.
func (b *Bundle) Push(ctx context.Context, client *http.Client, base, repo, tag string) error {
	for _, d := range slices.Sorted(maps.Keys(b.Blobs)) {
		if err := pushBlob(ctx, client, base+"/v2/"+repo, d, b.Blobs[d]); err != nil {
			return err
		}
	}
	put := func(ref string, d digest.Digest) error {
		doc := b.Manifests[d]
		_, err := send(ctx, client, http.MethodPut, base+"/v2/"+repo+"/manifests/"+ref, doc.MediaType, doc.Raw)
		return err
	}
	for _, d := range slices.Sorted(maps.Keys(b.Manifests)) {
		if d == b.Top.Digest {
			continue
		}
		if err := put(d.String(), d); err != nil {
			return err
		}
	}
	return put(tagOf(tag, b.Top.Digest), b.Top.Digest)
}

// tagOf makes a registry name the manifest by the digest it has, also when that is not sha256.
func tagOf(tag string, d digest.Digest) string {
	if d.Algorithm() == digest.SHA256 {
		return tag
	}
	return tag + "?digest=" + d.String()
}

func pushBlob(ctx context.Context, client *http.Client, base string, d digest.Digest, raw []byte) error {
	where, err := send(ctx, client, http.MethodPost, base+"/blobs/uploads/", "", nil)
	if err != nil {
		return err
	}
	from, err := url.Parse(base + "/blobs/uploads/")
	if err != nil {
		return err
	}
	to, err := from.Parse(where)
	if err != nil {
		return err
	}
	query := to.Query()
	query.Set("digest", d.String())
	to.RawQuery = query.Encode()
	_, err = send(ctx, client, http.MethodPut, to.String(), "application/octet-stream", raw)
	return err
}

// send makes a request that must succeed, and returns the answer's Location.
func send(ctx context.Context, client *http.Client, method, to, mediaType string, body []byte) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	res, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("forge: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 1000))
	if err != nil {
		return "", fmt.Errorf("forge: %s %s: %w", method, to, err)
	}
	if res.StatusCode >= 300 {
		return "", fmt.Errorf("forge: %s %s: %s: %s", method, to, res.Status, strings.TrimSpace(string(answer)))
	}
	return res.Header.Get("Location"), nil
}
