package containerd

import (
	"context"
	"fmt"

	eventstypes "github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Version waits until containerd answers and returns its version, as in "v2.4.2".
func (c *Client) Version(ctx context.Context) (string, error) {
	answer, err := versionapi.NewVersionClient(c.conn).Version(ctx, &emptypb.Empty{}, grpc.WaitForReady(true))
	if err != nil {
		return "", fmt.Errorf("version of containerd: %w", err)
	}
	return answer.GetVersion(), nil
}

// Fetched calls fn for every blob d that is written into a namespace from now on, until ctx ends or containerd goes away,
// which is an error. containerd says so from 2.1 on.
func (c *Client) Fetched(ctx context.Context, d digest.Digest, fn func(namespace string)) error {
	events, err := eventsapi.NewEventsClient(c.conn).Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: []string{`topic=="/content/create"`}})
	if err != nil {
		return fmt.Errorf("events of containerd: %w", err)
	}
	for {
		e, err := events.Recv()
		if err != nil {
			return fmt.Errorf("events of containerd: %w", err)
		}
		var created eventstypes.ContentCreate
		if e.GetEvent().UnmarshalTo(&created) == nil && created.GetDigest() == d.String() {
			fn(e.GetNamespace())
		}
	}
}

// firstOther is the label by which containerd keeps the first child of a manifest that it takes for neither a layer nor a
// configuration. It is written before the child is fetched.
const firstOther = "containerd.io/gc.ref.content.0"

// IsNoLayer reports whether containerd has an image in which d comes first and is no layer to it.
func (n *Namespace) IsNoLayer(ctx context.Context, d digest.Digest) (bool, error) {
	found := false
	err := n.content.Walk(n.with(ctx), func(content.Info) error { found = true; return nil },
		fmt.Sprintf("labels.%q==%s", firstOther, d))
	return found, n.failed(err, "images with %s", d)
}
