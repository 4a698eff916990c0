package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

// answers are what the index says to every question that a copy or a daemon asks it.
type answers struct {
	records []Record
	top     digest.Digest
	raw     []byte
	layer   *LayerRow
	view    uint64
	chain   []uint64
	sigs    [][]byte
	pins    []PinInfo
}

// ask puts every question, and counts as errors what was not answered.
func ask(s *Store, manifest, toc digest.Digest) (a answers, errs []error) {
	var err error
	note := func() {
		if err != nil {
			errs = append(errs, err)
		}
	}
	a.records, a.top, err = s.Resolve("a")
	note()
	a.raw, _, err = s.Manifest(manifest)
	note()
	a.layer, err = s.LayerByTOC(toc)
	note()
	a.view, _, err = s.ViewByKey(Chain{Layers: []uint64{1}})
	note()
	if a.view != 0 {
		var c Chain
		c, err = s.ViewChain(a.view)
		a.chain = c.Layers
		note()
	}
	a.sigs, err = s.Signatures(manifest)
	note()
	a.pins, err = s.Pins("")
	note()
	return a, errs
}

// TestRotInTheIndex flips a bit at every 97th byte of index.db. Every answer is an error or what it was: a row has a
// checksum, a manifest its digest, and what leads to a row is compared with the row.
func TestRotInTheIndex(t *testing.T) {
	s := newStore(t)
	raw, toc := []byte(`{"a":"manifest"}`), digest.FromString("toc")
	m := digest.FromBytes(raw)
	config := []byte("config")
	ok(t, s.PutBlob(t.Context(), digest.FromBytes(config), bytes.NewReader(config)))
	n := must[uint64](t)(s.PutLayer(LayerRow{TOC: toc, Sources: []Source{{Host: "h", Repo: "r", Blob: digest.FromString("b")}}}, []byte("index"), nil))
	must[uint64](t)(s.PutView(Chain{Layers: []uint64{n}}, []byte("tree")))
	ok(t, s.Commit(Commit{Name: "a", Top: m, Manifests: []RawManifest{{raw, m, "application/x"}},
		Records: []Record{{Manifest: m, Config: digest.FromBytes(config), Layers: []uint64{n}}}}))
	ok(t, s.PutSignatures(m, [][]byte{[]byte("signed")}))
	ok(t, s.Pin("snapshot/1", PinTarget{Layers: []uint64{n}}, PinOptions{}))
	want, errs := ask(s, m, toc)
	if len(errs) > 0 || want.view == 0 || len(want.pins) != 1 {
		t.Fatalf("%+v, %v", want, errs)
	}
	path := s.path("index.db")
	good := must[[]byte](t)(os.ReadFile(path))
	noticed := 0
	for at := 0; at < len(good); at += 97 {
		for bit := range 8 {
			bad := slices.Clone(good)
			bad[at] ^= 1 << bit
			ok(t, os.WriteFile(path, bad, 0o600))
			got, errs := ask(s, m, toc)
			for _, err := range errs {
				noticed++
				if errors.Is(err, ErrLocked) {
					t.Fatalf("byte %d bit %d: %v", at, bit, err)
				}
			}
			compareAnswers(t, at, want, got)
			if bit == at%8 { // any error will do; it must come back
				openAndMend(t, s.root, fmt.Sprintf("byte %d, bit %d", at, bit), errs)
			}
		}
	}
	if noticed == 0 {
		t.Error("no flip was noticed")
	}
}

// openAndMend demands that a damaged index can be opened and checked, or rebuilt, and that what the store could not answer
// is found and mended.
func openAndMend(t *testing.T, root, what string, unanswered []error) {
	t.Helper()
	again, err := Open(root, nil)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrSchema) {
			t.Errorf("%s: %v", what, err)
		}
		must[[]Finding](t)(Rebuild(root, nil, func([]byte) error { return nil }))
		again = must[*Store](t)(Open(root, nil))
	} else if found := must[[]Finding](t)(again.Check(t.Context(), CheckOptions{})); len(found) == 0 && len(unanswered) > 0 {
		t.Errorf("%s: check finds nothing, and %v", what, unanswered)
	}
	must[[]Finding](t)(again.Check(t.Context(), CheckOptions{Repair: true}))
	must[[]Finding](t)(again.GC(t.Context(), GCOptions{DryRun: true}))
	_, err = again.Records()
	_, nerr := again.Names()
	_, perr := again.Pins("")
	if err := errors.Join(err, nerr, perr); err != nil {
		t.Errorf("%s: after the repair: %v", what, err)
	}
	ok(t, again.Close())
}

// compareAnswers takes an empty answer for none.
func compareAnswers(t *testing.T, at int, want, got answers) {
	t.Helper()
	for what, bad := range map[string]bool{
		"manifest":   got.raw != nil && !bytes.Equal(got.raw, want.raw),
		"top":        got.top != "" && got.top != want.top,
		"layer":      got.layer != nil && (got.layer.TOC != want.layer.TOC || got.layer.Sources[0] != want.layer.Sources[0]),
		"view":       got.view != 0 && got.view != want.view,
		"chain":      got.chain != nil && !slices.Equal(got.chain, want.chain),
		"signatures": len(got.sigs) > 0 && !bytes.Equal(got.sigs[0], want.sigs[0]),
		"records":    len(got.records) > 0 && !slices.Equal(got.records[0].Layers, want.records[0].Layers),
	} {
		if bad {
			t.Errorf("byte %d: wrong %s: %+v", at, what, got)
		}
	}
}

// Chunks that changed at rest are the disk's fault and not the TOC's: they are missing again, and what is right stays.
func TestPartialRot(t *testing.T) {
	s := newStore(t)
	f := newTestFile(4)
	p := f.open(t, s)
	for i := range f.n {
		f.fill(t, p, i)
	}
	data, err := os.OpenFile(p.path, os.O_RDWR, 0)
	ok(t, err)
	defer data.Close()
	_, err = data.WriteAt([]byte{f.content[9] ^ 4}, 9)
	ok(t, err)
	wantIs(t, p.Finish(), ErrCorrupt)
	for i := range f.n {
		if p.Has(i) != (i != 1) {
			t.Errorf("chunk %d: %v", i, p.Has(i))
		}
	}
	f.fill(t, p, 1)
	ok(t, p.Finish())
	if got := must[[]byte](t)(os.ReadFile(s.path(objectRel(f.key().Digest)))); !bytes.Equal(got, f.content) {
		t.Error("wrong object")
	}
	wantClean(t, s)
}

// Within one boot a byte of the map other than 1 is no mark, whatever it is.
func TestMapBytesOtherThanOne(t *testing.T) {
	s := newStore(t)
	f := newTestFile(2)
	p := f.open(t, s)
	f.fill(t, p, 0)
	f.fill(t, p, 1)
	marks, err := os.OpenFile(p.path+".map", os.O_RDWR, 0)
	ok(t, err)
	defer marks.Close()
	for v := range 256 {
		_, err := marks.WriteAt([]byte{byte(v)}, mapHeader)
		ok(t, err)
		again := must[*Partial](t)(s.OpenPartial(f.key(), f.span, f.n))
		if there := v == 1; p.Has(0) != there || again.Has(0) != there || (p.Missing() == 0) != there || !again.Has(1) {
			t.Errorf("byte %d: %v, %v, %d missing", v, p.Has(0), again.Has(0), p.Missing())
		}
		ok(t, again.Close())
	}
}
