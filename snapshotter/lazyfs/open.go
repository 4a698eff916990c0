package lazyfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
)

// passthroughSize is from where on a complete file is handed to the kernel. Registering a file costs two more system
// calls for each open; what a smaller file has is in the page cache after one READ.
const passthroughSize = 256 << 10

// openFile is an inode that is open at least once. Its way of being read is fixed while it is: the kernel answers EIO
// when a file that is open cached is opened passthrough, or the reverse, or with another backing id (design.md 7).
type openFile struct {
	count int // under opens.mu

	mu      sync.Mutex
	decided bool       // how it is read is fixed
	backing int32      // the kernel's id of the complete file; 0: reads come to us
	opened  bool       // file is what it is
	file    *fill.File // nil: no content
}

// opens holds the inodes that are open, by node id. File handles are not used: a server that took over knows no
// handles of its predecessor, but a node id says everything.
type opens struct {
	views *views

	mu     sync.Mutex
	byNode map[uint64]*openFile
	device atomic.Pointer[os.File] // of the connection; nil until Serve has it

	passthrough atomic.Bool
}

func newOpens(vs *views, passthrough bool) *opens {
	o := &opens{views: vs, byNode: make(map[uint64]*openFile)}
	o.passthrough.Store(passthrough)
	return o
}

// attach tells which connection backing files are registered with. It is called before the first request.
func (o *opens) attach(device *os.File) { o.device.Store(device) }

// acquire takes a node once more, without opening anything yet.
func (o *opens) acquire(node uint64) *openFile {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.byNode[node]
	if f == nil {
		f = &openFile{}
		o.byNode[node] = f
	}
	f.count++
	return f
}

// release undoes one acquire. A node that is not open is ignored: its OPEN was answered by an earlier server.
func (o *opens) release(node uint64) error {
	o.mu.Lock()
	f := o.byNode[node]
	last := false
	if f != nil {
		if f.count--; f.count == 0 {
			delete(o.byNode, node)
			last = true
		}
	}
	o.mu.Unlock()
	if !last {
		return nil
	}
	return f.close(o.device.Load())
}

// content opens what a node holds, on first use. Nil is a file without content.
func (f *openFile) content(vs *views, view uint64, entry uint32) (*fill.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.decided = true // whoever reads through us has not been handed to the kernel
	return f.open(vs, view, entry)
}

// open is content with mu held.
func (f *openFile) open(vs *views, view uint64, entry uint32) (*fill.File, error) {
	if f.opened {
		return f.file, nil
	}
	file, err := vs.openFile(view, entry)
	if err == nil {
		f.file, f.opened = file, true
	}
	return file, err
}

// decide fixes how an inode is read while it is open, and returns the backing id, or 0 for reads that come to us.
func (o *opens) decide(f *openFile, view uint64, entry uint32, size int64) (int32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.decided {
		return f.backing, nil
	}
	if size >= passthroughSize && o.passthrough.Load() && o.device.Load() != nil && !o.views.mayBeDenied(view) {
		file, err := f.open(o.views, view, entry)
		if err != nil {
			return 0, err
		}
		f.backing = o.register(file)
	}
	f.decided = true
	return f.backing, nil
}

// register hands a complete file to the kernel. It returns 0 for what must be read through us.
func (o *opens) register(file *fill.File) int32 {
	if file == nil {
		return 0
	}
	complete := file.Complete()
	if complete == nil {
		return 0
	}
	id, err := openBacking(o.device.Load(), complete)
	if err != nil {
		// Without the privilege or the kernel for it every try would fail alike.
		o.passthrough.Store(false)
		return 0
	}
	return id
}

func (f *openFile) close(device *os.File) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	if f.backing != 0 {
		errs = append(errs, closeBacking(device, f.backing))
	}
	if f.file != nil {
		errs = append(errs, f.file.Close())
	}
	return errors.Join(errs...)
}

