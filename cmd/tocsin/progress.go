package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/tocsin/tocsin/copy"
)

// progress shows a bar for each blob on a terminal, and elsewhere a line for each blob that is done, or JSON.
type progress struct {
	out    io.Writer
	bars   *mpb.Progress // nil: lines
	events *events       // nil: bars or lines
	mu     sync.Mutex    // of lines
}

// newProgress makes what --progress says: auto, plain, or json (which buildx calls rawjson).
func newProgress(out *os.File, kind string) (*progress, error) {
	p := &progress{out: out}
	switch kind {
	case "plain":
	case "auto":
		if term.IsTerminal(int(out.Fd())) {
			p.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(40))
		}
	case "json", "rawjson":
		p.events = &events{out: out, now: time.Now}
	default:
		return nil, usage(fmt.Errorf("--progress %q is not auto, plain or json", kind))
	}
	return p, nil
}

// Start implements copy.Progress.
func (p *progress) Start(name string, size int64) copy.Meter {
	if p.events != nil {
		return p.events.Start(name, size)
	}
	if p.bars == nil {
		return &lineMeter{progress: p, name: name}
	}
	total := max(size, 0)
	return &barMeter{bar: p.bars.AddBar(total,
		mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")),
	)}
}

// wait lets the last bars be drawn.
func (p *progress) wait() {
	if p.bars != nil {
		p.bars.Wait()
	}
}

type barMeter struct{ bar *mpb.Bar }

func (m *barMeter) Add(n int64) { m.bar.IncrInt64(n) }
func (m *barMeter) Done(err error) {
	if err != nil {
		m.bar.Abort(false)
		return
	}
	m.bar.SetTotal(-1, true)
}

type lineMeter struct {
	progress *progress
	name     string
	mu       sync.Mutex
	n        int64
}

func (m *lineMeter) Add(n int64) {
	m.mu.Lock()
	m.n += n
	m.mu.Unlock()
}

func (m *lineMeter) Done(err error) {
	m.progress.mu.Lock()
	defer m.progress.mu.Unlock()
	if err != nil {
		fmt.Fprintf(m.progress.out, "%s: failed\n", m.name)
		return
	}
	fmt.Fprintf(m.progress.out, "%s: %d bytes\n", m.name, m.n)
}
