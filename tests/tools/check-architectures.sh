#!/usr/bin/env bash
# Prints the table of architectures of docs/models.md: a tiny model of each that llama.cpp's own test can make, compared with libllama.
#     check-architectures.sh [FOLDER [NUMBER...]]   models that make-architectures.sh wrote to FOLDER, which are kept; numbers as check-model takes them
#     SAMEPAGE_TEST_DEVICE=cuda:0                   on this device instead of the CPU
#     JOBS=2                                        models at once (a core each)
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${BUILD_DIR:-build}
work=$(mktemp -d "$build/architectures.XXXXXX")
trap 'rm -rf "$work"' EXIT
models=${1:-$work}
[ $# -gt 0 ] || tests/tools/make-architectures.sh "$work"
export CHECK=$build/tests/check-model NUMBERS="${*:2}" WORK=$work

check() {
    local name out status=0
    name=$(basename "$1" .gguf)
    # shellcheck disable=SC2086
    out=$("$CHECK" "$1" $NUMBERS 2>/dev/null | tail -n 1) || status=$?
    case $out in
    equal*) out="the same bytes" ;;
    within*) out="within $([ "${SAMEPAGE_TEST_DEVICE:-cpu}" = cpu ] && echo 1e-6 || echo 1e-4) (${out#within })" ;;
    refused*) out="refused: ${out#refused architecture * }" ;;
    "") out="failed with status $status" ;;
    esac
    # The file's name ends in what kind it is.
    printf '| `%s` | %s | %s |\n' "${name%-*}" "$([ "${name##*-}" = moe ] && echo mixture || echo dense)" "$out"
    case $1 in "$WORK"/*) rm -f "$1" ;; esac
}
export -f check
# shellcheck disable=SC2016
find "$models" -name '*.gguf' -print0 | xargs -0 -n 1 -P "${JOBS:-$(nproc)}" bash -c 'check "$1"' check | sort >"$work/rows"

echo "| architecture | kind | logits of ${2:-64} tokens prefilled and ${3:-32} decoded, compared with libllama's |"
echo "| --- | --- | --- |"
cat "$work/rows"
sed -n 's/.*save_models: \([^ ]*\) model (\(.*\)) is unsupported, skipping.*/| `\1` | \2 | not tried: llama.cpp'"'"'s test makes no model of it |/p' "$models/log" |
    sed 's/| MoE |/| mixture |/' | sort
