#!/bin/bash
# Writes the table of settings into README.md, between its two markers, as `epp settings -o markdown` prints it.
#
#   hack/settings-table.sh            writes it
#   hack/settings-table.sh --check    says whether it is up to date
set -euo pipefail
cd "$(dirname "$0")/.."

begin='<!-- settings:begin -->' end='<!-- settings:end -->'
for marker in "$begin" "$end"; do
	[ "$(grep -c -x -F -e "$marker" README.md)" = 1 ] || {
		echo "README.md: expected one line $marker" >&2
		exit 1
	}
done

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
go build -o "$tmp/epp" ./cmd/epp
# An empty environment, so that the table shows defaults and not what is set here.
env -i "$tmp/epp" settings -o markdown >"$tmp/table"
awk -v begin="$begin" -v end="$end" -v table="$tmp/table" '
	$0 == end { inside = 0 }
	!inside { print }
	$0 == begin { inside = 1; while ((getline line < table) > 0) print line }
' README.md >"$tmp/README.md"

if [ "${1:-}" != --check ]; then
	cat "$tmp/README.md" >README.md
elif ! diff -u README.md "$tmp/README.md"; then
	echo "README.md: the table of settings is not up to date: run make generate" >&2
	exit 1
fi
