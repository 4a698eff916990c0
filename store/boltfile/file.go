package boltfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// ErrDamaged says that a file is not a sound bbolt database.
var ErrDamaged = errors.New("damaged database file")

// The layout of bbolt's pages, in the byte order of the machine.
const (
	pageHeader    = 16 // id u64, flags u16, count u16, overflow u32
	elementSize   = 16 // of leaf and branch pages alike
	bucketHeader  = 16 // root u64, sequence u64
	metaSize      = 64
	metaSummed    = 56
	metaMagic     = 0xED0CDAED
	metaVersion   = 2
	noFreelist    = 1<<64 - 1
	minPageSize   = 1024
	maxPageSize   = minPageSize << 14
	firstDataPage = 2

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf's element
)

// maxRun bounds the bytes of one page and its overflow, and so what is in memory at once.
const maxRun = 256 << 20

// maxDepth bounds pages on one path from the root: 2 to the power of that many rows, at least.
const maxDepth = 64

// meta is one of the two pages that say where everything else is.
type meta struct {
	pageSize             int64
	root, sequence       uint64
	freelist, pages, txn uint64
}

// File is a database file. Its methods are not for concurrent use.
type File struct {
	r    io.ReaderAt
	meta meta
	size int64
	bad  error // what is wrong with the other meta page
}

// Open finds the newest sound meta page of a file of size bytes. ErrDamaged if there is none.
func Open(r io.ReaderAt, size int64) (*File, error) {
	first, err := readMeta(r, 0)
	if err != nil {
		return openSecond(r, size, err)
	}
	f := &File{r: r, size: size, meta: first}
	second, err := readMeta(r, first.pageSize)
	switch {
	case err != nil:
		f.bad = fmt.Errorf("meta page 1: %w", err)
	case second.pageSize != first.pageSize:
		return nil, fmt.Errorf("%w: pages of %d bytes and of %d", ErrDamaged, first.pageSize, second.pageSize)
	case second.txn > first.txn:
		f.meta = second
	}
	return f, f.checkMeta()
}

// openSecond tries every page size, because the first meta page that says it is damaged.
func openSecond(r io.ReaderAt, size int64, cause error) (*File, error) {
	for at := int64(minPageSize); at <= maxPageSize && at < size; at *= 2 {
		m, err := readMeta(r, at)
		if err == nil && m.pageSize == at {
			f := &File{r: r, size: size, meta: m, bad: fmt.Errorf("meta page 0: %w", cause)}
			return f, f.checkMeta()
		}
	}
	return nil, fmt.Errorf("both meta pages: %w", cause)
}

func readMeta(r io.ReaderAt, at int64) (meta, error) {
	var page [pageHeader + metaSize]byte
	if _, err := r.ReadAt(page[:], at); err != nil {
		return meta{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	b, order := page[pageHeader:], binary.NativeEndian
	h := fnv.New64a()
	h.Write(b[:metaSummed])
	if order.Uint32(b) != metaMagic || order.Uint32(b[4:]) != metaVersion || order.Uint64(b[metaSummed:]) != h.Sum64() {
		return meta{}, fmt.Errorf("%w: magic, version or checksum", ErrDamaged)
	}
	m := meta{pageSize: int64(order.Uint32(b[8:])), root: order.Uint64(b[16:]), sequence: order.Uint64(b[24:]),
		freelist: order.Uint64(b[32:]), pages: order.Uint64(b[40:]), txn: order.Uint64(b[48:])}
	if m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0 {
		return meta{}, fmt.Errorf("%w: pages of %d bytes", ErrDamaged, m.pageSize)
	}
	return m, nil
}

// checkMeta demands that the file has all pages that the meta page speaks of.
func (f *File) checkMeta() error {
	if have := uint64(f.size / f.meta.pageSize); f.meta.pages > have || f.meta.pages <= firstDataPage {
		return fmt.Errorf("%w: %d pages, want %d", ErrDamaged, have, f.meta.pages)
	}
	return nil
}

// page is the content of a page with its overflow.
type page struct {
	id           uint64
	flags, count uint16
	run          uint64 // pages
	b            []byte // with the header
}

// page reads a page that lies among the file's pages and says of itself that it is this one.
func (f *File) page(id uint64) (*page, error) {
	if id < firstDataPage || id >= f.meta.pages {
		return nil, fmt.Errorf("page %d: %w: the file has %d", id, ErrDamaged, f.meta.pages)
	}
	var head [pageHeader]byte
	at := int64(id) * f.meta.pageSize
	if _, err := f.r.ReadAt(head[:], at); err != nil {
		return nil, fmt.Errorf("page %d: %w: %w", id, ErrDamaged, err)
	}
	p := parseHeader(head[:])
	if p.id != id {
		return nil, fmt.Errorf("page %d: %w: it says it is page %d", id, ErrDamaged, p.id)
	}
	if p.run > f.meta.pages-id || int64(p.run) > maxRun/f.meta.pageSize {
		return nil, fmt.Errorf("page %d: %w: it is %d pages long", id, ErrDamaged, p.run)
	}
	p.b = make([]byte, int64(p.run)*f.meta.pageSize)
	if _, err := f.r.ReadAt(p.b, at); err != nil {
		return nil, fmt.Errorf("page %d: %w: %w", id, ErrDamaged, err)
	}
	return p, nil
}

func parseHeader(b []byte) *page {
	order := binary.NativeEndian
	return &page{id: order.Uint64(b), flags: order.Uint16(b[8:]), count: order.Uint16(b[10:]), run: uint64(order.Uint32(b[12:])) + 1}
}

// element is a row of a leaf page or a child of a branch page.
type element struct {
	key, value []byte
	child      uint64 // of a branch page
	bucket     bool   // the value is one
	from, to   int    // where key and value lie in the page
}

// element reads one of a page's; all of it lies inside the page.
func (p *page) element(i int) (e element, err error) {
	at := pageHeader + i*elementSize
	if at+elementSize > len(p.b) {
		return e, fmt.Errorf("%w: element %d of %d bytes", ErrDamaged, i, len(p.b))
	}
	order, b := binary.NativeEndian, p.b[at:]
	var from, key, value, flags uint64
	if p.flags == flagBranch {
		from, key, e.child = uint64(order.Uint32(b)), uint64(order.Uint32(b[4:])), order.Uint64(b[8:])
	} else {
		flags, from, key, value = uint64(order.Uint32(b)), uint64(order.Uint32(b[4:])), uint64(order.Uint32(b[8:])), uint64(order.Uint32(b[12:]))
	}
	if from+key+value > uint64(len(b)) || flags > flagBucket || key == 0 && p.flags == flagLeaf {
		return e, fmt.Errorf("%w: element %d: %d+%d bytes at %d of %d, flags %d", ErrDamaged, i, key, value, from, len(b), flags)
	}
	e.from, e.to = at+int(from), at+int(from+key+value)
	e.key, e.value, e.bucket = b[from:from+key], b[from+key:from+key+value], flags == flagBucket
	return e, nil
}

// follows demands that an element's bytes come right after those of the element before it, as bbolt writes them.
func (p *page) follows(e, before element, i int) error {
	want := before.to
	if i == 0 {
		want = pageHeader + int(p.count)*elementSize
	}
	if e.from != want {
		return fmt.Errorf("%w: element %d lies at %d, and not at %d", ErrDamaged, i, e.from, want)
	}
	return nil
}