// close lets go of what is still open when the connection has ended.
func (o *opens) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for node, f := range o.byNode {
		f.backing = 0 // the kernel dropped its ids with the connection
		errs = append(errs, f.close(nil))
		delete(o.byNode, node)
	}
	return errors.Join(errs...)
}

// uncache makes the kernel forget what it has of some files of a view, mapped pages too: who touches them next reads
// again. It waits for reads under way, so the caller must not hold what they need.
func (o *opens) uncache(view uint64, entries []uint32) error {
	device := o.device.Load()
	if device == nil {
		return nil
	}
	for _, e := range entries {
		_, err := device.Write(invalInode(viewNode(view, e)))
		if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: the kernel does not know the file
			return fmt.Errorf("make the kernel forget entry %d of view %d: %w", e, view, err)
		}
	}
	return nil
}

// invalInode is the notification that all cached content of a node is void: a reply without a request, whose error is
// the notification's code (include/uapi/linux/fuse.h).
func invalInode(node uint64) []byte {
	const code = 2 // FUSE_NOTIFY_INVAL_INODE
	b := make([]byte, 0, 40)
	b = binary.NativeEndian.AppendUint32(b, 40)
	b = binary.NativeEndian.AppendUint32(b, code)
	b = binary.NativeEndian.AppendUint64(b, 0) // of no request
	b = binary.NativeEndian.AppendUint64(b, node)
	b = binary.NativeEndian.AppendUint64(b, 0)    // from the start
	return binary.NativeEndian.AppendUint64(b, 0) // to the end
}

// opensContent says whether an OPEN of the node may touch more than memory: a view that is not mapped yet, or content
// that may be handed to the kernel.
func (f *FS) opensContent(id uint64) bool {
	n, e, ok := f.node(id)
	if !ok {
		return false
	}
	size, mapped := f.views.size(n, e)
	return !mapped || size >= passthroughSize && f.opens.passthrough.Load()
}

// Open lets the kernel keep what it reads, since content never changes under a node; a large file that is complete
// already is read by the kernel itself where it can.
func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	var size int64
	var view uint64
	var entry uint32
	status := f.entry(in.NodeId, func(t *chunked.View, v uint64, e uint32) fuse.Status {
		view, entry, size = v, e, t.Attr(e).Size
		return fuse.OK
	})
	if status != fuse.OK {
		return status
	}
	backing, err := f.opens.decide(f.opens.acquire(in.NodeId), view, entry, size)
	if err != nil {
		err = errors.Join(err, f.opens.release(in.NodeId))
		f.failed.about("open", view, entry, err)
		return errnoOf(err)
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if backing != 0 {
		out.OpenFlags = fuse.FOPEN_PASSTHROUGH
		out.BackingID = backing
	}
	return fuse.OK
}

// Release closes one open of a node.
func (f *FS) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	if err := f.opens.release(in.NodeId); err != nil {
		f.log.Error("fuse: release", "node", in.NodeId, "err", err)
	}
}

// Read answers with verified bytes or an error. It may wait for the network; Serve gives it a goroutine of its own.
func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	view, entry, ok := f.node(in.NodeId)
	if !ok {
		return nil, fuse.Status(stale)
	}
	open := f.opens.acquire(in.NodeId)
	n := 0
	file, err := open.content(f.views, view, entry)
	if err == nil && file != nil {
		n, err = file.ReadAt(interruptible(cancel), buf, int64(in.Offset))
	}
	err = errors.Join(ignoreEOF(err), f.views.shown(view), f.opens.release(in.NodeId))
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			f.failed.about("read", view, entry, fmt.Errorf("at %d: %w", in.Offset, err))
		}
		return nil, errnoOf(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// interruptible is a context that ends when the kernel interrupts the request. The kernel interrupts direct reads only
// (mounts.md A6), so nothing may rely on it; deadlines are chunked/fill's.
type interruptible <-chan struct{}

func (c interruptible) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c interruptible) Done() <-chan struct{}       { return c }
func (c interruptible) Value(any) any               { return nil }
func (c interruptible) Err() error {
	select {
	case <-c:
		return context.Canceled
	default:
		return nil
	}
}
