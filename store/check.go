package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// CheckOptions says how deep Check looks. The functions know the formats that the store does not; they do not keep
// the bytes. Nil: that part is not looked at.
type CheckOptions struct {
	Verify  bool                     // hash every blob and object, and the chunks of partial objects, not only their lengths
	Repair  bool                     // mend what can be, and remove what can be fetched again
	Index   func(index []byte) error // validates a layer index
	View    func(tree []byte) error  // validates a view
	Objects func(index []byte) ([]ObjectRef, error)
	// Chunks gives the chunks of the ith content that Objects lists.
	Chunks func(index []byte, i int) ([]Span, error)
	// Mend writes the files of a damaged layer again, from where its blob is. Remake makes a view again that is damaged.
	Mend   func(ctx context.Context, layer uint64) error
	Remake func(ctx context.Context, c Chain) (uint64, error)
}

// checkRows is the index as Check found it, so that no transaction is open while files are read.
type checkRows struct {
	names      map[string]nameRow
	records    map[digest.Digest]Record
	manifests  map[digest.Digest]bool
	layers     map[uint64]LayerRow
	views      map[uint64]viewRow
	signatures []digest.Digest
	lost       []uint64 // layers whose rows cannot be read
	kept       map[digest.Digest][]digest.Digest
}

type checkRun struct {
	s       *Store
	ctx     context.Context //nolint:containedctx // lives for one call of Check
	o       CheckOptions
	rows    checkRows
	results []Finding
	again   map[digest.Digest]bool // object -> can be fetched again; absent: no layer names it
	blind   bool                   // some layer does not say what it names
	suspect map[digest.Digest]bool // objects whose length some layer contradicts: rot, or a lying TOC
}

// Check compares the index with the files, and with Verify the files with their digests. No findings: the store is
// clean. Files that the index does not know are not its concern, they are gc's. The error is for what kept Check from
// looking. Objects that a lazy layer does not have yet are no finding.
func (s *Store) Check(ctx context.Context, o CheckOptions) ([]Finding, error) {
	c := &checkRun{s: s, ctx: ctx, o: o, again: map[digest.Digest]bool{}, suspect: map[digest.Digest]bool{}}
	for _, step := range []func() error{c.readIndex, c.checkManifests, c.checkNames, c.checkLayers, c.checkViews, c.checkKept, c.checkBlobs, c.checkObjects} {
		if err := context.Cause(ctx); err != nil {
			return c.results, fmt.Errorf("check: %w", err)
		}
		if err := step(); err != nil {
			return c.results, fmt.Errorf("check: %w", err)
		}
	}
	return c.results, nil
}

func (c *checkRun) found(kind, object, format string, args ...any) *Finding {
	c.results = append(c.results, Finding{Kind: kind, Object: object, Problem: fmt.Sprintf(format, args...)})
	return &c.results[len(c.results)-1]
}

func (c *checkRun) readIndex() error {
	if err := c.checkPages(); err != nil {
		return err
	}
	if err := c.checkRowsums(); err != nil {
		return err
	}
	return c.s.view(c.rows.read)
}

// read takes the rows that can be read; checkRowsums has reported the others.
func (r *checkRows) read(tx *bolt.Tx) error {
	*r = checkRows{names: map[string]nameRow{}, kept: map[digest.Digest][]digest.Digest{}, records: map[digest.Digest]Record{},
		manifests: map[digest.Digest]bool{}, layers: map[uint64]LayerRow{}, views: map[uint64]viewRow{}}
	for _, row := range goodRows[Record](tx, bucketRecords) {
		r.records[row.Manifest] = row
	}
	for _, row := range goodRows[LayerRow](tx, bucketLayers) {
		r.layers[row.Number] = row
	}
	for _, row := range goodRows[viewRow](tx, bucketViews) {
		r.views[row.Number] = row
	}
	each := func(bucket []byte, fn func(k, v []byte)) error {
		return tx.Bucket(bucket).ForEach(func(k, v []byte) error { fn(k, v); return nil })
	}
	return errors.Join(
		each(bucketNames, func(k, v []byte) {
			var row nameRow
			if decodeRow(bucketNames, k, v, &row) == nil {
				r.names[string(k)] = row
			}
		}),
		each(bucketKept, func(k, v []byte) {
			var blobs []digest.Digest
			if decodeRow(bucketKept, k, v, &blobs) == nil {
				r.kept[digest.Digest(k)] = slices.DeleteFunc(blobs, func(d digest.Digest) bool { return checkDigest("blob", d) != nil })
			}
		}),
		each(bucketLayers, func(k, _ []byte) {
			if n := keyNumber(k); n != 0 {
				if _, ok := r.layers[n]; !ok {
					r.lost = append(r.lost, n)
				}
			}
		}),
		each(bucketManifests, func(k, _ []byte) { r.manifests[digest.Digest(k)] = true }),
		each(bucketSignatures, func(k, _ []byte) { r.signatures = append(r.signatures, digest.Digest(k)) }))
}

