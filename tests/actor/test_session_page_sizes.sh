#!/usr/bin/env bash
# Sessions on hosts with larger pages: 16 KiB as Apple silicon has, and 64 KiB.
set -euo pipefail
for size in 16384 65536; do
    SAMEPAGE_PAGE_SIZE=$size "$BUILD_DIR/tests/test_session"
    SAMEPAGE_PAGE_SIZE=$size "$BUILD_DIR/tests/test_log"
done
