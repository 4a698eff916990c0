package lazyfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/store"
)

// blobSource is a layer's blob in memory that counts and, on request, lies.
type blobSource struct {
	mu    sync.Mutex
	blob  []byte
	bytes atomic.Int64
	calls atomic.Int64
}

func (s *blobSource) ReadRanges(ctx context.Context, ranges []chunked.Range, fn func(chunked.Range, io.Reader) error) error {
	s.calls.Add(1)
	s.mu.Lock()
	blob := s.blob
	s.mu.Unlock()
	for _, r := range ranges {
		s.bytes.Add(r.Len)
		if err := fn(r, bytes.NewReader(blob[r.Off:r.End()])); err != nil {
			return err
		}
	}
	return nil
}

// corrupt makes every byte before the TOC wrong from now on.
func (s *blobSource) corrupt(before int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blob = slices.Clone(s.blob)
	for i := range s.blob[:before] {
		s.blob[i] ^= 0x55
	}
}

type testFile struct {
	tar.Header
	content []byte
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{7})
	r.Read(b)
	return b
}

// testTree is a layer with one of everything.
func testTree() []testFile {
	reg := func(name string, content []byte) testFile {
		return testFile{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640, Uid: 5, Gid: 6}, content}
	}
	files := []testFile{
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o1777}},
		reg("d/small", []byte("hello\n")),
		reg("d/empty", nil),
		reg("d/big", noise(3<<20)),
		{Header: tar.Header{Typeflag: tar.TypeLink, Name: "d/hard", Linkname: "d/small", Mode: 0o640, Uid: 5, Gid: 6}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "d/soft", Linkname: "../d/small"}},
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "d/null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "d/fifo", Mode: 0o600}},
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "many/", Mode: 0o755}},
	}
	x := reg("d/attrs", []byte("x"))
	x.PAXRecords = map[string]string{"SCHILY.xattr.user.k": "v\x00w", "SCHILY.xattr.user.other": ""}
	files = append(files, x)
	for i := range 2000 {
		files = append(files, reg(fmt.Sprintf("many/f%04d", i), nil))
	}
	return files
}

// setup is a store with one lazy layer and the view of it.
type setup struct {
	store  *store.Store
	pool   *fill.Pool
	source *blobSource
	toc    int64 // where the content of the blob ends
	layer  uint64
	view   uint64
	fs     *FS // of the last mount
}

func newSetup(t *testing.T) *setup {
	t.Helper()
	var raw, blob bytes.Buffer
	tw := tar.NewWriter(&raw)
	for _, f := range testTree() {
		f.Size = int64(len(f.content))
		if err := tw.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	w, err := chunked.Compress(&blob, &raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s := &setup{store: st, source: &blobSource{blob: blob.Bytes()}, toc: w.TOC.TOC.Off}
	s.pool = fill.New(st, &fill.Options{Window: -1})
	t.Cleanup(func() { s.pool.Close() })
	spec := fill.LayerSpec{
		Blob:   v1.Descriptor{Digest: w.Digest, Size: w.Size, MediaType: v1.MediaTypeImageLayerZstd},
		TOC:    w.TOC,
		Source: store.Source{Host: "test", Repo: "layer", Blob: w.Digest, Size: w.Size},
	}
	n, err := s.pool.AddLayer(t.Context(), spec, s.source)
	if err != nil {
		t.Fatal(err)
	}
	s.layer = n
	if s.view, err = s.pool.View(t.Context(), []uint64{n}); err != nil {
		t.Fatal(err)
	}
	return s
}

// mount shows the store's views on a directory until the test ends.
func (s *setup) mount(t *testing.T, o Options) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount FUSE")
	}
	dir := t.TempDir()
	device, err := Mount(dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		t.Skipf("needs FUSE: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	o.Store, o.Pool = s.store, s.pool
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	served := make(chan error, 1)
	fs := New(&o)
	s.fs = fs
	go func() { served <- fs.Serve(device) }()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		device.Close()
	})
	if err := SetReadAhead(dir); err != nil {
		t.Errorf("read-ahead: %v", err)
	}
	file := filepath.Join(dir, "d/small")
	if o.Single == 0 {
		file = filepath.Join(dir, "views", fmt.Sprint(s.view), "d/small")
	}
	refusePoll(t, file)
	return dir
}

