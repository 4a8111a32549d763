#!/bin/bash
# Runs every fuzz target of the repository, one after the other.
#
#   hack/fuzz.sh TIME      how long each, such as 5s
set -euo pipefail

time=$1
count=0
while IFS=: read -r file line; do
	name=$(sed 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/' <<<"$line")
	echo "$name ($(dirname "$file"))"
	if ! out=$(go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$(dirname "$file")" </dev/null 2>&1); then
		echo "$out"
		exit 1
	fi
	tail -n 1 <<<"$out"
	count=$((count + 1))
done < <(grep -r --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*(f \*testing.F)' --exclude-dir=.git . | sed 's|^\./||' | sort)
echo "$count fuzz targets, $time each"
[ "$count" -gt 0 ]
