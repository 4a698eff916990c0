#!/usr/bin/env bash
# make bench: makes the three images, checks that all of them show equal trees, and measures; see integration/bench.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "bench: needs root: it mounts, and it runs containers" >&2 && exit 1; }
tools/images.sh debian-python debian-node debian-java >/dev/null
TOCSIN_SKIP=never go test -count=1 -v -run '^TestEqualTrees$' ./integration | grep -E '^ *(---|ok|FAIL|panic)|_test\.go'
exec go run ./integration/bench "$@"
