package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestLinesTellAboutAllBlobs(t *testing.T) {
	var out strings.Builder
	tick := make(chan time.Time)
	l := newLines(&out, tick)
	tick <- time.Time{}
	tick <- time.Time{} // so the first has been told about
	l.end()
	if got := "0.0 MB so far, 0 blobs under way\n"; !strings.HasPrefix(out.String(), got) {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	a, b := l.Start("a", 5), l.Start("b", -1)
	a.Add(2)
	b.Add(1e6)
	l.tell()
	a.Add(3)
	a.Done(nil)
	b.Done(errors.New("no"))
	if got := out.String(); got != "1.0 MB so far, 2 blobs under way\na: 5 bytes\nb: failed\n" {
		t.Errorf("%q", got)
	}
}
