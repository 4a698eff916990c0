package fill

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

// lines yields the lines of a test file that say something, numbered.
func lines(t *testing.T, path string) map[int]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]string{}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; sc.Scan(); n++ {
		if s := strings.TrimSpace(sc.Text()); s != "" && s[0] != '#' {
			out[n] = s
		}
	}
	return out
}

func TestPlanRanges(t *testing.T) {
	const path = "testdata/plan/ranges.txt"
	all, cases := lines(t, path), 0
	for n, in := range all {
		if strings.HasPrefix(in, "=>") {
			continue
		}
		cases++
		var want []manifest.Range
		for _, f := range strings.Fields(in) {
			var r manifest.Range
			if _, err := fmt.Sscanf(f, "%d+%d", &r.Off, &r.Len); err != nil {
				t.Fatalf("%s:%d: %v", path, n, err)
			}
			want = append(want, r)
		}
		var got []string
		for _, s := range planRanges(want, 64, 1000, nil) {
			got = append(got, fmt.Sprintf("%d+%d%v", s.Off, s.Len, pieces(s)))
		}
		expected := strings.TrimSpace(strings.TrimPrefix(all[n+1], "=>"))
		if s := strings.Join(got, " "); s != expected {
			t.Errorf("%s:%d: %s\n got %s\nwant %s", path, n, in, s, expected)
		}
	}
	if cases < 10 {
		t.Fatalf("%s has %d cases", path, cases)
	}
}

func pieces(s span) (out []int) {
	for _, r := range s.runs {
		out = append(out, r.pieces...)
	}
	return out
}

// Whatever is wanted: ranges are ascending and disjoint, each piece is in the
// range it is listed under, once, and every byte that is fetched is wanted or
// lies in a short gap between wanted ones.
func TestPlanRangesProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const gap, limit = 50, 700
	for round := range 2000 {
		want := make([]manifest.Range, r.IntN(30))
		for i := range want {
			want[i] = manifest.Range{Off: r.Int64N(5000), Len: r.Int64N(300)}
		}
		spans := planRanges(want, gap, limit, nil)
		seen, end := map[int]bool{}, int64(-1)
		for _, s := range spans {
			if s.Off <= end {
				t.Fatalf("round %d: range at %d begins before %d", round, s.Off, end)
			}
			end = s.End() - 1
			covered := make([]bool, s.Len)
			last := int64(0)
			for _, r := range s.runs {
				if r.Off < last || r.Off < s.Off || r.End() > s.End() {
					t.Fatalf("round %d: run %v in range %v", round, r, s)
				}
				for _, i := range r.pieces {
					if seen[i] || want[i].Off < r.Off || want[i].End() > r.End() || want[i].End() < last {
						t.Fatalf("round %d: piece %d %v in run %v", round, i, want[i], r)
					}
					seen[i], last = true, want[i].End()
					for at := want[i].Off; at < want[i].End(); at++ {
						covered[at-s.Off] = true
					}
				}
				if last != r.End() {
					t.Fatalf("round %d: run %v goes beyond its pieces", round, r)
				}
			}
			for at, run := int64(0), int64(0); at < s.Len; at++ {
				if run++; covered[at] {
					run = 0
				}
				if run > gap || run > 0 && (at == 0 || at == s.Len-1) {
					t.Fatalf("round %d: range %v fetches %d unwanted bytes at %d", round, s, run, at)
				}
			}
		}
		for i, w := range want {
			if seen[i] != (w.Len > 0) {
				t.Fatalf("round %d: piece %d %v planned: %v", round, i, w, seen[i])
			}
		}
	}
}

func TestWindow(t *testing.T) {
	paths, err := filepath.Glob("testdata/window/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("no test files", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) { playWindow(t, path) })
	}
}

func playWindow(t *testing.T, path string) {
	var w window
	var size, limit int64
	all := lines(t, path)
	for n := 1; len(all) > 0; n++ {
		s, ok := all[n]
		delete(all, n)
		if !ok {
			continue
		}
		var off, length int64
		if c, _ := fmt.Sscanf(s, "file %dk %dk", &size, &limit); c == 2 {
			continue
		}
		do, want, ok := strings.Cut(s, " => ")
		if c, err := fmt.Sscanf(do, "read %dk %dk", &off, &length); !ok || c != 2 {
			t.Fatalf("%s:%d: %q: %v", path, n, s, err)
		}
		from, to := w.advance(off<<10, length<<10, size<<10, limit<<10)
		got := "none"
		if to > from {
			got = fmt.Sprintf("%dk %dk", from>>10, to>>10)
		}
		if got != want {
			t.Errorf("%s:%d: %s: got %s", path, n, s, got)
		}
	}
}

// Gaps that may hold what is fetched again add up to a sixteenth of the blob at most;
// headers are not counted.
func TestSpareGaps(t *testing.T) {
	l := &Layer{}
	var want []manifest.Range
	for i := range int64(100) {
		want = append(want, manifest.Range{Off: i * 2000, Len: 1000})
	}
	count := func(spans []span) (gaps int64) {
		for _, s := range spans {
			gaps += s.Len
			for _, r := range s.runs {
				gaps -= r.Len
			}
		}
		return gaps
	}
	const blob = 200_000
	for range 3 {
		if got := count(planRanges(want, 64<<10, 8<<20, l.spare(blob))); got != 12_000 && got != 0 {
			t.Errorf("gaps of %d bytes", got)
		}
	}
	if got := l.skipped.Load(); got != 12_000 {
		t.Errorf("%d bytes of gaps in all, want 12000 of a sixteenth of %d", got, blob)
	}
	for i := range want {
		want[i].Len = 2000 - freeGap
	}
	if got := len(planRanges(want, 64<<10, 8<<20, l.spare(blob))); got != 1 {
		t.Errorf("%d ranges around headers", got)
	}
	if got := len(planRanges(want[:10], 64<<10, 8<<20, (&Layer{}).spare(0))); got != 1 {
		t.Errorf("%d ranges where the size is not known", got)
	}
}
