package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
	bolt "go.etcd.io/bbolt"
)

// ObjectRef is one regular file's content as a layer index names it.
type ObjectRef struct {
	Digest digest.Digest
	List   digest.Digest // of its chunk list
	Size   int64
}

// roots is what must stay, as far as the index says it: names, live pins, and everything younger than the cutoff.
type roots struct {
	records   map[digest.Digest]bool
	manifests map[digest.Digest]bool
	blobs     map[digest.Digest]bool
	views     map[uint64]bool
	layers    map[uint64]bool
	pinned    map[uint64]bool                   // layers that a live pin holds, or shows
	unknown   error                             // a row that cannot be read: everything may be reached from it
	kept      map[digest.Digest][]digest.Digest // by manifest; roots if the manifest is reached
}

// readRoots follows the rows of the index, which is quick, and leaves the contents to marks.
func (s *Store) readRoots(tx *bolt.Tx, cutoff time.Time) (*roots, error) {
	r := &roots{map[digest.Digest]bool{}, map[digest.Digest]bool{}, map[digest.Digest]bool{},
		map[uint64]bool{}, map[uint64]bool{}, map[uint64]bool{}, nil, nil}
	var rows checkRows
	if err := rows.read(tx); err != nil {
		return nil, err
	}
	r.kept = rows.kept
	for _, row := range rows.names {
		r.manifests[row.Top] = true
		set(r.records, row.Records)
	}
	if bad := badRows(tx); len(bad) > 0 {
		r.addAll(&rows, bad[0].err)
	}
	err := s.eachPin(tx, func(_ string, row *pinRow, live bool) {
		if live {
			r.addTarget(&row.Target)
		}
	})
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return nil, err
	}
	return r, errors.Join(r.addRecords(tx, cutoff), r.addManifests(tx, cutoff), r.addViews(tx, cutoff), r.addLayers(tx, cutoff))
}

// addAll keeps everything that the index names, because a row of it cannot be read. What it does not name, such as
// contents that no layer has, may go all the same.
func (r *roots) addAll(rows *checkRows, why error) {
	r.unknown = why
	for d := range rows.records {
		r.records[d] = true
	}
	for d := range rows.manifests {
		r.manifests[d] = true
	}
	for n := range rows.views {
		r.views[n] = true
	}
	for n := range rows.layers {
		r.layers[n] = true
	}
	set(r.layers, rows.lost)
}

func set[K comparable](m map[K]bool, keys []K) {
	for _, k := range keys {
		m[k] = true
	}
}

func (r *roots) addTarget(t *PinTarget) {
	set(r.layers, t.Layers)
	set(r.pinned, t.Layers)
	set(r.views, t.Views)
	set(r.manifests, t.Manifests)
	set(r.blobs, t.Blobs)
}

func (r *roots) addRecords(tx *bolt.Tx, cutoff time.Time) error {
	for _, row := range goodRows[Record](tx, bucketRecords) {
		if !r.records[row.Manifest] && !young(row.Created, cutoff) {
			continue
		}
		r.records[row.Manifest] = true
		r.manifests[row.Manifest] = true
		if row.List != "" {
			r.manifests[row.List] = true
		}
		r.blobs[row.Config] = true
		set(r.layers, row.Layers)
	}
	return nil
}

func (r *roots) addManifests(tx *bolt.Tx, cutoff time.Time) error {
	return tx.Bucket(bucketManifests).ForEach(func(k, v []byte) error {
		if young(manifestTime(v), cutoff) {
			r.manifests[digest.Digest(k)] = true
		}
		return nil
	})
}

func (r *roots) addViews(tx *bolt.Tx, cutoff time.Time) error {
	for _, row := range goodRows[viewRow](tx, bucketViews) {
		if r.views[row.Number] { // so far these are those of pins
			set(r.pinned, row.Layers)
		}
		if r.views[row.Number] || young(row.Created, cutoff) {
			r.views[row.Number] = true
			set(r.layers, row.Layers)
		}
	}
	return nil
}

func (r *roots) addLayers(tx *bolt.Tx, cutoff time.Time) error {
	for _, row := range goodRows[LayerRow](tx, bucketLayers) {
		if young(row.Created, cutoff) {
			r.layers[row.Number] = true
		}
	}
	return nil
}

// fileMark stands for a path below the root in 32 bytes: there may be millions.
type fileMark [sha256.Size]byte

func markOf(rel string) fileMark { return sha256.Sum256([]byte(rel)) }

// marks grows along what roots lead to. It never shrinks, so what was reached once in a gc survives that gc.
type marks struct {
	s         *Store
	objectsOf func(index []byte) ([]ObjectRef, error)
	manifests map[digest.Digest]bool // false: reached, but not here when it was
	layers    map[uint64]bool
	files     map[fileMark]struct{}
	// damaged are layers whose index cannot be read, so that nobody knows which objects they have, and why. What only they
	// have can be fetched again, so it is not kept for them.
	damaged map[uint64]error
	// blind is why the objects of some layer are not known that is in use, or that nothing brings back; then no object
	// may go.
	blind error
	// unknown is why it is not known what the index names: then no row and no blob may go.
	unknown error
}

