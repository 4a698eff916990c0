package store

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

func src(host string) Source {
	return Source{Host: host, Repo: "r", Blob: digest.FromString("blob"), Size: 9, MediaType: "m"}
}

func putTOC(t testing.TB, s *Store, name string, contents ...string) uint64 {
	t.Helper()
	return must[uint64](t)(s.PutLayer(LayerRow{TOC: digest.FromString(name), Sources: []Source{src("a")}}, testIndex(contents...), []byte("split "+name)))
}

func TestLayers(t *testing.T) {
	s := newStore(t)
	toc, diff := digest.FromString("toc"), digest.FromString("diff")
	_, err := s.LayerByTOC(toc)
	wantIs(t, err, ErrNotFound)
	_, err = s.PutLayer(LayerRow{}, nil, nil)
	wantIs(t, err, ErrConflict)

	n := putTOC(t, s, "toc", "x")
	again := must[uint64](t)(s.PutLayer(LayerRow{TOC: toc, Sources: []Source{src("b"), src("a")}}, []byte("not written"), nil))
	if n == 0 || again != n {
		t.Fatalf("numbers %d and %d", n, again)
	}
	row := must[*LayerRow](t)(s.LayerByTOC(toc))
	if len(row.Sources) != 2 || row.Sources[1].Host != "b" || row.DiffID != "" {
		t.Fatalf("row %+v", row)
	}
	index := must[*Mapped](t)(s.LayerIndex(n))
	if string(index.Bytes()) != string(testIndex("x")) {
		t.Fatalf("index %q", index.Bytes())
	}
	ok(t, index.Close())
	ok(t, index.Close())
	if b := must[[]byte](t)(s.TarSplit(n)); string(b) != "split toc" {
		t.Fatalf("tar-split %q", b)
	}

	ok(t, s.SetDiffID(n, diff))
	ok(t, s.SetDiffID(n, diff))
	wantIs(t, s.SetDiffID(n, toc), ErrConflict)
	wantIs(t, s.SetDiffID(99, diff), ErrNotFound)
	_, err = s.LayerByDiffID(diff) // a TOC layer never answers for a tar
	wantIs(t, err, ErrNotFound)

	tar := must[uint64](t)(s.PutLayer(LayerRow{DiffID: diff}, testIndex(), nil))
	if tar == n || must[*LayerRow](t)(s.LayerByDiffID(diff)).Number != tar {
		t.Fatal("layer from a tar")
	}
	_, err = s.TarSplit(tar)
	wantIs(t, err, ErrNotFound)
	if rows := must[[]LayerRow](t)(s.Layers()); len(rows) != 2 {
		t.Fatalf("layers %+v", rows)
	}
	wantClean(t, s)
}

// A TOC cannot have two tars: whoever says so is told, and what was verified first stays.
// What a program found that compared less than this one is not known here: it is found again, and then kept.
func TestVerdictsOfOlderPrograms(t *testing.T) {
	s := newStore(t)
	toc, diff := digest.FromString("toc"), digest.FromString("diff")
	n := must[uint64](t)(s.PutLayer(LayerRow{TOC: toc}, testIndex(), nil))
	tar := must[uint64](t)(s.PutLayer(LayerRow{DiffID: diff}, testIndex(), nil))
	old := func(n uint64) {
		ok(t, s.update(func(tx *bolt.Tx) error {
			var row LayerRow
			if err := getLayer(tx, n, &row); err != nil {
				return err
			}
			row.DiffID, row.NoTar, row.Proof = diff, "because", 0
			return putJSON(tx, bucketLayers, numberKey(n), &row)
		}))
	}
	old(n)
	for _, row := range append(must[[]LayerRow](t)(s.Layers()), *must[*LayerRow](t)(s.Layer(n)), *must[*LayerRow](t)(s.LayerByTOC(toc))) {
		if row.Number == n && row.DiffID+digest.Digest(row.NoTar) != "" {
			t.Errorf("%+v", row)
		}
	}
	ok(t, s.SetDiffID(n, toc))
	if row := must[*LayerRow](t)(s.Layer(n)); row.DiffID != toc || row.NoTar != "" {
		t.Errorf("found again: %+v", row)
	}
	if row := must[*LayerRow](t)(s.LayerByDiffID(diff)); row.Number != tar {
		t.Errorf("a layer that was unpacked from its tar: %+v", row)
	}
}

