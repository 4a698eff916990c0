// Package link is test infrastructure: a TCP proxy that makes a loopback connection as slow as a real line, for
// benchmarks that compare programs side by side.
//
// It shapes what TCP carries; it is not a network emulator: no loss, no reordering, no slow start, no jitter. For a
// registry that misbehaves see integration/front.
package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	pieceSize = 16 << 10
	// slack is how late a timer may fire without the line losing that time: the next pieces catch up.
	slack = 5 * time.Millisecond
	// spare is what a direction buffers beyond the bytes in flight, as a switch would.
	spare = 16
)

// Link is a line between an address and a target. Each direction has the whole bandwidth, shared by all connections.
type Link struct {
	ln     net.Listener
	target string
	delay  time.Duration // one way
	up     *bucket       // client to target
	down   *bucket
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Listen opens the line: connections to addr ("127.0.0.1:0" picks a port) go to target at bitsPerSecond (0: no limit)
// in each direction. Bytes arrive rtt/2 after they were sent, and a new connection carries nothing for one more rtt,
// as its handshake would cost on a real line.
func Listen(addr, target string, bitsPerSecond int64, rtt time.Duration) (*Link, error) {
	if bitsPerSecond < 0 || rtt < 0 {
		return nil, fmt.Errorf("link: negative bandwidth or round trip time")
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Link{ln: ln, target: target, delay: rtt / 2, cancel: cancel,
		up: &bucket{bitsPerSecond: bitsPerSecond}, down: &bucket{bitsPerSecond: bitsPerSecond}}
	l.wg.Go(func() { l.accept(ctx) })
	return l, nil
}

// Addr is the address to connect to.
func (l *Link) Addr() string { return l.ln.Addr().String() }

// Close cuts all connections and returns when nothing of the link runs any more.
func (l *Link) Close() error {
	err := l.ln.Close()
	l.cancel()
	l.wg.Wait()
	return err
}

func (l *Link) accept(ctx context.Context) {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.serve(ctx, c) })
	}
}

func (l *Link) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	var d net.Dialer
	server, err := d.DialContext(ctx, "tcp", l.target)
	if err != nil {
		return
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
	defer stop()
	open := time.Now().Add(2 * l.delay)
	var wg sync.WaitGroup
	wg.Go(func() { l.carry(ctx, server, client, lane{l.up, open}) })
	wg.Go(func() { l.carry(ctx, client, server, lane{l.down, open}) })
	wg.Wait()
}

// lane is one direction of one connection.
type lane struct {
	bucket *bucket
	open   time.Time // nothing leaves before
}

type piece struct {
	data   []byte // nil: the sender has closed its side
	arrive time.Time
}

// carry moves bytes one way until the sender closes its side, which it passes on, or either side breaks.
func (l *Link) carry(ctx context.Context, dst, src net.Conn, ln lane) {
	queue := make(chan piece, l.inFlight(ln.bucket)+spare)
	broken := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := deliver(ctx, dst, queue); err != nil {
			// Both directions die with it: half a broken connection helps nobody.
			src.Close()
			dst.Close()
			close(broken)
		}
	})
	l.collect(ctx, src, ln, queue, broken)
	close(queue)
	wg.Wait()
}

func (l *Link) collect(ctx context.Context, src net.Conn, ln lane, queue chan<- piece, broken <-chan struct{}) {
	for {
		buf := make([]byte, pieceSize)
		n, err := src.Read(buf)
		p := piece{data: buf[:n]}
		now := time.Now()
		leave := ln.bucket.reserve(later(now, ln.open), n)
		p.arrive = leave.Add(l.delay)
		if n > 0 && !(sleepUntil(ctx, leave.Add(-slack)) && send(queue, p, broken)) {
			return
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			send(queue, piece{arrive: p.arrive}, broken)
		}
		return
	}
}

func send(queue chan<- piece, p piece, broken <-chan struct{}) bool {
	select {
	case queue <- p:
		return true
	case <-broken:
		return false
	}
}

func deliver(ctx context.Context, dst net.Conn, queue <-chan piece) error {
	for p := range queue {
		if !sleepUntil(ctx, p.arrive) {
			return ctx.Err()
		}
		if p.data == nil {
			if half, ok := dst.(interface{ CloseWrite() error }); ok {
				return half.CloseWrite()
			}
			return nil
		}
		if _, err := dst.Write(p.data); err != nil {
			return err
		}
	}
	// The sender broke off without closing its side: so does the receiver's view of it.
	return io.ErrUnexpectedEOF
}

// inFlight is how many pieces the line holds between the two ends.
func (l *Link) inFlight(b *bucket) int {
	if b.bitsPerSecond == 0 {
		return 256
	}
	return int(float64(b.bitsPerSecond) / 8 * l.delay.Seconds() / pieceSize)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func sleepUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// bucket hands out the time of one direction.
type bucket struct {
	bitsPerSecond int64 // 0: no limit

	mu   sync.Mutex
	free time.Time // when the line has sent everything it was given
}

// reserve returns when n bytes that are ready now have left. Time that the line stood idle is lost, but for slack.
func (b *bucket) reserve(now time.Time, n int) time.Time {
	if b.bitsPerSecond == 0 {
		return now
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = later(b.free, now.Add(-slack)).Add(time.Duration(float64(n) * 8 / float64(b.bitsPerSecond) * float64(time.Second)))
	return later(b.free, now)
}
