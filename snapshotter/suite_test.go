package snapshotter

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// requireMount skips where mount(2) is not allowed.
func requireMount(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("needs root and mount(2): %v", err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

// dial serves s on a socket and returns containerd's client for it. The socket lies in
// /tmp because a unix socket's path may not exceed 107 bytes.
func dial(s *Snapshotter) (snapshots.Snapshotter, func() error, error) {
	dir, err := os.MkdirTemp("", "tocsin-sock-")
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, s) }()
	stop := func() error {
		_ = conn.Close()
		cancel()
		_ = os.RemoveAll(dir)
		return <-done
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "tocsin"), stop, nil
}

// TestSuite is containerd's own suite, through our socket. Its flag -test.root is
// accepted and not needed.
func TestSuite(t *testing.T) {
	requireMount(t)
	open := func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := New(&Options{Root: root})
		if err != nil {
			return nil, nil, err
		}
		client, stop, err := dial(s)
		if err != nil {
			return nil, nil, err
		}
		return client, func() error {
			if err := stop(); err != nil {
				return err
			}
			return s.Close()
		}, nil
	}
	// "overlayfs" is the name under which the suite knows that a lower directory
	// cannot be renamed.
	testsuite.SnapshotterSuite(t, "overlayfs", open)
}
