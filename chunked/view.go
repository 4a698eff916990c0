package chunked

import "iter"

// View is an opened merged tree: what a mount shows. It has no whiteouts and knows of layers only where a file's
// content is. It keeps the bytes it was opened from, which may be a read-only mapping, and is safe for concurrent use.
// Its methods do not panic for numbers in range, whatever the bytes were; entry 0 is the root.
type View struct{ table }

// OpenView opens what Merge returned. It checks the CRC and the whole structure in one pass; any damage wraps
// ErrMalformed. Object numbers are checked by whoever has the layers, see Content.
func OpenView(b []byte) (*View, error) {
	t, err := openTable(b, viewMagic)
	if err != nil {
		return nil, err
	}
	if t.param > MaxLayers {
		return nil, malformed("view of %d layers", t.param)
	}
	for e := range t.n {
		r := t.record(e)
		if r.Flags != 0 || r.Mode&modeType == modeReg && (r.B == 0 && r.A != 0 || r.B != 0 && r.A >= t.param) {
			return nil, malformed("entry %d: flags %d, layer %d of %d", e, r.Flags, r.A, t.param)
		}
	}
	if len(t.sec[secObjects])+len(t.sec[secChunks]) != 0 {
		return nil, malformed("view with objects")
	}
	return &View{*t}, nil
}

// NumLayers returns how many layers the view was merged from.
func (v *View) NumLayers() int { return int(v.param) }

// Content returns where the content of e is: in the layer at position slot < NumLayers of those given to Merge, as
// object obj of its index. A view that belongs to other layers may name an object that is not there: compare obj with
// NumObjects. !ok for an empty file and for what is no file.
func (v *View) Content(e uint32) (slot, obj int, ok bool) {
	r := v.record(e)
	if r.Mode&modeType != modeReg || r.B == 0 {
		return 0, 0, false
	}
	return int(r.A), int(r.B - 1), true
}

// Walk yields path and entry of every name but the root's, parents first, siblings in order.
func (v *View) Walk() iter.Seq2[string, uint32] { return v.walk }
