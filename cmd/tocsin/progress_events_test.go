package main

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

func TestEvents(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	e := &events{out: &out, now: func() time.Time { return now }}
	a, b := e.Start("a", 10), e.Start("b", -1)
	a.Add(3) // too early for an event
	now = now.Add(eventPause)
	a.Add(4)
	a.Add(3)
	a.Done(nil)
	b.Done(errors.New("lost"))
	want := `{"event":"start","name":"a","bytes":0,"size":10}
{"event":"start","name":"b","bytes":0}
{"event":"progress","name":"a","bytes":7,"size":10}
{"event":"done","name":"a","bytes":10,"size":10}
{"event":"failed","name":"b","bytes":0,"error":"lost"}
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
