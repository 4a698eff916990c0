package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/tocsin/tocsin/copy"
)

// lines writes progress for a log: a line for each blob that is done, and one about all of them every now and then.
type lines struct {
	mu       sync.Mutex
	out      io.Writer
	bytes    int64 // moved in all
	underWay int

	stop    chan struct{}
	stopped sync.WaitGroup
}

// newLines begins to tell about all blobs at every tick, until end.
func newLines(out io.Writer, tick <-chan time.Time) *lines {
	l := &lines{out: out, stop: make(chan struct{})}
	l.stopped.Go(func() {
		for {
			select {
			case <-tick:
				l.tell()
			case <-l.stop:
				return
			}
		}
	})
	return l
}

// end returns when nothing more will be written at a tick.
func (l *lines) end() {
	close(l.stop)
	l.stopped.Wait()
}

func (l *lines) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "%.1f MB so far, %d blobs under way\n", float64(l.bytes)/1e6, l.underWay)
}

// Start implements copy.Progress.
func (l *lines) Start(name string, _ int64) copy.Meter {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.underWay++
	return &lineMeter{lines: l, name: name}
}

type lineMeter struct {
	lines *lines
	name  string
	n     int64
}

func (m *lineMeter) Add(n int64) {
	m.lines.mu.Lock()
	defer m.lines.mu.Unlock()
	m.n += n
	m.lines.bytes += n
}

func (m *lineMeter) Done(err error) {
	m.lines.mu.Lock()
	defer m.lines.mu.Unlock()
	m.lines.underWay--
	if err != nil {
		fmt.Fprintf(m.lines.out, "%s: failed\n", m.name)
		return
	}
	fmt.Fprintf(m.lines.out, "%s: %d bytes\n", m.name, m.n)
}
