#!/usr/bin/env bash
# Every architecture that llama.cpp's own test makes a tiny model of: opened, prefilled and decoded, its logits compared with libllama's; and the table in
# docs/models.md says what comes out. To mend the table: tests/tools/check-architectures.sh > the part between the two marks.
# Some of them are run on the emulated CUDA device too, where the logits may differ by a normalised mean squared error of 1e-4.
#     SAMEPAGE_TEST_DEVICE=cuda:0   all of them on this device instead (cuda-emulated: some minutes)
set -euo pipefail
cd "$SOURCE_DIR"

work=$(mktemp -d "$BUILD_DIR/architectures.XXXXXX")
trap 'rm -rf "$work"' EXIT
table=$work/table

count() { # count WHERE
    same=$(grep -c '| the same bytes |' "$table" || true)
    near=$(grep -c '| within ' "$table" || true)
    refused=$(grep -c '| refused' "$table" || true)
    wrong=$(grep -c '| differs\|| failed' "$table" || true)
    grep '| differs\|| failed' "$table" || true
    echo "architectures on $1: $same with the same bytes as libllama, $near near, $refused refused by name, $wrong wrong"
}

if [ -n "${SAMEPAGE_TEST_DEVICE:-}" ]; then
    tests/tools/make-architectures.sh "$work/all"
    tests/tools/check-architectures.sh "$work/all" >"$table"
    grep '| refused' "$table" || true
    count "$SAMEPAGE_TEST_DEVICE"
    [ "$wrong" = 0 ]
    [ $((same + near)) -ge 100 ]
    exit
fi

tests/tools/make-architectures.sh "$work/all"
tests/tools/check-architectures.sh "$work/all" >"$table"
diff -u <(sed -n '/^<!-- architectures: begin -->$/,/^<!-- architectures: end -->$/{//!p}' docs/models.md) "$table"
count cpu
[ "$wrong" = 0 ]
[ $((same + near)) -ge 120 ]

# One of each kind of state and of layer.
mkdir "$work/some"
cp "$work"/all/log "$work"/all/{llama-dense,qwen3moe-moe,gemma3-dense,gpt-oss-moe,deepseek2-moe,mamba2-dense,falcon-h1-dense,qwen3next-moe,lfm2-dense,bloom-dense}.gguf "$work/some"
SAMEPAGE_TEST_DEVICE=cuda-emulated tests/tools/check-architectures.sh "$work/some" 20 3 >"$table"
count cuda-emulated
[ $((same + near)) = 10 ]
