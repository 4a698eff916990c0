package copy

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/dockerd"
	"github.com/tocsin/tocsin/manifest"
)

// These tests stand against a fake of docker's API (see front.Daemon), not against docker.

// An image goes into docker and comes out again, by its tag, its ID, and its ID behind a name, from daemons that keep its
// manifest and from those that do not.
func TestDockerDaemon(t *testing.T) { // L26
	for _, classic := range []bool{false, true} {
		w := newWorld(t, 4)
		w.daemon.Classic = classic
		src, tars := w.single()
		w.copy(src, w.docker("x:1"), nil)
		res := w.copy(w.docker("x:1"), "docker-daemon:ours/x:1", nil)
		if got := w.daemon.Names(); !slices.Equal(got, []string{"ours/x:1"}) {
			t.Errorf("names %v", got)
		}
		id := w.daemon.ID("ours/x:1")
		if want := w.situation(src).instances[0].image.Config.Digest; id != want.String() {
			t.Errorf("ID %s, want %s", id, want)
		}
		for _, ref := range []string{"docker-daemon:ours/x:1", "docker-daemon:" + id, "docker-daemon:ours/x@" + id} {
			w.checkTars(ref, tars)
			if got := digest.FromBytes(w.raw(ref)); !classic && got != res.Digest {
				t.Errorf("%s has digest %s, want %s", ref, got, res.Digest)
			}
			w.copy(ref, w.layout("out-"+hexOf(ref))+":x", nil)
		}
		for _, ref := range []string{"docker-daemon:ours/y:1", "docker-daemon:" + digest.FromString("none").String()} {
			if _, err := w.try(ref, w.layout("no")+":x", nil); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", ref, err)
			}
		}
		for _, ref := range []string{"docker-daemon:" + id, "docker-daemon:ours/x@" + id} {
			if _, err := w.try(src, ref, nil); !errors.Is(err, ErrUsage) && !errors.Is(err, ErrPreserve) {
				t.Errorf("to %s: %v", ref, err)
			}
		}
		if err := w.saveBoth(); err != nil {
			t.Error(err)
		}
	}
}

// saveBoth puts an image of docker into an archive under its name.
func (w *world) saveBoth() error {
	to := Saved{Path: w.dir + "/saved.tar", Transport: manifest.DockerArchive}
	if _, err := Save(w.t.Context(), w.env, to, []manifest.Ref{w.ref("docker-daemon:ours/x:1")}, nil); err != nil {
		return err
	}
	_, err := Resolve(w.t.Context(), w.env, w.ref("docker-archive:"+to.Path+":ours/x:1"), &Options{})
	return err
}

// An image that docker gives for a digest which is not its own is not taken for it.
func TestDockerDaemonLies(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	w.copy(src, "docker-daemon:x:1", nil)
	id := w.daemon.ID("x:1")
	lying := openDaemon(w.env, w.ref("docker-daemon:"+id))
	lying.want = digest.FromString("another")
	defer lying.close()
	if _, err := lying.top(t.Context()); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Errorf("%v", err)
	}
}

// A list of which docker saved one platform is known by the list's digest too.
func TestDockerDaemonList(t *testing.T) {
	w := newWorld(t, 2)
	tars := small(t)
	raw, image := stored(t, algoNone, tars[0], tars[1])
	if err := w.daemon.Put(raw); err != nil {
		t.Fatal(err)
	}
	src := openDaemon(w.env, w.ref("docker-daemon:both:1"))
	defer src.close()
	x, err := src.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	idx, err := readArchiveIndex(x)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []digest.Digest{image, idx.Manifests[0].Digest} {
		src.want, src.blobs = want, nil
		if doc, err := src.top(t.Context()); err != nil || doc.digest != image {
			t.Errorf("%s: %s, %v", want, doc.digest, err)
		}
	}
}

