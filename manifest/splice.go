package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// span is a run of bytes in a JSON document: one value, or one key with its
// quotes.
type span struct{ start, end int }

func (s span) of(raw []byte) []byte { return raw[s.start:s.end] }

// field is one key of an object and its value, by place in the document.
type field struct {
	name       string
	key, value span
}

// object is the first level of one JSON object, in document order.
type object struct {
	raw    []byte
	at     span
	fields []field
}

// root returns the document's outermost object. The whole document is checked
// to be one JSON value that can be read in one way.
func root(raw []byte, known []string) (*object, error) {
	if err := checkKeys(raw); err != nil {
		return nil, err
	}
	return objectAt(raw, trim(raw, span{0, len(raw)}), known)
}

// maxItems bounds the keys of an object and the elements of an array that are
// looked at, because each takes many times its bytes in memory. No image has
// a tenth of it.
const maxItems = 1 << 16

// objectAt reads the object at s of a valid document. A key given twice is
// refused, and so is a key that differs from one of known only in its case:
// encoding/json would take it, other readers would not.
func objectAt(raw []byte, s span, known []string) (*object, error) {
	if raw[s.start] != '{' {
		return nil, fmt.Errorf("%w: %.40q is not an object", ErrMalformed, s.of(raw))
	}
	o := &object{raw: raw, at: s}
	seen := make(map[string]bool)
	w := newWalker(raw, s)
	for w.dec.More() {
		if len(o.fields) == maxItems {
			return nil, fmt.Errorf("%w: an object of more than %d keys", ErrMalformed, maxItems)
		}
		f, err := w.field()
		if err != nil {
			return nil, err
		}
		if seen[f.name] {
			return nil, fmt.Errorf("%w: key %.100q twice", ErrMalformed, f.name)
		}
		seen[f.name] = true
		for _, k := range known {
			if f.name != k && strings.EqualFold(f.name, k) {
				return nil, fmt.Errorf("%w: key %.100q instead of %q", ErrMalformed, f.name, k)
			}
		}
		o.fields = append(o.fields, f)
	}
	return o, nil
}

// get returns the place of a value; an absent key and null are both false.
func (o *object) get(name string) (span, bool) {
	i := o.index(name)
	if i < 0 || isNull(o.raw, o.fields[i].value) {
		return span{}, false
	}
	return o.fields[i].value, true
}

func (o *object) index(name string) int {
	return slices.IndexFunc(o.fields, func(f field) bool { return f.name == name })
}

// decode unmarshals the value of a key; an absent key or null leaves v alone.
func (o *object) decode(name string, v any) error {
	s, ok := o.get(name)
	if !ok {
		return nil
	}
	if err := json.Unmarshal(s.of(o.raw), v); err != nil {
		return fmt.Errorf("%s: %w: %v", name, ErrMalformed, err)
	}
	return nil
}

// set returns the edit that gives a key a value; a new key becomes the first.
func (o *object) set(name string, value []byte) edit {
	if i := o.index(name); i >= 0 {
		return edit{o.fields[i].value, value}
	}
	text := fmt.Appendf(nil, "%q:%s", name, value)
	at := o.at.start + 1
	if len(o.fields) > 0 {
		text = append(text, ',')
		at = o.fields[0].key.start
	}
	return edit{span{at, at}, text}
}

// without returns the document with the given keys of the object gone.
func (o *object) without(names ...string) []byte {
	var kept []field
	for _, f := range o.fields {
		if !slices.Contains(names, f.name) {
			kept = append(kept, f)
		}
	}
	if len(kept) == len(o.fields) {
		return o.raw
	}
	var edits []edit
	for i, f := range o.fields {
		if !slices.Contains(names, f.name) {
			continue
		}
		switch {
		case i+1 < len(o.fields):
			edits = append(edits, edit{at: span{f.key.start, o.fields[i+1].key.start}})
		default:
			edits = append(edits, edit{at: span{f.key.start, f.value.end}})
		}
	}
	// The comma behind the last kept field goes when all after it went.
	if n := len(o.fields); len(kept) > 0 && kept[len(kept)-1].key != o.fields[n-1].key {
		last := kept[len(kept)-1].value.end
		edits = slices.DeleteFunc(edits, func(e edit) bool { return e.at.start >= last })
		edits = append(edits, edit{at: span{last, o.fields[n-1].value.end}})
	}
	return splice(o.raw, edits...)
}

