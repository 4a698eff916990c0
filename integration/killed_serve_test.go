package integration_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/integration/trees"
	"github.com/tocsin/tocsin/manifest"
)

// daemon is a Machine that pulls from a far and is killed.
type daemon struct {
	*harness.Machine
	t     *testing.T
	far   *far
	lists mkimage.Layer // a program that reads a whole tree
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	harness.Need(t)
	d := &daemon{t: t, far: newFar(t)}
	treelist := filepath.Join(t.TempDir(), "treelist")
	if err := harness.Build("./integration/trees/cmd/treelist", treelist); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(treelist)
	if err != nil {
		t.Fatal(err)
	}
	d.lists = mkimage.File("/treelist", program)
	d.Machine = harness.Start(t, &harness.Options{Serve: true, Config: "background = \"off\"\n"})
	return d
}

// victim is an image, and what a container must see of it.
type victim struct {
	repo  string
	image *manifest.Image
	files content
}

func (d *daemon) publish(repo string, seed byte) victim {
	d.t.Helper()
	files, more := manyFiles(seed), content{"more": noise(seed+70, 90_000)}
	im := d.far.publish(d.t, repo, "only", d.lists, layerOf(files, nil), layerOf(more, nil))
	files["more"] = more["more"]
	return victim{repo, im, files}
}

func (d *daemon) pull(v victim) error {
	_, err := d.Ctr(d.t.Context(), "images", "pull", "--plain-http", "--snapshotter", "tocsin", d.far.host+"/"+v.repo+":t")
	return err
}

// run reads the whole image in a container and compares every file.
func (d *daemon) run(v victim) error {
	out, err := d.Run(d.t.Context(), harness.Container{Snapshotter: "tocsin", Image: d.far.host + "/" + v.repo + ":t",
		Args: []string{"/treelist", "/", "/proc", "/sys", "/dev", "/run", "/treelist"}})
	if err != nil {
		return err
	}
	rows, err := trees.Read(strings.NewReader(out))
	if err != nil {
		return err
	}
	sums := map[string]string{}
	for _, row := range rows {
		sums[string(row.Path)] = row.SHA256
	}
	for name, b := range v.files {
		if h := sha256.Sum256(b); sums["/"+name] != hex.EncodeToString(h[:]) {
			d.t.Errorf("%s: WRONG: /%s is %q in the container", v.repo, name, sums["/"+name])
		}
	}
	return nil
}

// killDuring does something that must fail because the daemon is killed at a point of it, looks at what is left, and
// starts the daemon again.
func (d *daemon) killDuring(what string, at point, v victim, do func(v victim) error) there {
	d.t.Helper()
	d.far.front.Behave()
	k := newKiller(at, d.Root(), func() {
		if err := d.KillServe(); err != nil {
			d.t.Error(err)
		}
	})
	d.far.front.Forget()
	d.far.front.Add(k.rule())
	if err := do(v); err == nil {
		d.t.Fatalf("%s: succeeded without a daemon: %v", what, d.far.front.Log())
	}
	select {
	case <-k.met:
	case <-time.After(time.Minute):
		d.t.Fatalf("%s: the daemon was not killed: %v", what, d.far.front.Log())
	}
	d.far.front.Behave()
	checkClean(d.t, what, d.Root())
	if out, err := d.Tocsin(d.t.Context(), "check", "--verify"); err != nil {
		d.t.Errorf("%s: %v\n%s", what, err, out)
	}
	left := whatIsThere(d.t, d.Root(), v.image)
	if err := d.StartServe(); err != nil {
		d.t.Fatalf("%s: %v", what, err)
	}
	d.untilConnected()
	d.far.front.Forget()
	return left
}

// untilConnected waits until containerd dials the daemon again: gRPC waits a while after a dial that failed.
func (d *daemon) untilConnected() {
	d.t.Helper()
	end, poll := time.NewTimer(time.Minute), time.NewTicker(100*time.Millisecond)
	defer end.Stop()
	defer poll.Stop()
	for {
		_, err := d.Ctr(d.t.Context(), "snapshots", "--snapshotter", "tocsin", "ls")
		if err == nil {
			return
		}
		select {
		case <-poll.C:
		case <-end.C:
			d.t.Fatal(err)
		}
	}
}

// TestServeKilled: the daemon, killed at ten points of pulls and of containers that read, loses nothing that was
// committed, leaves a clean store, and the same pull or container then works without fetching again what was there.
func TestServeKilled(t *testing.T) {
	d := newDaemon(t)
	kept := d.publish("kept", 1)
	if err := d.pull(kept); err != nil {
		t.Fatal(err)
	}
	if err := d.run(kept); err != nil {
		t.Fatal(err)
	}
	for i, at := range []point{{0, 0}, {0, 100}, {0, all}, {1, 0}, {1, all}} {
		what := fmt.Sprintf("pull, killed at %+v", at)
		v := d.publish(fmt.Sprintf("pulled%d", i), byte(10+20*i))
		left := d.killDuring(what, at, v, d.pull)
		if err := d.pull(v); err != nil {
			t.Fatalf("%s: pull again: %v", what, err)
		}
		if err := d.run(v); err != nil {
			t.Fatalf("%s: run: %v", what, err)
		}
		left.checkLog(t, what, d.far.front.Log(), v.image)
	}
	some := false
	for i, at := range []point{{0, 0}, {0, all}, {3, all}, {20, 0}, {50, 9000}} {
		what := fmt.Sprintf("container, killed at %+v", at)
		v := d.publish(fmt.Sprintf("run%d", i), byte(15+20*i))
		if err := d.pull(v); err != nil {
			t.Fatal(err)
		}
		left := d.killDuring(what, at, v, d.run)
		some = some || len(left.present[v.image.DataLayers()[1].Digest.String()]) > 10
		if err := d.run(v); err != nil {
			t.Fatalf("%s: run again: %v", what, err)
		}
		left.checkLog(t, what, d.far.front.Log(), v.image)
		d.far.front.Forget()
		if err := d.run(v); err != nil {
			t.Fatal(err)
		}
		if n := d.far.front.Bytes("", ""); n != 0 {
			t.Errorf("%s: the third run fetched %d bytes", what, n)
		}
	}
	if !some {
		t.Error("no kill left anything: the points say nothing")
	}
	d.far.front.Forget()
	d.far.front.Add(front.Rule{Do: front.Status(404, "BLOB_UNKNOWN")})
	if err := d.run(kept); err != nil {
		t.Errorf("an image that was complete before: %v", err)
	}
}
