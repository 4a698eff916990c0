package differential

import (
	"slices"

	"github.com/tocsin/tocsin/integration/forge"
)

// minimal takes away of a case what is not needed for it to stay wrong.
func minimal(s *specimen, wrong func(*specimen) bool) *specimen {
	for again := true; again; {
		again = false
		for _, smaller := range s.smaller() {
			if smaller.write() && wrong(smaller) {
				s, again = smaller, true
				break
			}
		}
	}
	return s
}

// smaller returns the cases that lack one layer, one member, one entry or the end of s.
func (s *specimen) smaller() (out []*specimen) {
	with := func(i int, change func(*forge.Layer)) {
		l := *s.layers[i]
		l.TOC, l.Split, l.Tar.Members = slices.Clone(l.TOC), slices.Clone(l.Split), slices.Clone(l.Tar.Members)
		change(&l)
		layers := slices.Clone(s.layers)
		layers[i] = &l
		out = append(out, &specimen{layers: layers, lies: s.lies, door: s.door})
	}
	for i, l := range s.layers {
		if len(s.layers) > 1 {
			out = append(out, &specimen{layers: slices.Delete(slices.Clone(s.layers), i, i+1), lies: s.lies, door: s.door})
		}
		for k := range l.Tar.Members {
			with(i, func(l *forge.Layer) { dropMember(l, k) })
		}
		for k := range l.TOC {
			with(i, func(l *forge.Layer) { l.TOC = slices.Delete(l.TOC, k, k+1) })
		}
	}
	return out
}

// dropMember takes a member out of the tar, and its entry and its lines with it, or else makes the layer honest.
func dropMember(l *forge.Layer, k int) {
	before := forge.Tar{Members: l.Tar.Members, End: l.Tar.End}
	name := l.Tar.Members[k].Name
	l.Tar.Members = slices.Delete(slices.Clone(l.Tar.Members), k, k+1)
	old, err := forge.SplitOf(&before)
	same := err == nil && len(old) == len(l.Split) && slices.EqualFunc(old, l.Split, func(a, b forge.Line) bool {
		return a.Name == b.Name && string(a.Payload) == string(b.Payload)
	})
	if same {
		l.Split, _ = forge.SplitOf(&l.Tar)
	}
	if i := slices.IndexFunc(l.TOC, func(e forge.Entry) bool { return e.Name == name }); i >= 0 {
		l.TOC = slices.Delete(l.TOC, i, i+1)
	}
}
