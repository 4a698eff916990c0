package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// relabelled answers a request for a range with n bytes more to the left or right than were asked for, and says so in
// Content-Range or, when it lies, does not. It takes one range at a time.
func relabelled(by int, lie bool) front.Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.Header.Get("Range"), ",") {
			front.SingleOnly(http.StatusBadRequest)(w, r, next)
			return
		}
		first, last, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
		from, err := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if !ok || err != nil || err2 != nil || from+by < 0 {
			next.ServeHTTP(w, r)
			return
		}
		asked := r.Clone(r.Context())
		asked.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from+by, to+by))
		if !lie {
			next.ServeHTTP(w, asked)
			return
		}
		next.ServeHTTP(&liar{ResponseWriter: w, from: from, to: to}, asked)
	}
}

// liar says another Content-Range than what the registry said.
type liar struct {
	http.ResponseWriter
	from, to int
}

func (l *liar) WriteHeader(status int) {
	if _, size, ok := strings.Cut(l.Header().Get("Content-Range"), "/"); ok {
		l.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%s", l.from, l.to, size))
	}
	l.ResponseWriter.WriteHeader(status)
}

// fault is one way for a registry to misbehave, once or for ever.
type fault struct {
	name  string
	do    front.Action
	wrong bool // it sends wrong bytes, so it is not asked again
}

func faults() []fault {
	return []fault{
		{"truncates at once", front.Truncate(0), false},
		{"truncates", front.Truncate(30), false},
		{"resets before the status", front.Reset(-1), false},
		{"resets in the body", front.Reset(30), false},
		{"answers 200", front.IgnoreRange(), false},
		{"answers 416", front.Status(416, "RANGE_INVALID"), false},
		{"answers 503", front.Status(503, "UNAVAILABLE"), false},
		{"answers 404", front.Status(404, "BLOB_UNKNOWN"), false},
		{"answers another range and says so", relabelled(1, false), false},
		{"answers an earlier range and says so", relabelled(-5, false), false},
		{"answers another range and lies", relabelled(1, true), true},
		{"says no range", front.Header("Content-Range", ""), false},
		{"says a range of another unit", front.Header("Content-Range", "items 0-1/2"), false},
		{"says another size", front.Header("Content-Range", "bytes 0-0/1"), false},
		{"swaps parts", front.Swapped(), false},
		{"joins parts", front.Coalesced(), false},
		{"sends the first part only", front.FirstPartOnly(), false},
		{"cuts the blob short", front.Resize(-1), false},
	}
}

// faultyImage has files with more than 64 KiB between them, so that reading it asks for several ranges at once.
func faultyImage(t *testing.T, f *far) (*manifest.Image, shown) {
	t.Helper()
	im := f.publish(t, "faulty", "only", layerOf(content{"a": noise(1, 3000), "b": noise(2, 100_000), "c": noise(3, 3000), "d": holed(4, 3)}, nil))
	return im, goodTree(t, f, "faulty", im)
}

// TestFaultyRegistryLazy: whatever a registry does to requests for content, once or for ever, a read gives the right
// bytes or an error; and once the registry behaves again, reads work, unless it sent wrong bytes.
func TestFaultyRegistryLazy(t *testing.T) {
	for _, fa := range faults() {
		for _, times := range []int{1, 0} {
			t.Run(fmt.Sprintf("%s, %d times", fa.name, times), func(t *testing.T) {
				t.Parallel()
				f := newFar(t)
				im, want := faultyImage(t, f)
				blob := im.DataLayers()[0].Digest.String()
				l := openLocal(t, t.TempDir(), f)
				defer l.close()
				view, layers, err := l.add(t.Context(), f, "faulty", im)
				if err != nil {
					t.Fatal(err)
				}
				f.askForParts(t, l, layers[0], front.Rule{Path: blob, Ranged: true, Times: times, Do: fa.do})
				got, failed, err := l.read(t.Context(), view)
				if err != nil {
					t.Fatal(err)
				}
				sameOrFailed(t, fa.name, want, got, failed)
				f.again()
				l2 := openLocal(t, l.store.Root(), f)
				defer l2.close()
				got, failed, err = l2.read(t.Context(), view)
				if err != nil {
					t.Fatal(err)
				}
				sameOrFailed(t, fa.name+", when it behaves again", want, got, failed)
				row, err := l2.store.Layer(layers[0])
				if err != nil {
					t.Fatal(err)
				}
				if row.Quarantined && !fa.wrong || !row.Quarantined && fa.wrong && times == 0 || !fa.wrong && len(failed) > 0 {
					t.Errorf("quarantined: %v; failed: %v", row.Quarantined, failed)
				}
			})
		}
	}
}

