package lazyfs

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// kernel is the other end of a connection: it says what the kernel would say, without a mount.
type kernel struct {
	t    *testing.T
	fd   int
	last uint64
}

// opGetattr is asked of nodes that need nothing but memory.
const opGetattr = 3

// connect serves s to a kernel that has sent INIT.
func (s *setup) connect(t *testing.T, o Options) *kernel {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	o.Store, o.Pool, o.Logger = s.store, s.pool, slog.New(slog.DiscardHandler)
	device := os.NewFile(uintptr(fds[1]), "/dev/fuse")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = New(&o).Serve(device) // ends with an error: the end of a socket is not the end of a connection
	}()
	k := &kernel{t: t, fd: fds[0]}
	t.Cleanup(func() {
		unix.Shutdown(k.fd, unix.SHUT_RDWR)
		<-done
		unix.Close(k.fd)
		device.Close()
	})
	// An answer that does not come fails the test.
	if err := unix.SetsockoptTimeval(k.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60}); err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 64)
	binary.NativeEndian.PutUint32(in[0:], 7)
	binary.NativeEndian.PutUint32(in[4:], 38)
	if errno, _ := k.ask(opInit, 0, in); errno != 0 {
		t.Fatalf("INIT: %v", errno)
	}
	return k
}

// send sends one request and returns its number.
func (k *kernel) send(op uint32, node uint64, body []byte) uint64 {
	k.t.Helper()
	k.last++
	req := make([]byte, headerSize, headerSize+len(body))
	binary.NativeEndian.PutUint32(req[0:], uint32(headerSize+len(body)))
	binary.NativeEndian.PutUint32(req[opcodeAt:], op)
	binary.NativeEndian.PutUint64(req[8:], k.last)
	binary.NativeEndian.PutUint64(req[nodeAt:], node)
	if _, err := unix.Write(k.fd, append(req, body...)); err != nil {
		k.t.Fatal(err)
	}
	return k.last
}

// receive returns the next answer, whosever it is.
func (k *kernel) receive() (number uint64, errno syscall.Errno, body []byte) {
	k.t.Helper()
	buf := make([]byte, maxRequest)
	n, err := unix.Read(k.fd, buf)
	for err == unix.EINTR { // a read with a time limit does not go on by itself after a signal, and Go's runtime sends them
		n, err = unix.Read(k.fd, buf)
	}
	if err != nil || n < 16 {
		k.t.Fatalf("no answer: %d bytes, %v", n, err)
	}
	return binary.NativeEndian.Uint64(buf[8:]), syscall.Errno(-int32(binary.NativeEndian.Uint32(buf[4:]))), buf[16:n]
}

// ask sends a request and returns its answer, which must be the next one.
func (k *kernel) ask(op uint32, node uint64, body []byte) (syscall.Errno, []byte) {
	k.t.Helper()
	want := k.send(op, node, body)
	got, errno, out := k.receive()
	if got != want {
		k.t.Fatalf("answer to request %d, want %d", got, want)
	}
	return errno, out
}

// lookup returns the node of a path below node.
func (k *kernel) lookup(node uint64, path string) uint64 {
	k.t.Helper()
	for name := range strings.SplitSeq(path, "/") {
		errno, out := k.ask(opLookup, node, append([]byte(name), 0))
		if errno != 0 {
			k.t.Fatalf("lookup %s: %v", name, errno)
		}
		node = binary.NativeEndian.Uint64(out)
	}
	return node
}

// lockFile holds path as another process would, until free is called.
func lockFile(t *testing.T, path string) (free func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return func() { f.Close() }
}