func TestDiffIDConflict(t *testing.T) {
	s := newStore(t)
	toc, first, second := digest.FromString("toc"), digest.FromString("first"), digest.FromString("second")
	n := must[uint64](t)(s.PutLayer(LayerRow{TOC: toc, DiffID: first}, testIndex(), nil))
	for range 2 {
		_, err := s.PutLayer(LayerRow{TOC: toc, DiffID: second, Sources: []Source{src("a")}}, testIndex(), nil)
		wantIs(t, err, ErrConflict)
		wantIs(t, s.SetDiffID(n, second), ErrConflict)
	}
	if row := must[*LayerRow](t)(s.Layer(n)); row.DiffID != first || len(row.Sources) != 0 {
		t.Errorf("row %+v", row)
	}
}

func TestQuarantine(t *testing.T) {
	s := newStore(t)
	n := putTOC(t, s, "toc")
	ok(t, s.AddSource(n, src("b")))
	_, err := s.Quarantine(n, src("c"), "bad")
	wantIs(t, err, ErrNotFound)
	for i, host := range []string{"a", "b"} {
		must[time.Time](t)(s.Quarantine(n, src(host), "chunk 3 differs"))
		row := must[*LayerRow](t)(s.Layer(n))
		if row.Sources[i].Quarantined != "chunk 3 differs" || row.Quarantined != (i == 1) {
			t.Fatalf("after %s: %+v", host, row)
		}
	}
	ok(t, s.AddSource(n, src("c")))
	if must[*LayerRow](t)(s.Layer(n)).Quarantined {
		t.Fatal("a good source does not count")
	}
	ok(t, s.AddSource(n, src("a"))) // pulled from anew
	if a := must[*LayerRow](t)(s.Layer(n)).Sources[0]; a.Quarantined != "" || !a.Until.IsZero() || a.Strikes != 1 {
		t.Fatalf("named anew: %+v", a)
	}
	s.now = func() time.Time { return time.Unix(1e9, 0) }
	for i, want := range []time.Duration{4 * time.Minute, 16 * time.Minute, 64 * time.Minute, 256 * time.Minute, 1024 * time.Minute, 24 * time.Hour, 24 * time.Hour} {
		until := must[time.Time](t)(s.Quarantine(n, src("a"), "again"))
		if got := until.Sub(s.now()); got != want {
			t.Errorf("strike %d: %v, want %v", i+2, got, want)
		}
		if a := must[*LayerRow](t)(s.Layer(n)).Sources[0]; !a.Until.Equal(until) || a.Strikes != i+2 {
			t.Errorf("%+v", a)
		}
	}
}

// A layer lives for years, and a flipped bit now and then is no reason to leave its source for a day.
func TestStrikesAreForgotten(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		strikes int
		quiet   time.Duration
		want    int
	}{
		{0, 0, 0}, {0, 100 * day, 0}, {3, 0, 3}, {3, day - 1, 3}, {3, day, 2}, {3, 3*day - 1, 1}, {3, 3 * day, 0}, {3, 1000 * day, 0},
		{3, -day, 3}, // the clock was set back
	} {
		if got := forgiven(c.strikes, c.quiet); got != c.want {
			t.Errorf("%d strikes after %v: %d, want %d", c.strikes, c.quiet, got, c.want)
		}
	}
	s := newStore(t)
	n := putTOC(t, s, "toc")
	now := time.Unix(1e9, 0)
	s.now = func() time.Time { return now }
	for i, c := range []struct{ after, want time.Duration }{
		{0, time.Minute}, {time.Hour, 4 * time.Minute}, {time.Hour, 16 * time.Minute}, {2 * day, 4 * time.Minute}, {30 * day, time.Minute},
	} {
		now = now.Add(c.after)
		if got := must[time.Time](t)(s.Quarantine(n, src("a"), "bad")).Sub(now); got != c.want {
			t.Errorf("strike %d, %v later: %v, want %v", i+1, c.after, got, c.want)
		}
	}
}