// askForParts completes the long file in the middle of the layer and then, with a rule, begins to complete the others,
// which takes one request for two ranges.
func (f *far) askForParts(t *testing.T, l *local, layer uint64, rule front.Rule) {
	t.Helper()
	ly, err := l.pool.Layer(layer)
	if err != nil {
		t.Fatal(err)
	}
	long, ok := ly.Index().ObjectByPath("b")
	if !ok {
		t.Fatal("no b")
	}
	if err := ly.Ensure(t.Context(), []int{long}, fill.Foreground); err != nil {
		t.Fatal(err)
	}
	f.front.Forget()
	f.front.Add(rule)
	_ = ly.Ensure(t.Context(), nil, fill.Foreground)
	if log := f.front.Log(); len(log) == 0 || !strings.Contains(log[0].Range, ",") {
		t.Errorf("no request for several ranges: %v", log)
	}
}

// again makes the front behave, and forgets what the client learned about the host.
func (f *far) again() {
	f.front.Behave()
	f.client = newClient()
}

// TestFaultyRegistryCopy: the same for `copy docker:// store:`, from the first request to the last. A copy that fails
// leaves no name and a clean store, and the next one works, unless the registry sent wrong bytes.
func TestFaultyRegistryCopy(t *testing.T) {
	for _, fa := range faults() {
		for _, rule := range []front.Rule{{Times: 1}, {}, {Skip: 1}} {
			t.Run(fmt.Sprintf("%s, %d times after %d", fa.name, rule.Times, rule.Skip), func(t *testing.T) {
				t.Parallel()
				f := newFar(t)
				im, want := faultyImage(t, f)
				blob := im.DataLayers()[0].Digest.String()
				l := openLocal(t, t.TempDir(), f)
				defer l.close()
				rule.Path, rule.Ranged, rule.Do = blob, true, fa.do
				f.front.Add(rule)
				err := l.copyIn(t.Context(), t, f)
				if err != nil {
					l.wantNoName(t)
					f.again()
					l.close()
					*l = *openLocal(t, l.store.Root(), f)
					err = l.copyIn(t.Context(), t, f)
				}
				if err != nil {
					if !fa.wrong {
						t.Fatalf("when it behaves again: %v", err)
					}
					l.wantNoName(t)
					return
				}
				l.wantStored(t, "faulty", want)
			})
		}
	}
}

func (l *local) copyIn(ctx context.Context, t *testing.T, f *far) error {
	t.Helper()
	env := &copy.Env{Registry: f.client, Store: l.store, Pool: l.pool}
	_, err := copy.Copy(ctx, env, ref(t, f.ref("faulty")), ref(t, "store:faulty"), nil)
	return err
}

func (l *local) wantNoName(t *testing.T) {
	t.Helper()
	if _, _, err := l.store.Resolve("docker.io/library/faulty:latest"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the name of a copy that failed: %v", err)
	}
	found, err := l.store.Check(t.Context(), store.CheckOptions{Verify: true, Objects: fill.IndexObjects})
	if err != nil || len(found) > 0 {
		t.Errorf("check after a copy that failed: %v, %v", found, err)
	}
}

// TestNoRangesNoSentinel: a sentinel image cannot be read from a registry without ranges, and `tocsin copy` says so.
func TestNoRangesNoSentinel(t *testing.T) {
	f := newFar(t)
	f.publish(t, "faulty", "only", layerOf(content{"a": noise(1, 3000)}, nil))
	bin := filepath.Join(t.TempDir(), "tocsin")
	if err := harness.Build("./cmd/tocsin", bin); err != nil {
		t.Fatal(err)
	}
	f.front.Add(front.Rule{Ranged: true, Do: front.IgnoreRange()})
	root := t.TempDir()
	out, err := exec.Command(bin, "--root", root, "--plain-http", "copy", f.ref("faulty"), "store:faulty").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "no byte ranges") || !strings.Contains(string(out), "hint: ") {
		t.Errorf("exit %v:\n%s", err, out)
	}
	l := openLocal(t, root, f)
	l.wantNoName(t)
	for _, dir := range []string{"objects", "partial", "layers", "ingest"} {
		if left := filesBelow(t, filepath.Join(root, dir)); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}
