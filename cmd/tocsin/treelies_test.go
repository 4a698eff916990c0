package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/integration/forge"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// answer is what a door gives to a layer whose table of contents or tar-split is not what its tar is.
type answer string

const (
	refused answer = "refused, and nothing has the name"
	proved  answer = "refused, or the tree that containerd's unpacker makes of the tars"
	carried answer = "every byte of manifest and layers as it was, and nothing is read of it"
	tarred  answer = "the tars themselves, whatever the table says"
	viewed  answer = "refused, or what the table shows, which is the only reading"
	strange answer = "refused, or tars that make the tree which the table shows"
	either  answer = "nothing is taken: a lie is reported unless its tree is the tar's"
	one     answer = "nothing is taken: there is one reading, so nothing is compared"
)

// treeDoor is one way in which a layer is taken.
type treeDoor struct {
	args []string
	// The answers to an image that can be read as a tar, to a sentinel variant that has the diff_ids of its tars, and to
	// one that is chain-bound.
	plain, variant, bound answer
}

func treeDoors() []treeDoor {
	return []treeDoor{
		{[]string{"copy", "REF", "store:NAME"}, proved, viewed, viewed},
		{[]string{"copy", "REF", "oci:DIR-oci:x"}, carried, carried, carried},
		{[]string{"copy", "REF", "dir:DIR-dir"}, carried, carried, carried},
		{[]string{"copy", "REF", "docker://HOST/out:NAME"}, carried, carried, carried},
		{[]string{"copy", "REF", "containerd:ns/NAME"}, carried, carried, carried},
		{[]string{"copy", "REF", "docker-archive:DIR.tar"}, tarred, strange, strange},
		{[]string{"verify", "--trust", "REF"}, either, one, one},
	}
}

// answer gives the exceptions that are not about the lie but about what the door knows.
func (w *told) answer(door treeDoor) (want answer, refusal int) {
	want = map[string]answer{"plain": door.plain, "variant": door.variant, "bound": door.bound}[w.form]
	archived := want == tarred || want == strange
	switch {
	case w.lie.Kind == "tar-split" && w.lie.Name == "nothing": // a tar-split of no length is no valid annotation
		return refused, exitVerify
	case archived && w.top.Algorithm() != digest.SHA256: // docker archives are of sha256
		return refused, exitPreserve
	case want == strange && w.lie.Kind == "no tar-split": // no tar can be made of it
		return refused, exitOther
	}
	return want, exitVerify
}

// Of these kinds every lie changes the tree, so there is nothing that could be taken.
var alwaysFalse = []string{"content", "size", "name", "links"}

func treeLies() []forge.Lie {
	missing := forge.Lie{Kind: "no tar-split", Name: "another content", Layer: func(alg digest.Algorithm) (*forge.Layer, error) {
		l, err := forge.Base(alg)
		if err == nil {
			l.Entry("bin/tool").Content, l.Split = []byte("EVIL tool\n"), nil
		}
		return l, err
	}}
	return append(forge.Lies(), missing)
}

// lower has what the lies about whiteouts and opaque directories hide.
func lower(alg digest.Algorithm) (*forge.Layer, error) {
	var members []forge.Member
	for _, name := range []string{"bin/old", "d/base", "etc/empty", "etc/old", "gone/file", "gone/more", "gone/other", "opaque/old", "x/base"} {
		members = append(members, forge.File(name, []byte("lower "+name)))
	}
	l, err := forge.New(members...)
	if err == nil {
		l.Algorithm, l.DiffID = alg, alg
	}
	return l, err
}

// A layer whose table of contents or tar-split lies about the tar is taken by every door as the table above has it, and
// what is taken is one thing: the tar, or, in a variant, what its table shows. The image that it lies about keeps its files.
func TestTreeLiesThroughEveryDoor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containerd's unpacker makes devices and owners, as root only")
	}
	b := newLieBench(t)
	if code, err := b.tell("victim", forge.Lie{Layer: forge.Base}, digest.SHA256).run("copy", "REF", "store:victim"); code != exitOK {
		t.Fatal(err)
	}
	want := b.view("victim")
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		for i, lie := range treeLies() {
			if alg == digest.SHA512 && i%12 != 0 { // a sample: what is compared is the same
				continue
			}
			for _, form := range []string{"plain", "variant", "bound"} {
				told := b.tell(fmt.Sprintf("%s-%d-%s", alg, i, form), lie, alg)
				for _, door := range treeDoors() {
					told.enter(door)
				}
			}
			if got := b.view("victim"); !slices.Equal(got, want) {
				t.Fatalf("%s: %s: the victim shows\n%q, want\n%q", lie.Kind, lie.Name, got, want)
			}
		}
	}
}

