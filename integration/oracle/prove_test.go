package oracle

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
)

// prove is what a verifying reader does with a blob before it believes its TOC.
func prove(blob []byte, ann map[string]string) (tarball []byte, err error) {
	ref, err := manifest.TOCRefOf(v1.Descriptor{
		MediaType: v1.MediaTypeImageLayerZstd, Digest: digest.FromBytes(blob), Size: int64(len(blob)), Annotations: ann,
	})
	if err != nil {
		return nil, err
	}
	part := func(r manifest.Range) []byte { return blob[r.Off:r.End()] }
	toc, err := chunked.ParseTOC(part(ref.TOC), ref, int64(len(blob)))
	if err != nil {
		return nil, err
	}
	b, err := chunked.BuildIndex(toc)
	if err != nil {
		return nil, err
	}
	l := &layer{blob: blob, toc: toc}
	if l.index, err = chunked.OpenIndex(b); err != nil {
		return nil, err
	}
	if l.split, err = chunked.ParseTarSplit(part(ref.TarSplit), toc.TarSplitDigest, ref.TarSplitRawLen); err != nil {
		return nil, err
	}
	if err := chunked.CheckTarSplit(nil, l.index, l.split); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = chunked.ProveTar(nil, &out, l.index, l.split, l.open)
	return out.Bytes(), err
}

func dir(name string) file { return other(tar.TypeDir, name, "") }

// as changes the format of a header.
func as(f file, format tar.Format, change func(*tar.Header)) file {
	f.Format = format
	if change != nil {
		change(&f.Header)
	}
	return f
}

// Every honest tree that podman's compressor writes is proved to be its tar.
func TestProveTheirs(t *testing.T) {
	long := strings.Repeat("long-directory/", 20)
	times := func(h *tar.Header) {
		h.ModTime, h.AccessTime, h.ChangeTime = time.Unix(1e9, 123456789), time.Unix(2e9, 1), time.Unix(3e9, 999999999)
	}
	for name, raw := range map[string][]byte{
		"dot-slash names": makeTar(t, dir("./"), dir("./d/"), reg("./d/f", []byte("x")), link("./d/l", "./d/f"), other(tar.TypeSymlink, "./d/s", "f")),
		"mixed spelling":  makeTar(t, dir("./d/"), reg("d/f", []byte("x")), reg("/d/g", []byte("y")), link("d/l", "./d/f")),
		"implied directories": makeTar(t, reg("a/b/c", []byte("x")), reg("a/d", []byte("y")), link("z/l", "a/d"),
			dir("a/"), reg("a/b/e", nil)),
		"through symlinks":   makeTar(t, dir("usr/"), dir("usr/lib/"), other(tar.TypeSymlink, "lib", "usr/lib"), reg("lib/libc.so", []byte("elf")), link("lib/libc.so.6", "lib/libc.so")),
		"links of links":     makeTar(t, reg("f", []byte("content")), link("l", "f"), link("m", "l"), link("n", "./m")),
		"link to nothing in": makeTar(t, reg("empty", nil), link("l", "empty")),
		"names of PAX":       makeTar(t, as(reg(long+"f", []byte("x")), tar.FormatPAX, nil), as(link(long+"l", long+"f"), tar.FormatPAX, nil), as(other(tar.TypeSymlink, "s", long), tar.FormatPAX, nil)),
		"names of GNU":       makeTar(t, as(reg(long+"f", []byte("x")), tar.FormatGNU, nil), as(link(long+"l", long+"f"), tar.FormatGNU, nil), as(other(tar.TypeSymlink, "s", long), tar.FormatGNU, nil)),
		"prefix of USTAR":    makeTar(t, as(reg(strings.Repeat("p/", 60)+"f", []byte("x")), tar.FormatUSTAR, nil)),
		"owners of PAX":      makeTar(t, as(reg("f", []byte("x")), tar.FormatPAX, func(h *tar.Header) { h.Uid, h.Gid = 1<<31, 1<<31+1 })),
		"owners of GNU":      makeTar(t, as(reg("f", []byte("x")), tar.FormatGNU, func(h *tar.Header) { h.Uid, h.Gid = 1<<30, 1<<30+1 })),
		"exact times":        makeTar(t, as(reg("f", []byte("x")), tar.FormatPAX, times), as(dir("d/"), tar.FormatPAX, times)),
		"times of old":       makeTar(t, as(reg("f", []byte("x")), tar.FormatPAX, func(h *tar.Header) { h.ModTime = time.Unix(-1e9, 5) })),
		"whiteouts":          makeTar(t, reg(".wh.a", nil), dir("d/"), reg("d/.wh..wh..opq", nil), reg("d/new", []byte("n")), reg(".wh.e", nil), dir("e/"), device("w", tar.TypeChar, 0, 0)),
		"xattrs": makeTar(t, xattrs(reg("f", []byte("c")), map[string]string{"user.a": "b\x00c", "user.empty": "", "security.selinux": "label\x00",
			"trusted.x": "dropped", "user.overlay.opaque": "y"})),
		"same content": makeTar(t, reg("a", noise(1, 300_000)), reg("b", noise(1, 300_000)), reg("c", []byte("s")), reg("d", []byte("s"))),
		"padded":       append(makeTar(t, reg("f", []byte("x"))), make([]byte, 10240)...),
		"no end":       makeTar(t, reg("f", []byte("x")))[:1024],
	} {
		blob, ann := theirs(t, raw, nil)
		if got, err := prove(blob, ann); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(raw), err)
		}
	}
	for name, raw := range layers(t) {
		blob, ann := theirs(t, raw, nil)
		if got, err := prove(blob, ann); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(raw), err)
		}
	}
}

// What of it cannot be proved is read as a tar, and says so.
func TestTheirsThatProveNothing(t *testing.T) {
	second := makeTar(t, reg("hidden", []byte("x")))
	for name, raw := range map[string][]byte{
		"a directory replaced":    makeTar(t, reg("d/f", []byte("1")), other(tar.TypeSymlink, "d", "e")),
		"a link to a symlink":     makeTar(t, other(tar.TypeSymlink, "s", "f"), link("l", "s")),
		"a link to a device":      makeTar(t, device("null", tar.TypeChar, 1, 3), link("l", "null")),
		"whiteout of its own":     makeTar(t, reg("d/f", []byte("1")), reg(".wh.d", nil)),
		"AUFS's files":            makeTar(t, dir(".wh..wh.plnk/"), reg(".wh..wh.plnk/1.2", nil)),
		"a name that is not text": makeTar(t, reg("caf\xe9", []byte("x"))),
		"a tar behind the end":    append(makeTar(t, reg("f", []byte("x"))), second...),
	} {
		blob, ann := theirs(t, raw, nil)
		if _, err := prove(blob, ann); !errors.Is(err, chunked.ErrUnsayable) {
			t.Errorf("%s: %v", name, err)
		}
		// What their own table cannot stand for, ours does not either.
		if _, err := chunked.Compress(io.Discard, bytes.NewReader(raw), nil); !errors.Is(err, chunked.ErrUnsayable) {
			t.Errorf("%s: written by us: %v", name, err)
		}
	}
}
