package copy

import (
	"os"
	"syscall"
)

// writeBackSize is how much of a file is handed to the disk at a time while more of it is written.
const writeBackSize = 8 << 20

// writeBack makes the kernel write a file to the disk while it grows, so that the sync at its end finds little to wait
// for. It is a hint: the sync is what makes the bytes durable, and what tells that they are not.
type writeBack struct {
	file *os.File
	from int64 // what is before it was handed over, or is somebody else's
}

// upTo says that the file is written as far as end.
func (w *writeBack) upTo(end int64) {
	if end-w.from < writeBackSize {
		return
	}
	const begin = 2 // SYNC_FILE_RANGE_WRITE of sync_file_range(2)
	_ = syscall.SyncFileRange(int(w.file.Fd()), w.from, end-w.from, begin)
	w.from = end
}

// spoolFile is a file that is written from its start.
type spoolFile struct {
	*os.File
	back writeBack
	at   int64
}

func newSpoolFile(f *os.File) *spoolFile { return &spoolFile{File: f, back: writeBack{file: f}} }

// Write implements io.Writer.
func (s *spoolFile) Write(p []byte) (int, error) {
	n, err := s.File.Write(p)
	s.at += int64(n)
	s.back.upTo(s.at)
	return n, err
}