func (c *checkRun) checkManifests() error {
	for d := range c.rows.manifests {
		_, _, err := c.s.Manifest(d)
		if errors.Is(err, ErrNotFound) {
			continue // gc was here
		}
		if err != nil {
			f := c.found("corrupt", "manifest "+string(d), "%v", err)
			if c.o.Repair {
				delete(c.rows.manifests, d)
				c.settle(f, c.s.dropManifest(d))
			}
		}
	}
	for _, d := range c.rows.signatures {
		if !c.rows.manifests[d] {
			c.found("missing", "manifest "+string(d), "has signatures")
		}
	}
	return nil
}

func (c *checkRun) checkNames() error {
	for name, row := range c.rows.names {
		if !c.rows.manifests[row.Top] {
			c.found("missing", "manifest "+string(row.Top), "name %s stands for it; pull it again", name)
		}
		for _, d := range row.Records {
			if _, ok := c.rows.records[d]; !ok {
				c.found("missing", "record "+string(d), "name %s has it", name)
			}
		}
	}
	for d, row := range c.rows.records {
		for _, m := range []digest.Digest{row.Manifest, row.List} {
			if m != "" && !c.rows.manifests[m] {
				c.found("missing", "manifest "+string(m), "record %s has it", d)
			}
		}
		if _, ok := c.s.HasBlob(row.Config); !ok && c.s.hasRecord(d) {
			c.found("missing", blobRel(row.Config), "config of record %s", d)
		}
		c.needLayers("record "+string(d), row.Layers)
	}
	return nil
}

func (c *checkRun) needLayers(who string, layers []uint64) {
	for _, n := range layers {
		if _, ok := c.rows.layers[n]; !ok {
			c.found("missing", fmt.Sprintf("layer %d", n), "%s has it", who)
		}
	}
}

func (c *checkRun) checkLayers() error {
	for n, row := range c.rows.layers {
		err := c.checkLayer(&row)
		if err == nil || c.layerGone(n) {
			continue
		}
		f := c.found(kindOf(err), fmt.Sprintf("layer %d", n), "%v", err)
		if !c.o.Repair || c.o.Mend == nil {
			c.blind = true
			continue
		}
		if c.settle(f, c.mendLayer(n)); !f.Done {
			f.Problem += "; pull an image of it again"
			c.blind = true
		}
	}
	return nil
}

// mendLayer fetches what a layer's files are made from, and looks at the layer again.
func (c *checkRun) mendLayer(n uint64) error {
	if err := c.o.Mend(c.ctx, n); err != nil {
		return err
	}
	row, err := c.s.Layer(n)
	if err != nil {
		return err
	}
	return c.checkLayer(row)
}

// layerGone says that gc was here since the index was read.
func (c *checkRun) layerGone(n uint64) bool {
	_, err := c.s.Layer(n)
	return errors.Is(err, ErrNotFound)
}

func (c *checkRun) checkLayer(row *LayerRow) error {
	if err := c.s.LayerFiles(row); err != nil {
		return err
	}
	if err := c.checkMapped(filepath.Join(layerRel(row.TOC, row.DiffID), indexFile), c.o.Index); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	if c.o.Objects == nil {
		return nil
	}
	refs, err := c.s.layerObjects(row.Number, c.o.Objects)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	for i, ref := range refs {
		c.checkRef(row, ref)
		c.checkPartial(row, i, ref)
	}
	return nil
}

// checkRef looks at one object of one layer. Only the content of layers with a TOC can be fetched piece by piece.
func (c *checkRun) checkRef(row *LayerRow, ref ObjectRef) {
	lazy := row.TOC != "" && len(row.Sources) > 0 && !row.Quarantined
	c.again[ref.Digest] = c.again[ref.Digest] || lazy
	fi, err := os.Lstat(c.s.path(objectRel(ref.Digest)))
	switch {
	case notExist(err) && row.TOC == "" && ref.Size > 0 && !c.layerGone(row.Number):
		c.found("missing", objectRel(ref.Digest), "content of layer %d, which was taken from a tar", row.Number)
	case err == nil && fi.Size() != ref.Size:
		c.suspect[ref.Digest] = true
	}
}

