#!/bin/sh
# Prints the path of a Go tool of a pinned version, building it into the cache if it isn't there.
#
#   hack/tool.sh MODULE/PATH VERSION
#
# The cache's folder carries the tool's version and Go's, since a linter refuses code of a newer Go than its own. Safe
# to run several times at once.
set -eu

pkg=$1 version=$2
name=$(basename "$pkg")
go=$(go env GOVERSION | cut -d. -f1,2)
cache=${PILOTFISH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pilotfish}
tool=$cache/$name-$version-$go/$name
if [ -x "$tool" ]; then
	echo "$tool"
	exit 0
fi

mkdir -p "$cache"
tmp=$(mktemp -d "$cache/.$name.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
echo "tool: building $name $version into $cache; this is done once and takes some minutes ..." >&2
if ! GOBIN=$tmp GOFLAGS= go install "$pkg@$version" >"$tmp/log" 2>&1; then
	tail -n 20 "$tmp/log" >&2
	echo "tool: $name $version could not be built (see above)" >&2
	exit 1
fi
mkdir -p "$(dirname "$tool")"
mv -f "$tmp/$name" "$tool" # atomic: another run at the same time replaces it by an equal one
echo "$tool"
