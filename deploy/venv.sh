#!/bin/sh
# Makes .venv at the repository's root and installs Motet into it; does nothing when it is current.
#
#   deploy/venv.sh [EXTRA]      EXTRA: none (to serve), `load` (load tests) or `test` (everything)
#
# PYTHON names the interpreter to make it from; the first of several usual names that is 3.11 or
# newer is taken otherwise. Two of these at once wait for each other. A stamp per extra holds the
# place and the pyproject.toml that were installed, so a moved folder or a changed dependency is
# installed again and nothing else is.
set -eu

cd "$(dirname "$0")/.."
extra=${1:-}
torch=$(sed -n 's/^ *"\(torch==[^"]*\)",$/\1/p' pyproject.toml)

want() { pwd && cat pyproject.toml; }

is_current() {
    for stamp in "$@"; do
        if [ -x .venv/bin/python ] && want | cmp -s - ".venv/stamp-$stamp"; then return 0; fi
    done
    return 1
}

# `test` holds all that `load` does, and both all that serving needs.
has_extra() {
    case $extra in
    "") is_current base load test ;;
    load) is_current load test ;;
    test) is_current test ;;
    *) echo "deploy/venv.sh: unknown extra '$extra': give none, load or test" >&2 && exit 2 ;;
    esac
}

is_new_enough() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for name in ${PYTHON:+"$PYTHON"} python3 python3.11 python3.12 python3.13 python3.14 python; do
        if command -v "$name" >/dev/null && is_new_enough "$name"; then
            command -v "$name"
            return
        fi
        if [ "$name" = "${PYTHON:-}" ]; then break; fi # asked for by name: take no other
    done
    echo "Motet needs Python 3.11 or newer with venv and ensurepip; found none as" \
        "${PYTHON:-python3, python3.11 to python3.14 or python}." >&2
    echo "Install one (on Debian and Ubuntu: apt-get install python3.11 python3.11-venv), or" \
        "name one: make serve PYTHON=/path/to/python3.11" >&2
    return 1
}

install() {
    if ! [ -x .venv/bin/python ] || ! is_new_enough .venv/bin/python; then
        python=$(find_python)
        echo "Creating .venv with $python" >&2
        "$python" -m venv --clear .venv
    fi
    rm -f .venv/stamp-*
    echo "Installing Motet${extra:+ with the extra '$extra'} into .venv (minutes, the first time)" >&2
    .venv/bin/python -m pip install --disable-pip-version-check --quiet "$torch"
    .venv/bin/python -m pip install --disable-pip-version-check --quiet -e ".${extra:+[$extra]}"
    want >".venv/stamp-${extra:-base}"
}

if has_extra; then exit 0; fi
if command -v flock >/dev/null; then
    exec 9<pyproject.toml # any file that is always there will do for a lock
    flock 9
    if has_extra; then exit 0; fi # another process installed it while this one waited
fi
install
