package chunked

import "testing"

// Path gives back every name that Walk gives, but for the other names of a hard link.
func TestPath(t *testing.T) {
	b := NewIndexBuilder(nil)
	for _, e := range []Entry{
		{Type: TypeDir, Name: "a", Mode: 0o755}, {Type: TypeDir, Name: "a/b", Mode: 0o755}, {Type: TypeSymlink, Name: "a/b/l", LinkName: "x"},
		{Type: TypeReg, Name: "a/b/c", Mode: 0o644}, {Type: TypeReg, Name: "z", Mode: 0o644}, {Type: TypeHardlink, Name: "y", LinkName: "z"},
		{Type: TypeReg, Name: "implied/f", Mode: 0o644},
	} {
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	data, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	x, err := OpenIndex(data)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for name, e := range x.Walk() {
		got := x.Path(e)
		if want, ok := x.lookupPath(got); !ok || want != e || got != name && name != "z" && name != "y" {
			t.Errorf("%q: %q", name, got)
		}
		seen++
	}
	if seen < 8 {
		t.Errorf("%d names", seen)
	}
}
