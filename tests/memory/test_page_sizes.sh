#!/usr/bin/env bash
# What knows about pages, again with the pages of other machines: 16 KiB (Apple silicon) and 64 KiB (some arm64 and POWER systems).
set -euo pipefail

for size in 16384 65536; do
    export SAMEPAGE_PAGE_SIZE=$size
    "$BUILD_DIR/tests/test_memory" 2>&1 | grep "page size: $size" >/dev/null || { echo "a page size of $size was not taken" && exit 1; }
    for program in test_memory test_log test_log_edges test_log_corrupt; do
        "$BUILD_DIR/tests/$program" >"$BUILD_DIR/page-size.txt" 2>&1 || { cat "$BUILD_DIR/page-size.txt" && echo "$program fails with pages of $size" && exit 1; }
    done
    for device in cpu discrete; do
        "$SAMEPAGE" run --device $device "$BUILD_DIR/guest/gemm.wasm" | grep -x "16384 elements, 0 wrong"
    done
    answer=$(printf 'The red key is in the attic.\nWhere is the red key?\n' | "$SAMEPAGE" chat --temp 0 | tail -n 1)
    [ "$answer" = "The red key is in the attic." ] || { echo "with pages of $size it says: $answer" && exit 1; }
    echo "$size: ok"
done