// refusePoll makes the kernel ask for POLL once, which we answer with ENOSYS, in a way that lets other goroutines run.
// os.Open asks inside epoll_ctl, which holds a P: with as many of them as there are Ps, a process that reads its own
// mount would wait for itself. It must be a regular file: nobody polls directories.
func refusePoll(t *testing.T, file string) {
	t.Helper()
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000); err != nil {
		t.Fatal(err)
	}
}

// the view of the daemon's mount.
func (s *setup) daemon(t *testing.T, o Options) string {
	return filepath.Join(s.mount(t, o), "views", fmt.Sprint(s.view))
}

func lstat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %s: %v", path, err)
	}
	return st
}

func TestTree(t *testing.T) {
	s := newSetup(t)
	root := s.daemon(t, Options{})
	for name, want := range map[string]struct {
		mode  uint32
		nlink uint64
		size  int64
		rdev  uint64
	}{
		"d/small": {unix.S_IFREG | 0o640, 2, 6, 0},
		"d/hard":  {unix.S_IFREG | 0o640, 2, 6, 0},
		"d/empty": {unix.S_IFREG | 0o640, 1, 0, 0},
		"d/big":   {unix.S_IFREG | 0o640, 1, 3 << 20, 0},
		"d/null":  {unix.S_IFCHR | 0o666, 1, 0, unix.Mkdev(1, 3)},
		"d/fifo":  {unix.S_IFIFO | 0o600, 1, 0, 0},
	} {
		st := lstat(t, filepath.Join(root, name))
		if st.Mode != want.mode || st.Nlink != want.nlink || st.Size != want.size || st.Rdev != want.rdev {
			t.Errorf("%s: mode %o nlink %d size %d rdev %#x, want %+v", name, st.Mode, st.Nlink, st.Size, st.Rdev, want)
		}
	}
	if a, b := lstat(t, filepath.Join(root, "d/small")), lstat(t, filepath.Join(root, "d/hard")); a.Ino != b.Ino || a.Uid != 5 || a.Gid != 6 {
		t.Errorf("hard links are inodes %d and %d, owner %d:%d", a.Ino, b.Ino, a.Uid, a.Gid)
	}
	if st := lstat(t, filepath.Join(root, "d")); st.Mode != unix.S_IFDIR|0o1777 {
		t.Errorf("d has mode %o", st.Mode)
	}
	if target, err := os.Readlink(filepath.Join(root, "d/soft")); err != nil || target != "../d/small" {
		t.Errorf("readlink: %q, %v", target, err)
	}
}

// What a file takes on a disk is counted in blocks of 4096 bytes, as du shows it of an unpacked image.
func TestBlocks(t *testing.T) {
	for _, c := range []struct {
		mode uint32
		size int64
		want uint64
	}{
		{unix.S_IFREG, 0, 0}, {unix.S_IFREG, 1, 8}, {unix.S_IFREG, 4096, 8}, {unix.S_IFREG, 4097, 16}, {unix.S_IFREG, 1<<62 - 1, 1 << 53},
		{unix.S_IFLNK, 59, 0}, {unix.S_IFLNK, 60, 8}, {unix.S_IFIFO, 0, 0}, {unix.S_IFDIR, 0, 0},
	} {
		if got := blocks(c.mode, c.size); got != c.want {
			t.Errorf("mode %o, %d bytes: %d, want %d", c.mode, c.size, got, c.want)
		}
	}
	s := newSetup(t)
	root := s.daemon(t, Options{})
	for name, want := range map[string]int64{"d/small": 8, "d/empty": 0, "d/big": 3 << 20 / 512, "d/soft": 0} {
		if st := lstat(t, filepath.Join(root, name)); st.Blocks != want {
			t.Errorf("%s: %d blocks, want %d", name, st.Blocks, want)
		}
	}
}

