package mkimage

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"time"
)

// Awkward returns two layers that hold, below /awkward, what image tools get wrong: hard links, xattrs, devices,
// setuid and sticky bits, long and odd names, times before 1970 and with nanoseconds, holes, big and equal files,
// directories that no entry names; and in the second layer whiteouts, an opaque directory, and every kind replaced by
// another. They fit on top of any other layers. Every name is UTF-8, because a TOC is JSON and cannot say others; see
// NotUTF8.
func Awkward() []Layer {
	return []Layer{
		fromEntries("awkward things", awkwardLower()),
		fromEntries("awkward changes", awkwardUpper()),
	}
}

// NotUTF8 is a layer with a name that is not UTF-8: a tar can say it, a TOC cannot.
func NotUTF8() Layer {
	return fromEntries("a name that is not UTF-8", []entry{
		dir("bytes/", 0o755), file("bytes/caf\xe9\xff", 0o644, []byte("latin-1\n")),
	})
}

// File is a layer with one regular file at path, executable, owned by root, and no entries for its directories.
func File(path string, content []byte) Layer {
	return fromEntries("file "+path, []entry{file(strings.TrimPrefix(path, "/"), 0o755, content)})
}

type entry struct {
	tar.Header
	content []byte
}

func fromEntries(createdBy string, entries []entry) Layer {
	return Layer{CreatedBy: createdBy, Tar: func(_ context.Context, w io.Writer) error {
		tw := tar.NewWriter(w)
		for i := range entries {
			header := entries[i].Header
			header.Size = int64(len(entries[i].content))
			header.Format = tar.FormatPAX
			if header.ModTime.IsZero() {
				header.ModTime = time.Unix(1_700_000_000+int64(i), 0)
			}
			if err := tw.WriteHeader(&header); err != nil {
				return err
			}
			if _, err := tw.Write(entries[i].content); err != nil {
				return err
			}
		}
		return tw.Close()
	}}
}

func node(kind byte, name string, mode int64) entry {
	return entry{Header: tar.Header{Typeflag: kind, Name: name, Mode: mode}}
}

func dir(name string, mode int64) entry { return node(tar.TypeDir, name, mode) }

func file(name string, mode int64, content []byte) entry {
	e := node(tar.TypeReg, name, mode)
	e.content = content
	return e
}

func link(kind byte, name, target string) entry {
	e := node(kind, name, 0o777)
	e.Linkname = target
	return e
}

func (e entry) owned(uid, gid int) entry {
	e.Uid, e.Gid = uid, gid
	return e
}

func (e entry) at(t time.Time) entry {
	e.ModTime = t
	return e
}

func (e entry) device(major, minor int64) entry {
	e.Devmajor, e.Devminor = major, minor
	return e
}

func (e entry) xattr(name, value string) entry {
	records := map[string]string{"SCHILY.xattr." + name: value}
	for k, v := range e.PAXRecords {
		records[k] = v
	}
	e.PAXRecords = records
	return e
}

// netBindService is the capability cap_net_bind_service=ep as the kernel stores it, VFS_CAP_REVISION_2.
const netBindService = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// noise is n bytes that do not compress, the same for the same seed.
func noise(seed byte, n int) []byte {
	random := rand.NewChaCha8([32]byte{seed})
	out := make([]byte, n)
	_, _ = random.Read(out) // never fails
	return out
}

