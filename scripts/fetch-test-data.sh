#!/usr/bin/env bash
# Fetches llama.cpp's own test data, pinned by hash, once for a machine, and prints the folder: models/ (ggml-vocab-*.gguf with .inp and .out,
# templates/*.jinja) and tests/ (test-llama-archs.cpp, ...). 77 MB of download, 78 MB kept, in the cache folder of the dependencies.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache=${SAMEPAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/samepage}
pins=third_party/test-data-requirements.txt
data=$cache/test-data-$(sha256sum <$pins | cut -c1-16)

fetch() {
    local work=$data.part
    echo "fetch-test-data: fetching llama.cpp's test data (77 MB)" >&2
    rm -rf "$work" "$data"
    mkdir -p "$work/source"
    # pip asks a source package's build tool for its name before it keeps it, so that tool comes first.
    sed '/^llama-cpp-python/,/--hash/d' $pins >"$work/tools.txt"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$work/tools.txt"
    "$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --require-hashes --no-build-isolation --no-binary llama-cpp-python \
        -d "$work/source" -r $pins
    tar -xzf "$work"/source/llama_cpp_python-*.tar.gz -C "$work" --strip-components 3 --wildcards '*/vendor/llama.cpp/models/*' '*/vendor/llama.cpp/tests/*'
    rm -rf "$work/venv" "$work/source" "$work/tools.txt"
    touch "$work/complete"
    mv "$work" "$data"
}

mkdir -p "$cache"
if [ ! -e "$data/complete" ]; then
    # Two at once: the second waits, and finds it there.
    exec 9>"$cache/test-data-lock"
    command -v flock >/dev/null && flock 9
    [ -e "$data/complete" ] || fetch
fi
echo "$data"
