#!/usr/bin/env bash
# make demo: installs and builds what the demonstration needs, makes its image, and runs it. Root only.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "demo: needs root: it mounts, and it runs containers" >&2 && exit 1; }
tools/install.sh
tools/build.sh
layout=$(tools/images.sh debian-python)
mkdir -p bin
CGO_ENABLED=0 go build -o bin/ ./cmd/tocsin
exec go run ./integration/demo "$layout"
