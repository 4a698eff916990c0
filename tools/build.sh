#!/usr/bin/env bash
# Builds the real programs that the integration tests run, pinned by tools/go.mod and tools/containerd2*/go.mod,
# into bin/ and bin/containerd-2.*/. Does nothing when they are newer than the files that pin them.
set -euo pipefail
cd "$(dirname "$0")"
bin=$(cd .. && pwd)/bin

# build DIRECTORY MODULE-PATH... : every package named after the directory that holds a go.mod and the target directory.
build() {
	local pins=$1 target=$2
	shift 2
	local stamp=$target/.tools-built
	if [ -e "$stamp" ] && [ "$stamp" -nt "$pins/go.mod" ] && [ "$stamp" -nt "$pins/go.sum" ] && [ "$stamp" -nt build.sh ]; then
		return
	fi
	mkdir -p "$target"
	local module version flags
	for package; do
		module=${package%/cmd/*}
		version=$(cd "$pins" && go list -m -f '{{.Version}}' "$module")
		flags="-s -w -X $module/version.Version=$version -X $module/version.version=$version"
		(cd "$pins" && CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$target/" "$package")
		echo "tools: $target/${package##*/} $version"
	done
	touch "$stamp"
}

containerd=github.com/containerd/containerd/v2/cmd
build . "$bin" "$containerd/containerd" "$containerd/ctr" "$containerd/containerd-shim-runc-v2" \
	github.com/distribution/distribution/v3/cmd/registry honnef.co/go/tools/cmd/staticcheck
for minor in 0 1 3; do
	build containerd2$minor "$bin/containerd-2.$minor" "$containerd/containerd" "$containerd/ctr" "$containerd/containerd-shim-runc-v2"
done
