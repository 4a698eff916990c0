package link

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// echo answers each connection with what it reads, and closes its side when the other has.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().String()
}

func TestReserve(t *testing.T) {
	start := time.Unix(1000, 0)
	ms := func(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }
	for _, c := range []struct {
		name string
		bps  int64
		at   []time.Duration // when pieces of 1000 bytes are ready
		want []time.Duration // when they have left
	}{
		{"no limit", 0, []time.Duration{0, 0, ms(1)}, []time.Duration{0, 0, ms(1)}},
		{"one after the other", 1_000_000, []time.Duration{0, 0, 0, 0}, []time.Duration{ms(3), ms(11), ms(19), ms(27)}},
		{"idle time is lost but for the slack", 1_000_000, []time.Duration{0, ms(100), ms(100)}, []time.Duration{ms(3), ms(103), ms(111)}},
		{"a late timer catches up", 1_000_000, []time.Duration{0, ms(6), ms(12)}, []time.Duration{ms(3), ms(11), ms(19)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &bucket{bitsPerSecond: c.bps}
			for i, at := range c.at {
				if got := b.reserve(start.Add(at), 1000).Sub(start); got != c.want[i] {
					t.Errorf("piece %d left at %v, want %v", i, got, c.want[i])
				}
			}
		})
	}
}

func TestCarriesBytesBothWays(t *testing.T) {
	l, err := Listen("127.0.0.1:0", echo(t), 400_000_000, 2*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			data := make([]byte, 300_000)
			_, _ = rand.Read(data)
			c, err := net.Dial("tcp", l.Addr())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			go func() {
				_, _ = c.Write(data)
				_ = c.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes of %d, err %v", len(got), len(data), err)
			}
		})
	}
	wg.Wait()
}

func TestCloseCutsConnections(t *testing.T) {
	l, err := Listen("127.0.0.1:0", echo(t), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlived its link")
	}
}

func TestTargetGone(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := ln.Addr().String()
	ln.Close()
	l, err := Listen("127.0.0.1:0", target, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("read from a target that is not there")
	}
}

// BenchmarkLine reports how near the line comes to its figures: MB/s of 12.5 at 100 Mbit/s, and the round trip.
func BenchmarkLine(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	const size = 4 << 20
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				one := make([]byte, 1)
				if _, err := io.ReadFull(c, one); err == nil {
					_, _ = c.Write(make([]byte, size))
				}
			}()
		}
	}()
	l, err := Listen("127.0.0.1:0", ln.Addr().String(), 100_000_000, 30*time.Millisecond)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.SetBytes(size)
	var first time.Duration
	for b.Loop() {
		start := time.Now()
		c, err := net.Dial("tcp", l.Addr())
		if err != nil {
			b.Fatal(err)
		}
		_, _ = c.Write([]byte{1})
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		first += time.Since(start)
		if _, err := io.ReadFull(c, make([]byte, size-1)); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
	b.ReportMetric(float64(first.Milliseconds())/float64(b.N), "ms-to-first-byte")
}
