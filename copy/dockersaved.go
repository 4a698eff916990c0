package copy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// The files that say what is in a docker archive. repositories is all there was before docker 1.10.
const (
	savedFile        = "manifest.json"
	repositoriesFile = "repositories"
)

const (
	maxSavedSize   = 4 << 20 // of each of these files, in bytes
	maxSavedLayers = 1024    // docker itself stops at 127
)

// savedImage is one image of manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string // bottom to top
}

// legacyImage is one image of repositories.
type legacyImage struct {
	id   string
	tags []string
}

// findSaved finds the image that a reference names in an archive of any age.
func findSaved(ctx context.Context, x archiveFiles, ref manifest.Ref) (archiveImage, error) {
	saved, legacy, err := readSaved(x)
	if err != nil {
		return archiveImage{}, err
	}
	if saved != nil {
		i, err := chooseSaved(ref, len(saved), func(i int) []string { return saved[i].RepoTags })
		if err != nil {
			return archiveImage{}, err
		}
		return locate(x, saved[i])
	}
	i, err := chooseSaved(ref, len(legacy), func(i int) []string { return legacy[i].tags })
	if err != nil {
		return archiveImage{}, err
	}
	return convertLegacy(ctx, x, legacy[i].id)
}

// readSaved reads what says which images an archive holds. One of the two lists is nil: an archive of docker 1.10 and
// later has the first, even when it is empty.
func readSaved(x archiveFiles) (saved []savedImage, legacy []legacyImage, err error) {
	raw, err := x.readUnverified(savedFile, maxSavedSize)
	if err == nil {
		if saved, err = parseSaved(raw); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", savedFile, err)
		}
		return saved, nil, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return nil, nil, err
	}
	if raw, err = x.readUnverified(repositoriesFile, maxSavedSize); err != nil {
		return nil, nil, fmt.Errorf("neither %s nor %s: %w", savedFile, repositoriesFile, err)
	}
	if legacy, err = parseRepositories(raw); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", repositoriesFile, err)
	}
	return nil, legacy, nil
}

// parseSaved reads manifest.json. It is pure.
func parseSaved(raw []byte) ([]savedImage, error) {
	var saved []savedImage
	if err := manifest.Decode(raw, &saved); err != nil {
		return nil, err
	}
	for i, s := range saved {
		if len(s.Layers) > maxSavedLayers {
			return nil, fmt.Errorf("image %d has %d layers: %w", i, len(s.Layers), manifest.ErrMalformed)
		}
		for _, name := range append([]string{s.Config}, s.Layers...) {
			if _, err := archiveName(name); err != nil {
				return nil, fmt.Errorf("image %d: %w", i, err)
			}
		}
	}
	return saved, nil
}

// parseRepositories reads the file of old: names to tags to the ids of top layers. It is pure; images come in the order
// of their ids.
func parseRepositories(raw []byte) ([]legacyImage, error) {
	var repos map[string]map[string]string
	if err := manifest.Decode(raw, &repos); err != nil {
		return nil, err
	}
	tags := make(map[string][]string)
	for repo, of := range repos {
		for tag, id := range of {
			if err := checkLegacyID(id); err != nil {
				return nil, err
			}
			tags[id] = append(tags[id], repo+":"+tag)
		}
	}
	var out []legacyImage
	for id, t := range tags {
		slices.Sort(t)
		out = append(out, legacyImage{id, t})
	}
	slices.SortFunc(out, func(a, b legacyImage) int { return cmp.Compare(a.id, b.id) })
	return out, nil
}

func checkLegacyID(id string) error {
	if len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return fmt.Errorf("the layer id %.100q is not 64 hex digits: %w", id, manifest.ErrMalformed)
	}
	return nil
}

