#!/usr/bin/env bash
# Prints the table of architectures of docs/models.md: a tiny model of each that llama.cpp's own test can make, compared with libllama.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${BUILD_DIR:-build}
work=$(mktemp -d "$build/architectures.XXXXXX")
trap 'rm -rf "$work"' EXIT
tests/tools/make-architectures.sh "$work"

check() {
    local name out status=0
    name=$(basename "$1" .gguf)
    out=$("$CHECK" "$1" 2>/dev/null | tail -n 1) || status=$?
    case $out in
    equal*) out="the same bytes" ;;
    within*) out="within 1e-6 (${out#within })" ;;
    refused*) out="refused: ${out#refused architecture * }" ;;
    "") out="failed with status $status" ;;
    esac
    # The file's name ends in what kind it is.
    printf '| `%s` | %s | %s |\n' "${name%-*}" "$([ "${name##*-}" = moe ] && echo mixture || echo dense)" "$out"
    rm -f "$1"
}
export -f check
export CHECK=$build/tests/check-model
# shellcheck disable=SC2016
find "$work" -name '*.gguf' -print0 | xargs -0 -n 1 -P "$(nproc)" bash -c 'check "$1"' check | sort >"$work/rows"

echo "| architecture | kind | logits of 64 tokens prefilled and 32 decoded, compared with libllama's |"
echo "| --- | --- | --- |"
cat "$work/rows"
sed -n 's/.*save_models: \([^ ]*\) model (\(.*\)) is unsupported, skipping.*/| `\1` | \2 | not tried: llama.cpp'"'"'s test makes no model of it |/p' "$work/log" |
    sed 's/| MoE |/| mixture |/' | sort
