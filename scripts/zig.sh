#!/usr/bin/env bash
# Prints how zig, a C compiler for other machines, is called (`PYTHON -m ziglang`); fetches it the first time, into the cache of the dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${SAMEPAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/samepage}
zig=$cache/zig-$(grep -v '^#' third_party/zig-requirements.txt | sha256sum | cut -c1-16)
mkdir -p "$cache"
exec 9>"$zig.lock"
flock 9
if [ ! -e "$zig/complete" ]; then
    echo "zig: fetching it (100 MB)" >&2
    rm -rf "$zig"
    python3 -m venv "$zig"
    "$zig/bin/pip" install --quiet --no-deps --require-hashes -r third_party/zig-requirements.txt >&2
    touch "$zig/complete"
fi
echo "env ZIG_GLOBAL_CACHE_DIR=$zig/cache $zig/bin/python -m ziglang"
