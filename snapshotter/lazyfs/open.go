package lazyfs

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tocsin/tocsin/chunked/fill"
)

// openFile is an inode that is open at least once. Its way of being read is fixed while it is: the kernel answers EIO
// when a file that is open cached is opened passthrough, or the reverse, or with another backing id (design.md 7).
type openFile struct {
	file    *fill.File // nil: no content
	count   int
	backing int32 // the kernel's id of the complete file; 0: reads come to us
}

// opens holds the inodes that are open, by node id. File handles are not used: a server that took over knows no
// handles of its predecessor, but a node id says everything.
type opens struct {
	views *views

	mu          sync.Mutex
	byNode      map[uint64]*openFile
	device      *os.File // of the connection; nil until Serve has it
	passthrough bool
}

func newOpens(vs *views, passthrough bool) *opens {
	return &opens{views: vs, byNode: make(map[uint64]*openFile), passthrough: passthrough}
}

// attach tells which connection backing files are registered with.
func (o *opens) attach(device *os.File) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.device = device
}

// acquire opens a node once more.
func (o *opens) acquire(node, view uint64, entry uint32) (*openFile, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.byNode[node]; f != nil {
		f.count++
		return f, nil
	}
	file, err := o.views.openFile(view, entry)
	if err != nil {
		return nil, err
	}
	f := &openFile{file: file, count: 1}
	f.backing = o.register(file)
	o.byNode[node] = f
	return f, nil
}

// register hands a complete file to the kernel. It returns 0 for what must be read through us.
func (o *opens) register(file *fill.File) int32 {
	if !o.passthrough || o.device == nil || file == nil {
		return 0
	}
	complete := file.Complete()
	if complete == nil {
		return 0
	}
	id, err := openBacking(o.device, complete)
	if err != nil {
		// Without the privilege or the kernel for it every try would fail alike.
		o.passthrough = false
		return 0
	}
	return id
}

// release undoes one acquire. A node that is not open is ignored: its OPEN was answered by an earlier server.
func (o *opens) release(node uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.byNode[node]
	if f == nil {
		return nil
	}
	if f.count--; f.count > 0 {
		return nil
	}
	delete(o.byNode, node)
	return f.close(o.device)
}

func (f *openFile) close(device *os.File) error {
	var errs []error
	if f.backing != 0 {
		errs = append(errs, closeBacking(device, f.backing))
	}
	if f.file != nil {
		errs = append(errs, f.file.Close())
	}
	return errors.Join(errs...)
}

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

// Open lets the kernel keep what it reads, since content never changes under a node; a file that is complete already
// is read by the kernel itself where it can.
func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	view, entry, ok := f.node(in.NodeId)
	if !ok {
		return fuse.Status(stale)
	}
	file, err := f.opens.acquire(in.NodeId, view, entry)
	if err != nil {
		f.log.Error("fuse: open", "view", view, "entry", entry, "err", err)
		return errnoOf(err)
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if file.backing != 0 {
		out.OpenFlags = fuse.FOPEN_PASSTHROUGH
		out.BackingID = file.backing
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
	open, err := f.opens.acquire(in.NodeId, view, entry)
	if err == nil && open.file == nil {
		return fuse.ReadResultData(nil), errnoOf(f.opens.release(in.NodeId))
	}
	var n int
	if err == nil {
		n, err = open.file.ReadAt(interruptible(cancel), buf, int64(in.Offset))
		err = errors.Join(ignoreEOF(err), f.opens.release(in.NodeId))
	}
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			f.log.Error("fuse: read", "view", view, "entry", entry, "offset", in.Offset, "err", err)
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
