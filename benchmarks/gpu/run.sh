#!/bin/sh
# Checks and measures the kernels and the engine on a machine with a GPU and no network.
#
#   benchmarks/gpu/run.sh OUT_DIR [--tiny] [--seed N]
#
# Prints a table and writes OUT_DIR/report.json. WHEELS names a folder with wheels of packages that
# the machine lacks; they go into OUT_DIR/site. PYTHON names the interpreter (python3). The exit
# status is 0 if every kernel is right, 1 if not, 2 if nothing could run.
set -eu

case ${1:-} in
"" | -*) echo "usage: benchmarks/gpu/run.sh OUT_DIR [--tiny] [--seed N]" >&2 && exit 2 ;;
esac
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
wheels=${WHEELS:+$(cd "$WHEELS" && pwd)}
python=${PYTHON:-python3}

cd "$(dirname "$0")/../.."
export PYTHONPATH="$out/site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "$wheels" ]; then
    missing=$("$python" -m benchmarks.gpu.needs --names)
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086 # one argument for each package
        "$python" -m pip install --quiet --no-index --no-deps --find-links "$wheels" \
            --target "$out/site" $missing >&2 || exit 2
    fi
fi
"$python" -m benchmarks.gpu.needs || exit 2
exec "$python" -m benchmarks.gpu "$out" "$@"
