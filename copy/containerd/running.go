package containerd

import (
	"context"
	"slices"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// Running names the namespace's containers that were made on one of the snapshots, whatever snapshotter has them, and
// that have a task which did not end.
func (n *Namespace) Running(ctx context.Context, snapshots []string) ([]string, error) {
	ctx = n.with(ctx)
	made, err := n.containers.List(ctx, &containersapi.ListContainersRequest{})
	if err != nil {
		return nil, n.failed(errgrpc.ToNative(err), "list containers")
	}
	tasks, err := n.tasks.List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, n.failed(errgrpc.ToNative(err), "list tasks")
	}
	var out []string
	for _, c := range made.GetContainers() {
		runs := slices.ContainsFunc(tasks.GetTasks(), func(t *task.Process) bool {
			return t.GetID() == c.GetID() && t.GetStatus() != task.Status_STOPPED
		})
		if runs && slices.Contains(snapshots, c.GetSnapshotKey()) {
			out = append(out, c.GetID())
		}
	}
	return out, nil
}
