#!/usr/bin/env bash
# Compiles the project's own C for Apple silicon (aarch64-macos) with zig, warnings as errors. It can't be linked or run here: the dependencies' Darwin builds
# and a Mac are missing. It keeps the Darwin side from rotting.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${SAMEPAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/samepage}
zig=$cache/zig-0.17.1
prefix=$(third_party/build-deps.sh --print-prefix)
out=build/darwin
mkdir -p "$out/include"

if [ ! -e "$zig/complete" ]; then
    echo "check-darwin: fetching zig" >&2
    rm -rf "$zig"
    python3 -m venv "$zig"
    "$zig/bin/pip" install --quiet --no-deps --require-hashes -r third_party/zig-requirements.txt
    touch "$zig/complete"
fi

# Headers of the libraries that come from the system: the same on every platform.
cp -r /usr/include/{jansson.h,xxhash.h,xxh3.h,zstd.h,zstd_errors.h,sodium.h,sodium,editline,histedit.h} "$out/include/" 2>/dev/null || true
cp "$(find /usr/include -name jansson_config.h | head -n 1)" "$out/include/"

failed=0
compile() {
    # Zig's own cache makes a second run cost seconds.
    "$zig/bin/python" -m ziglang cc -target aarch64-macos -std=gnu17 -fsyntax-only -Wall -Wextra -Wshadow -Werror \
        -Iinclude -Isrc -Iguest/include -isystem "$prefix/include" -isystem "$out/include" "$1"
}
sources=$(git ls-files 'src/*.c' | grep -v '_linux\.c$')
for source in $sources; do
    compile "$source" || { echo "check-darwin: $source does not compile for macOS" >&2; failed=1; }
done
[ $failed = 0 ] && echo "check-darwin: $(wc -w <<<"$sources") files compile for aarch64-macos"
exit $failed
