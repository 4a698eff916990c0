#!/usr/bin/env bash
# Installs the Debian packages that the tests and the demo need and that are missing. Quiet, root only.
set -euo pipefail

# program:package
needs=(debootstrap:debootstrap runc:runc fusermount3:fuse3 ip:iproute2 mount:mount unshare:util-linux gcc:gcc podman:podman buildah:buildah)

missing=()
for need in "${needs[@]}"; do
	command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "install: these packages are missing and only root can install them: ${missing[*]}" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "install: ${missing[*]}"
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
