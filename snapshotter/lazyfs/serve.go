package lazyfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// maxRead is the largest READ; mount's max_read and INIT's max_pages must both say it (mounts.md A1).
	maxRead = 1 << 20
	// maxRequest is what one read(2) of the device must have room for: the largest WRITE that INIT allows, which the
	// kernel insists on although a read-only mount sends none, and the headers.
	maxRequest = maxRead + 4096
	// smallReply has room for every answer but large READs and listings.
	smallReply = 64<<10 + 4096
	// entryReply has room for the answer to a LOOKUP, which is longer than that to an OPEN.
	entryReply = 256
	// maxBackground lets that many buffered reads be under way at once; the kernel's own 12 made 90 slow readers
	// take turns (mounts.md A5).
	maxBackground = 256
)

// Offsets in a request as the kernel lays it out: a header of 40 bytes that has the opcode at 4 and the node at 16,
// then the operation's own fields (include/uapi/linux/fuse.h).
const (
	headerSize    = 40
	opcodeAt      = 4
	nodeAt        = 16
	readSizeAt    = headerSize + 16
	opLookup      = 1
	opOpen        = 14
	opRead        = 15
	opInit        = 26
	opReaddir     = 28
	opReaddirplus = 44
)

// conn is one FUSE connection being served.
type conn struct {
	device  *os.File
	fd      int
	fs      *FS
	proto   *fuse.ProtocolServer
	replies sync.Pool      // of *[]byte with room for the largest answer
	apart   sync.WaitGroup // requests that no loop waits for
}

// Serve answers the kernel on an open /dev/fuse descriptor whose mount has just been made, and returns nil when the
// kernel has closed the connection: after unmount, or when it was aborted. It owns neither the mount nor the descriptor.
// There is no other way to stop it: unmount. A page of a view or an index that the disk cannot give is EIO for the one
// request that touched it.
func (f *FS) Serve(device *os.File) error {
	c := &conn{device: device, fd: int(device.Fd()), fs: f}
	c.proto = fuse.NewProtocolServer(f, &fuse.MountOptions{
		MaxBackground:            maxBackground,
		MaxWrite:                 maxRead,
		MaxReadAhead:             maxRead,
		ExplicitDataCacheControl: true,
		EnableSymlinkCaching:     true,
		EnableAcl:                true,
		DisableSplice:            true,
	})
	c.replies.New = func() any { b := make([]byte, maxRequest); return &b }
	f.opens.attach(device)
	err := c.serve()
	runtime.KeepAlive(device)
	return errors.Join(err, f.opens.close(), f.views.close())
}

func (c *conn) serve() error {
	in := make([]byte, maxRequest)
	n, err := c.receive(in)
	if err != nil || n == 0 {
		return err
	}
	if opcode(in[:n]) != opInit {
		return fmt.Errorf("first request has opcode %d: %w", opcode(in[:n]), ErrNotMounted)
	}
	out := make([]byte, smallReply)
	if err := c.answer(in[:n], out); err != nil {
		return err
	}
	loops := runtime.GOMAXPROCS(0) + 2
	errs := make([]error, loops)
	var wg sync.WaitGroup
	for i := range loops {
		wg.Go(func() { errs[i] = c.loop() })
	}
	wg.Wait()
	c.apart.Wait()
	return errors.Join(errs...)
}

// loop receives and answers until the connection ends.
func (c *conn) loop() error {
	debug.SetPanicOnFault(true)
	in, out := make([]byte, maxRequest), make([]byte, smallReply)
	for {
		n, err := c.receive(in)
		if err != nil || n == 0 {
			return err
		}
		req := in[:n]
		switch {
		case c.mayWait(req):
			own := bytes.Clone(req)
			c.apart.Go(func() { c.answerApart(own) })
		case payload(req) > smallReply-4096:
			c.answerLarge(req)
		default:
			if err := c.answer(req, out); err != nil {
				return err
			}
		}
	}
}

// receive reads one request. 0 without an error says that the kernel closed the connection.
func (c *conn) receive(in []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, in)
		switch err {
		case nil:
			if n < headerSize {
				return 0, fmt.Errorf("read a FUSE request: %d bytes are no request", n)
			}
			return n, nil
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: interrupted before we could read it
		case unix.ENODEV, unix.ECONNABORTED:
			return 0, nil
		default:
			return 0, fmt.Errorf("read a FUSE request: %w", err)
		}
	}
}

// answerApart answers a request that may wait, in a goroutine of its own.
func (c *conn) answerApart(req []byte) {
	debug.SetPanicOnFault(true)
	if opcode(req) == opRead {
		c.answerLarge(req)
		return
	}
	_ = c.answer(req, make([]byte, entryReply)) // as in answerLarge
}

func (c *conn) answerLarge(req []byte) {
	out := c.replies.Get().(*[]byte)
	defer c.replies.Put(out)
	// The loops see a broken connection by themselves; one answer that the kernel no longer wants is no failure.
	_ = c.answer(req, *out)
}

// answer handles one request and writes the reply, if it gets one (FORGET does not).
func (c *conn) answer(req, out []byte) error {
	n, status := c.proto.HandleRequest([][]byte{req}, [][]byte{out})
	if n == 0 {
		if !status.Ok() {
			return fmt.Errorf("FUSE request with opcode %d: %v", opcode(req), status)
		}
		return nil
	}
	_, err := unix.Write(c.fd, out[:n])
	switch err {
	case nil, unix.ENOENT, unix.ENODEV, unix.ECONNABORTED, unix.EINTR: // nobody waits for this answer any more
		return nil
	}
	return fmt.Errorf("write a FUSE reply: %w", err)
}

// mayWait says whether a request may wait for the network (READ), for another process that checks or fills the same
// file (OPEN of a file that is opened here), or for index.lock (the name of a view). As many of those as there are loops
// must not stop all others. Everything else is answered where it was received: a goroutine for each OPEN made reading
// many small files three times as slow.
func (c *conn) mayWait(req []byte) bool {
	switch opcode(req) {
	case opRead:
		return true
	case opOpen:
		return c.fs.opensContent(node(req))
	case opLookup:
		return node(req) == viewsNode
	}
	return false
}

func node(req []byte) uint64 { return binary.NativeEndian.Uint64(req[nodeAt:]) }

func opcode(req []byte) uint32 { return binary.NativeEndian.Uint32(req[opcodeAt:]) }

// payload is how many bytes a listing asks for, 0 for other operations.
func payload(req []byte) int {
	switch opcode(req) {
	case opReaddir, opReaddirplus:
		if len(req) >= readSizeAt+4 {
			return int(binary.NativeEndian.Uint32(req[readSizeAt:]))
		}
	}
	return 0
}
