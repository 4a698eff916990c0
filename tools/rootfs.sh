#!/usr/bin/env bash
# Makes the root file systems that test images are built from, each once, under .cache/rootfs/:
#
#   rootfs.sh debian    Debian's own minbase, of the release this machine runs
#   rootfs.sh python    debian and python3
#   rootfs.sh node      debian and nodejs
#   rootfs.sh java      debian and default-jre-headless
#
# Prints the directory. Packages come from wherever apt gets them on this machine. Needs root and debootstrap.
# A tree is kept for as long as this script does not change; .cache/ may be removed at any time.
set -euo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/.." && pwd)/.cache/rootfs
key=$(sha256sum "$here/rootfs.sh" | cut -c1-12)
. /etc/os-release

packages_of() {
	case $1 in
	debian) ;;
	python) echo python3 ;;
	node) echo nodejs ;;
	java) echo default-jre-headless ;;
	*) echo "rootfs: unknown root file system $1" >&2 && return 1 ;;
	esac
}

# The repository that apt uses for this release.
mirror() {
	apt-get indextargets --format '$(CODENAME)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' |
		awk -F'|' -v suite="$VERSION_CODENAME" '$1 == suite && $2 == "main" && !found++ { print $3 }'
}

bootstrap() {
	[ -n "$(mirror)" ] || apt-get update -qq
	local from
	from=$(mirror)
	[ -n "$from" ] || { echo "rootfs: apt names no repository for $VERSION_CODENAME main" >&2 && return 1; }
	debootstrap --variant=minbase "$VERSION_CODENAME" "$1" "$from"
	rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/bootstrap.log "$1"/debootstrap
}

# Installs packages into a tree with the tree's own apt, in a mount namespace of its own so that nothing stays mounted.
add() {
	local tree=$1 conf=$1/etc/apt/apt.conf.d/00-build
	shift
	cp /etc/resolv.conf "$tree/etc/resolv.conf"
	apt-config dump | grep -E '^Acquire::(Check-|[a-z]+::Proxy)' >"$conf" || true
	echo 'APT::Sandbox::User "root";' >>"$conf"
	# shellcheck disable=SC2016
	unshare --mount sh -ec '
		tree=$1
		shift
		mount -t proc proc "$tree/proc"
		export DEBIAN_FRONTEND=noninteractive
		chroot "$tree" apt-get update -qq
		chroot "$tree" apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-unsafe-io "$@"
	' - "$tree" "$@"
	rm -rf "$conf" "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/var/log/apt "$tree"/var/log/dpkg.log
}

# quietly LOG COMMAND... shows what the command said only if it fails. In the background, because bash forgets set -e in
# what is tested by ||.
quietly() {
	local log=$1
	shift
	"$@" >"$log" 2>&1 </dev/null &
	wait $! || {
		cat "$log" >&2
		return 1
	}
}

make_tree() {
	local name=$1 packages tree=$cache/$1-$key
	packages=$(packages_of "$name")
	if [ ! -d "$tree" ]; then
		local partial=$tree.partial log=$cache/$name.log
		rm -rf "$partial"
		if [ "$name" = debian ]; then
			quietly "$log" bootstrap "$partial"
		else
			local base
			base=$(make_tree debian)
			cp -a "$base" "$partial"
			# shellcheck disable=SC2086
			quietly "$log" add "$partial" $packages
		fi
		echo "rootfs: made $name" >&2
		mv "$partial" "$tree"
	fi
	echo "$tree"
}

[ "$(id -u)" = 0 ] || { echo "rootfs: needs root" >&2 && exit 1; }
mkdir -p "$cache"
for name; do
	(
		flock 9
		make_tree "$name"
	) 9>"$cache/.lock"
done
