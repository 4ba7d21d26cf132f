#!/usr/bin/env bash
# Compiles the project's own C for Apple silicon (aarch64-macos) with zig, warnings as errors. It can't be linked or run here: the dependencies' Darwin builds
# and a Mac are missing. It keeps the Darwin side from rotting.
set -euo pipefail
cd "$(dirname "$0")/.."

zig=$(scripts/zig.sh)
prefix=$(third_party/build-deps.sh --print-prefix)
out=build/darwin

# Headers of the libraries that come from the system: the same on every platform.
rm -rf "$out"
mkdir -p "$out/include"
for library in jansson libxxhash libzstd libsodium libedit; do
    include=$(pkg-config --variable=includedir "$library")
    cp -R "$include"/{jansson.h,xxhash.h,xxh3.h,zstd.h,zstd_errors.h,sodium.h,sodium,editline,histedit.h} "$out/include/" 2>/dev/null || true
done
find /usr/include -name jansson_config.h -exec cp {} "$out/include/" \;

compile() {
    # shellcheck disable=SC2086
    $zig cc -target aarch64-macos -std=gnu17 -c -o "$out/$(tr / _ <<<"${1#src/}").o" -Wall -Wextra -Wshadow -Werror \
        -Iinclude -Isrc -Iguest/include -isystem "$prefix/include" -isystem "$out/include" "$1" ||
        { echo "check-darwin: $1 does not compile for macOS" >&2 && return 1; }
}
export -f compile
export zig out prefix

mapfile -t sources < <(find src -name '*.c' ! -name '*_linux.c' | sort)
# shellcheck disable=SC2016
printf '%s\0' "${sources[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c 'compile "$1"' compile
echo "check-darwin: ${#sources[@]} files compile for aarch64-macos"
