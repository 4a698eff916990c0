#!/usr/bin/env bash
# Makes test images as OCI layouts, each once, under .cache/images/NAME, tagged gzip and zstd by how their layers are
# compressed:
#
#   images.sh debian-python    Debian, python3, and the awkward layers of integration/mkimage
#   images.sh debian-node      Debian and nodejs
#   images.sh debian-java      Debian and default-jre-headless
#
# Prints the directory. Needs root; see rootfs.sh. An image is made again when what makes it changes.
set -euo pipefail
cd "$(dirname "$0")/.."
key=$(cat tools/rootfs.sh tools/images.sh integration/mkimage/*.go integration/mkimage/cmd/mkimage/*.go | sha256sum | cut -c1-12)

for name; do
	layout=$PWD/.cache/images/$name
	if [ "$(cat "$layout/.key" 2>/dev/null)" != "$key" ]; then
		mapfile -t trees < <(tools/rootfs.sh debian "${name#debian-}")
		[ ${#trees[@]} -eq 2 ] || exit 1
		flags=()
		[ "$name" != debian-python ] || flags=(-awkward)
		rm -rf "$layout" "$layout.partial"
		for compression in gzip zstd; do
			go run ./integration/mkimage/cmd/mkimage -compress "$compression" "${flags[@]}" \
				"$layout.partial" "$compression" "${trees[@]}" >&2
		done
		echo "$key" >"$layout.partial/.key"
		mv "$layout.partial" "$layout"
	fi
	echo "$layout"
done