// Of two images of one platform docker gets the gzip one; nothing else changes its mind.
func TestPreferGzip(t *testing.T) { // L26, L9, rule 4
	w := newWorld(t, 2)
	tars := small(t)
	b := w.build("both")
	zstd := b.image("linux/amd64", algoZstd, tars...)
	zstd.Annotations = map[string]string{manifest.AnnotationZstd: "true"}
	gzip := b.image("linux/amd64", algoGzip, tars[0])
	src := b.name(b.list(zstd, gzip), "x")
	for to, want := range map[string]int{"docker-daemon:x:1": 1, "docker-archive:" + w.dir + "/a.tar:x:1": 1, w.layout("out") + ":x": 2} {
		w.copy(src, to, &Options{Platform: platform(t, "linux/amd64")})
		w.checkTars(to, tars[:want])
	}
	// Nothing was chosen: the fallback, which is said.
	amd := plat(t, "linux/amd64")
	res := w.copy(src, "docker-daemon:z:1", &Options{Select: Select{Fallback: &amd}})
	w.checkTars("docker-daemon:z:1", tars[:1])
	if !strings.Contains(strings.Join(res.Notes, "\n"), "the one for linux/amd64 is copied") {
		t.Errorf("notes %q", res.Notes)
	}
	if res := w.copy(src, w.layout("whole")+":x", &Options{Select: Select{Fallback: &amd}}); res.MediaType != v1.MediaTypeImageIndex || len(res.Notes) > 0 {
		t.Errorf("%+v", res)
	}
	for o, want := range map[*Options]error{
		{Preserve: true, Select: Select{Fallback: &amd}}:                        ErrPreserve,
		{Select: Select{Fallback: platform(t, "linux/mips")}}:                   manifest.ErrNotFound,
		{Select: Select{Fallback: &amd, Digests: []digest.Digest{zstd.Digest}}}: ErrUsage,
	} {
		if _, err := w.try(src, "docker-daemon:y:1", o); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	for name, o := range map[string]Options{"all": {}, "two": {Select: Select{Digests: []digest.Digest{gzip.Digest}}}} {
		if _, err := w.try(src, "docker-daemon:y:1", &o); !errors.Is(err, ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := w.daemon.Names(); !slices.Equal(got, []string{"x:1", "z:1"}) {
		t.Errorf("names %v", got)
	}
}

// What docker says against an image is the error, whether it says it at the end or at once, and a source that fails ends
// the request broken, so that docker does not take half an archive.
func TestDockerDaemonFails(t *testing.T) { // rule 17, rule 23, L20
	w := newWorld(t, 2)
	src, tars := w.single()
	for _, deaf := range []bool{false, true} {
		w.daemon.Refuse, w.daemon.Deaf = "no space left on device", deaf
		if _, err := w.try(src, "docker-daemon:x:1", nil); !errors.Is(err, dockerd.ErrRefused) || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("deaf %v: %v", deaf, err)
		}
	}
	w.daemon.Refuse, w.daemon.Deaf = "", false
	b := w.build("broken")
	broken := b.name(b.image("linux/amd64", algoNone, tars[0], tarOf(t, file{"new", noise(3, 300<<10)})), "x")
	damage(t, w, broken)
	if _, err := w.try(broken, "docker-daemon:x:1", nil); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Errorf("%v", err)
	}
	k := newKeys(t)
	w.copy(src, "dir:"+w.dir+"/signed", &Options{Signatures: Signing{Signers: []Signer{k.gpg}, Identity: "example.com/x:1"}})
	if _, err := w.try("dir:"+w.dir+"/signed", "docker-daemon:x:1", nil); err == nil || !strings.Contains(err.Error(), "--remove-signatures") {
		t.Errorf("%v", err)
	}
	if got := w.daemon.Names(); len(got) != 0 {
		t.Errorf("loaded %v", got)
	}
}

// A daemon that takes a connection and then nothing does not hold a cancelled copy.
func TestDockerDaemonStuck(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Read(make([]byte, 1))
		cancel() // the copy has begun to write
		<-t.Context().Done()
	}()
	if w.env.Dockerd, err = dockerd.New(dockerd.Options{Host: "tcp://" + listener.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(ctx, w.env, w.ref(src), w.ref("docker-daemon:x:1"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// rule 1: what a tag names is read once, also where a copy has to know that it is a list before it chooses.
func TestTopIsReadOnce(t *testing.T) {
	w := newWorld(t, 2)
	w.copy(w.multi(algoGzip), w.docker("a:1"), nil)
	w.front.Forget()
	w.copy(w.docker("a:1"), "docker-archive:"+t.TempDir()+"/x.tar", &Options{Select: Select{Fallback: platform(t, "linux/amd64")}})
	if n := w.front.Count("GET", "/v2/a/manifests/1"); n != 1 {
		t.Errorf("the tag was read %d times", n)
	}
}