// What is denied to those who believed a claim is still everybody else's.
func TestDenyView(t *testing.T) {
	root := t.TempDir()
	s := must[*Store](t)(Open(root, nil))
	n := putTOC(t, s, "toc")
	all, some := Chain{Layers: []uint64{n}}, Chain{Layers: []uint64{n}, Claim: digest.FromString("claim")}
	everybody := must[uint64](t)(s.PutView(all, []byte("tree")))
	mine := must[uint64](t)(s.PutView(some, []byte("tree")))
	if everybody == mine {
		t.Fatal("one view")
	}
	wantIs(t, s.DenyView(everybody, "x"), ErrConflict)
	wantIs(t, s.DenyView(99, "x"), ErrNotFound)
	for range 2 {
		ok(t, s.DenyView(mine, "tar is another"))
		_, err := s.ViewChain(mine)
		wantIs(t, err, ErrConflict)
		_, err = s.View(mine)
		wantIs(t, err, ErrConflict)
		_, _, err = s.ViewByKey(some)
		wantIs(t, err, ErrConflict)
		_, err = s.PutView(some, []byte("tree"))
		wantIs(t, err, ErrConflict)
		_, err = s.ReplaceView(mine, some, []byte("tree"))
		wantIs(t, err, ErrConflict)
		if got, there, err := s.ViewByKey(all); got != everybody || !there || err != nil {
			t.Errorf("everybody's: %d, %t, %v", got, there, err)
		}
		ok(t, s.Close())
		s = must[*Store](t)(Open(root, nil)) // also after a restart
	}
	ok(t, s.Close())
}

func TestViews(t *testing.T) {
	s := newStore(t)
	a, b := putTOC(t, s, "a"), putTOC(t, s, "b")
	for _, layers := range [][]uint64{{}, {a}, {a, b}, {b, a}} {
		if _, there, err := s.ViewByKey(Chain{Layers: layers}); there || err != nil {
			t.Fatal(layers, there, err)
		}
		n := must[uint64](t)(s.PutView(Chain{Layers: layers}, []byte("tree")))
		if got := must[uint64](t)(s.PutView(Chain{Layers: layers}, []byte("tree 2"))); got != n {
			t.Fatalf("view %d, then %d", n, got)
		}
		if got, there, err := s.ViewByKey(Chain{Layers: layers}); got != n || !there || err != nil {
			t.Fatal(got, there, err)
		}
		if got := must[Chain](t)(s.ViewChain(n)); !slices.Equal(got.Layers, layers) {
			t.Fatalf("layers %v, want %v", got, layers)
		}
	}
	_, err := s.PutView(Chain{Layers: []uint64{a, 99}}, []byte("tree"))
	wantIs(t, err, ErrNotFound)
	_, err = s.View(99)
	wantIs(t, err, ErrNotFound)

	old, _, _ := s.ViewByKey(Chain{Layers: []uint64{a}})
	n := must[uint64](t)(s.ReplaceView(old, Chain{Layers: []uint64{a}}, []byte("tree new")))
	if got, _, _ := s.ViewByKey(Chain{Layers: []uint64{a}}); got != n || n == old {
		t.Fatalf("replaced %d by %d, key gives %d", old, n, got)
	}
	m := must[*Mapped](t)(s.View(n))
	if string(m.Bytes()) != "tree new" {
		t.Fatalf("view %d: %q", n, m.Bytes())
	}
	ok(t, m.Close())
	_, err = s.View(old)
	wantIs(t, err, ErrNotFound)
	wantClean(t, s)
}

// Node ids have 30 bits for a view, and a number must not come back in a kernel that remembers it.
func TestViewNumbers(t *testing.T) {
	s := newStore(t)
	n := must[uint64](t)(s.PutView(Chain{Layers: nil}, []byte("tree")))
	must[[]Finding](t)(s.GC(context.Background(), GCOptions{Grace: -1}))
	if again := must[uint64](t)(s.PutView(Chain{Layers: nil}, []byte("tree"))); again <= n {
		t.Fatalf("number %d after %d", again, n)
	}
	ok(t, s.update(func(tx *bolt.Tx) error { return tx.Bucket(bucketViews).SetSequence(MaxView - 1) }))
	a := putTOC(t, s, "a")
	if n := must[uint64](t)(s.PutView(Chain{Layers: []uint64{a}}, []byte("tree"))); n != MaxView {
		t.Fatalf("number %d", n)
	}
	_, err := s.PutView(Chain{Layers: []uint64{a, a}}, []byte("tree"))
	wantIs(t, err, ErrConflict)
}

type image struct {
	record    Record
	manifests []RawManifest
}

