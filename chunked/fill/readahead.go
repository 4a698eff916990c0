package fill

// Steps of the read-ahead window. The first guess is small because most files
// are opened for their first page only; DefaultWindow hides 50 ms of round
// trip at 80 MB/s.
const (
	firstWindow   = 128 << 10
	DefaultWindow = 4 << 20
)

// window is what one open file knows about its reader. The zero value is a
// file that was not read yet. It is not safe for concurrent use.
type window struct {
	next  int64 // the offset a sequential reader asks for now
	size  int64 // bytes to have under way beyond the reader; 0: not sequential so far
	ahead int64 // end of what was asked for already
	began bool
}

// advance notes a read of n bytes at off and returns the bytes [from, to) to
// prefetch beyond it; from == to means none. The kernel keeps two or three
// reads of one file in flight and they arrive in any order, so a read that
// touches or nearly touches the last one is sequential too.
func (w *window) advance(off, n, fileSize, limit int64) (from, to int64) {
	end := off + n
	if !w.began || !w.near(off, n) {
		*w = window{next: end, ahead: end, began: true}
		return end, end
	}
	w.next = max(w.next, end)
	// Asking again only when half of the window is used up makes few large
	// requests out of many small reads.
	if w.ahead-w.next > w.size/2 {
		return end, end
	}
	w.size = min(max(w.size*2, firstWindow, 2*n), limit)
	from = max(w.ahead, end)
	to = min(w.next+w.size, fileSize)
	if to <= from {
		return end, end
	}
	w.ahead = to
	return from, to
}

// near says whether a read of n bytes at off goes on from the last one.
func (w *window) near(off, n int64) bool {
	slack := max(2*n, firstWindow)
	return off <= w.next+slack && off+n > w.next-slack
}
