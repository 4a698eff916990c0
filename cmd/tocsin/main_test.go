package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
)

// The test binary is tocsin when it is called so, and measures itself when it is called the other way.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tocsin": main, "tocsin-measured": measured})
}

type frontKey struct{}

// TestScripts runs testdata/*.txtar. Each has a registry in memory at $REGISTRY, a store at $WORK/root, and a layout
// img with a small image x (of this machine's platform) and a bigger one y, and a layout multi with a list x of three
// platforms. Commands of ours: exits CODE ARGS..., which is exec with that
// exit code; front, which makes the registry misbehave.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "front": misbehave, "keys": writeKeys,
		},
		Condition: condition,
	})
}

func setupScript(env *testscript.Env) error {
	f := front.New(front.NewRegistry())
	srv := httptest.NewServer(f)
	env.Defer(srv.Close)
	env.Values[frontKey{}] = f
	env.Setenv("REGISTRY", strings.TrimPrefix(srv.URL, "http://"))
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("TOCSIN_ROOT", filepath.Join(env.WorkDir, "root"))
	env.Setenv("TMPDIR", env.WorkDir)
	mnt := filepath.Join(env.WorkDir, "mnt")
	env.Defer(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) }) // not there when all went well
	if err := writeList(filepath.Join(env.WorkDir, "multi")); err != nil {
		return err
	}
	return writeImages(filepath.Join(env.WorkDir, "img"))
}

// writeList makes a layout with one list. Which platform an image is for is what the list says.
func writeList(dir string) error {
	var list []v1.Descriptor
	for _, arch := range []string{"amd64", "arm64", "s390x"} {
		d, err := mkimage.Write(context.Background(), dir, arch, []mkimage.Layer{mkimage.File("arch", []byte(arch))}, nil)
		if err != nil {
			return err
		}
		d.Annotations, d.Platform = nil, &v1.Platform{OS: "linux", Architecture: arch}
		list = append(list, d)
	}
	raw := manifest.NewIndex(list)
	top := v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
		Annotations: map[string]string{v1.AnnotationRefName: "x"}}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "blobs", "sha256", top.Digest.Encoded()), raw, 0o644),
		os.WriteFile(filepath.Join(dir, "index.json"), manifest.NewIndex([]v1.Descriptor{top}), 0o644))
}

func writeImages(dir string) error {
	small := []mkimage.Layer{mkimage.File("etc/hello", []byte("hello\n")), mkimage.File("bin/tool", bytes.Repeat([]byte("tool "), 5000))}
	_, err := mkimage.Write(context.Background(), dir, "x", small, nil)
	if err != nil {
		return err
	}
	_, err = mkimage.Write(context.Background(), dir, "y", append(small, mkimage.Awkward()...), nil)
	return err
}

func condition(cond string) (bool, error) {
	switch cond {
	case "root":
		return os.Geteuid() == 0, nil
	case "fuse":
		f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil {
			return false, nil
		}
		return true, f.Close()
	case "policy": // this machine has one
		_, err := os.Stat("/etc/" + policyFile)
		return err == nil, nil
	}
	return false, errors.New("unknown condition " + cond)
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// misbehave is front behave | status CODE PATH | flip OFFSET PATH | login USER PASSWORD | noranges | uploads N: the last
// demands that so many were sent since behave.
func misbehave(ts *testscript.TestScript, neg bool, args []string) {
	f := ts.Value(frontKey{}).(*front.Front)
	number := func() int {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		return n
	}
	switch args[0] {
	case "behave":
		f.Behave()
		f.Forget()
	case "status":
		f.Add(front.Rule{Path: args[2], Do: front.Status(number(), "SAID", "Retry-After", "0")})
	case "flip":
		f.Add(front.Rule{Method: http.MethodGet, Path: args[2], Do: front.FlipBit(number())})
	case "login":
		f.Add(front.Rule{Path: "/", Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			front.BasicAuth(next, args[1], args[2]).ServeHTTP(w, r)
		}})
	case "noranges":
		f.Add(front.Rule{Ranged: true, Path: "/blobs/", Do: front.IgnoreRange()})
	case "uploads":
		if n := f.Count("PUT", "/uploads/"); n != number() {
			ts.Fatalf("%d uploads", n)
		}
	default:
		ts.Fatalf("front: %q", args)
	}
}