func raw(v any) RawManifest {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return RawManifest{b, digest.FromBytes(b), v.(map[string]any)["mediaType"].(string)}
}

// putImage stores the parts of an image of one platform in one list, ready to be committed.
func putImage(t testing.TB, s *Store, platform string, layers ...uint64) image {
	t.Helper()
	type m = map[string]any
	const prefix = "application/vnd.oci.image."
	config := []byte(`{"os":"` + platform + `"}`)
	putBytes(t, s, config)
	one := raw(m{"schemaVersion": 2, "mediaType": prefix + "manifest.v1+json", "layers": []m{},
		"config": m{"mediaType": prefix + "config.v1+json", "digest": digest.FromBytes(config), "size": len(config)}})
	return image{Record{Manifest: one.Digest, Config: digest.FromBytes(config), Platform: platform, Layers: layers}, []RawManifest{one}}
}

func listOf(images ...image) RawManifest {
	var instances []map[string]any
	for _, im := range images {
		instances = append(instances, map[string]any{"mediaType": im.manifests[0].MediaType, "digest": im.record.Manifest, "size": len(im.manifests[0].Raw)})
	}
	return raw(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": instances})
}

func TestCommitAndResolve(t *testing.T) {
	s := newStore(t)
	n := putTOC(t, s, "l")
	amd, arm := putImage(t, s, "linux/amd64", n), putImage(t, s, "linux/arm64", n, n)
	list := listOf(amd, arm)
	amd.record.List, arm.record.List = list.Digest, list.Digest

	commit := func(name string, top digest.Digest, im image) {
		t.Helper()
		ok(t, s.Commit(Commit{Records: []Record{im.record}, Manifests: append(im.manifests, list), Name: name, Top: top}))
	}
	commit("img", list.Digest, amd)
	commit("img", list.Digest, amd)
	commit("img", list.Digest, arm)
	commit("other", "", arm)

	records, top, err := s.Resolve("img")
	if err != nil || top != list.Digest || len(records) != 2 {
		t.Fatalf("%v %v %v", records, top, err)
	}
	for _, c := range []struct {
		d    digest.Digest
		want int
	}{{amd.record.Manifest, 1}, {arm.record.Config, 1}, {list.Digest, 2}} {
		if got := must[*Found](t)(s.Find(storeDigest(c.d))); len(got.Records) != c.want {
			t.Errorf("%s: %d records, want %d", c.d, len(got.Records), c.want)
		}
	}
	_, err = s.Find(storeDigest(digest.FromString("none")))
	wantIs(t, err, ErrNotFound)
	got := must[*Found](t)(s.Find(storeDigest(arm.record.Manifest))).Records[0]
	if !slices.Equal(got.Names, []string{"img", "other"}) || !slices.Equal(got.Layers, []uint64{n, n}) || got.Created.IsZero() {
		t.Fatalf("record %+v", got)
	}

	commit("img", amd.record.Manifest, amd) // an image of the list that the name stands for: it stays
	if records, top, err = s.Resolve("img"); err != nil || top != list.Digest || len(records) != 2 {
		t.Fatalf("%v %v %v", records, top, err)
	}
	amd.record.List = ""
	commit("img", amd.record.Manifest, amd) // another top: the name moves
	records, top, err = s.Resolve("img")
	if err != nil || top != amd.record.Manifest || len(records) != 1 {
		t.Fatalf("%v %v %v", records, top, err)
	}
	ok(t, s.RemoveRecord(amd.record.Manifest))
	_, _, err = s.Resolve("img") // its last record is gone
	wantIs(t, err, ErrNotFound)
	wantIs(t, s.RemoveName("img"), ErrNotFound)
	wantIs(t, s.RemoveName(""), ErrNotFound)
	ok(t, s.RemoveName("other"))
	if names := must[map[string]digest.Digest](t)(s.Names()); len(names) != 0 {
		t.Fatalf("names %v", names)
	}
	if records := must[[]Record](t)(s.Records()); len(records) != 1 || len(records[0].Names) != 0 {
		t.Fatalf("records %+v", records)
	}
	wantClean(t, s)
}

// L33: a failed commit changes nothing: not the name, not a record, not a manifest, not what is kept or signed.
func TestCommitFails(t *testing.T) {
	s := newStore(t)
	good := putImage(t, s, "linux/amd64", putTOC(t, s, "l"))
	ok(t, s.Commit(Commit{Records: []Record{good.record}, Manifests: good.manifests, Name: "img"}))
	before := must[[]Record](t)(s.Records())

	other := func() image { return putImage(t, s, "linux/arm64") }
	for _, c := range []struct {
		name  string
		want  error
		spoil func(c *Commit)
	}{
		{"no records", ErrConflict, func(c *Commit) { c.Records = nil }},
		{"missing layer", ErrNotFound, func(c *Commit) { c.Records[0].Layers = []uint64{99} }},
		{"missing config", ErrNotFound, func(c *Commit) { c.Records[0].Config = digest.FromString("?") }},
		{"missing manifest", ErrNotFound, func(c *Commit) { c.Manifests = nil }},
		{"missing list", ErrNotFound, func(c *Commit) { c.Records[0].List = digest.FromString("?") }},
		{"missing top", ErrNotFound, func(c *Commit) { c.Top = digest.FromString("?") }},
		{"wrong bytes", ErrDigestMismatch, func(c *Commit) { c.Manifests[0].Digest = digest.FromString("?") }},
		{"two and no top", ErrConflict, func(c *Commit) { c.Records = append(c.Records, c.Records[0]) }},
		{"signature of nothing", ErrNotFound, func(c *Commit) {
			c.Signatures = map[digest.Digest][][]byte{digest.FromString("?"): {[]byte("s")}}
		}},
		{"missing kept blob, the old image again", ErrNotFound, func(c *Commit) {
			c.Records, c.Manifests = append(c.Records, good.record), append(c.Manifests, good.manifests...)
			c.Top = good.record.Manifest
			c.Signatures = map[digest.Digest][][]byte{good.record.Manifest: {[]byte("s")}}
			c.Kept = map[digest.Digest][]digest.Digest{good.record.Manifest: {digest.FromString("?")}}
		}},
	} {
		im := other()
		commit := Commit{Records: []Record{im.record}, Manifests: im.manifests, Name: "img"}
		c.spoil(&commit)
		if err := s.Commit(commit); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		records, top, err := s.Resolve("img")
		if err != nil || top != good.record.Manifest || len(records) != 1 || len(must[[]Record](t)(s.Records())) != len(before) {
			t.Fatalf("%s changed the store: %v %v %v", c.name, records, top, err)
		}
		if sigs := must[[][]byte](t)(s.Signatures(good.record.Manifest)); len(sigs) != 0 || !slices.Equal(records[0].Layers, good.record.Layers) {
			t.Fatalf("%s changed the old record: %v %+v", c.name, sigs, records)
		}
		if _, _, err := s.Manifest(im.record.Manifest); !errors.Is(err, ErrNotFound) {
			t.Fatalf("%s left its manifest", c.name)
		}
	}
}

func TestManifestAndSignatures(t *testing.T) {
	s := newStore(t)
	b := []byte("{ }\n")
	d := digest.FromBytes(b)
	wantIs(t, s.PutManifest(b, digest.FromString("?"), "m"), ErrDigestMismatch)
	wantIs(t, s.PutManifest(b, d, "a\nb"), ErrConflict)
	wantIs(t, s.PutSignatures(d, [][]byte{{1}}), ErrNotFound)
	ok(t, s.PutManifest(b, d, "m"))
	got, mediaType, err := s.Manifest(d)
	if err != nil || string(got) != string(b) || mediaType != "m" {
		t.Fatal(string(got), mediaType, err)
	}
	ok(t, s.PutSignatures(d, [][]byte{[]byte("one"), []byte("two")}))
	if sigs := must[[][]byte](t)(s.Signatures(d)); len(sigs) != 2 || string(sigs[1]) != "two" {
		t.Fatalf("signatures %q", sigs)
	}
	ok(t, s.PutSignatures(d, nil))
	if sigs := must[[][]byte](t)(s.Signatures(d)); len(sigs) != 0 {
		t.Fatalf("signatures %q", sigs)
	}
}

func TestCheckFinds(t *testing.T) {
	s := newStore(t)
	b := s.NewBatch()
	for _, c := range []string{"lazy", "tar", "spare"} {
		ok(t, b.Put(digest.FromString(c), int64(len(c)), reader(c)))
	}
	ok(t, b.Commit())
	n := putTOC(t, s, "l", "lazy", "never fetched")
	must[uint64](t)(s.PutLayer(LayerRow{DiffID: digest.FromString("d")}, testIndex("tar"), nil))
	view := must[uint64](t)(s.PutView(Chain{Layers: []uint64{n}}, []byte("tree")))
	im := putImage(t, s, "linux/amd64", n)
	ok(t, s.Commit(Commit{Records: []Record{im.record}, Manifests: im.manifests, Name: "img"}))
	wantClean(t, s)

	rot := func(rel string) {
		path := s.path(rel)
		ok(t, os.Chmod(path, 0o600))
		ok(t, os.WriteFile(path, []byte("rot"), 0o600))
	}
	lazy, tar, spare := objectRel(digest.FromString("lazy")), objectRel(digest.FromString("tar")), objectRel(digest.FromString("spare"))
	for _, rel := range []string{lazy, tar, spare, blobRel(im.record.Config), viewRel(view) + "/" + treeFile} {
		rot(rel)
	}
	o := checkAll()
	o.Repair = true
	findings := must[[]Finding](t)(s.Check(context.Background(), o))
	got := map[string]bool{}
	for _, f := range findings {
		got[f.Object] = f.Done
	}
	for object, repaired := range map[string]bool{lazy: true, spare: true, tar: false, blobRel(im.record.Config): false, "view 1": false} {
		if done, found := got[object]; !found || done != repaired {
			t.Errorf("%s: found %v, repaired %v, want %v", object, found, done, repaired)
		}
		if exists(s.path(object)) && object != "view 1" {
			t.Errorf("%s is damaged and still there", object)
		}
	}
	if len(findings) != 5 {
		t.Errorf("findings %+v", findings)
	}

	ok(t, os.Remove(s.path(layerRel(digest.FromString("l"), "")+"/"+indexFile)))
	findings = must[[]Finding](t)(s.Check(context.Background(), checkAll()))
	missing := 0
	for _, f := range findings {
		if f.Kind == "missing" {
			missing++
		}
	}
	if missing != 3 {
		t.Errorf("findings %+v", findings)
	}
}

// gc may take files that have no row yet; then they are written again rather than named.
func TestFilesGoneBeforeRow(t *testing.T) {
	s := newStore(t)
	steal := func(rel string) {
		s.disk.before = func(op, _ string) error {
			if op == "commit" && exists(s.path(rel)) {
				s.disk.before = nil
				return os.Remove(s.path(rel))
			}
			return nil
		}
	}
	steal(layerRel(digest.FromString("l"), "") + "/" + indexFile)
	n := putTOC(t, s, "l")
	if s.disk.before != nil {
		t.Fatal("nothing was stolen")
	}
	ok(t, must[*Mapped](t)(s.LayerIndex(n)).Close())
	split := layerRel(digest.FromString("split"), "") + "/" + tarSplitFile
	steal(split)
	n = must[uint64](t)(s.PutLayer(LayerRow{TOC: digest.FromString("split")}, testIndex(), []byte("split")))
	if s.disk.before != nil {
		t.Fatal("nothing was stolen")
	}
	if got := must[[]byte](t)(s.TarSplit(n)); string(got) != "split" {
		t.Fatalf("tar-split %q", got)
	}
	steal(viewRel(1) + "/" + treeFile)
	view := must[uint64](t)(s.PutView(Chain{Layers: []uint64{n}}, []byte("tree")))
	if s.disk.before != nil || view == 1 {
		t.Fatal("nothing was stolen")
	}
	ok(t, must[*Mapped](t)(s.View(view)).Close())
	wantClean(t, s)
}

// gc may take a directory while files are written into it.
func TestDirectoryGoneWhileWriting(t *testing.T) {
	for _, stop := range []string{"create", "write", "fsync", "rename"} {
		s := newStore(t)
		dir, stolen := s.path(layerRel(digest.FromString("l"), "")), false
		s.disk.before = func(op, _ string) error {
			if op == stop && !stolen && exists(dir) {
				stolen = true
				return os.RemoveAll(dir)
			}
			return nil
		}
		n := must[uint64](t)(s.PutLayer(LayerRow{TOC: digest.FromString("l")}, testIndex(), []byte("split")))
		if !stolen {
			t.Fatal("nothing was stolen")
		}
		must[[]byte](t)(s.TarSplit(n))
		wantClean(t, s)
	}
}
