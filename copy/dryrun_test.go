package copy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
)

func TestDryRun(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	layers := []mkimage.Layer{mkimage.File("a", []byte("one")), mkimage.File("b", []byte("two"))}
	if _, err := mkimage.Write(ctx, filepath.Join(dir, "img"), "x", layers, nil); err != nil {
		t.Fatal(err)
	}
	src := manifest.Ref{Transport: manifest.OCI, Path: filepath.Join(dir, "img"), Name: "x", Index: -1}
	dst := manifest.Ref{Transport: manifest.OCI, Path: filepath.Join(dir, "out"), Name: "x", Index: -1}
	actions := func(r *DryRunResult) string {
		var out []string
		for _, b := range r.Instances[0].Blobs {
			out = append(out, b.Action)
		}
		return strings.Join(out, " ")
	}

	plain, err := DryRun(ctx, &Env{}, src, dst, nil)
	if err != nil {
		t.Fatal(err)
	}
	if plain.Edit != "" || len(plain.Instances) != 1 || actions(plain) != "copy copy copy" || plain.Bytes[ActionCopy] == 0 {
		t.Errorf("%+v", plain)
	}
	if _, err := os.Stat(dst.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dry run wrote: %v", err)
	}

	chunked := &Options{Compress: Compression{Algorithm: algoChunked}}
	edited, err := DryRun(ctx, &Env{}, src, dst, chunked)
	if err != nil {
		t.Fatal(err)
	}
	in := edited.Instances[0]
	if edited.Edit == "" || edited.Digest != "" || actions(edited) != "copy encode encode" || in.Variant != "hidden" ||
		in.Blobs[1].Reason != "to zstd:chunked: it is gzip" || in.Edit == "" {
		t.Errorf("%+v", edited)
	}
	for _, want := range []string{"manifest changes: a new index", "; a sentinel variant is added (hidden)", "  encode sha256:"} {
		if !strings.Contains(edited.String(), want) {
			t.Errorf("no %q in\n%s", want, edited)
		}
	}

	chunked.Preserve = true
	chunked.Sentinel = "only"
	if _, err := DryRun(ctx, &Env{}, src, dst, chunked); !errors.Is(err, ErrPreserve) {
		t.Errorf("what a copy would refuse: %v", err)
	}

	res, err := Copy(ctx, &Env{}, src, dst, nil)
	if err != nil || res.Digest != plain.Digest {
		t.Fatalf("%+v, %v; the plan said %s", res, err, plain.Digest)
	}
	again, err := DryRun(ctx, &Env{}, src, dst, nil)
	if err != nil || actions(again) != "have have have" || again.Bytes[ActionCopy] != 0 {
		t.Errorf("%+v, %v", again, err)
	}
}

// What a selection leaves out is said, with what becomes of its entry.
func TestDescribeLeftOut(t *testing.T) {
	for _, c := range []struct {
		ip   imagePlan
		want string
	}{
		{imagePlan{instance: instance{skipped: true}, plain: true}, "its entry stays"},
		{imagePlan{instance: instance{skipped: true}}, "its entry goes"},
		{imagePlan{}, "sentinel variants only"},
		{imagePlan{plain: true}, ""},
	} {
		got := describePlan(situation{}, &copyPlan{top: topList, images: []imagePlan{c.ip}}, &Options{}, answers{})
		if left := got.Instances[0].LeftOut; !strings.Contains(left, c.want) || (left == "") != (c.want == "") {
			t.Errorf("%+v: %q, want %q", c.ip, left, c.want)
		}
	}
}

// rule 23: what a copy refuses because of signatures, its plan refuses too.
func TestDryRunOfSigned(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	single, _ := w.single()
	aside := "file://" + filepath.Join(w.dir, "aside")
	w.env.Trust = &Trust{Registries: w.lookasideAt(aside, aside)}
	w.copy(single, w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.gpg}}})
	for dst, want := range map[string]error{
		w.layout("out") + ":x":                           ErrUsage,
		"oci-archive:" + filepath.Join(w.dir, "out.tar"): ErrUsage,
		"dir:" + filepath.Join(w.dir, "d"):               nil,
		w.docker("b:1"):                                  nil,
	} {
		if _, err := DryRun(t.Context(), w.env, w.ref(w.docker("a:1")), w.ref(dst), nil); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", dst, err, want)
		}
		if _, err := DryRun(t.Context(), w.env, w.ref(w.docker("a:1")), w.ref(dst), &Options{Signatures: Signing{Remove: true}}); err != nil {
			t.Errorf("%s without signatures: %v", dst, err)
		}
	}
}
