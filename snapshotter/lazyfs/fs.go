package lazyfs

import (
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/store"
)

// forever is the timeout of everything inside a view: a tree that was shown is never rewritten (design.md 7).
const forever = 365 * 24 * time.Hour

// maxName is the length of the longest name, as in other file systems. The kernel sends longer ones too.
const maxName = 255

// Options says what a file system shows.
type Options struct {
	Store *store.Store // where views are; required
	Pool  *fill.Pool   // makes content present; required

	// Single, if not 0, shows that one view as the mount's root, as `tocsin mount` does. Zero shows MNT/views/<n>
	// for every view of the store, as the daemon's mount does.
	Single uint64

	// Passthrough lets the kernel read complete files from the store by itself (Linux >= 6.9, root). It is switched
	// off again when the kernel refuses.
	Passthrough bool

	// Image names the image that a view is of, in messages; "" if it is not known. Nil: none is.
	Image func(view uint64) string

	Logger *slog.Logger // nil: slog.Default
}

// FS is the file system behind one FUSE connection. Its methods are called by the read loop of Serve, many at once.
type FS struct {
	fuse.RawFileSystem // answers ENOSYS to what a read-only tree needs no answer for

	views  *views
	opens  *opens
	single uint64
	log    *slog.Logger
	failed *complaints
}

// New returns a file system that Serve can run. It opens nothing yet.
func New(o *Options) *FS {
	log := o.Logger
	if log == nil {
		log = slog.Default()
	}
	vs := newViews(o.Store, o.Pool)
	return &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		views:         vs,
		opens:         newOpens(vs, o.Passthrough),
		single:        o.Single,
		log:           log,
		failed:        &complaints{views: vs, log: log, image: o.Image},
	}
}

// String names the file system in go-fuse's messages.
func (f *FS) String() string { return "tocsin" }

// DropView forgets view n before gc unlinks it. Its nodes answer ESTALE from then on.
func (f *FS) DropView(n uint64) error { return f.views.drop(n) }

// Sweep forgets the views that were removed from the store, and lets go of their memory. Their nodes answer ESTALE.
func (f *FS) Sweep() error { return f.views.sweep() }

// DenyView makes every read of view n fail from now on: of open files, of what the kernel has in its cache, and after a
// restart, because the store records it first. store.ErrConflict if the view is everybody's.
func (f *FS) DenyView(n uint64, reason string) error {
	if err := f.views.store.DenyView(n, reason); err != nil {
		return err
	}
	entries, err := f.views.deny(n)
	return errors.Join(err, f.opens.uncache(n, entries))
}

// node finds the view entry of a node id. ok is false for the directories that belong to no view.
func (f *FS) node(id uint64) (view uint64, entry uint32, ok bool) {
	if id == rootNode && f.single != 0 {
		return f.single, 0, true
	}
	return splitNode(id)
}

// entry runs fn on the entry of a node and turns what goes wrong into an answer.
func (f *FS) entry(id uint64, fn func(t *chunked.View, view uint64, e uint32) fuse.Status) fuse.Status {
	n, e, ok := f.node(id)
	if !ok {
		return fuse.Status(stale)
	}
	status := fuse.OK
	err := f.views.with(n, func(v *view) error {
		if int(e) >= v.tree.NumEntries() {
			return errStale
		}
		status = fn(v.tree, n, e)
		return nil
	})
	if err != nil {
		f.failed.about("no answer for node", n, e, err)
		return errnoOf(err)
	}
	return status
}

// Lookup finds a name in a directory. Inside a view both answers, there and not there, are good for ever; the names
// of views are asked again each time, because views come and go.
func (f *FS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if f.single == 0 {
		switch h.NodeId {
		case rootNode:
			return lookupViews(name, out)
		case viewsNode:
			return f.lookupView(name, out)
		}
	}
	if len(name) > maxName {
		return fuse.Status(unix.ENAMETOOLONG)
	}
	return f.entry(h.NodeId, func(t *chunked.View, view uint64, e uint32) fuse.Status {
		out.SetEntryTimeout(forever)
		child, ok := t.Lookup(e, name)
		if !ok {
			return fuse.OK // NodeId 0 with a timeout: a negative entry that the kernel may keep
		}
		fillEntry(t, view, child, out)
		return fuse.OK
	})
}

func lookupViews(name string, out *fuse.EntryOut) fuse.Status {
	if name != "views" {
		return fuse.ENOENT
	}
	out.NodeId = viewsNode
	ownDirectory(viewsNode, &out.Attr)
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	return fuse.OK
}

// lookupView opens the view that a decimal name says. Leading zeros and signs name nothing.
func (f *FS) lookupView(name string, out *fuse.EntryOut) fuse.Status {
	n, err := strconv.ParseUint(name, 10, 30)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != name {
		return fuse.ENOENT
	}
	f.views.failed.views.note(n, nil, time.Now()) // it may have been made since
	err = f.views.with(n, func(v *view) error {
		fillEntry(v.tree, n, 0, out)
		return nil
	})
	switch st := errnoOf(err); st {
	case fuse.OK:
		return fuse.OK
	case fuse.Status(stale):
		return fuse.ENOENT
	default:
		f.failed.about("view cannot be shown", n, 0, err)
		return st
	}
}

// Forget is free: node ids are computed, nothing was allocated for one.
func (f *FS) Forget(nodeid, nlookup uint64) {}

// GetAttr answers stat.
func (f *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(forever)
	if _, _, ok := f.node(in.NodeId); !ok && (in.NodeId == rootNode || in.NodeId == viewsNode) {
		ownDirectory(in.NodeId, &out.Attr)
		return fuse.OK
	}
	return f.entry(in.NodeId, func(t *chunked.View, view uint64, e uint32) fuse.Status {
		fillAttr(t, e, &out.Attr)
		return fuse.OK
	})
}

// Statx answers stat for who wants to know the time of birth too.
func (f *FS) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	var attr fuse.AttrOut
	status := f.GetAttr(cancel, &fuse.GetAttrIn{InHeader: in.InHeader}, &attr)
	if status == fuse.OK {
		fillStatx(&attr.Attr, &out.Statx)
		out.SetTimeout(forever)
	}
	return status
}

// Readlink gives a symbolic link's target.
func (f *FS) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	var target string
	status := f.entry(h.NodeId, func(t *chunked.View, view uint64, e uint32) fuse.Status {
		target = t.Readlink(e)
		return fuse.OK
	})
	return []byte(target), status
}

// StatFs says little: a view has no free space and no size of its own.
func (f *FS) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Bsize: blockSize, Frsize: blockSize, NameLen: maxName}
	return fuse.OK
}

var _ fuse.RawFileSystem = (*FS)(nil)
