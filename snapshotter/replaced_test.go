package snapshotter

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// tocsOf are the layers that an image is made of.
func tocsOf(im *manifest.Image) (tocs []digest.Digest) {
	for _, l := range im.DataLayers() {
		tocs = append(tocs, l.TOC.Digest)
	}
	return tocs
}

var viewPath = regexp.MustCompile(`/views/([0-9]+)`)

// shown are the layers that a mount shows, as the daemon's store has them.
func (d *daemon) shown(t testing.TB, mounts []mount.Mount) (view uint64, tocs []digest.Digest) {
	t.Helper()
	found := viewPath.FindStringSubmatch(fmt.Sprint(mounts))
	if found == nil {
		t.Fatalf("no view in %+v", mounts)
	}
	view, err := strconv.ParseUint(found[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.st.ViewChain(view)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Layers {
		l, err := d.st.Layer(n)
		if err != nil {
			t.Fatal(err)
		}
		tocs = append(tocs, l.TOC)
	}
	return view, tocs
}

// again is what containerd does when an image is pulled whose chain ids it knows: it asks for each.
func (d *daemon) again(ns string, names []string) error {
	for _, name := range names {
		if _, err := d.Stat(namespaces.WithNamespace(context.Background(), ns), name); err != nil {
			return err
		}
	}
	return nil
}

// TestNumbersAreNoIdentities loses index.db between two runs of the daemon, or puts an older copy back, and pulls other
// images then, which get the numbers of those before. What stands on the first image shows its layers or is refused, and
// pulling it again heals it.
func TestNumbersAreNoIdentities(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, root string, older []byte){
		"lost": func(t *testing.T, root string, _ []byte) {
			if err := os.Remove(filepath.Join(root, "index.db")); err != nil {
				t.Fatal(err)
			}
		},
		"set back": func(t *testing.T, root string, older []byte) {
			if err := os.WriteFile(filepath.Join(root, "index.db"), older, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"store lost": func(t *testing.T, root string, _ []byte) {
			entries, err := os.ReadDir(root)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if e.Name() == "snapshots" {
					continue
				}
				if err := os.RemoveAll(filepath.Join(root, e.Name())); err != nil {
					t.Fatal(err)
				}
			}
		},
		"nothing": func(*testing.T, string, []byte) {},
	} {
		for _, before := range []bool{false, true} { // other images come before the first is looked at, while no daemon runs or while one does
			t.Run(fmt.Sprintf("%s before the daemon %v", name, before), func(t *testing.T) {
				r, root := newRegistry(), t.TempDir()
				a := r.variant(t, r.plain(t, 1, tarOf(t, "a", "image a"), tarOf(t, "a2", "image a")), true)
				d := start(t, root, r, Options{})
				d.stop(t)
				older, err := os.ReadFile(filepath.Join(root, "index.db"))
				if err != nil {
					t.Fatal(err)
				}
				d = start(t, root, r, Options{})
				names := mustPull(t, d, "n1", a)
				ctx := context.Background()
				mounts, err := d.Prepare(ctx, "n1/9/c", names[2])
				if err != nil {
					t.Fatal(err)
				}
				was, _ := d.shown(t, mounts)
				d.stop(t)
				replace(t, root, older)
				if before { // as `tocsin copy` would: many changes, so that the epoch says nothing
					others(t, root, r)
				}
				d = start(t, root, r, Options{})
				lost := name != "nothing"
				for i := range 3 {
					b := r.variant(t, r.plain(t, 1, tarOf(t, "b", fmt.Sprint("image b", i)), tarOf(t, "b2", fmt.Sprint(i))), true)
					of := mustPull(t, d, "n1", b)
					mounts, err := d.Prepare(ctx, fmt.Sprintf("n1/b%d/c", i), of[2])
					if err != nil {
						t.Fatal(err)
					}
					n, tocs := d.shown(t, mounts)
					if !slices.Equal(tocs, tocsOf(b)) {
						t.Errorf("image b%d shows %v", i, tocs)
					}
					if n == was {
						t.Errorf("view %d was shown to a kernel as image a, and is image b%d", n, i)
					}
				}
				check := func(mounts []mount.Mount, err error) {
					t.Helper()
					if lost {
						if !errdefs.IsFailedPrecondition(err) {
							t.Errorf("mounts %+v, %v", mounts, err)
						}
						mustRefuse(t, err, "pull it again")
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					if _, tocs := d.shown(t, mounts); !slices.Equal(tocs, tocsOf(a)) {
						t.Errorf("image a shows %v", tocs)
					}
				}
				check(d.Mounts(ctx, "n1/9/c"))
				check(d.Prepare(ctx, "n1/10/c", names[2]))
				if _, err := d.Usage(ctx, names[1]); (err != nil) != lost {
					t.Errorf("usage: %v", err)
				}
				r.setDown("toc", true)
				if err := d.again("n1", names); (err != nil) != lost {
					t.Errorf("pulled again without a registry: %v", err)
				}
				r.setDown("toc", false)
				if err := d.again("n1", names); err != nil {
					t.Fatal(err)
				}
				lost = false
				check(d.Mounts(ctx, "n1/9/c"))
				check(d.Prepare(ctx, "n1/11/c", names[2]))
				mustPull(t, d, "n2", a)
				d.stop(t)
				d = start(t, root, r, Options{})
				check(d.Mounts(ctx, "n1/9/c"))
				if held := pinnedLayers(d.pins(t)); len(held) < 8 {
					t.Errorf("pins of layers: %v", held)
				}
			})
		}
	}
}

// others fills a store with layers and views of its own, while no daemon runs.
func others(t *testing.T, root string, r *registry) {
	t.Helper()
	elsewhere := filepath.Join(root, "snapshots")
	aside := elsewhere + ".aside"
	if err := os.Rename(elsewhere, aside); err != nil {
		t.Fatal(err)
	}
	d := start(t, root, r, Options{})
	for i := range 4 {
		im := r.variant(t, r.plain(t, 1, tarOf(t, "o", fmt.Sprint("other", i)), tarOf(t, "o2", fmt.Sprint(i))), true)
		mustPull(t, d, "n9", im)
	}
	d.stop(t)
	if err := os.RemoveAll(elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, elsewhere); err != nil {
		t.Fatal(err)
	}
}

// TestLostMetadata: without metadata.db nothing is known of snapshots, and their pins keep nothing.
func TestLostMetadata(t *testing.T) {
	for _, both := range []bool{false, true} {
		r, root := newRegistry(), t.TempDir()
		im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "image a")), true)
		d := start(t, root, r, Options{})
		names := mustPull(t, d, "n1", im)
		d.stop(t)
		gone := []string{filepath.Join(root, "snapshots", "metadata.db")}
		if both {
			gone = append(gone, filepath.Join(root, "index.db"))
		}
		for _, path := range gone {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		d = start(t, root, r, Options{})
		if pins := d.pins(t); len(pins) != 0 {
			t.Errorf("pins of snapshots that are not known: %v", pins)
		}
		if _, err := d.Stat(context.Background(), names[1]); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
		mustPull(t, d, "n1", im)
		mounts, err := d.Prepare(context.Background(), "n1/9/c", names[1])
		if err != nil {
			t.Fatal(err)
		}
		if _, tocs := d.shown(t, mounts); !slices.Equal(tocs, tocsOf(im)) {
			t.Errorf("shows %v", tocs)
		}
	}
}

// A store that another process has locked is a state that passes: Unavailable, with the name of who has it.
func TestLockedStoreIsUnavailable(t *testing.T) {
	err := available(fmt.Errorf("pin: %w by pid 1 (tocsin gc), stopped", store.ErrLocked))
	if !errdefs.IsUnavailable(err) || errdefs.IsDeadlineExceeded(err) || !strings.Contains(err.Error(), "tocsin gc") {
		t.Error(err)
	}
	if err := available(store.ErrNotFound); errdefs.IsUnavailable(err) {
		t.Error(err)
	}
}

// A second daemon on one root is told about the first.
func TestSecondDaemon(t *testing.T) {
	root := t.TempDir()
	d := start(t, root, newRegistry(), Options{})
	_, err := New(&Options{Root: root, Store: d.st, Pool: d.pool, MountDir: filepath.Join(root, "mnt")})
	if err == nil || !strings.Contains(err.Error(), "another daemon runs on this root: pid ") {
		t.Error(err)
	}
}