func newMarks(s *Store, objectsOf func([]byte) ([]ObjectRef, error)) *marks {
	return &marks{s: s, objectsOf: objectsOf, manifests: map[digest.Digest]bool{}, layers: map[uint64]bool{},
		files: map[fileMark]struct{}{}, damaged: map[uint64]error{}}
}

func (m *marks) has(rel string) bool {
	_, ok := m.files[markOf(rel)]
	return ok
}

func (m *marks) keep(rel string) { m.files[markOf(rel)] = struct{}{} }

// covers says whether everything that r leads to is marked; tx tells which manifests are here by now.
func (m *marks) covers(tx *bolt.Tx, r *roots) bool {
	for d := range r.manifests {
		read, seen := m.manifests[d]
		if !seen || !read && tx.Bucket(bucketManifests).Get([]byte(d)) != nil {
			return false
		}
	}
	for n := range r.layers {
		if !m.layers[n] || r.pinned[n] && m.damaged[n] != nil {
			return false
		}
	}
	for d := range r.blobs {
		if !m.has(blobRel(d)) {
			return false
		}
	}
	for d, blobs := range r.kept {
		if m.manifests[d] && slices.ContainsFunc(blobs, func(b digest.Digest) bool { return !m.has(blobRel(b)) }) {
			return false
		}
	}
	return true
}

// add follows r into manifests and layer indexes. No transaction is open.
func (m *marks) add(r *roots) error {
	if m.unknown == nil {
		m.unknown = r.unknown
	}
	for d := range r.blobs {
		m.keep(blobRel(d))
	}
	for d := range r.manifests {
		if err := m.addManifest(d); err != nil {
			return err
		}
	}
	for d, blobs := range r.kept {
		for _, b := range blobs {
			if m.manifests[d] {
				m.keep(blobRel(b))
			}
		}
	}
	for n := range r.layers {
		if !m.layers[n] {
			m.layers[n] = true
			m.addLayer(n)
		}
		if err := m.damaged[n]; err != nil && (r.pinned[n] || !m.s.refetchable(n)) {
			m.blind = errors.Join(m.blind, err)
			delete(m.damaged, n)
		}
	}
	return nil
}

// addManifest marks a manifest and what it names, lists in lists included. Instances and blobs that are not here are
// no error: a list may be sparse and a lazy image has no layer blobs.
func (m *marks) addManifest(d digest.Digest) error {
	if m.manifests[d] || checkDigest("manifest", d) != nil {
		m.manifests[d] = true
		return nil
	}
	raw, mediaType, err := m.s.Manifest(d)
	if errors.Is(err, ErrNotFound) {
		m.manifests[d] = false
		return nil
	}
	if err != nil {
		m.manifests[d] = true
		m.unknown = errors.Join(m.unknown, err)
		return nil //nolint:nilerr // what a damaged manifest names is not known, so all that could be is kept
	}
	m.manifests[d] = true
	if list, err := manifest.ParseList(raw, mediaType); err == nil {
		for _, inst := range list.Instances {
			if err := m.addManifest(inst.Digest); err != nil {
				return err
			}
		}
		return nil
	}
	one, err := manifest.ParseManifest(raw, mediaType)
	if err != nil {
		return nil // some artifact that names nothing we know of
	}
	m.keep(blobRel(one.Config.Digest))
	for _, l := range one.Layers {
		m.keep(blobRel(l.Digest))
	}
	return nil
}

func (m *marks) addLayer(n uint64) {
	if m.objectsOf == nil {
		return
	}
	refs, err := m.s.layerObjects(n, m.objectsOf)
	if err != nil {
		m.damaged[n] = fmt.Errorf("objects of layer %d: %w", n, err)
		return
	}
	for _, ref := range refs {
		m.keep(objectRel(ref.Digest))
		m.keep(partialRel(ref.Digest, ref.List))
	}
}

// refetchable says whether a layer has a source, from which its index and its content come back.
func (s *Store) refetchable(n uint64) bool {
	row, err := s.Layer(n)
	return err == nil && row.TOC != "" && len(row.Sources) > 0
}

// layerObjects asks the caller, who knows the format, what a layer's index names. Digests it gives are valid.
func (s *Store) layerObjects(n uint64, objectsOf func([]byte) ([]ObjectRef, error)) ([]ObjectRef, error) {
	index, err := s.mapIndex(n)
	if err != nil {
		return nil, err
	}
	defer index.Close()
	refs, err := objectsOf(index.Bytes())
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		if err := errors.Join(checkDigest("object", ref.Digest), checkDigest("chunk list", ref.List)); err != nil {
			return nil, err
		}
	}
	return refs, nil
}
