package differential

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// workshop returns a directory in memory, where files are not synced to a disk, or the test's own.
func workshop(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containerd's unpacker sets owners and devices: root only")
	}
	silence()
	dir, err := os.MkdirTemp("/dev/shm", "tocsin-differential-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// digits are what differs in messages of one kind: names and numbers.
var digits = regexp.MustCompile(`"[^"]*"|sha\d+:[0-9a-f]+|\d+`)

// tally counts what came of cases.
type tally struct {
	cases, refused, accepted, lying, wrong, apply int
	reasons                                       map[string]int
	doors                                         map[string]int // accepted
}

func (y *tally) add(s *specimen, v *verdict) {
	y.cases++
	if !v.accepted() {
		y.refused++
		if s.lies == 0 {
			if y.reasons == nil {
				y.reasons = map[string]int{}
			}
			y.reasons[digits.ReplaceAllString(v.refused.Error(), "")]++
		}
		return
	}
	y.accepted++
	if y.doors == nil {
		y.doors = map[string]int{}
	}
	y.doors[s.door]++
	if s.lies > 0 {
		y.lying++
	}
	switch {
	case v.apply != nil:
		y.apply++
	case len(v.wrong) > 0:
		y.wrong++
	}
}

func (y *tally) String() string {
	return fmt.Sprintf("%d cases, %d refused, %d accepted (%d of them with lies), %d trees differ, %d refused by containerd alone; by door %v",
		y.cases, y.refused, y.accepted, y.lying, y.wrong, y.apply, y.doors)
}

// try judges the case of a seed and reports what is wrong with it.
func try(t testing.TB, root string, seed uint64, y *tally) {
	t.Helper()
	c := seeded(seed)
	s := grow(c)
	if s == nil {
		return
	}
	v, err := judge(context.Background(), root, s)
	if err != nil {
		t.Errorf("seed %d: %v\n%s", seed, err, s)
		return
	}
	y.add(s, v)
	if len(v.wrong) > 0 {
		s, v = reduced(t, root, s, v)
		t.Errorf("seed %d: accepted, but\n%s\n%sas a file of testdata/fuzz/FuzzDifferential:\ngo test fuzz v1\n[]byte(%q)", seed, strings.Join(v.wrong, "\n"), s, c.took)
	}
}

// reduced is a smaller case that is wrong in the same kind of way.
func reduced(t testing.TB, root string, s *specimen, v *verdict) (*specimen, *verdict) {
	t.Helper()
	less := minimal(s, func(s *specimen) bool {
		now, err := judge(context.Background(), root, s)
		if err != nil || len(now.wrong) == 0 || (now.apply == nil) != (v.apply == nil) {
			return false
		}
		v = now
		return true
	})
	return less, v
}

// TestDifferential: whatever tocsin accepts by its tables of contents has the tree that containerd makes of the tars.
func TestDifferential(t *testing.T) {
	root := workshop(t)
	y := &tally{}
	for seed := range uint64(400) {
		try(t, root, seed, y)
	}
	t.Log(y)
	if y.accepted < y.cases/20 || y.lying == 0 {
		t.Errorf("too few were accepted to mean anything: %v", y)
	}
}

// TestDifferentialFor does the same with other seeds for as long as TOCSIN_FUZZ_TIME says, from TOCSIN_FUZZ_SEED on.
func TestDifferentialFor(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("TOCSIN_FUZZ_TIME"))
	if err != nil {
		t.Skip("TOCSIN_FUZZ_TIME is no duration")
	}
	root := workshop(t)
	first := uint64(time.Now().UnixNano())
	if text := os.Getenv("TOCSIN_FUZZ_SEED"); text != "" {
		if first, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	y := &tally{}
	seed := first
	for end := time.Now().Add(length); time.Now().Before(end); seed++ {
		try(t, root, seed, y)
	}
	t.Logf("seeds %d to %d: %v", first, seed-1, y)
	for r, n := range y.reasons {
		t.Log(n, r)
	}
}

func FuzzDifferential(f *testing.F) {
	root := workshop(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		s := grow(&choices{data: data})
		if s == nil {
			return
		}
		v, err := judge(t.Context(), root, s)
		if err != nil {
			t.Fatalf("%v\n%s", err, s)
		}
		if len(v.wrong) > 0 {
			t.Errorf("accepted, but\n%s\n%s", strings.Join(v.wrong, "\n"), s)
		}
	})
}
