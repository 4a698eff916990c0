package fill

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
)

// The scheduler's rules as a text: demands come in, batches go out. A demand
// is layer, place in the blob and length; a batch is shown with the layer and
// the places.
func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		name  string
		slots int
		steps string
		want  string
	}{
		{"at once while slots are free", 2, "read a 0 10; read b 5 10", "a0 | b5"},
		{"what waits for a slot leaves together", 1, "read a 0 10; read a 20 10; read a 40 10; done", "a0 | a20 a40"},
		{"but not with another layer", 1, "read a 0 10; read a 20 10; read b 1 1; read a 40 10; done; done", "a0 | a20 a40 | b1"},
		{"reads before read-ahead before completion", 1,
			"read x 0 1; background a 0 1; ahead b 0 1; read c 0 1; done; done; done", "x0 | c0 | b0 | a0"},
		{"the read-ahead of a layer goes with its reads", 1, "read x 0 1; ahead a 10 1; read a 0 1; done", "x0 | a0 a10"},
		{"completion does not go with reads", 1, "read x 0 1; background a 10 1; read a 0 1; done; done", "x0 | a0 | a10"},
		{"completion leaves a slot", 2, "background a 0 1; background b 0 1; read c 0 1; done; done", "a0 | c0 | b0"},
		{"completion alone may have the only slot", 1, "background a 0 1", "a0"},
		{"at most 100 bytes in one call", 1, "read x 0 1; read a 0 60; read a 60 40; read a 100 1; done; done", "x0 | a0 a60 | a100"},
		{"a long chunk goes alone", 1, "read x 0 1; read a 0 500; read a 500 1; done; done", "x0 | a0 | a500"},
		{"a waiting reader promotes", 1, "read x 0 1; background a 0 1; background b 0 1; promote b 0; done; done", "x0 | b0 | a0"},
		{"layers take turns", 1,
			"read x 0 1; read a 0 90; read a 90 90; read b 0 1; done; done; done", "x0 | a0 | b0 | a90"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := playSchedule(t, c.slots, c.steps); got != c.want {
				t.Errorf("%s\n got %s\nwant %s", c.steps, got, c.want)
			}
		})
	}
}

func playSchedule(t *testing.T, slots int, steps string) string {
	var running []*batch
	var shown []string
	s := newScheduler("", slots, 100, func(b *batch) {
		running = append(running, b)
		var names []string
		for _, d := range b.demands {
			names = append(names, fmt.Sprintf("%c%d", rune(d.layer.n), d.chunk.Blob.Off))
		}
		shown = append(shown, strings.Join(names, " "))
	})
	layers, demands := map[string]*Layer{}, map[string]*demand{}
	levels := map[string]level{"read": levelRead, "ahead": levelAhead, "background": levelBackground}
	for step := range strings.SplitSeq(steps, "; ") {
		var verb, name string
		var off, n int64
		if _, err := fmt.Sscan(step, &verb, &name, &off, &n); err != nil && verb != "done" && verb != "promote" {
			t.Fatalf("%q: %v", step, err)
		}
		key := fmt.Sprint(name, off)
		switch verb {
		case "done":
			b := running[0]
			running = running[1:]
			s.release(b)
		case "promote":
			s.promote(demands[key], levelRead)
		default:
			if layers[name] == nil {
				layers[name] = &Layer{n: uint64(name[0])}
			}
			d := &demand{layer: layers[name], level: levels[verb], done: make(chan struct{}),
				chunk: chunked.Chunk{Size: n, Blob: manifest.Range{Off: off, Len: n}}}
			demands[key] = d
			s.submit([]*demand{d})
		}
	}
	return strings.Join(shown, " | ")
}

func TestScheduleClose(t *testing.T) {
	started := 0
	s := newScheduler("", 1, 100, func(*batch) { started++ })
	l := &Layer{}
	ds := make([]*demand, 5)
	for i := range ds {
		ds[i] = &demand{layer: l, level: level(i % 3), chunk: chunked.Chunk{Blob: manifest.Range{Len: 90}}}
	}
	if !s.submit(ds) || started != 1 {
		t.Fatalf("started %d", started)
	}
	s.promote(ds[2], levelRead)
	if rest := s.close(); len(rest) != 4 {
		t.Errorf("%d demands given back, want each of the 4 that wait once", len(rest))
	}
	if s.submit(ds) {
		t.Error("a closed scheduler takes demands")
	}
}
