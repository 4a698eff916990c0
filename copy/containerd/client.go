package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// ErrNotFound: containerd has no image of that name, or not the blob.
var ErrNotFound = errors.New("not in containerd")

// maxMessage bounds one message of containerd's, in bytes, as its own client does.
const maxMessage = 16 << 20

// Client is a connection to one containerd. It may be used by several goroutines.
type Client struct{ conn *grpc.ClientConn }

// New connects to the socket at address when something is asked for first; that containerd does not run shows only then.
// A leading unix:// is allowed. The caller closes the client.
func New(address string) (*Client, error) {
	conn, err := grpc.NewClient("unix:"+strings.TrimPrefix(address, "unix://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket; its mode says who may
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", address, err)
	}
	return &Client{conn: conn}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Namespace is one of containerd's namespaces. It is there as soon as something is written to it. It may be used by
// several goroutines.
type Namespace struct {
	name      string
	content   content.Store
	images    imagesapi.ImagesClient
	leases    leases.Manager
	snapshots snapshotsapi.SnapshotsClient

	containers containersapi.ContainersClient
	tasks      tasksapi.TasksClient
}

// Namespace returns the namespace of that name, which must be a valid one. It asks nothing yet.
func (c *Client) Namespace(name string) *Namespace {
	return &Namespace{
		name:      name,
		content:   contentproxy.NewContentStore(c.conn),
		images:    imagesapi.NewImagesClient(c.conn),
		leases:    leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(c.conn)),
		snapshots: snapshotsapi.NewSnapshotsClient(c.conn),

		containers: containersapi.NewContainersClient(c.conn),
		tasks:      tasksapi.NewTasksClient(c.conn),
	}
}

func (n *Namespace) with(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, n.name)
}

// failed wraps an error of containerd's, in its native form.
func (n *Namespace) failed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%s: namespace %s: %w", what, n.name, ErrNotFound)
	}
	return fmt.Errorf("%s: containerd, namespace %s: %w", what, n.name, err)
}

// Image returns what the image record of exactly that name points at, or ErrNotFound.
func (n *Namespace) Image(ctx context.Context, name string) (v1.Descriptor, error) {
	resp, err := n.images.Get(n.with(ctx), &imagesapi.GetImageRequest{Name: name})
	if err != nil {
		return v1.Descriptor{}, n.failed(errgrpc.ToNative(err), "image %s", name)
	}
	t := resp.GetImage().GetTarget()
	return v1.Descriptor{MediaType: t.GetMediaType(), Digest: digest.Digest(t.GetDigest()), Size: t.GetSize(), Annotations: t.GetAnnotations()}, nil
}

// Size returns how large a blob is, or ErrNotFound.
func (n *Namespace) Size(ctx context.Context, d digest.Digest) (int64, error) {
	info, err := n.content.Info(n.with(ctx), d)
	return info.Size, n.failed(err, "blob %s", d)
}

// Blob is a blob open for reading, at any place and by several goroutines at once. What it reads was not compared with
// its digest since containerd wrote it.
type Blob struct{ content.ReaderAt }

// OpenUnverified opens a blob, or returns ErrNotFound. Reads end when ctx does. The caller closes it.
func (n *Namespace) OpenUnverified(ctx context.Context, d digest.Digest) (*Blob, error) {
	ra, err := n.content.ReaderAt(n.with(ctx), v1.Descriptor{Digest: d})
	if err != nil {
		return nil, n.failed(err, "blob %s", d)
	}
	return &Blob{ra}, nil
}

// Stream reads the blob from its start to its end.
func (b *Blob) Stream() io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(b.ReaderAt), b}
}
