package snapshotter

import (
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
)

func TestMountsText(t *testing.T) {
	const view = "/r/mnt/views/7"
	dirs := []string{"/r/s/3/fs", "/r/s/2/fs"}
	for _, c := range []struct {
		name string
		l    layout
		want string
	}{
		{"no parent", layout{kind: snapshots.KindActive}, "bind /r/s/9/fs [rw rbind]"},
		{"view of nothing", layout{kind: snapshots.KindView}, "bind /r/s/9/fs [ro rbind]"},
		{"one directory", layout{kind: snapshots.KindActive, dirs: dirs[1:]},
			"overlay overlay [workdir=/r/s/9/work upperdir=/r/s/9/fs lowerdir=/r/s/2/fs index=off]"},
		{"view of one directory", layout{kind: snapshots.KindView, dirs: dirs[1:]}, "bind /r/s/2/fs [ro rbind]"},
		{"view of two", layout{kind: snapshots.KindView, dirs: dirs}, "overlay overlay [lowerdir=/r/s/3/fs:/r/s/2/fs index=off]"},
		{"container on a lazy chain", layout{kind: snapshots.KindActive, view: view},
			"overlay overlay [workdir=/r/s/9/work upperdir=/r/s/9/fs lowerdir=/r/mnt/views/7 index=off]"},
		{"view of a lazy chain", layout{kind: snapshots.KindView, view: view}, "bind /r/mnt/views/7 [ro rbind]"},
		{"container on directories on a lazy chain", layout{kind: snapshots.KindActive, dirs: dirs, view: view},
			"overlay overlay [workdir=/r/s/9/work upperdir=/r/s/9/fs lowerdir=/r/s/3/fs:/r/s/2/fs:/r/mnt/views/7 index=off]"},
		{"view of a directory on a lazy chain", layout{kind: snapshots.KindView, dirs: dirs[:1], view: view},
			"overlay overlay [lowerdir=/r/s/3/fs:/r/mnt/views/7 index=off]"},
	} {
		c.l.upper, c.l.work, c.l.options = "/r/s/9/fs", "/r/s/9/work", []string{"index=off"}
		m := c.l.mounts()
		if got := fmt.Sprint(m[0].Type, " ", m[0].Source, " ", m[0].Options); len(m) != 1 || got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
	if dirs[0] != "/r/s/3/fs" || dirs[1] != "/r/s/2/fs" {
		t.Error("the caller's slice was written")
	}
}
