package main

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"github.com/tocsin/tocsin/copy"
)

// eventPause is the shortest time between two "progress" events of one blob.
const eventPause = 500 * time.Millisecond

// event is one line of --progress json. Bytes counts what was read so far; Size is absent when nobody knows it.
type event struct {
	Event string `json:"event"` // start, progress, done or failed
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	Size  *int64 `json:"size,omitempty"`
	Error string `json:"error,omitempty"`
}

// events writes progress as lines of JSON.
type events struct {
	now func() time.Time
	mu  sync.Mutex // of out
	out io.Writer
}

func (e *events) write(ev event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = json.NewEncoder(e.out).Encode(ev) // whoever reads progress may go without stopping the copy
}

// Start implements copy.Progress.
func (e *events) Start(name string, size int64) copy.Meter {
	m := &eventMeter{events: e, said: e.now(), is: event{Event: "start", Name: name}}
	if size >= 0 {
		m.is.Size = &size
	}
	e.write(m.is)
	return m
}

type eventMeter struct {
	events *events
	mu     sync.Mutex
	is     event
	said   time.Time
}

func (m *eventMeter) Add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.is.Bytes += n
	if now := m.events.now(); now.Sub(m.said) >= eventPause {
		m.said = now
		m.is.Event = "progress"
		m.events.write(m.is)
	}
}

func (m *eventMeter) Done(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.is.Event = "done"
	if err != nil {
		m.is.Event, m.is.Error = "failed", err.Error()
	}
	m.events.write(m.is)
}