// told is a lie that is published.
type told struct {
	*lieBench
	name, form string
	lie        forge.Lie
	layers     []*forge.Blob
	top        digest.Digest
	out        bytes.Buffer
}

// tell publishes a lie on top of an honest layer; how it is to be read is what its name ends with.
func (b *lieBench) tell(name string, lie forge.Lie, alg digest.Algorithm) *told {
	b.t.Helper()
	w := &told{lieBench: b, name: name, lie: lie, form: name[strings.LastIndex(name, "-")+1:]}
	for _, layer := range []func(digest.Algorithm) (*forge.Layer, error){lower, lie.Layer} {
		l, err := layer(alg)
		if err != nil {
			b.t.Fatal(err)
		}
		blob, err := l.Write()
		if err != nil {
			b.t.Fatal(err)
		}
		w.layers = append(w.layers, blob)
	}
	im := forge.Image{Layers: w.layers, Algorithm: alg, ChainBound: w.form == "bound"}
	if w.form == "variant" || w.form == "bound" {
		im.Sentinel = manifest.SentinelTypeOCI
	}
	bundle, err := im.Bundle()
	if err == nil {
		err = bundle.Push(b.t.Context(), http.DefaultClient, "http://"+b.host, "lies", name)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	w.top = bundle.Top.Digest
	return w
}

func (w *told) run(args ...string) (int, error) {
	replacer := strings.NewReplacer("REF", "docker://"+w.host+"/lies:"+w.name, "DIR", w.file(""), "HOST", w.host, "NAME", w.name)
	for i, a := range args {
		args[i] = replacer.Replace(a)
	}
	w.out.Reset()
	root := newRoot()
	root.SetArgs(append([]string{"--plain-http"}, args...))
	root.SetOut(&w.out)
	root.SetErr(io.Discard)
	if err := root.ExecuteContext(w.t.Context()); err != nil {
		return exitCode(context.Background(), err), err
	}
	return exitOK, nil
}

func (w *told) file(end string) string { return filepath.Join(w.dir, w.name+end) }

// enter takes the image through a door and looks at what is behind it.
func (w *told) enter(door treeDoor) {
	w.t.Helper()
	want, refusal := w.answer(door)
	code, err := w.run(slices.Clone(door.args)...)
	fails := func(format string, args ...any) {
		w.t.Helper()
		w.t.Errorf("%s: %s, %s, %s: want %s; %s", w.lie.Kind, w.lie.Name, w.name, strings.Join(door.args, " "), want, fmt.Sprintf(format, args...))
	}
	certain := slices.Contains(alwaysFalse, w.lie.Kind) && (want == proved || want == either)
	may := want == proved || want == viewed || want == strange || want == either
	switch {
	case code == refusal && (may || want == refused):
		if stored, err := w.run("inspect", "store:NAME"); door.args[2] == "store:NAME" && stored != exitNotFound {
			fails("the store has the name: %v", err)
		}
		return
	case code != exitOK || want == refused || certain:
		fails("exit code %d, %v", code, err)
		return
	}
	tars := [][]byte{w.layers[0].Tar, w.layers[1].Tar}
	switch want {
	case carried:
		if !strings.Contains(w.out.String(), w.top.String()) {
			fails("the image is %s", w.out.String())
		}
	case proved:
		if got, want := w.view(w.name), w.unpacked(tars); !slices.Equal(got, want) {
			fails("the store shows\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	case tarred:
		if got := w.exported(); !slices.EqualFunc(got, tars, bytes.Equal) {
			fails("%d tars, others", len(got))
		}
	case strange:
		if got, want := w.unpacked(w.exported()), w.view(w.name); !slices.Equal(got, want) {
			fails("the tars make\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// exported returns the tars of the docker archive.
func (w *told) exported() [][]byte {
	w.t.Helper()
	f, err := os.Open(w.file(".tar"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			files[h.Name], err = io.ReadAll(tr)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	var listing []struct{ Layers []string }
	if err := json.Unmarshal(files["manifest.json"], &listing); err != nil || len(listing) != 1 {
		w.t.Fatalf("%s, %v", files["manifest.json"], err)
	}
	var tars [][]byte
	for _, name := range listing[0].Layers {
		tars = append(tars, files[name])
	}
	return tars
}

// unpacked lists what overlayfs shows of tars that containerd's own unpacker unpacked, each on top of the one before.
func (w *told) unpacked(tars [][]byte) []string {
	w.t.Helper()
	base, err := os.MkdirTemp("", "o") // short: a mount's options have room for one page
	if err != nil {
		w.t.Fatal(err)
	}
	defer os.RemoveAll(base)
	var lower []string // top first
	for i, raw := range tars {
		layer := filepath.Join(base, fmt.Sprint(i))
		if err := os.Mkdir(layer, 0o755); err != nil {
			w.t.Fatal(err)
		}
		options := []archive.ApplyOpt{archive.WithConvertWhiteout(archive.OverlayConvertWhiteout)}
		if i > 0 {
			options = append(options, archive.WithParents(lower))
		}
		if _, err := archive.Apply(w.t.Context(), layer, bytes.NewReader(raw), options...); err != nil {
			return []string{err.Error()} // what it refuses nothing may show
		}
		lower = slices.Insert(lower, 0, layer)
	}
	dir := filepath.Join(base, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		w.t.Skipf("cannot mount overlayfs on %s: %v", base, err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			w.t.Error(err)
		}
	}()
	return listed(w.t, dir)
}

func listed(t *testing.T, dir string) []string {
	t.Helper()
	var rows []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(name, &st); err != nil {
			return err
		}
		var content []byte
		target := ""
		switch {
		case d.Type().IsRegular():
			content, err = os.ReadFile(name)
		case d.Type() == fs.ModeSymlink:
			target, err = os.Readlink(name)
		}
		capability := make([]byte, 64)
		n, _ := unix.Lgetxattr(name, "security.capability", capability)
		rel, _ := filepath.Rel(dir, name)
		rows = append(rows, row(rel, st.Mode, [2]uint32{st.Uid, st.Gid}, st.Mtim.Nano(), uint32(st.Nlink), target, content, capability[:max(n, 0)]))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(rows)
	return rows
}

// row has no time of directories and no links of them: they differ from file system to file system, and with what is
// removed in them.
func row(name string, mode uint32, owner [2]uint32, mtime int64, nlink uint32, target string, content, capability []byte) string {
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		mtime, nlink = 0, 0
	}
	return fmt.Sprintf("%s %o %d %d %d -> %q %s %x", name, mode, owner, mtime, nlink, target, digest.FromBytes(content), capability)
}

// view lists what the store shows of an image.
func (b *lieBench) view(name string) []string {
	b.t.Helper()
	st, err := store.Open(os.Getenv("TOCSIN_ROOT"), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	defer st.Close()
	pool := fill.New(st, &fill.Options{Window: -1, Connect: func(context.Context, store.Source) (fill.Source, error) {
		return nil, errors.New("everything was copied")
	}})
	defer pool.Close()
	records, _, err := st.Resolve("docker.io/library/" + name + ":latest")
	if err != nil || len(records) != 1 {
		b.t.Fatal(name, records, err)
	}
	number, err := pool.View(b.t.Context(), records[0].Layers)
	if err != nil {
		b.t.Fatal(err)
	}
	m, err := st.View(number)
	if err != nil {
		b.t.Fatal(err)
	}
	defer m.Close()
	v, err := chunked.OpenView(m.Bytes())
	if err != nil {
		b.t.Fatal(err)
	}
	var rows []string
	for path, e := range v.Walk() {
		if path == "" {
			continue
		}
		a := v.Attr(e)
		var content, capability []byte
		for i := range v.NumXattrs(e) {
			if key, value := v.Xattr(e, i); string(key) == "security.capability" {
				capability = []byte(value)
			}
		}
		if slot, obj, ok := v.Content(e); ok {
			content = b.content(pool, records[0].Layers[slot], obj)
		}
		rows = append(rows, row(path, a.Mode, [2]uint32{a.UID, a.GID}, a.MtimeSec*1e9+int64(a.MtimeNsec), a.Nlink, v.Readlink(e), content, capability))
	}
	slices.Sort(rows)
	return rows
}

func (b *lieBench) content(pool *fill.Pool, layer uint64, obj int) []byte {
	b.t.Helper()
	ly, err := pool.Layer(layer)
	if err != nil {
		b.t.Fatal(err)
	}
	f, err := ly.Open(obj)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	content := make([]byte, f.Size())
	if _, err := f.ReadAt(b.t.Context(), content, 0); err != nil && err != io.EOF {
		b.t.Fatal(err)
	}
	return content
}
