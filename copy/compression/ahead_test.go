package compression

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// TestAhead: whatever the sizes of reads on both sides, the same bytes and then the same error come out.
func TestAhead(t *testing.T) {
	content := make([]byte, 3*aheadBuffers*BufferSize+17)
	rand.NewChaCha8([32]byte{}).Read(content)
	broken := errors.New("broken")
	for name, r := range map[string]func() io.Reader{
		"whole":           func() io.Reader { return bytes.NewReader(content) },
		"halves":          func() io.Reader { return iotest.HalfReader(bytes.NewReader(content)) },
		"error with data": func() io.Reader { return iotest.DataErrReader(bytes.NewReader(content)) },
		"broken":          func() io.Reader { return io.MultiReader(bytes.NewReader(content), iotest.ErrReader(broken)) },
		"empty":           func() io.Reader { return bytes.NewReader(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			want, wantErr := io.ReadAll(r())
			a := ReadAhead(r())
			defer a.Stop()
			got, err := io.ReadAll(iotest.HalfReader(a))
			if !bytes.Equal(got, want) || !errors.Is(err, wantErr) {
				t.Errorf("%d bytes and %v, want %d and %v", len(got), err, len(want), wantErr)
			}
			if n, err := a.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("after the end: %d, %v", n, err)
			}
		})
	}
}

// TestAheadStops: after stop nothing touches the stream any more, however little of it was taken.
func TestAheadStops(t *testing.T) {
	for _, take := range []int{0, 1, BufferSize + 1} {
		var reads int // by fill only; the race detector sees one that comes after stop
		a := ReadAhead(endless{&reads})
		if _, err := io.ReadFull(a, make([]byte, take)); err != nil {
			t.Fatal(err)
		}
		a.Stop()
		reads = 0
	}
}

type endless struct{ reads *int }

func (e endless) Read(p []byte) (int, error) {
	*e.reads++
	return len(p), nil
}
