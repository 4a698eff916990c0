package chunked

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// xattr is one extended attribute.
type xattr struct {
	name, value []byte
}

func (x xattr) equal(y xattr) bool {
	return bytes.Equal(x.name, y.name) && bytes.Equal(x.value, y.value)
}

// decodePair reads where an attribute's name and value are among strings.
func decodePair(pair, strs []byte) xattr {
	le := binary.LittleEndian
	_ = pair[pairLen-1]
	return xattr{strs[le.Uint32(pair):][:le.Uint32(pair[4:])], strs[le.Uint32(pair[8:]):][:le.Uint32(pair[12:])]}
}

// tableWriter collects the sections of a table.
type tableWriter struct {
	ws    *Workspace
	sec   [secObjects]arena
	sets  numbers // sets of attributes by what is in them
	names numbers // pairs by their name, the first of each
	seed  seed
	text  []byte

	content tableContent
}

// tableContent are the objects and chunks of an index: how many bytes they have, and what writes them.
type tableContent struct {
	objects, chunks int
	write           func(objects, chunks []byte)
}

func newTableWriter(ws *Workspace) *tableWriter {
	w := &tableWriter{ws: ws, sets: numbers{ws: ws}, names: numbers{ws: ws}, seed: newSeed()}
	for i, size := range [...]int{entryLen, direntLen, 1, setLen, pairLen} {
		limit := (MaxImageEntries + MaxLayers) * size
		w.sec[i] = arena{ws: ws, limit: limit, what: fmt.Sprint(limit, " bytes of one kind in a tree")}
	}
	w.sec[secStrings] = newStrings(ws)
	return w
}

func (w *tableWriter) addEntry(r *record) (uint32, error) {
	n := len(w.sec[secEntries].b) / entryLen
	b, err := w.sec[secEntries].extend(entryLen)
	if err == nil {
		r.append(b[:0])
	}
	return uint32(n), err
}

func (w *tableWriter) entry(e uint32) record {
	return decodeRecord(w.sec[secEntries].b[int(e)*entryLen:])
}

// setEntry rewrites an entry in place.
func (w *tableWriter) setEntry(e uint32, r *record) {
	at := int(e) * entryLen
	r.append(w.sec[secEntries].b[at : at : at+entryLen])
}

func (w *tableWriter) addDirent(name []byte, e uint32) error {
	off, err := w.addString(name)
	if err != nil {
		return err
	}
	b, err := w.sec[secDirents].extend(direntLen)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(b, off)
	binary.LittleEndian.PutUint32(b[4:], e)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(name)))
	return nil
}

func (w *tableWriter) numDirents() uint32 { return uint32(len(w.sec[secDirents].b) / direntLen) }

func (w *tableWriter) addString(s []byte) (uint32, error) {
	off, err := w.sec[secStrings].append(s)
	return uint32(off), err
}

// addXattrs returns what record.Xattrs must be for a set, which must be sorted by name.
func (w *tableWriter) addXattrs(set []xattr) (uint32, error) {
	if len(set) == 0 {
		return 0, nil
	}
	le := binary.LittleEndian
	w.text = w.text[:0]
	for _, x := range set {
		w.text = append(le.AppendUint32(w.text, uint32(len(x.name))), x.name...)
		w.text = append(le.AppendUint32(w.text, uint32(len(x.value))), x.value...)
	}
	hash := w.seed.bytes(w.text)
	if id, ok := w.sets.find(hash, func(id int32) bool { return w.isSet(id, set) }); ok {
		return uint32(id) + 1, nil
	}
	first := len(w.sec[secPairs].b) / pairLen
	for _, x := range set {
		if err := w.addPair(x); err != nil {
			return 0, err
		}
	}
	id := len(w.sec[secSets].b) / setLen
	b, err := w.sec[secSets].extend(setLen)
	if err != nil {
		return 0, err
	}
	le.PutUint32(b, uint32(first))
	le.PutUint32(b[4:], uint32(len(set)))
	return uint32(id) + 1, w.sets.add(hash, int32(id))
}

// addPair writes an attribute: its name once in a table, its value once in each set.
func (w *tableWriter) addPair(x xattr) error {
	le, hash := binary.LittleEndian, w.seed.bytes(x.name)
	pair := int32(len(w.sec[secPairs].b) / pairLen)
	known, ok := w.names.find(hash, func(n int32) bool { return bytes.Equal(w.pair(n).name, x.name) })
	var name uint32
	var err error
	if ok {
		name = le.Uint32(w.sec[secPairs].b[int(known)*pairLen:])
	} else if name, err = w.addString(x.name); err != nil {
		return err
	}
	value, err := w.addString(x.value)
	if err != nil {
		return err
	}
	b, err := w.sec[secPairs].extend(pairLen)
	if err != nil {
		return err
	}
	le.PutUint32(b, name)
	le.PutUint32(b[4:], uint32(len(x.name)))
	le.PutUint32(b[8:], value)
	le.PutUint32(b[12:], uint32(len(x.value)))
	if ok {
		return nil
	}
	return w.names.add(hash, pair)
}

func (w *tableWriter) pair(n int32) xattr {
	return decodePair(w.sec[secPairs].b[int(n)*pairLen:][:pairLen], w.sec[secStrings].b)
}

// isSet says whether a set that was written is this one.
func (w *tableWriter) isSet(id int32, set []xattr) bool {
	b := w.sec[secSets].b[int(id)*setLen:]
	first, n := int32(binary.LittleEndian.Uint32(b)), int(binary.LittleEndian.Uint32(b[4:]))
	if n != len(set) {
		return false
	}
	for i, x := range set {
		if !w.pair(first + int32(i)).equal(x) {
			return false
		}
	}
	return true
}

// finish returns the bytes of the table.
func (w *tableWriter) finish(magic string, param uint32) ([]byte, error) {
	sizes := [numSections]int{secObjects: w.content.objects, secChunks: w.content.chunks}
	for i := range w.sec {
		sizes[i] = len(w.sec[i].b)
	}
	size := headerLen
	for _, n := range sizes {
		size += (n + 7) &^ 7
	}
	out := arena{ws: w.ws, limit: size}
	b, err := out.extend(size)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[12:], param)
	var sections [numSections][]byte
	off := headerLen
	for i, n := range sizes {
		le.PutUint64(b[16+16*i:], uint64(off))
		le.PutUint64(b[24+16*i:], uint64(n))
		sections[i] = b[off : off+n]
		off += (n + 7) &^ 7
	}
	for i := range w.sec {
		if err := w.ws.stopped(); err != nil {
			return nil, err
		}
		copy(sections[i], w.sec[i].b)
	}
	if w.content.write != nil {
		w.content.write(sections[secObjects], sections[secChunks])
	}
	le.PutUint32(b[8:], tableSum(b))
	return b, nil
}
