package snapshotter

import (
	"context"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// parseAnswerFilter recognises the one filter that containerd makes after an
// ErrAlreadyExists (core/metadata/snapshot.go): it looks for the committed snapshot
// that answers ref above parent.
func parseAnswerFilter(filters []string) (ref, parent string, ok bool) {
	if len(filters) != 1 {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(filters[0], "labels."+strconv.Quote(snapshots.LabelSnapshotRef)+"==")
	if !ok {
		return "", "", false
	}
	ref, quoted, ok := strings.Cut(rest, ",parent==")
	if !ok || strings.ContainsAny(ref, `"'/|`) {
		return "", "", false // another spelling: the general scan understands all of them
	}
	parent, err := strconv.Unquote(quoted)
	return ref, parent, err == nil
}

// answered finds the lazy snapshot that containerd asks for by name, since lazy
// snapshots are committed under their ref. WalkInfo would decode every snapshot there
// is for it, once per layer of every pull.
func answered(ctx context.Context, filters []string) (snapshots.Info, bool) {
	ref, parent, ok := parseAnswerFilter(filters)
	if !ok {
		return snapshots.Info{}, false
	}
	_, info, _, err := storage.GetInfo(ctx, ref)
	ok = err == nil && info.Kind == snapshots.KindCommitted &&
		info.Parent == parent && info.Labels[snapshots.LabelSnapshotRef] == ref
	return info, ok
}