func (c *checkRun) checkViews() error {
	for n, row := range c.rows.views {
		name := fmt.Sprintf("view %d", n)
		if err := c.checkMapped(filepath.Join(viewRel(n), treeFile), c.o.View); err != nil {
			if _, gone := c.s.ViewChain(n); errors.Is(gone, ErrNotFound) {
				continue
			}
			f := c.found(kindOf(err), name, "tree: %v", err)
			if c.o.Repair && c.o.Remake != nil {
				_, err := c.o.Remake(c.ctx, row.chain())
				c.settle(f, err)
			}
		}
		c.needLayers(name, row.Layers)
	}
	return nil
}

func (c *checkRun) checkMapped(rel string, validate func([]byte) error) error {
	m, err := mapFile(c.s.path(rel))
	if err != nil {
		return err
	}
	defer m.Close()
	if validate == nil {
		return nil
	}
	return validate(m.Bytes())
}

func kindOf(err error) string {
	if errors.Is(err, ErrNotFound) {
		return "missing"
	}
	return "corrupt"
}

// checkBlobs removes a damaged one for a repair: pulling its image again brings it back.
func (c *checkRun) checkBlobs() error {
	if !c.o.Verify {
		return nil
	}
	return c.s.eachDir("blobs", 1, func(rel string, names []string) error {
		for _, name := range names {
			if d := digestOf(filepath.Base(rel), name); d != "" {
				if err := c.verifyFile(filepath.Join(rel, name), d); err != nil {
					return err
				}
				c.dropBlob(rel, name)
			}
		}
		return nil
	})
}

// dropBlob removes the blob that the last finding is about, if it is. What needs it is incomplete until it is pulled again.
func (c *checkRun) dropBlob(rel, name string) {
	last := len(c.results) - 1
	if !c.o.Repair || last < 0 || c.results[last].Object != filepath.Join(rel, name) {
		return
	}
	f := &c.results[last]
	if err := c.s.disk.remove(c.s.path(f.Object)); err != nil {
		f.Problem += fmt.Sprintf("; not removed: %v", err)
		return
	}
	f.Problem += "; removed: pull its image again"
}

func (c *checkRun) checkObjects() error {
	return c.s.eachDir("objects", 2, func(rel string, names []string) error {
		for _, name := range names {
			d := objectDigest(rel, name)
			switch {
			case d == "":
				continue
			case strings.Contains(name, "-"):
				c.checkLink(rel, name)
			case c.o.Verify || c.suspect[d]:
				if err := c.verifyFile(filepath.Join(rel, name), d); err != nil {
					return err
				}
				if last := len(c.results) - 1; last >= 0 && c.results[last].Object == filepath.Join(rel, name) {
					c.repairObject(d, rel, name, &c.results[last])
				}
			}
		}
		return nil
	})
}

// checkLink demands that "<hex>-<c>" is the file "<hex>".
func (c *checkRun) checkLink(rel, name string) {
	a, aerr := os.Lstat(c.s.path(filepath.Join(rel, name)))
	b, berr := os.Lstat(c.s.path(filepath.Join(rel, baseName(name))))
	if aerr == nil && (berr != nil || !os.SameFile(a, b)) {
		c.found("corrupt", filepath.Join(rel, name), "is not a link to its object")
	}
}

// verifyFile adds a finding when a file at rest is not what its name says; the error is for ctx only.
func (c *checkRun) verifyFile(rel string, d digest.Digest) error {
	f, err := os.Open(c.s.path(rel))
	if notExist(err) {
		return nil
	}
	if err != nil {
		c.found("corrupt", rel, "%v", err)
		return nil
	}
	defer f.Close()
	err = copyVerified(io.Discard, &ctxReader{c.ctx, f}, d)
	if cause := context.Cause(c.ctx); cause != nil {
		return cause
	}
	if err != nil {
		c.found("corrupt", rel, "%v", err)
	}
	return nil
}

// repairObject removes rot that can be fetched again, or that no layer needs, links first.
func (c *checkRun) repairObject(d digest.Digest, rel, name string, f *Finding) {
	again, needed := c.again[d]
	switch {
	case !c.o.Repair:
		return
	case c.o.Objects == nil, c.blind:
		f.Problem += "; kept, it is not known who needs it"
		return
	case needed && !again:
		f.Problem += "; its image has to be pulled again"
	}
	path := c.s.path(filepath.Join(rel, name))
	if err := errors.Join(c.s.unlinkObject(path), c.s.disk.syncDir(filepath.Dir(path))); err != nil {
		f.Problem += fmt.Sprintf("; not removed: %v", err)
		return
	}
	f.Done = again || !needed
}
