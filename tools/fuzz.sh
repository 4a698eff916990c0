#!/usr/bin/env bash
# Runs every fuzz target of this module but the differential one, which has a make target of its own, for a while, two at
# once, each package's built once:
#   fuzz.sh 8s              from the seeds alone, since all that a long run found takes longer than that to go through
#   fuzz.sh 5m .cache/fuzz  from what was found before too, which is kept in that directory
# A failure leaves its input in the package's testdata/fuzz, as go test does.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-8s}
work=$(mktemp -d)
corpora=$(realpath -m "${2:-$work/corpora}")
trap 'rm -rf "$work"' EXIT

targets=$(git ls-files --cached --others --exclude-standard '*_test.go' | grep -vE '^integration/(oracle|differential)/' |
	xargs grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed -E 's#^(.*)/[^/]*:func (Fuzz.*)$#./\1 \2#' | sort)
[ -n "$targets" ] || { echo "fuzz: no targets" >&2 && exit 1; }
echo "fuzz: $(wc -l <<<"$targets") targets, $time each"
cut -d' ' -f1 <<<"$targets" | uniq | while read -r package; do
	go test -c -fuzz . -o "$work/$package/test" "$package"
done

# Inputs that reach new code are made smaller with a hundred tries each: what Go would do for a minute leaves no time to
# look for others.
# Go may end a run whose time is up with "context deadline exceeded" and no failing input. Such a run has found nothing,
# and is repeated, twice at most; a failure with an input never is.
# shellcheck disable=SC2016
xargs -P 2 -L 1 bash -c '
	time=$0 work=$1 corpora=$2 package=$3 target=$4
	log=$work/$package/$target
	once() {
		(cd "$package" && "$work/$package/test" -test.run "^\$" -test.fuzz "^$target\$" -test.fuzztime "$time" \
			-test.fuzzminimizetime 100x -test.parallel 1 -test.fuzzcachedir "$corpora/$package") 2>&1 | sed "s/^/$target: /" | tee "$log"
	}
	set -o pipefail
	for try in 1 2 3; do
		once && exit
		grep -q "context deadline exceeded" "$log" && ! grep -q "Failing input written" "$log" || exit
	done
	exit 1
' "$time" "$work" "$corpora" <<<"$targets"