// elems returns the places of the elements of the array at s.
func elems(raw []byte, s span) ([]span, error) {
	if raw[s.start] != '[' {
		return nil, fmt.Errorf("%w: %.40q is not an array", ErrMalformed, s.of(raw))
	}
	var out []span
	w := newWalker(raw, s)
	for w.dec.More() {
		if len(out) == maxItems {
			return nil, fmt.Errorf("%w: an array of more than %d elements", ErrMalformed, maxItems)
		}
		v, err := w.value()
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// walker steps through one level of an object or array. The decoder gives
// the end of every token; the start is the next byte that is no separator.
type walker struct {
	raw  []byte
	base int
	dec  *json.Decoder
}

// newWalker stands behind the opening bracket of a valid value.
func newWalker(raw []byte, s span) *walker {
	w := &walker{raw: raw, base: s.start, dec: json.NewDecoder(bytes.NewReader(s.of(raw)))}
	_, _ = w.dec.Token() // the bracket: the caller looked, and the document is valid
	return w
}

// next returns where the next token starts.
func (w *walker) next() int {
	at := w.base + int(w.dec.InputOffset())
	for strings.IndexByte(" \t\r\n,:", w.raw[at]) >= 0 {
		at++
	}
	return at
}

func (w *walker) field() (field, error) {
	start := w.next()
	tok, err := w.dec.Token()
	name, ok := tok.(string)
	if err != nil || !ok {
		return field{}, fmt.Errorf("%w: key %v: %v", ErrMalformed, tok, err)
	}
	key := span{start, w.base + int(w.dec.InputOffset())}
	v, err := w.value()
	return field{name, key, v}, err
}

func (w *walker) value() (span, error) {
	start := w.next()
	var skip json.RawMessage
	if err := w.dec.Decode(&skip); err != nil {
		return span{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return trim(w.raw, span{start, w.base + int(w.dec.InputOffset())}), nil
}

// trim leaves out white space at both ends.
func trim(raw []byte, s span) span {
	const white = " \t\r\n"
	for s.start < s.end && strings.IndexByte(white, raw[s.start]) >= 0 {
		s.start++
	}
	for s.start < s.end && strings.IndexByte(white, raw[s.end-1]) >= 0 {
		s.end--
	}
	return s
}

func isNull(raw []byte, s span) bool { return string(s.of(raw)) == "null" }

// edit replaces the bytes at a place; an empty place inserts.
type edit struct {
	at   span
	with []byte
}

// splice returns raw with the edits made, in a new slice. Edits must not
// overlap; the order they are given in does not matter. What is inserted
// where another edit begins comes before it.
func splice(raw []byte, edits ...edit) []byte {
	edits = slices.Clone(edits)
	slices.SortStableFunc(edits, func(a, b edit) int {
		return cmp.Or(a.at.start-b.at.start, a.at.end-b.at.end)
	})
	var out []byte
	done := 0
	for _, e := range edits {
		out = append(out, raw[done:e.at.start]...)
		out = append(out, e.with...)
		done = e.at.end
	}
	return append(out, raw[done:]...)
}

// prepend returns the edit that puts one more element first in the array at
// s, laid out like the elements that are there. dropFirst undoes it.
func prepend(raw []byte, s span, elem []byte) (edit, error) {
	old, err := elems(raw, s)
	if err != nil {
		return edit{}, err
	}
	if len(old) == 0 {
		return edit{span{s.start + 1, s.start + 1}, elem}, nil
	}
	at := old[0].start
	text := append(slices.Clone(elem), ',')
	text = append(text, raw[s.start+1:at]...)
	return edit{span{at, at}, text}, nil
}

// dropFirst returns the edit that removes the first element of the array at
// s, which has one.
func dropFirst(raw []byte, s span) (edit, error) {
	old, err := elems(raw, s)
	if err != nil {
		return edit{}, err
	}
	end := old[0].end
	if len(old) > 1 {
		end = old[1].start
	}
	return edit{at: span{old[0].start, end}}, nil
}

// array returns the text of an array of these elements.
func array(elems [][]byte) []byte {
	out := append([]byte{'['}, bytes.Join(elems, []byte{','})...)
	return append(out, ']')
}

// marshal is json.Marshal without escaping of HTML, as other writers of
// manifests do it. It panics on what cannot be marshalled: only this
// package's own types are given to it.
func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("manifest: marshal %T: %v", v, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}
