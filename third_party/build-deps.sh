#!/usr/bin/env bash
# Builds the pinned dependencies from source, once for a machine: Wasmtime's C API and llama.cpp's libraries.
#
#   build-deps.sh                  build what is missing, then print the prefix
#   build-deps.sh --print-prefix   print the prefix only
#
# They lie outside of the checkout, in a cache folder whose name is a hash of the pins, the compilers and the processor, so that a second checkout
# costs seconds. Every source is pinned by a hash in wasmtime/Cargo.lock. Once the sources are there, no network is needed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SAMEPAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/samepage}
jobs=$(nproc 2>/dev/null || sysctl -n hw.ncpu)

sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }
vulkan=OFF
if command -v glslc >/dev/null && [ -e /usr/include/vulkan/vulkan.hpp ] && ls /usr/share/cmake/SPIRV-Headers* /usr/lib/*/cmake/SPIRV-Headers* >/dev/null 2>&1; then
    vulkan=ON
fi
metal=$([ "$(uname)" = Darwin ] && echo ON || echo OFF)

pins=$({
    cat "$here"/build-deps.sh "$here"/wasmtime/Cargo.toml "$here"/wasmtime/Cargo.lock "$here"/wasmtime/src/lib.rs "$here"/llama/*
    cc --version; c++ --version
    grep -m1 '^flags\|^Features' /proc/cpuinfo 2>/dev/null || sysctl -n machdep.cpu.brand_string
    echo "vulkan $vulkan metal $metal"
} | sha256 | cut -c1-16)
prefix=$cache/deps-$pins

if [ "${1:-}" = --print-prefix ]; then
    echo "$prefix"
    exit
fi

say() { echo "deps: $*" >&2; }

if [ -e "$prefix/complete" ]; then
    echo "$prefix"
    exit
fi

rust_ok() { cargo --version 2>/dev/null | awk '{ split($2, v, "."); exit !(v[1] > 1 || (v[1] == 1 && v[2] >= 95)) }'; }
if ! rust_ok; then
    say "Rust 1.95 or newer is needed to build Wasmtime; found: $(cargo --version 2>/dev/null || echo none)."
    say "Ubuntu 24.04: apt-get install rustup && rustup default stable. Debian 12: rustup's own installer (see its web page), then open a new shell."
    exit 1
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
command -v flock >/dev/null && { flock -n 9 || { say "another build of the dependencies is running: waiting"; flock 9; }; }
if [ -e "$prefix/complete" ]; then
    echo "$prefix"
    exit
fi

log() { # log NAME COMMAND...: output into a file, its end on failure
    local name=$1
    shift
    if ! "$@" >"$prefix/log/$name.txt" 2>&1; then
        tail -n 30 "$prefix/log/$name.txt" >&2
        say "$name failed; the whole output is in $prefix/log/$name.txt"
        exit 1
    fi
}

mkdir -p "$prefix"/{log,lib,include}
sources=$cache/sources-$(sha256 <"$here/wasmtime/Cargo.lock" | cut -c1-16)
build=$prefix/build

if [ ! -e "$sources/complete" ]; then
    say "1/4 fetching the pinned sources (about 400 MB unpacked)"
    rm -rf "$sources"
    mkdir -p "$sources"
    log fetch cargo vendor --locked --manifest-path "$here/wasmtime/Cargo.toml" "$sources/vendor"
    touch "$sources/complete"
fi

say "2/4 building Wasmtime (three minutes on two cores)"
mkdir -p "$build/wasmtime"
cp -r "$here/wasmtime/." "$build/wasmtime/"
mkdir -p "$build/wasmtime/.cargo"
printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "%s"\n' "$sources/vendor" >"$build/wasmtime/.cargo/config.toml"
(cd "$build/wasmtime" && log wasmtime cargo build --release --locked --offline --target-dir "$build/wasmtime/target")
cp "$build/wasmtime/target/release/libwasmtime_static.a" "$prefix/lib/"
cp -r "$sources/vendor/wasmtime-c-api-impl/include/." "$prefix/include/"
# The header that says what the library was built with must agree with Cargo.toml's features: a mismatch changes the size of values.
sed -E -e 's/^#cmakedefine (WASMTIME_FEATURE_(CRANELIFT|WAT|WASI|PARALLEL_COMPILATION))$/#define \1/' -e 's/^#cmakedefine .*$//' \
    "$prefix/include/wasmtime/conf.h.in" >"$prefix/include/wasmtime/conf.h"

llama=$sources/vendor/llama-cpp-sys-2/llama.cpp
say "3/4 building ggml and libllama$([ $vulkan = ON ] && echo ", with Vulkan (six minutes on two cores)" || echo " (two minutes on two cores)")"
log llama-configure cmake -S "$here/llama" -B "$build/llama" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$prefix" \
    -DLLAMA_SOURCE="$llama" -DGGML_VULKAN=$vulkan -DGGML_METAL=$metal
log llama cmake --build "$build/llama" --target deps --parallel "$jobs"

say "4/4 installing into $prefix"
cp "$llama"/include/*.h "$llama"/ggml/include/*.h "$prefix/include/"
cp -r "$llama/common" "$prefix/include/llama-common"
cp -r "$llama/vendor/nlohmann" "$prefix/include/"
rm -rf "$build"
touch "$prefix/complete"
echo "$prefix"
