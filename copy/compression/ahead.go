package compression

import "io"

// aheadBuffers times BufferSize is how far an Ahead reads before anybody asks.
const aheadBuffers = 4

// Ahead reads a stream in a goroutine of its own, so that decompressing goes on beside whatever is done with the bytes.
type Ahead struct {
	free, full chan []byte
	quit       chan struct{}
	err        error // of the stream, set before full is closed

	buf  []byte // taken from full
	left []byte // of buf
}

// ReadAhead begins to read r. Stop must be called before r is touched again.
func ReadAhead(r io.Reader) *Ahead {
	a := &Ahead{free: make(chan []byte, aheadBuffers), full: make(chan []byte, aheadBuffers), quit: make(chan struct{})}
	for range aheadBuffers {
		a.free <- make([]byte, BufferSize)
	}
	go a.fill(r)
	return a
}

func (a *Ahead) fill(r io.Reader) {
	defer close(a.full)
	for a.err == nil {
		select {
		case buf := <-a.free:
			n := 0
			for n < len(buf) && a.err == nil {
				var m int
				m, a.err = r.Read(buf[n:])
				n += m
			}
			a.full <- buf[:n]
		case <-a.quit:
			return
		}
	}
}

// Read implements io.Reader. An error of the stream comes after all bytes before it.
func (a *Ahead) Read(p []byte) (int, error) {
	for len(a.left) == 0 {
		if a.buf != nil {
			a.free <- a.buf[:cap(a.buf)]
		}
		var ok bool
		if a.buf, ok = <-a.full; !ok {
			return 0, a.err
		}
		a.left = a.buf
	}
	n := copy(p, a.left)
	a.left = a.left[n:]
	return n, nil
}

// Stop ends the goroutine, at the latest when the read it is in returns. Nothing may be read from a after it.
func (a *Ahead) Stop() {
	close(a.quit)
	for range a.full { // what is left, until fill has ended
	}
}
