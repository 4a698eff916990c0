package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// TestPullWithoutRangesIsRefused: a sentinel image over a registry without ranges is refused, ctr and the daemon's log
// say why, and nothing is left; when the registry has ranges again the same pull works.
func TestPullWithoutRangesIsRefused(t *testing.T) {
	harness.Need(t)
	l := newLab(t, &harness.Options{Serve: true, Config: backgroundOff})
	layout := filepath.Join(t.TempDir(), "layout")
	if _, err := mkimage.Write(t.Context(), layout, "s", []mkimage.Layer{mkimage.File("/x", []byte("x\n"))}, nil); err != nil {
		t.Fatal(err)
	}
	l.convert(layout, "s", "only", "noranges:s")
	l.front.Add(front.Rule{Ranged: true, Do: front.IgnoreRange()})
	said := l.fails("images", "pull", "--plain-http", "--snapshotter", "tocsin", l.far+"/noranges:s")
	if !strings.Contains(said, "registry does not serve ranges") {
		t.Errorf("ctr does not say why:\n%s", said)
	}
	log, err := os.ReadFile(filepath.Join(l.Dir, "serve.log"))
	if err != nil || !strings.Contains(string(log), "registry does not serve ranges") {
		t.Errorf("the daemon's log does not say why (%v):\n%s", err, log)
	}
	// The sentinel's own snapshot is containerd's to collect, as after every pull that failed.
	l.ctr("leases", "create", "--id", "collect")
	l.ctr("leases", "delete", "--sync", "collect")
	l.checkNothingLeft()
	l.front.Behave()
	l.restartServe() // it remembers for a while that this host has no ranges
	l.pull("noranges:s")
}
