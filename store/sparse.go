package store

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copySparse writes all of a file to w and says how much that was. It does not read holes: they are written as zeros and
// take no room in the page cache. It moves the file's offset.
func copySparse(ctx context.Context, w io.Writer, f *os.File) (n int64, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	buf := make([]byte, copyBuffer)
	for err == nil && n < end {
		var data, hole, done int64
		if data, hole, err = nextData(f, n, end); err != nil {
			break
		}
		done, err = io.CopyBuffer(w, io.LimitReader(&untilDone{ctx, zeros{}}, data-n), buf)
		n += done
		if err == nil && data < hole {
			done, err = io.CopyBuffer(w, &untilDone{ctx, io.NewSectionReader(f, data, hole-data)}, buf)
			n += done
			if err == nil && n < hole {
				err = io.ErrUnexpectedEOF
			}
		}
	}
	return n, err
}

// nextData finds the next bytes [data, hole) from off on that are not a hole; both are end when there are none.
func nextData(f *os.File, off, end int64) (data, hole int64, err error) {
	data, err = f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return end, end, nil
	case errors.Is(err, unix.EINVAL): // this filesystem does not tell
		return off, end, nil
	case err != nil:
		return 0, 0, err
	}
	if hole, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
		return 0, 0, err
	}
	return min(data, end), min(hole, end), nil
}
