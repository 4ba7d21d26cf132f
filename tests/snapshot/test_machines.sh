#!/usr/bin/env bash
# A session file passes between two architectures: what this machine's build writes, a build for arm64 (or x86-64, on arm64) maps, verifies, compares with what it
# must be, appends to, forks and compacts under qemu's emulation of a process; and the other way round. Of the library, base, memory and snapshot are built for it.
set -euo pipefail
cd "$SOURCE_DIR"
other=$([ "$(uname -m)" = aarch64 ] && echo x86_64 || echo aarch64)
qemu=$(command -v "qemu-$other-static" || command -v "qemu-$other") || {
    echo "test_machines: skipped: qemu-$other-static is not there (package qemu-user-static)"
    exit 0
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$BUILD_DIR/$other
mkdir -p "$out/include"

# Headers of libraries are the same on every machine; xxhash is all in its header.
cp -R "$(pkg-config --variable=includedir libsodium)"/{sodium,sodium.h} "$(pkg-config --variable=includedir libxxhash)"/xx*.h "$out/include/"
mapfile -t sources < <(find src/base src/memory src/snapshot -name '*.c' ! -name '*_darwin.c' ! -name export.c | sort)
read -ra zig <<<"$(scripts/zig.sh)"
"${zig[@]}" cc -target "$other-linux-musl" -static -std=gnu17 -D_GNU_SOURCE -O1 -Wall -Wextra -Werror -DXXH_INLINE_ALL -Iinclude -Isrc -isystem "$out/include" \
    -o "$out/session-file" tests/tools/session-file.c tests/snapshot/machine/sodium.c "${sources[@]}"

here() { "$BUILD_DIR/tests/session-file" "$@"; }
there() { "$qemu" "$out/session-file" "$@"; }
there_large() { SAMEPAGE_PAGE_SIZE=65536 there "$@"; }

# pass ONE OTHER: ONE writes, the OTHER reads and goes on, ONE reads that.
pass() {
    "$1" write "$work/s"
    "$2" check "$work/s" 1 2 3
    "$2" append "$work/s"
    "$1" check "$work/s" 1 2 3 4
    "$2" fork "$work/s" "$work/f"
    "$1" append "$work/f"
    "$2" check "$work/f" 4 2
    "$2" compact "$work/s"
    "$1" check "$work/s" 2 4
    rm "$work"/*
}
pass here there
pass there here
pass here there_large
pass there_large here
here write "$work/s"
printf x | dd of="$work/s" bs=1 seek=$((100 * 4096)) conv=notrunc status=none
there check "$work/s" 1 2 3 && echo "test_machines: damage is not seen" && exit 1
echo "test_machines: $(uname -m) and $other ($("$qemu" --version | head -n 1)) read each other's files"
