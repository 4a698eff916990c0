module github.com/tocsin/tocsin

go 1.26.6

require (
	github.com/ProtonMail/go-crypto v1.5.2 // OpenPGP signatures, never gpgme
	github.com/containerd/containerd/api v1.12.0 // the snapshots API of the proxy plugin
	github.com/containerd/containerd/v2 v2.4.2 // snapshotter interfaces, metadata, mounts; hosts.toml and the token authorizer
	github.com/containerd/errdefs v1.0.0 // error classes that survive the socket
	github.com/containerd/errdefs/pkg v0.3.0 // the same classes out of gRPC errors
	github.com/containerd/log v0.2.0 // bridge to containerd's packages
	github.com/containerd/platforms v1.0.0-rc.5 // this machine's platform
	github.com/distribution/reference v0.6.0 // references as docker normalises them
	github.com/docker/docker-credential-helpers v0.9.12 // credentials
	github.com/hanwen/go-fuse/v2 v2.12.1 // the FUSE protocol (raw interface, pinned: ProtocolServer is experimental)
	github.com/klauspost/compress v1.20.3 // zstd and gzip
	github.com/moby/sys/mountinfo v0.7.2 // the mount table
	github.com/opencontainers/go-digest v1.0.0 // digests
	github.com/opencontainers/image-spec v1.1.1 // the types of manifests and configs
	github.com/pelletier/go-toml/v2 v2.4.3 // configuration
	github.com/rogpeppe/go-internal v1.16.0 // tests: testscript
	github.com/spf13/cobra v1.10.2 // command line
	github.com/spf13/pflag v1.0.10 // command line: cobra's flags
	github.com/vbatts/tar-split v0.12.3 // tars written again byte for byte
	github.com/vbauerster/mpb/v8 v8.9.3 // progress bars
	go.etcd.io/bbolt v1.5.0 // the index of the store
	go.yaml.in/yaml/v3 v3.0.5 // registries.d and sync files
	golang.org/x/crypto v0.56.0 // cosign's encrypted keys
	golang.org/x/sync v0.24.0 // errgroup, semaphore
	golang.org/x/sys v0.49.0 // system calls
	golang.org/x/term v0.47.0 // is stderr a terminal; passwords
	google.golang.org/grpc v1.83.2 // the proxy plugin's transport
)

require (
	github.com/Masterminds/semver/v3 v3.4.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/Microsoft/go-winio v0.6.3-0.20251027160822-ad3df93bed29 // indirect
	github.com/Microsoft/hcsshim v0.15.0-rc.4 // indirect
	github.com/VividCortex/ewma v1.2.0 // indirect
	github.com/acarl005/stripansi v0.0.0-20180116102854-5a71ef0e047d // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/cloudflare/circl v1.6.3 // indirect
	github.com/containerd/cgroups/v3 v3.1.3 // indirect
	github.com/containerd/continuity v0.5.0 // indirect
	github.com/containerd/log/otel v0.1.0 // indirect
	github.com/containerd/ttrpc v1.2.9 // indirect
	github.com/containerd/typeurl/v2 v2.3.0 // indirect
	github.com/docker/go-units v0.5.0 // indirect
	github.com/felixge/httpsnoop v1.1.0 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/mattn/go-runewidth v0.0.16 // indirect
	github.com/moby/locker v1.0.1 // indirect
	github.com/moby/sys/userns v0.2.1 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/rivo/uniseg v0.4.7 // indirect
	github.com/sirupsen/logrus v1.10.2 // indirect
	github.com/stretchr/testify v1.12.1 // indirect
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp v0.71.0 // indirect
	go.opentelemetry.io/otel v1.46.0 // indirect
	go.opentelemetry.io/otel/metric v1.46.0 // indirect
	go.opentelemetry.io/otel/sdk v1.46.0 // indirect
	go.opentelemetry.io/otel/trace v1.46.0 // indirect
	golang.org/x/net v0.58.0 // indirect
	golang.org/x/text v0.41.0 // indirect
	golang.org/x/tools v0.48.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260825221802-da73d73af1c5 // indirect
)
