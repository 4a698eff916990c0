package chunked

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
)

// sparseLayer is the index of files with so many zeros in chunks of 1 GiB or less, and one byte.
func sparseLayer(t *testing.T, zeros ...int64) *Index {
	t.Helper()
	b := NewIndexBuilder(nil)
	for i, left := range zeros {
		name := fmt.Sprint("f", i)
		e := Entry{Type: TypeReg, Name: name, Digest: digest.FromString(name), Size: left + 1}
		e.Chunks = []Chunk{{Size: 1, Digest: digest.FromString("x")}}
		for off := int64(1); left > 0; {
			n := min(left, 1<<30)
			e.Chunks = append(e.Chunks, Chunk{Off: off, Size: n, Zeros: true, Digest: digest.FromString(fmt.Sprint(n))})
			off, left = off+n, left-n
		}
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
	return x
}

// The zeros of the files that may become whole never add up to more than MaxZerosHashed; small files go first.
func TestCompletable(t *testing.T) {
	const all = MaxZerosHashed
	for _, tc := range []struct {
		name  string
		zeros []int64
		want  []bool
	}{
		{"no zeros", []int64{0, 0}, []bool{true, true}},
		{"at the limit", []int64{all}, []bool{true}},
		{"one beyond", []int64{all + 1}, []bool{false}},
		{"at the limit together", []int64{all - 5, 5}, []bool{true, true}},
		{"one beyond together", []int64{all - 5, 6, 0}, []bool{false, true, true}},
		{"terabytes", []int64{1 << 40, 1 << 40, 0, 1 << 20}, []bool{false, false, true, true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := sparseLayer(t, tc.zeros...)
			sum := int64(0)
			for i, want := range tc.want {
				obj, ok := x.ObjectByPath(fmt.Sprint("f", i))
				if !ok {
					t.Fatalf("no file %d", i)
				}
				if got := x.Completable(obj); got != want {
					t.Errorf("file %d with %d zeros: %v", i, tc.zeros[i], got)
				}
				if x.Completable(obj) {
					sum += tc.zeros[i]
				}
			}
			if sum > all {
				t.Errorf("%d zeros may be hashed", sum)
			}
		})
	}
}
