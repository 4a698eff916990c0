// Package contentd is the part of containerd that holds images, in this process: its own content store and its own
// metadata with namespaces, leases and garbage collection, behind its gRPC services on a unix socket.
//
// It is for tests. It has no snapshots and runs no containers; see integration/harness for a whole containerd. What is
// ours here is only the way from the services of images and leases to containerd's stores.
package contentd

import (
	"context"
	"net"
	"path/filepath"
	"sync/atomic"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Server is a running one. Close ends it.
type Server struct {
	Address string // of its socket
	// Old makes it hash as containerd did up to 2.1, with sha256 only.
	Old atomic.Bool

	db     *metadata.DB
	bolt   *bolt.DB
	server *grpc.Server
	served chan error
}

// Start runs a server whose files are in dir, which must have a short path: it holds the socket.
func Start(ctx context.Context, dir string) (*Server, error) {
	blobs, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		return nil, err
	}
	file, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		return nil, err
	}
	s := &Server{Address: filepath.Join(dir, "s"), bolt: file, served: make(chan error, 1)}
	s.db = metadata.NewDB(file, ageing{blobs, &s.Old}, nil)
	if err := s.db.Init(ctx); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", s.Address)
	if err != nil {
		return nil, err
	}
	s.server = grpc.NewServer()
	contentapi.RegisterContentServer(s.server, contentserver.New(s.db.ContentStore()))
	imagesapi.RegisterImagesServer(s.server, &imageService{store: metadata.NewImageStore(s.db)})
	leasesapi.RegisterLeasesServer(s.server, &leaseService{manager: metadata.NewLeaseManager(s.db)})
	go func() { s.served <- s.server.Serve(listener) }()
	return s, nil
}

// Close ends all connections and the server.
func (s *Server) Close() error {
	s.server.Stop()
	<-s.served
	return s.bolt.Close()
}

// Collect runs containerd's garbage collection to its end.
func (s *Server) Collect(ctx context.Context) error {
	_, err := s.db.GarbageCollect(ctx)
	return err
}

// Blobs are the blobs of a namespace.
func (s *Server) Blobs(ctx context.Context, namespace string) ([]content.Info, error) {
	var out []content.Info
	err := s.db.ContentStore().Walk(namespaces.WithNamespace(ctx, namespace), func(i content.Info) error {
		out = append(out, i)
		return nil
	})
	return out, err
}

// Ingests are the blobs of a namespace that somebody began and did not end.
func (s *Server) Ingests(ctx context.Context, namespace string) ([]content.Status, error) {
	return s.db.ContentStore().ListStatuses(namespaces.WithNamespace(ctx, namespace))
}

// Leases are the leases of a namespace.
func (s *Server) Leases(ctx context.Context, namespace string) ([]leases.Lease, error) {
	return metadata.NewLeaseManager(s.db).List(namespaces.WithNamespace(ctx, namespace))
}

// Images are the image records of a namespace.
func (s *Server) Images(ctx context.Context, namespace string) ([]images.Image, error) {
	return metadata.NewImageStore(s.db).List(namespaces.WithNamespace(ctx, namespace))
}

// Remove removes a blob as if it had never been fetched.
func (s *Server) Remove(ctx context.Context, namespace string, d digest.Digest) error {
	return s.db.ContentStore().Delete(namespaces.WithNamespace(ctx, namespace), d)
}

// Rename gives an image record another name.
func (s *Server) Rename(ctx context.Context, namespace, from, to string) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	store := metadata.NewImageStore(s.db)
	image, err := store.Get(ctx, from)
	if err != nil {
		return err
	}
	image.Name = to
	if _, err := store.Create(ctx, image); err != nil {
		return err
	}
	return store.Delete(ctx, from)
}

type imageService struct {
	imagesapi.UnimplementedImagesServer
	store images.Store
}

// Get implements the API.
func (s *imageService) Get(ctx context.Context, r *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	image, err := s.store.Get(ctx, r.Name)
	return &imagesapi.GetImageResponse{Image: toProto(image)}, errgrpc.ToGRPC(err)
}

// Create implements the API.
func (s *imageService) Create(ctx context.Context, r *imagesapi.CreateImageRequest) (*imagesapi.CreateImageResponse, error) {
	image, err := s.store.Create(ctx, fromProto(r.Image))
	return &imagesapi.CreateImageResponse{Image: toProto(image)}, errgrpc.ToGRPC(err)
}

// Update implements the API.
func (s *imageService) Update(ctx context.Context, r *imagesapi.UpdateImageRequest) (*imagesapi.UpdateImageResponse, error) {
	image, err := s.store.Update(ctx, fromProto(r.Image), r.GetUpdateMask().GetPaths()...)
	return &imagesapi.UpdateImageResponse{Image: toProto(image)}, errgrpc.ToGRPC(err)
}

func toProto(i images.Image) *imagesapi.Image {
	return &imagesapi.Image{Name: i.Name, Labels: i.Labels, Target: &types.Descriptor{
		MediaType: i.Target.MediaType, Digest: i.Target.Digest.String(), Size: i.Target.Size, Annotations: i.Target.Annotations,
	}}
}

func fromProto(i *imagesapi.Image) images.Image {
	return images.Image{Name: i.GetName(), Labels: i.GetLabels(), Target: v1.Descriptor{
		MediaType: i.GetTarget().GetMediaType(), Digest: digest.Digest(i.GetTarget().GetDigest()),
		Size: i.GetTarget().GetSize(), Annotations: i.GetTarget().GetAnnotations(),
	}}
}

type leaseService struct {
	leasesapi.UnimplementedLeasesServer
	manager leases.Manager
}

// Create implements the API.
func (s *leaseService) Create(ctx context.Context, r *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	l, err := s.manager.Create(ctx, func(l *leases.Lease) error {
		l.ID, l.Labels = r.ID, r.Labels
		return nil
	})
	return &leasesapi.CreateResponse{Lease: &leasesapi.Lease{ID: l.ID, Labels: l.Labels}}, errgrpc.ToGRPC(err)
}

// Delete implements the API.
func (s *leaseService) Delete(ctx context.Context, r *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, errgrpc.ToGRPC(s.manager.Delete(ctx, leases.Lease{ID: r.ID}))
}

// AddResource implements the API.
func (s *leaseService) AddResource(ctx context.Context, r *leasesapi.AddResourceRequest) (*emptypb.Empty, error) {
	err := s.manager.AddResource(ctx, leases.Lease{ID: r.ID}, leases.Resource{ID: r.GetResource().GetID(), Type: r.GetResource().GetType()})
	return &emptypb.Empty{}, errgrpc.ToGRPC(err)
}
