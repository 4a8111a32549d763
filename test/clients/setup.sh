#!/bin/sh
# Prints the path of a Python that has the packages of requirements.txt beside this file.
#
# They are installed once into a virtual environment of the cache folder, one for each content of requirements.txt and
# version of Python. Only the path goes to standard output. Nothing else on the machine is touched. Safe to run several
# times at once: the later ones wait.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
say() { echo "clients: $*" >&2; }
die() {
	say "$1"
	shift
	for line; do echo "  $line" >&2; done
	exit 1
}

command -v python3 >/dev/null || die "python3 was not found; 3.10 or later is needed for the openai client."
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
	die "python3 is version $version; the openai client needs 3.10 or later."

cache=${PILOTFISH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pilotfish}
sum=$(sha256sum "$here/requirements.txt" | cut -c 1-12)
venv=$cache/clients-py$version-$sum
if [ -e "$venv/complete" ] && "$venv/bin/python" -c '' 2>/dev/null; then
	echo "$venv/bin/python"
	exit 0
fi

mkdir -p "$cache" || die "the cache folder $cache can't be made; PILOTFISH_CACHE names another."
exec 9>"$cache/.clients.lock"
flock 9
if [ -e "$venv/complete" ] && "$venv/bin/python" -c '' 2>/dev/null; then # another run made it meanwhile
	echo "$venv/bin/python"
	exit 0
fi

say "installing the openai client into $venv ..."
python3 -m venv --clear "$venv" >&2 ||
	die "python3 could not make a virtual environment." "On Debian and Ubuntu: apt-get install python3-venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	--requirement "$here/requirements.txt" >&2 || die "pip could not install the packages of $here/requirements.txt (see above)."
"$venv/bin/python" -m pip check >&2 || die "the packages of $here/requirements.txt don't fit together (see above)."
touch "$venv/complete"
echo "$venv/bin/python"