// More requests that wait for a lock than there are loops do not stop the others.
func TestWaitingStopsNobody(t *testing.T) {
	const many = 100
	s := newSetup(t)
	k := s.connect(t, Options{Passthrough: true})
	big := k.lookup(viewsNode, strconv.FormatUint(s.view, 10)+"/d/big")
	read := make([]byte, 40)
	binary.NativeEndian.PutUint32(read[16:], 4096)
	if errno, _ := k.ask(opRead, big, read); errno != 0 {
		t.Fatalf("read: %v", errno)
	}
	for _, c := range []struct {
		what, lock string
		op         uint32
		node       uint64
		body       []byte
	}{
		{"names of views", filepath.Join(s.store.Root(), "index.lock"), opLookup, viewsNode, []byte("999\x00")},
		{"files that are being checked", partialOf(t, s.store.Root()), opOpen, big, make([]byte, 8)},
	} {
		free := lockFile(t, c.lock)
		for range many {
			k.send(c.op, c.node, c.body)
		}
		if errno, _ := k.ask(opGetattr, rootNode, make([]byte, 16)); errno != 0 {
			t.Errorf("%s: getattr: %v", c.what, errno)
		}
		free()
		for range many {
			k.receive()
		}
	}
}

// partialOf is the one file that is being filled.
func partialOf(t *testing.T, root string) (path string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(root, "partial"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(p, ".map") {
			path = p
		}
		return err
	})
	if err != nil || path == "" {
		t.Fatalf("no partial object: %v", err)
	}
	return path
}

// A listing in pieces of a few names is the listing, from whatever offset it goes on.
func TestListingInPieces(t *testing.T) {
	s := newSetup(t)
	k := s.connect(t, Options{Single: s.view})
	dir := k.lookup(rootNode, "many")
	for _, op := range []uint32{opReaddir, opReaddirplus} {
		var names []string
		in := make([]byte, 40)
		binary.NativeEndian.PutUint32(in[16:], 700)
		for {
			errno, out := k.ask(op, dir, in)
			entries, err := fuse.ParseDirEntries(out)
			if op == opReaddirplus {
				entries, _, err = fuse.ParseDirLookupEntries(out)
			}
			if errno != 0 || err != nil || len(out) > 700 {
				t.Fatalf("opcode %d: %v, %v, %d bytes", op, errno, err, len(out))
			}
			if len(entries) == 0 {
				break
			}
			for _, e := range entries[:1+len(entries)/2] { // as if the last ones were lost
				names = append(names, e.Name)
				binary.NativeEndian.PutUint64(in[8:], e.Off)
			}
		}
		if len(names) != 2002 || names[0] != "." || names[1] != ".." || names[2] != "f0000" || names[2001] != "f1999" || !slices.IsSorted(names) {
			t.Errorf("opcode %d: %d names", op, len(names))
		}
		for _, beyond := range []uint64{2003, 1 << 32, 1<<64 - 1} {
			binary.NativeEndian.PutUint64(in[8:], beyond)
			if errno, out := k.ask(op, dir, in); errno != 0 || len(out) != 0 {
				t.Errorf("opcode %d at %d: %v, %d bytes", op, beyond, errno, len(out))
			}
		}
	}
}

// A page that the disk does not give, as that of a file cut short, is an error of one request and not the end of
// every container on the machine.
func TestUnreadableTree(t *testing.T) {
	s := newSetup(t)
	k := s.connect(t, Options{})
	name := strconv.FormatUint(s.view, 10)
	file := k.lookup(viewsNode, name+"/d/small")
	tree := filepath.Join(s.store.Root(), "views", name, "tree")
	if err := errors.Join(os.Chmod(tree, 0o600), os.Truncate(tree, 0)); err != nil {
		t.Fatal(err)
	}
	if errno, _ := k.ask(opGetattr, file, make([]byte, 16)); errno != syscall.EIO {
		t.Errorf("getattr: %v, want EIO", errno)
	}
	read := make([]byte, 40)
	if errno, _ := k.ask(opRead, file, read); errno != syscall.EIO {
		t.Errorf("read: %v, want EIO", errno)
	}
	if errno, _ := k.ask(opGetattr, rootNode, make([]byte, 16)); errno != 0 {
		t.Errorf("getattr of the root: %v", errno)
	}
}