// A file is born when it was changed last, because an archive has no other time; the rest of the answer is stat's.
func TestBirth(t *testing.T) {
	s := newSetup(t)
	root := s.mount(t, Options{})
	for _, name := range []string{"", "views", fmt.Sprintf("views/%d/d/small", s.view), fmt.Sprintf("views/%d/d/null", s.view), fmt.Sprintf("views/%d/d", s.view)} {
		path := filepath.Join(root, name)
		var x unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &x); err != nil {
			t.Fatal(err)
		}
		if x.Mask&unix.STATX_BTIME == 0 {
			t.Skip("this kernel asks no FUSE server for it (Linux 6.6 does)")
		}
		st := lstat(t, path)
		if x.Btime != x.Mtime || x.Mtime.Sec != st.Mtim.Sec || int64(x.Mtime.Nsec) != st.Mtim.Nsec || uint32(x.Mode) != st.Mode || x.Size != uint64(st.Size) ||
			x.Ino != st.Ino || uint64(x.Nlink) != st.Nlink || x.Uid != st.Uid || x.Gid != st.Gid || x.Blocks != uint64(st.Blocks) ||
			unix.Mkdev(x.Rdev_major, x.Rdev_minor) != st.Rdev {
			t.Errorf("%q: %+v, stat %+v", name, x, st)
		}
	}
	gone := filepath.Join(root, "views", "1000000")
	if err := unix.Statx(unix.AT_FDCWD, gone, 0, unix.STATX_BTIME, &unix.Statx_t{}); err != unix.ENOENT {
		t.Errorf("a view that is not there: %v", err)
	}
}

func TestListing(t *testing.T) {
	s := newSetup(t)
	root := s.daemon(t, Options{})
	for range 2 { // the second comes from the kernel's cache
		names, err := os.ReadDir(filepath.Join(root, "many"))
		if err != nil || len(names) != 2000 || names[0].Name() != "f0000" || names[1999].Name() != "f1999" {
			t.Fatalf("listing has %d names, %v", len(names), err)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "many/none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing name: %v", err)
	}
	for n, want := range map[int]error{255: unix.ENOENT, 256: unix.ENAMETOOLONG, 1000: unix.ENAMETOOLONG, 2000: unix.ENAMETOOLONG} {
		if err := unix.Lstat(filepath.Join(root, strings.Repeat("n", n)), &unix.Stat_t{}); err != want {
			t.Errorf("a name of %d bytes: %v, want %v", n, err, want)
		}
	}
}