// chooseSaved is the position of the image that a reference names among n with these tags. It is pure.
func chooseSaved(ref manifest.Ref, n int, tags func(i int) []string) (int, error) {
	switch {
	case ref.Index >= n:
		return 0, fmt.Errorf("image @%d of %d: %w", ref.Index, n, ErrNotFound)
	case ref.Index >= 0:
		return ref.Index, nil
	case ref.Name != "":
		for i := range n {
			if slices.ContainsFunc(tags(i), func(t string) bool { return normalName(t) == ref.Name }) {
				return i, nil
			}
		}
		return 0, fmt.Errorf("no image is named %q: %w", ref.Name, ErrNotFound)
	case n == 0:
		return 0, fmt.Errorf("no image: %w", ErrNotFound)
	case n > 1:
		var all []string
		for i := range min(n, 10) {
			all = append(all, tags(i)...)
		}
		return 0, fmt.Errorf("%d images; say which by its name or @POSITION (%.500s): %w", n, strings.Join(all, ", "), ErrUsage)
	}
	return 0, nil
}

// locate finds an image's files, and compares the config with its file's name where that is a digest.
func locate(x archiveFiles, s savedImage) (archiveImage, error) {
	raw, err := x.readUnverified(path.Clean(s.Config), manifest.MaxConfigSize)
	if err != nil {
		return archiveImage{}, fmt.Errorf("config: %w", err)
	}
	if d, ok := namedDigest(s.Config); ok {
		if raw, err = manifest.Covered(raw, d); err != nil {
			return archiveImage{}, fmt.Errorf("config %s: %w", s.Config, err)
		}
	}
	im := archiveImage{config: raw}
	for i, name := range s.Layers {
		name = path.Clean(name)
		if err := x.exists(name); err != nil {
			return archiveImage{}, fmt.Errorf("layer %d: %w", i, err)
		}
		im.layers = append(im.layers, name)
	}
	return im, nil
}

// namedDigest reads the digest that a config's file name claims: docker's <hex>.json, crane's sha256:<hex>, a layout's
// blobs/<algo>/<hex>.
func namedDigest(name string) (digest.Digest, bool) {
	base := strings.TrimSuffix(path.Base(name), ".json")
	algo := "sha256"
	if dir := path.Dir(name); path.Dir(dir) == v1.ImageBlobsDir {
		algo = path.Base(dir)
	}
	if !strings.Contains(base, ":") {
		base = algo + ":" + base
	}
	d := digest.Digest(base)
	return d, manifest.ValidDigest(d) == nil
}

const (
	maxStoredDepth = 4    // of lists in lists
	maxStoredDocs  = 1024 // manifests and lists looked at for one image
)

// storedManifest finds the manifest of an image in an archive that is an OCI layout too, as docker writes since version
// 25 and containerd always. It is the one whose config and layers are the image's very files. ErrNotFound when there
// is none; a document that is not what its digest says is an error.
func storedManifest(x *tarIndex, im archiveImage) (document, *manifest.Manifest, error) {
	none := fmt.Errorf("no manifest of the image: %w", ErrNotFound)
	if _, err := x.find(layoutFile); err != nil {
		return document{}, nil, none
	}
	idx, err := readArchiveIndex(x)
	if err != nil {
		return document{}, nil, err
	}
	type level struct {
		entries []v1.Descriptor
		depth   int
	}
	docs := 0
	for todo := []level{{idx.Manifests, 0}}; len(todo) > 0; todo = todo[1:] {
		for _, d := range todo[0].entries {
			if docs++; docs > maxStoredDocs {
				return document{}, nil, fmt.Errorf("more than %d manifests: %w", maxStoredDocs, manifest.ErrMalformed)
			}
			doc, err := storedDocument(x, d)
			if errors.Is(err, ErrNotFound) {
				continue // of a platform that was not saved
			}
			if err != nil {
				return document{}, nil, err
			}
			if manifest.IsList(doc.mediaType) && todo[0].depth < maxStoredDepth {
				list, err := manifest.ParseList(doc.raw, doc.mediaType)
				if err != nil {
					return document{}, nil, fmt.Errorf("list %s: %w", d.Digest, err)
				}
				todo = append(todo, level{list.Instances, todo[0].depth + 1})
			}
			if m := describes(x, doc, im); m != nil {
				return doc, m, nil
			}
		}
	}
	return document{}, nil, none
}

