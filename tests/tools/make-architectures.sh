#!/usr/bin/env bash
# make-architectures.sh FOLDER [REGEX]: writes tiny models with random weights of each architecture (0.9 GB), or of those whose names match, with llama.cpp's
# own test-llama-archs.cpp, compiled against the libllama that is in use. FOLDER/log has the names of those that it can't make.
# make-architectures.sh --compile FILE: writes the program that makes them; ARCHITECTURES_MAKER=FILE takes it where there is no compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

compile() {
    local deps data llama libraries=() vulkan=()
    deps=${DEPS:-$(third_party/build-deps.sh --print-prefix)}
    data=$(scripts/fetch-test-data.sh)
    llama=$(third_party/build-deps.sh --print-sources)/vendor/llama-cpp-sys-2/llama.cpp
    # The dummy tensors are for an architecture that is not made; with tensors in the metadata, our libllama takes what is not listed for missing.
    sed '/^    for (uint32_t il = 0; il < n_layer; il++) {$/{N;/ggml_tensor t;/!b;:more;N;/\n    }$/!b more;d}' \
        "$data/tests/test-llama-archs.cpp" >"$1.cpp"
    for name in llama-common llama-common-base llama cpp-httplib ggml ggml-cpu ggml-vulkan ggml-base; do
        [ ! -e "$deps/lib/lib$name.a" ] || libraries+=("$deps/lib/lib$name.a")
    done
    [ ! -e "$deps/lib/libggml-vulkan.a" ] || vulkan=(-lvulkan)
    "${CXX:-c++}" -std=c++17 -O1 -w -I"$llama/common" -I"$llama/src" -I"$deps/include" -I"$deps/include/llama-common" "$1.cpp" \
        -o "$1" -Wl,--start-group "${libraries[@]}" -Wl,--end-group ${vulkan[@]+"${vulkan[@]}"} -lpthread -lm -ldl
    rm -f "$1.cpp"
}

if [ "$1" = --compile ]; then
    compile "$2"
    exit
fi
folder=$1
mkdir -p "$folder"
maker=${ARCHITECTURES_MAKER:-}
[ -n "$maker" ] || { maker=$folder/archs && compile "$maker"; }
"$maker" -s 1 -v 3 -a "${2:-.}" -o "$folder" >"$folder/log" 2>&1 || { tail -n 5 "$folder/log" >&2 && exit 1; }
rm -f "$folder/archs"
