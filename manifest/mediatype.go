package manifest

import (
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types that have an OCI counterpart, and the two of schema 1,
// which is recognised only to be refused.
const (
	DockerManifest       = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList           = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig         = "application/vnd.docker.container.image.v1+json"
	DockerSchema1        = "application/vnd.docker.distribution.manifest.v1+json"
	DockerSchema1Signed  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	dockerLayer          = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip      = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd      = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerForeign        = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	dockerForeignGzip    = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	ociNondistributable  = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	ociNondistributableG = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	ociNondistributableZ = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
)

// The compressions that a layer's media type can claim.
const (
	None = "none"
	Gzip = "gzip"
	Zstd = "zstd"
)

// Compression returns the compression that a layer's media type claims:
// None, Gzip or Zstd. Writers get it wrong often enough that a reader lets
// the magic number of the blob decide. Any type that is not a plain tar layer
// (encrypted ones too) is ErrUnsupported.
func Compression(mediaType string) (string, error) {
	switch mediaType {
	case v1.MediaTypeImageLayer, ociNondistributable, dockerLayer, dockerForeign:
		return None, nil
	case v1.MediaTypeImageLayerGzip, ociNondistributableG, dockerLayerGzip, dockerForeignGzip:
		return Gzip, nil
	case v1.MediaTypeImageLayerZstd, ociNondistributableZ, dockerLayerZstd:
		return Zstd, nil
	}
	return "", fmt.Errorf("layer media type %q: %w", mediaType, ErrUnsupported)
}

// IsLayer reports whether mediaType is a tar layer that Compression knows.
// The sentinel's types are none.
func IsLayer(mediaType string) bool {
	_, err := Compression(mediaType)
	return err == nil
}

// IsForeign reports whether mediaType is a layer that its maker does not let
// others pass on: registries have its descriptor, and its URLs have its bytes.
func IsForeign(mediaType string) bool {
	switch mediaType {
	case ociNondistributable, ociNondistributableG, ociNondistributableZ, dockerForeign, dockerForeignGzip:
		return true
	}
	return false
}

// Distributable returns the type of an ordinary layer with the same bytes for
// the type of a foreign one, and any other type unchanged.
func Distributable(mediaType string) string {
	switch mediaType {
	case ociNondistributable:
		return v1.MediaTypeImageLayer
	case ociNondistributableG:
		return v1.MediaTypeImageLayerGzip
	case ociNondistributableZ:
		return v1.MediaTypeImageLayerZstd
	case dockerForeign:
		return dockerLayer
	case dockerForeignGzip:
		return dockerLayerGzip
	}
	return mediaType
}

// IsList reports whether mediaType is an OCI index or a Docker manifest list.
func IsList(mediaType string) bool {
	return mediaType == v1.MediaTypeImageIndex || mediaType == DockerList
}

// IsManifest reports whether mediaType is a manifest that ParseManifest reads.
func IsManifest(mediaType string) bool {
	return mediaType == v1.MediaTypeImageManifest || mediaType == DockerManifest
}

// isDocker reports whether a document of this type speaks Docker's dialect.
func isDocker(mediaType string) bool {
	return mediaType == DockerManifest || mediaType == DockerList
}

// ToOCI returns the OCI counterpart of a Docker media type, and any other
// type unchanged.
func ToOCI(mediaType string) string {
	switch mediaType {
	case DockerManifest:
		return v1.MediaTypeImageManifest
	case DockerList:
		return v1.MediaTypeImageIndex
	case DockerConfig:
		return v1.MediaTypeImageConfig
	case dockerLayer:
		return v1.MediaTypeImageLayer
	case dockerLayerGzip:
		return v1.MediaTypeImageLayerGzip
	case dockerLayerZstd:
		return v1.MediaTypeImageLayerZstd
	case dockerForeign:
		return ociNondistributable
	case dockerForeignGzip:
		return ociNondistributableG
	}
	return mediaType
}

// ToDocker returns the Docker counterpart of an OCI media type, and a Docker
// type unchanged. Types that Docker schema 2 cannot say (zstd, the sentinel,
// artifacts) are ErrUnsupported.
func ToDocker(mediaType string) (string, error) {
	switch mediaType {
	case v1.MediaTypeImageManifest, DockerManifest:
		return DockerManifest, nil
	case v1.MediaTypeImageIndex, DockerList:
		return DockerList, nil
	case v1.MediaTypeImageConfig, DockerConfig:
		return DockerConfig, nil
	case v1.MediaTypeImageLayer, dockerLayer:
		return dockerLayer, nil
	case v1.MediaTypeImageLayerGzip, dockerLayerGzip:
		return dockerLayerGzip, nil
	case ociNondistributable, dockerForeign:
		return dockerForeign, nil
	case ociNondistributableG, dockerForeignGzip:
		return dockerForeignGzip, nil
	}
	return "", fmt.Errorf("media type %q in Docker schema 2: %w", mediaType, ErrUnsupported)
}