func TestXattrs(t *testing.T) {
	s := newSetup(t)
	path := filepath.Join(s.daemon(t, Options{}), "d/attrs")
	buf := make([]byte, 64)
	n, err := unix.Lgetxattr(path, "user.k", buf)
	if err != nil || string(buf[:n]) != "v\x00w" {
		t.Errorf("user.k = %q, %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Lgetxattr(path, "user.k", nil); err != nil || n != 3 {
		t.Errorf("size of user.k: %d, %v", n, err)
	}
	if _, err := unix.Lgetxattr(path, "user.k", buf[:2]); err != unix.ERANGE {
		t.Errorf("a short buffer: %v", err)
	}
	if _, err := unix.Lgetxattr(path, "user.none", buf); err != unix.ENODATA {
		t.Errorf("a missing attribute: %v", err)
	}
	for name, want := range map[string]error{
		"security.none": unix.ENODATA, "trusted.none": unix.ENODATA, "system.posix_acl_access": unix.ENODATA,
		"system.none": unix.EOPNOTSUPP, "nobody.none": unix.EOPNOTSUPP, "none": unix.EOPNOTSUPP,
	} {
		if _, err := unix.Lgetxattr(path, name, buf); err != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	n, err = unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	if !slices.Equal(names, []string{"user.k", "user.other"}) {
		t.Errorf("names %q", names)
	}
}

func TestReadsAreLazyAndKept(t *testing.T) {
	s := newSetup(t)
	root := s.daemon(t, Options{})
	before := s.source.bytes.Load()
	if _, err := os.ReadDir(filepath.Join(root, "d")); err != nil {
		t.Fatal(err)
	}
	if n := s.source.bytes.Load() - before; n != 0 {
		t.Errorf("listing fetched %d bytes", n)
	}
	for name, want := range map[string][]byte{"d/small": []byte("hello\n"), "d/hard": []byte("hello\n"), "d/big": noise(3 << 20), "d/empty": {}} {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	after := s.source.bytes.Load()
	for _, name := range []string{"d/small", "d/big"} {
		if _, err := os.ReadFile(filepath.Join(root, name)); err != nil {
			t.Error(err)
		}
	}
	if n := s.source.bytes.Load() - after; n != 0 {
		t.Errorf("reading again fetched %d bytes", n)
	}
}

// A file that is open while it becomes complete stays in the mode of its first open, and one opened after the last
// close is read by the kernel itself. Neither may ever answer EIO.
func TestPassthroughModeIsPerInode(t *testing.T) {
	s := newSetup(t)
	path := filepath.Join(s.daemon(t, Options{Passthrough: true}), "d/big")
	want := noise(3 << 20)
	read := func(f *os.File) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read: %v, equal %v", err, bytes.Equal(got, want))
		}
	}
	open := func() *os.File {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := open()
	read(first) // completes it
	second := open()
	read(second)
	first.Close()
	third := open()
	read(third)
	second.Close()
	third.Close()
	// RELEASE is sent without waiting, so the first of these may still be cached; all must read right.
	for range 20 {
		f, g := open(), open()
		read(f)
		read(g)
		m, err := unix.Mmap(int(f.Fd()), 0, len(want), unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		// In a call, not in a page fault, which the garbage collector of a process that serves itself would wait for.
		if err := unix.Madvise(m, unix.MADV_POPULATE_READ); err != nil || !bytes.Equal(m, want) {
			t.Errorf("mmap: %v", err)
		}
		unix.Munmap(m)
		f.Close()
		g.Close()
	}
}

func TestWrongBytesAreEIO(t *testing.T) {
	s := newSetup(t)
	root := s.daemon(t, Options{})
	s.source.corrupt(s.toc)
	got, err := os.ReadFile(filepath.Join(root, "d/small"))
	if !errors.Is(err, syscall.EIO) || len(got) > 0 {
		t.Errorf("read %q, %v; want EIO", got, err)
	}
}

func TestMissingViews(t *testing.T) {
	s := newSetup(t)
	root := s.mount(t, Options{})
	for _, name := range []string{"views/99", "views/0", "views/01", "views/-1", "views/x", "views/99999999999999999999", "other"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A view that is made later is found: the negative answer was not kept.
	if _, err := os.Lstat(filepath.Join(root, "views", fmt.Sprint(s.view+1))); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the next view is there already")
	}
	n, err := s.pool.View(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n != s.view+1 {
		t.Fatalf("the empty view has number %d", n)
	}
	if names, err := os.ReadDir(filepath.Join(root, "views", fmt.Sprint(n))); err != nil || len(names) != 0 {
		t.Errorf("the empty view lists %v, %v", names, err)
	}
}

func TestSingleView(t *testing.T) {
	s := newSetup(t)
	root := s.mount(t, Options{Single: s.view})
	got, err := os.ReadFile(filepath.Join(root, "d/small"))
	if err != nil || string(got) != "hello\n" {
		t.Errorf("%q, %v", got, err)
	}
	if st := lstat(t, root); st.Mode != unix.S_IFDIR|0o755 || st.Ino != 1 {
		t.Errorf("root has mode %o, inode %d", st.Mode, st.Ino)
	}
}

func TestManyReadersAtOnce(t *testing.T) {
	s := newSetup(t)
	root := s.daemon(t, Options{Passthrough: true})
	want := noise(3 << 20)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			f, err := os.Open(filepath.Join(root, "d/big"))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			buf := make([]byte, 10000)
			for off := int64(i * 777); off < int64(len(want))-10000; off += 190_000 {
				if _, err := f.ReadAt(buf, off); err != nil || !bytes.Equal(buf, want[off:off+10000]) {
					t.Errorf("offset %d: %v", off, err)
				}
			}
		})
	}
	wg.Wait()
	if n := s.source.bytes.Load(); n > int64(len(s.source.blob))+1 {
		t.Errorf("fetched %d bytes of a blob of %d", n, len(s.source.blob))
	}
}
