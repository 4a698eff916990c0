#!/usr/bin/env bash
# Runs every fuzz target of this module for a while (fuzz.sh 20s), two at once. A failure leaves its input in the
# package's testdata/fuzz, as go test does.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-20s}

targets=$(git ls-files --cached --others --exclude-standard '*_test.go' | grep -v '^integration/oracle/' |
	xargs grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed -E 's#^(.*)/[^/]*:func (Fuzz.*)$#./\1 \2#' | sort)
[ -n "$targets" ] || { echo "fuzz: no targets" >&2 && exit 1; }
echo "fuzz: $(wc -l <<<"$targets") targets, $time each"
# Go may end a run whose time is up with "context deadline exceeded" and no failing input. Such a run has found nothing,
# and is repeated, twice at most; a failure with an input never is.
# shellcheck disable=SC2016
xargs -P 2 -L 1 bash -c '
	time=$0 log=$(mktemp) && trap "rm -f $log" EXIT
	once() { go test -run "^\$" -fuzz "^$2\$" -fuzztime "$time" -parallel 1 "$1" 2>&1 | tee "$log"; }
	set -o pipefail
	for try in 1 2 3; do
		once "$@" && exit
		grep -q "context deadline exceeded" "$log" && ! grep -q "Failing input written" "$log" || exit
	done
	exit 1
' "$time" <<<"$targets"
