#!/usr/bin/env bash
# Prints the table of architectures of docs/models.md. llama.cpp's test-llama-archs.cpp, compiled against the libllama that is in use, writes a tiny model
# of each architecture (0.9 GB, removed afterwards); check-model compares each with libllama.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${BUILD_DIR:-build}
deps=${DEPS:-$(third_party/build-deps.sh --print-prefix)}
data=$(scripts/fetch-test-data.sh)
llama=$(third_party/build-deps.sh --print-sources)/vendor/llama-cpp-sys-2/llama.cpp
work=$(mktemp -d "$build/architectures.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The dummy tensors are for an architecture that is not made; with tensors in the metadata, our libllama takes what is not listed for missing.
sed '/^    for (uint32_t il = 0; il < n_layer; il++) {$/{N;/ggml_tensor t;/!b;:more;N;/\n    }$/!b more;d}' \
    "$data/tests/test-llama-archs.cpp" >"$work/archs.cpp"
libraries=()
for name in llama-common llama-common-base llama cpp-httplib ggml ggml-cpu ggml-vulkan ggml-base; do
    [ ! -e "$deps/lib/lib$name.a" ] || libraries+=("$deps/lib/lib$name.a")
done
vulkan=
[ ! -e "$deps/lib/libggml-vulkan.a" ] || vulkan=-lvulkan
"${CXX:-c++}" -std=c++17 -O1 -w -I"$llama/common" -I"$llama/src" -I"$deps/include" -I"$deps/include/llama-common" "$work/archs.cpp" -o "$work/archs" \
    -Wl,--start-group "${libraries[@]}" -Wl,--end-group $vulkan -lpthread -lm -ldl
mkdir "$work/models"
"$work/archs" -s 1 -v 3 -o "$work/models" >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2 && exit 1; }

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
find "$work/models" -name '*.gguf' -print0 | xargs -0 -n 1 -P "$(nproc)" bash -c 'check "$1"' check | sort >"$work/rows"

echo "| architecture | kind | logits of 64 tokens prefilled and 32 decoded, compared with libllama's |"
echo "| --- | --- | --- |"
cat "$work/rows"
sed -n 's/.*save_models: \([^ ]*\) model (\(.*\)) is unsupported, skipping.*/| `\1` | \2 | not tried: llama.cpp'"'"'s test makes no model of it |/p' "$work/log" |
    sed 's/| MoE |/| mixture |/' | sort
