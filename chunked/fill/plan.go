package fill

import (
	"cmp"
	"slices"

	"github.com/tocsin/tocsin/manifest"
)

// Limits of one request, from design.md 6.
const (
	// DefaultMaxGap is the longest stretch of unwanted bytes that is fetched
	// to join two wanted ones: a round trip costs more than 64 KiB.
	DefaultMaxGap = 64 << 10
	// freeGap is a stretch that holds a header of the tar and no file: it is only
	// ever fetched together with its neighbours. Longer ones may hold chunks that
	// are fetched again, and no more of them is fetched than the given part of a
	// blob.
	freeGap  = 512
	gapShare = 16
	// DefaultMaxRange bounds one range, and together with it the bytes that
	// one call of a Source asks for.
	DefaultMaxRange = 8 << 20
	// maxRangesPerCall keeps the Range header of one request below 4 KiB,
	// which every known server takes.
	maxRangesPerCall = 128
)

// span is one range to ask for, and what of it is wanted.
type span struct {
	manifest.Range
	runs []run // ascending and disjoint
}

// run is a stretch of a span that is wanted as a whole: the piece in it, or all
// pieces that overlap, as indices into the slice given to planRanges, by ascending
// end.
type run struct {
	manifest.Range
	pieces []int
}

// add takes a piece that begins at or after what the span has.
func (s *span) add(i int, w manifest.Range) {
	s.Len = max(s.End(), w.End()) - s.Off
	if n := len(s.runs); n > 0 && w.Off < s.runs[n-1].End() {
		last := &s.runs[n-1]
		last.Len = max(last.End(), w.End()) - last.Off
		last.pieces = append(last.pieces, i)
		return
	}
	s.runs = append(s.runs, run{w, []int{i}})
}

// planRanges turns wanted pieces of one blob into the ranges to ask for:
// ascending and disjoint. Pieces whose gap is at most maxGap are joined while
// the result is at most maxRange long; no range begins or ends with a byte
// that is in no piece. Pieces that overlap share a range even when it gets
// longer than maxRange, as does a single piece that is longer by itself. spare, if
// not nil, is asked whether gaps longer than freeGap may be fetched.
func planRanges(want []manifest.Range, maxGap, maxRange int64, spare func(gap int64) bool) []span {
	order := make([]int, 0, len(want))
	for i, w := range want {
		if w.Len > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(want[a].Off, want[b].Off), cmp.Compare(want[a].Len, want[b].Len))
	})
	var out []span
	for _, i := range order {
		w := want[i]
		if n := len(out); n > 0 && joins(out[n-1].Range, w, maxGap, maxRange, spare) {
			out[n-1].add(i, w)
			continue
		}
		out = append(out, span{Range: w, runs: []run{{w, []int{i}}}})
	}
	for _, s := range out {
		for _, r := range s.runs {
			slices.SortStableFunc(r.pieces, func(a, b int) int { return cmp.Compare(want[a].End(), want[b].End()) })
		}
	}
	return out
}

// joins says whether next, which begins at or after have, belongs to the same range.
func joins(have, next manifest.Range, maxGap, maxRange int64, spare func(gap int64) bool) bool {
	gap := next.Off - have.End()
	switch {
	case gap < 0:
		return true // a call may not ask for a byte twice
	case gap > maxGap || next.End()-have.Off > maxRange:
		return false
	}
	return gap <= freeGap || spare == nil || spare(gap)
}

// spare returns what decides on gaps in a blob of so many bytes of the layer: they
// add up to a small part of it, as long as this process runs. 0: the size is not
// known, and nothing is paid for it.
func (l *Layer) spare(size int64) func(gap int64) bool {
	return func(gap int64) bool {
		for size > 0 {
			had := l.skipped.Load()
			if had+gap > size/gapShare {
				return false
			}
			if l.skipped.CompareAndSwap(had, had+gap) {
				break
			}
		}
		return true
	}
}

// fits says whether a piece of n bytes may join a call that already asks for
// have bytes in pieces pieces. The first piece always fits.
func fits(have int64, pieces int, n, maxRange int64) bool {
	return pieces == 0 || have+n <= maxRange
}
