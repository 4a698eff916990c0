package snapshotter

import (
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// layout is everything the text of a mount depends on.
type layout struct {
	kind        snapshots.Kind
	upper, work string   // of the snapshot itself; empty when it has no directory
	dirs        []string // directories of ordinary parents, topmost first
	view        string   // the merged tree of the lazy parents, always below dirs; empty without
	options     []string // for every overlay
}

// mounts gives the text of the one mount that shows a snapshot. There is exactly one
// lowerdir= option: containerd's read-only rewrite loses the upper directory of any
// other spelling (spec/mounts.md G). A writable snapshot always gets a writable mount:
// containerd takes a read-only one on an extraction as "already applied".
func (l layout) mounts() []mount.Mount {
	lower := l.dirs
	if l.view != "" {
		lower = append(lower[:len(lower):len(lower)], l.view)
	}
	switch {
	case len(lower) == 0 && l.kind == snapshots.KindActive:
		return bind(l.upper, "rw")
	case len(lower) == 0:
		return bind(l.upper, "ro")
	case len(lower) == 1 && l.kind != snapshots.KindActive:
		// overlayfs refuses a single lower directory without an upper.
		return bind(lower[0], "ro")
	}
	var options []string
	if l.kind == snapshots.KindActive {
		options = append(options, "workdir="+l.work, "upperdir="+l.upper)
	}
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	options = append(options, l.options...)
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}
}

func bind(source, access string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: source, Options: []string{access, "rbind"}}}
}