func storedDocument(x *tarIndex, d v1.Descriptor) (document, error) {
	name, err := blobName(d.Digest)
	if err != nil {
		return document{}, err
	}
	raw, err := x.readUnverified(name, manifest.MaxManifestSize)
	if err != nil {
		return document{}, err
	}
	return described(raw, d)
}

// describes returns a document as the manifest of just these files, nil when it is something else.
func describes(x *tarIndex, doc document, im archiveImage) *manifest.Manifest {
	if !manifest.IsManifest(doc.mediaType) {
		return nil
	}
	m, err := manifest.ParseManifest(doc.raw, doc.mediaType)
	if err != nil || len(m.Layers) != len(im.layers) {
		return nil
	}
	if _, err := manifest.Covered(im.config, m.Config.Digest); err != nil {
		return nil
	}
	for i, l := range m.Layers {
		at, err := x.findBlob(l.Digest)
		if err != nil {
			return nil
		}
		if layer, err := x.find(im.layers[i]); err != nil || at != layer {
			return nil
		}
	}
	return m
}

// legacyLayer is what docker kept of a layer before there were configs.
type legacyLayer struct {
	Parent    string          `json:"parent"`
	Created   json.RawMessage `json:"created"`
	Author    string          `json:"author"`
	Comment   string          `json:"comment"`
	Container struct {
		Cmd []string
	} `json:"container_config"`
}

// legacyHistory is a line of the history that a config made from such layers gets.
type legacyHistory struct {
	Created   json.RawMessage `json:"created,omitempty"`
	CreatedBy string          `json:"created_by,omitempty"`
	Author    string          `json:"author,omitempty"`
	Comment   string          `json:"comment,omitempty"`
}

// convertLegacy makes a config for an image that is only a chain of layers. Nothing in such an archive names the layers'
// digests, so they are what is found; the copy has the digests that follow from them.
func convertLegacy(ctx context.Context, x archiveFiles, top string) (archiveImage, error) {
	var im archiveImage
	var history []legacyHistory
	var diffIDs []digest.Digest
	var topRaw []byte
	for id := top; id != ""; {
		if len(history) == maxSavedLayers {
			return im, fmt.Errorf("layer %s: more than %d layers below %s: %w", id, maxSavedLayers, top, manifest.ErrMalformed)
		}
		if err := checkLegacyID(id); err != nil {
			return im, err
		}
		raw, err := x.readUnverified(id+"/json", manifest.MaxConfigSize)
		if err != nil {
			return im, err
		}
		var l legacyLayer
		if err := manifest.Decode(raw, &l, "parent", "created", "author", "comment", "container_config"); err != nil {
			return im, fmt.Errorf("%s/json: %w", id, err)
		}
		layer := id + "/layer.tar"
		diffID, err := x.tarDigest(ctx, layer)
		if err != nil {
			return im, fmt.Errorf("layer %s: %w", id, err)
		}
		if topRaw == nil {
			topRaw = raw
		}
		im.layers = append(im.layers, layer)
		diffIDs = append(diffIDs, diffID)
		history = append(history, legacyHistory{l.Created, strings.Join(l.Container.Cmd, " "), l.Author, l.Comment})
		id = l.Parent
	}
	slices.Reverse(im.layers)
	slices.Reverse(diffIDs)
	slices.Reverse(history)
	var err error
	im.config, err = legacyConfig(topRaw, diffIDs, history)
	return im, err
}

// legacyConfig makes an image configuration of the topmost layer's. It is pure.
func legacyConfig(top []byte, diffIDs []digest.Digest, history []legacyHistory) ([]byte, error) {
	var from map[string]json.RawMessage
	if err := json.Unmarshal(top, &from); err != nil {
		return nil, fmt.Errorf("%w: %w", err, manifest.ErrMalformed)
	}
	// What was left out was for linux/amd64: docker knew no other platform then.
	config := map[string]any{"architecture": "amd64", "os": "linux"}
	for _, key := range []string{"architecture", "author", "config", "created", "os", "variant"} {
		if v, ok := from[key]; ok {
			config[key] = v
		}
	}
	config["rootfs"] = v1.RootFS{Type: "layers", DiffIDs: diffIDs}
	config["history"] = history
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, manifest.ErrMalformed)
	}
	return raw, nil
}
