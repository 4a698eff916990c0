package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// sparseFile makes a file of that size with data where it says, and what it holds.
func sparseFile(t *testing.T, size int64, data map[int64]string) (*os.File, []byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	for off, s := range data {
		copy(want[off:], s)
		if _, err := f.WriteAt([]byte(s), off); err != nil {
			t.Fatal(err)
		}
	}
	return f, want
}

func TestCopySparse(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		size int64
		data map[int64]string
	}{
		"empty":               {0, nil},
		"a hole":              {3*mib + 5, nil},
		"data":                {5, map[int64]string{0: "hello"}},
		"hole in the middle":  {4 * mib, map[int64]string{0: "begin", 4*mib - 3: "end"}},
		"hole at both ends":   {4 * mib, map[int64]string{2*mib + 7: "middle"}},
		"data in many places": {9 * mib, map[int64]string{mib: "a", 3 * mib: "b", 5*mib - 1: "cc", 8 * mib: "d"}},
	} {
		f, want := sparseFile(t, c.size, c.data)
		var got bytes.Buffer
		n, err := copySparse(t.Context(), &got, f)
		if err != nil || n != c.size || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.ErrUnsupported)
	f, _ := sparseFile(t, mib, nil)
	if _, err := copySparse(ctx, &bytes.Buffer{}, f); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("ended: %v", err)
	}
}

// Holes are hashed without being read.
func TestHolesAreNotRead(t *testing.T) {
	f, _ := sparseFile(t, 200<<20, map[int64]string{100 << 20: "x"})
	before := bytesRead(t)
	if n, err := copySparse(t.Context(), discard{}, f); err != nil || n != 200<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if got := bytesRead(t) - before; got > 2<<20 {
		t.Errorf("%d bytes were read", got)
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// bytesRead is what this process has read so far, from the page cache too.
func bytesRead(t *testing.T) (n int64) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip(err)
	}
	if _, err := fmt.Sscanf(string(raw), "rchar: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}
