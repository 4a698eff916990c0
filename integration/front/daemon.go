package front

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
)

// Daemon stands in for a docker daemon: the requests of its Engine API that docker save and docker load make, as the API's
// documentation and docker's own answers have them. There is no docker in tests; that this is what a real one does is
// taken from there and not proved here. The exported fields are set before it is used.
type Daemon struct {
	Classic bool   // saves as docker 1.10 to 24 did, without a manifest
	Refuse  string // load reads all of an archive, and then says this
	Deaf    bool   // load answers with Refuse at once and reads nothing

	mu     sync.Mutex
	images []daemonImage
}

// daemonImage is an image with the archive that it came in.
type daemonImage struct {
	id    string // of the config, hex
	names []string
	raw   []byte
	parts savedParts
}

// savedParts are the files of an archive, and its one entry of manifest.json.
type savedParts struct {
	files map[string][]byte
	entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
}

// ServeHTTP implements http.Handler.
func (d *Daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, get := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/images/"), "/get")
	switch {
	case r.Method == http.MethodGet && get:
		d.save(w, name)
	case r.Method == http.MethodPost && r.URL.Path == "/images/load":
		d.load(w, r)
	default:
		answer(w, http.StatusNotFound, "page not found")
	}
}

func answer(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
}

// Names are the names of all images, in the order in which they were loaded.
func (d *Daemon) Names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, im := range d.images {
		out = append(out, im.names...)
	}
	return out
}

// ID is the ID of the image of that familiar name, "" when there is none.
func (d *Daemon) ID(name string) string {
	if im := d.find(name); im != nil {
		return "sha256:" + im.id
	}
	return ""
}

// Put gives the daemon an archive as if it had been loaded.
func (d *Daemon) Put(raw []byte) error {
	parts, err := readSaved(bytes.NewReader(raw))
	if err == nil {
		err = parts.check()
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.images { // a name moves
		for _, name := range parts.entry.RepoTags {
			d.images[i].names = without(d.images[i].names, name)
		}
	}
	d.images = append(d.images, daemonImage{id: sum(parts.files[parts.entry.Config]), names: parts.entry.RepoTags, raw: raw, parts: parts})
	return nil
}

func without(names []string, name string) (out []string) {
	for _, n := range names {
		if n != name {
			out = append(out, n)
		}
	}
	return out
}

// find looks for a name in docker's short spelling or in full, an ID, or a name with the ID for a digest.
func (d *Daemon) find(name string) *daemonImage {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
	_, id, _ := strings.Cut(name, "sha256:")
	for i := range d.images {
		im := &d.images[i]
		if im.id == id || strings.Contains("\n"+strings.Join(im.names, "\n")+"\n", "\n"+name+"\n") {
			return im
		}
	}
	return nil
}

func (d *Daemon) save(w http.ResponseWriter, name string) {
	im := d.find(name)
	if im == nil {
		answer(w, http.StatusNotFound, "No such image: "+name)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	raw := im.raw
	if d.Classic {
		raw = im.parts.classic(im.id)
	}
	_, _ = w.Write(raw)
}

func (d *Daemon) load(w http.ResponseWriter, r *http.Request) {
	if d.Deaf {
		answer(w, http.StatusInternalServerError, d.Refuse)
		return
	}
	raw, err := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	if err == nil && d.Refuse != "" {
		err = errors.New(d.Refuse)
	}
	if err == nil {
		err = d.Put(raw)
	}
	out := json.NewEncoder(w)
	if err != nil { // too late for a status
		_ = out.Encode(map[string]any{"errorDetail": map[string]string{"message": err.Error()}, "error": err.Error()})
		return
	}
	_ = out.Encode(map[string]string{"stream": "Loaded image\n"})
}

func sum(raw []byte) string {
	h := sha256.Sum256(raw)
	return hex.EncodeToString(h[:])
}

// readSaved takes an archive apart. It must be a whole one.
func readSaved(r io.Reader) (savedParts, error) {
	p := savedParts{files: make(map[string][]byte)}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return p, err
		}
		if p.files[path.Clean(h.Name)], err = io.ReadAll(tr); err != nil {
			return p, err
		}
	}
	var saved []json.RawMessage
	if err := json.Unmarshal(p.files["manifest.json"], &saved); err != nil || len(saved) != 1 {
		return p, fmt.Errorf("manifest.json: %d images, %v", len(saved), err)
	}
	return p, json.Unmarshal(saved[0], &p.entry)
}

// check compares each layer's tar with the config, as docker does.
func (p savedParts) check() error {
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(p.files[p.entry.Config], &config); err != nil {
		return err
	}
	if len(config.RootFS.DiffIDs) != len(p.entry.Layers) {
		return errors.New("invalid manifest, layers length mismatch")
	}
	for i, name := range p.entry.Layers {
		if got := "sha256:" + sum(p.files[name]); got != config.RootFS.DiffIDs[i] {
			return fmt.Errorf("invalid diffID for layer %d: expected %q, got %q", i, config.RootFS.DiffIDs[i], got)
		}
	}
	return nil
}

// classic is the archive that docker 1.10 to 24 would have written.
func (p savedParts) classic(id string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, raw []byte) {
		_ = w.WriteHeader(&tar.Header{Name: name, Size: int64(len(raw)), Mode: 0o644, Typeflag: tar.TypeReg})
		_, _ = w.Write(raw)
	}
	entry := p.entry
	entry.Config, entry.Layers = id+".json", nil
	for i, name := range p.entry.Layers {
		layer := fmt.Sprintf("%s%02d/layer.tar", id[:62], i)
		entry.Layers = append(entry.Layers, layer)
		add(layer, p.files[name])
	}
	add(entry.Config, p.files[p.entry.Config])
	saved, _ := json.Marshal([]any{entry})
	add("manifest.json", saved)
	_ = w.Close()
	return b.Bytes()
}
