package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"google.golang.org/grpc"
)

// stopTimeout is how long Serve lets calls under way finish after its context ended.
const stopTimeout = 5 * time.Second

// Serve answers containerd's snapshots API on l until ctx ends, then lets calls under
// way finish for a few seconds, cancels and awaits the others, and closes l. It does not
// close s, which may be closed then. A nil error means
// that ctx ended it.
func Serve(ctx context.Context, l net.Listener, s *Snapshotter) error {
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve snapshots on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	force := time.AfterFunc(stopTimeout, server.Stop)
	defer force.Stop()
	server.GracefulStop()
	if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve snapshots on %s: %w", l.Addr(), err)
	}
	return nil
}
