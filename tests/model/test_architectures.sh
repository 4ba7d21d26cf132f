#!/usr/bin/env bash
# Every architecture that llama.cpp's own test makes a tiny model of: opened, prefilled and decoded, its logits compared with libllama's; and the table in
# docs/models.md says what comes out. To mend the table: tests/tools/check-architectures.sh > the part between the two marks.
set -euo pipefail
cd "$SOURCE_DIR"

table=$(mktemp)
trap 'rm -f "$table"' EXIT
tests/tools/check-architectures.sh >"$table"
diff -u <(sed -n '/^<!-- architectures: begin -->$/,/^<!-- architectures: end -->$/{//!p}' docs/models.md) "$table"

same=$(grep -c '| the same bytes |' "$table" || true)
near=$(grep -c '| within ' "$table" || true)
wrong=$(grep -c '| differs\|| failed' "$table" || true)
refused=$(grep -c '| refused' "$table" || true)
echo "architectures: $same with the same bytes as libllama, $near within 1e-6, $refused refused by name, $wrong wrong"
[ "$wrong" = 0 ] && [ $((same + near)) -ge 120 ]