func awkwardLower() []entry {
	long := strings.Repeat("long-", 50)
	deep := "awkward/" + strings.Repeat("d/", 60)
	hole := append(noise(1, 70_000), make([]byte, 2<<20)...)
	hole = append(hole, noise(2, 70_000)...)
	shared := noise(3, 300_000)
	entries := []entry{
		dir("awkward/", 0o755),
		dir("awkward/sticky/", 0o1777),
		dir("awkward/setgid/", 0o2750).owned(1234, 5678).xattr("user.on-a-directory", "yes"),
		file("awkward/setuid", 0o4755, []byte("#!/bin/sh\n")),
		file("awkward/owned", 0o640, []byte("mine\n")).owned(4_000_000_000, 65534),
		file("awkward/capable", 0o755, []byte("#!/bin/sh\n")).xattr("security.capability", netBindService).xattr("user.tag", "a"),
		file("awkward/bytes-in-xattr", 0o644, []byte("x")).xattr("user.bytes", "\x00\x01\xfe\xff\"\\").xattr("user.long", strings.Repeat("v", 2000)),
		node(tar.TypeChar, "awkward/null", 0o666).device(1, 3),
		node(tar.TypeChar, "awkward/big-minor", 0o600).device(511, 70_000),
		node(tar.TypeBlock, "awkward/block", 0o660).device(7, 200).owned(0, 6),
		node(tar.TypeFifo, "awkward/fifo", 0o622),
		dir("awkward/links/", 0o755),
		file("awkward/links/one", 0o644, []byte("linked\n")),
		link(tar.TypeLink, "awkward/links/two", "awkward/links/one"),
		link(tar.TypeLink, "awkward/three", "awkward/links/one"),
		link(tar.TypeSymlink, "awkward/absolute", "/awkward/owned"),
		link(tar.TypeSymlink, "awkward/dangling", "no/such/place"),
		link(tar.TypeSymlink, "awkward/far", strings.Repeat("../x/", 70)),
		file("awkward/"+long[:250], 0o644, []byte("long\n")),
		file(deep+"leaf", 0o644, []byte("deep and implied\n")),
		file("awkward/ünïcødé 名前 \n\t\"'\\%20", 0o644, []byte("odd\n")),
		file("awkward/empty", 0o644, nil),
		file("awkward/one-byte", 0o644, []byte{0}),
		file("awkward/zeros", 0o644, make([]byte, 1<<20)),
		file("awkward/hole", 0o644, hole),
		file("awkward/noise", 0o644, noise(4, 3<<20+17)),
		file("awkward/text", 0o644, bytes.Repeat([]byte("all work and no play makes a dull layer\n"), 60_000)),
		file("awkward/same-a", 0o644, shared),
		file("awkward/same-b", 0o600, shared).owned(1, 1),
		file("awkward/before-1970", 0o644, []byte("old\n")).at(time.Unix(-86_400, 0)),
		file("awkward/nanoseconds", 0o644, []byte("fine\n")).at(time.Unix(1_650_000_000, 123_456_789)),
		file("awkward/year-2200", 0o644, []byte("far\n")).at(time.Date(2200, 1, 2, 3, 4, 5, 0, time.UTC)),
	}
	return append(entries, toBeChanged()...)
}

func toBeChanged() []entry {
	return []entry{
		file("awkward/gone", 0o644, []byte("removed by the layer above\n")),
		dir("awkward/gone-dir/", 0o755),
		file("awkward/gone-dir/inside", 0o644, []byte("removed with its directory\n")),
		dir("awkward/opaque/", 0o755),
		file("awkward/opaque/hidden", 0o644, []byte("hidden\n")),
		dir("awkward/opaque/sub/", 0o755),
		file("awkward/opaque/sub/hidden", 0o644, []byte("hidden\n")),
		file("awkward/file-to-dir", 0o644, []byte("file\n")),
		dir("awkward/dir-to-file/", 0o755),
		file("awkward/dir-to-file/inside", 0o644, []byte("inside\n")),
		link(tar.TypeSymlink, "awkward/link-to-file", "owned"),
		dir("awkward/merged/", 0o755),
		file("awkward/merged/lower", 0o644, []byte("lower\n")),
		file("awkward/merged/both", 0o644, []byte("lower\n")),
		file("awkward/chmod", 0o644, []byte("same content, other mode\n")),
	}
}

func awkwardUpper() []entry {
	return []entry{
		file("awkward/.wh.gone", 0, nil),
		file("awkward/.wh.gone-dir", 0, nil),
		file("awkward/links/.wh.two", 0, nil),
		dir("awkward/opaque/", 0o711),
		file("awkward/opaque/.wh..wh..opq", 0, nil),
		file("awkward/opaque/shown", 0o644, []byte("shown\n")),
		dir("awkward/file-to-dir/", 0o755),
		file("awkward/file-to-dir/inside", 0o644, []byte("inside\n")),
		file("awkward/dir-to-file", 0o644, []byte("file\n")),
		file("awkward/link-to-file", 0o644, []byte("no longer a link\n")),
		dir("awkward/merged/", 0o700).owned(7, 7),
		file("awkward/merged/both", 0o644, []byte("upper\n")),
		file("awkward/merged/upper", 0o644, []byte("upper\n")),
		file("awkward/chmod", 0o400, []byte("same content, other mode\n")),
		file("awkward/implied-above/file", 0o644, []byte("in a directory that no entry names\n")),
	}
}
