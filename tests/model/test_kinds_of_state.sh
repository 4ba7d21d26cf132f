#!/usr/bin/env bash
# One model of each kind of state: a long run across the end of a window's cache and quantised caches compared with libllama; and the actor frozen in the
# middle, thawed in a new process, forked at 50 positions, its logits the same bytes as if it had never stopped.
set -euo pipefail
export LC_ALL=C
cd "$SOURCE_DIR"
work=$(mktemp -d "$BUILD_DIR/kinds.XXXXXX")
trap 'rm -rf "$work"' EXIT
tests/tools/make-architectures.sh "$work" '^(llama|gemma2|gpt-oss|llama4|deepseek2|mamba2|qwen3next|falcon-h1|lfm2|bloom)$'

failed=0
expect() { # expect WORDS COMMAND...
    local wanted=$1 out
    shift
    out=$("$@" 2>/dev/null | tail -n 1) || true
    [[ $out == $wanted* ]] || { echo "$*: $out" && failed=1; }
}
for model in "$work"/*.gguf; do
    expect equal "$BUILD_DIR/tests/check-model" "$model" 300 40 64 512
    for types in "q8_0 q8_0" "q4_0 q4_0" "bf16 bf16"; do
        # shellcheck disable=SC2086
        expect equal "$BUILD_DIR/tests/check-model" "$model" 40 4 64 512 $types
    done
    expect "the same bytes" "$BUILD_DIR/tests/check-state" "$BUILD_DIR/guest/llm.wasm" "$model" "$work/session"
done
echo "kinds of state: $(find "$work" -name '*.gguf' | wc -l) models"
exit $failed
