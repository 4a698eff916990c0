package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/tocsin/tocsin/copy"
)

// progress shows a bar for each blob on a terminal, and elsewhere lines, or JSON. Exactly one of its parts is not nil.
type progress struct {
	bars   *mpb.Progress
	events *events
	lines  *lines
}

// progressFlags say how a command tells how far it is.
type progressFlags struct {
	kind  string
	every time.Duration
}

func (p *progressFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&p.kind, "progress", "auto", "on standard error: auto (bars on a terminal, else plain), plain (a line for each blob), or json (a line for each event)")
	f.DurationVar(&p.every, "progress-interval", 30*time.Second, "with plain: how often to write a line about all blobs")
}

// newProgress makes what the flags say; buildx calls json rawjson. Its wait must be called in the end.
func newProgress(out *os.File, o progressFlags) (*progress, error) {
	if o.every <= 0 {
		return nil, usage(fmt.Errorf("--progress-interval %v is not positive", o.every))
	}
	switch o.kind {
	case "plain":
	case "auto":
		if term.IsTerminal(int(out.Fd())) {
			return &progress{bars: mpb.New(mpb.WithOutput(out), mpb.WithWidth(40))}, nil
		}
	case "json", "rawjson":
		return &progress{events: &events{out: out, now: time.Now}}, nil
	default:
		return nil, usage(fmt.Errorf("--progress %q is not auto, plain or json", o.kind))
	}
	return &progress{lines: newLines(out, time.Tick(o.every))}, nil
}

// Start implements copy.Progress.
func (p *progress) Start(name string, size int64) copy.Meter {
	switch {
	case p.events != nil:
		return p.events.Start(name, size)
	case p.lines != nil:
		return p.lines.Start(name, size)
	}
	return &barMeter{bar: p.bars.AddBar(max(size, 0),
		mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")),
	)}
}

// wait lets the last bars be drawn, and ends the lines.
func (p *progress) wait() {
	if p.bars != nil {
		p.bars.Wait()
	}
	if p.lines != nil {
		p.lines.end()
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
