#!/usr/bin/env bash
# Builds the pinned dependencies from source, once for a machine: Wasmtime's C API and llama.cpp's libraries.
#
#   build-deps.sh                    build what is missing, then print the prefix
#   build-deps.sh --print-prefix     print the prefix only
#   build-deps.sh --print-sources    print the folder of the sources only
#   build-deps.sh --check-toolchain  fail, and say what to install, where something must be built and the Rust for it is missing
#
# They lie outside of the checkout, in a cache folder whose name is a hash of the pins, the compilers and the processor, so that a second checkout
# costs seconds. Every source is pinned by a hash in wasmtime/Cargo.lock. Once the sources are there, no network is needed. A build that was
# interrupted goes on where it was: a folder counts from the moment that it holds a file named "complete".
#
# SAMEPAGE_CACHE     another place for the cache (default: samepage in $XDG_CACHE_HOME or ~/.cache)
# CMAKE_PREFIX_PATH  if one of its folders has Wasmtime's C API (include/wasmtime.h, lib/libwasmtime.*), that one is used and none is built
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SAMEPAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/samepage}
jobs=$(nproc 2>/dev/null || sysctl -n hw.ncpu)

say() { echo "deps: $*" >&2; }
hash() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-16; }
is_complete() { [ -e "$1/complete" ]; }

# ggml's Vulkan backend needs the C++ headers, the shader compiler and the SPIR-V headers.
vulkan=OFF
if command -v glslc >/dev/null && [ -e /usr/include/vulkan/vulkan.hpp ] && [ -e /usr/include/spirv/unified1/spirv.hpp ]; then
    vulkan=ON
fi
metal=$([ "$(uname)" = Darwin ] && echo ON || echo OFF)

users_wasmtime=
IFS=: read -ra folders <<<"${CMAKE_PREFIX_PATH:-}"
for folder in ${folders[@]+"${folders[@]}"}; do
    [ -e "$folder/include/wasmtime.h" ] && users_wasmtime=$(cd "$folder" && pwd) && break
done

rust_is_new_enough() { cargo --version 2>/dev/null | awk '{ split($2, v, "."); exit !(v[1] > 1 || (v[1] == 1 && v[2] >= 95)) }'; }

check_toolchain() {
    if is_complete "$prefix" || { is_complete "$sources" && { [ -n "$users_wasmtime" ] || is_complete "$wasmtime"; }; }; then
        return
    fi
    rust_is_new_enough && return
    say "Rust 1.95 or newer is needed to fetch the dependencies and to build Wasmtime; found: $(cargo --version 2>/dev/null || echo none)."
    say "  Ubuntu 24.04:  apt-get install rustup && rustup default stable"
    say "  Debian 12:     rustup's own installer, from rustup.rs; then open a new shell"
    return 1
}

logged() { # logged FOLDER NAME COMMAND...: output into a file of the folder, its end on failure
    local log=$1/log-$2.txt what=$2
    shift 2
    if ! "$@" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        say "$what failed; the whole output is in $log"
        exit 1
    fi
}

fetch_sources() {
    is_complete "$sources" && return
    say "fetching the pinned sources (one minute; 400 MB unpacked)"
    rm -rf "$sources"
    mkdir -p "$sources"
    logged "$sources" fetch cargo vendor --locked --manifest-path "$here/wasmtime/Cargo.toml" "$sources/vendor"
    touch "$sources/complete"
}

build_wasmtime() {
    is_complete "$wasmtime" && return
    say "building Wasmtime (three minutes on two cores)"
    local build=$wasmtime/build
    mkdir -p "$build/.cargo" "$wasmtime/lib" "$wasmtime/include"
    cp -R "$here/wasmtime/." "$build/"
    printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "%s"\n' "$sources/vendor" >"$build/.cargo/config.toml"
    (cd "$build" && logged "$wasmtime" build cargo build --release --locked --offline --jobs "$jobs" --target-dir "$build/target")
    cp "$build/target/release/libwasmtime_static.a" "$wasmtime/lib/libwasmtime.a"
    cp -R "$sources/vendor/wasmtime-c-api-impl/include/." "$wasmtime/include/"
    # The header that says what the library was built with must agree with Cargo.toml's features: a mismatch changes the size of values.
    sed -E -e 's/^#cmakedefine (WASMTIME_FEATURE_(CRANELIFT|WAT|WASI|PARALLEL_COMPILATION))$/#define \1/' -e 's/^#cmakedefine .*$//' \
        "$wasmtime/include/wasmtime/conf.h.in" >"$wasmtime/include/wasmtime/conf.h"
    rm -rf "$build"
    touch "$wasmtime/complete"
}

link_users_wasmtime() {
    local library
    library=$(find "$users_wasmtime"/lib/ -name 'libwasmtime.*' | sort | head -n 1)
    [ -n "$library" ] || { say "$users_wasmtime has Wasmtime's headers, but no lib/libwasmtime.*" && exit 1; }
    say "using the Wasmtime in $users_wasmtime"
    mkdir -p "$prefix/lib" "$prefix/include"
    ln -sf "$library" "$prefix/lib/"
    ln -sfn "$users_wasmtime"/include/{wasmtime,wasmtime.h,wasm.h,wasi.h} "$prefix/include/"
}

build_llama() {
    local build=$prefix/build
    local llama=$build/llama.cpp
    say "building ggml and libllama ($([ $vulkan = ON ] && echo "with Vulkan: seven minutes" || echo "without Vulkan: two minutes") on two cores)"
    mkdir -p "$prefix/lib" "$prefix/include/llama-common" "$build"
    # libllama tells samepage a model's graph without reading the weights; for that it must not invent tensors that the file does not have.
    rm -rf "$llama"
    cp -Rp "$sources/vendor/llama-cpp-sys-2/llama.cpp" "$llama"
    logged "$prefix" llama-patch patch -p1 -d "$llama" -i "$here/llama/optional-tensors.patch"
    # Grammars, templates and answers are untrusted: what they may cost is counted (llama-work.h).
    logged "$prefix" llama-patch-work patch -p1 -d "$llama" -i "$here/llama/untrusted-text.patch"
    logged "$prefix" llama-configure cmake -S "$here/llama" -B "$build/out" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$prefix" \
        -DLLAMA_SOURCE="$llama" -DGGML_VULKAN=$vulkan -DGGML_METAL="$metal"
    logged "$prefix" llama-build cmake --build "$build/out" --target deps --parallel "$jobs"
    cp "$llama"/include/*.h "$llama"/src/llama-grammar.h "$llama"/ggml/include/*.h "$prefix/include/"
    cp -R "$llama/common/." "$prefix/include/llama-common/"
    cp -R "$llama/vendor/nlohmann" "$prefix/include/"
    rm -rf "$build"
}

sources=$cache/sources-$(hash <"$here/wasmtime/Cargo.lock")
wasmtime=$cache/wasmtime-$({
    cat "$here"/wasmtime/Cargo.toml "$here"/wasmtime/Cargo.lock "$here"/wasmtime/src/lib.rs
    declare -f build_wasmtime
    uname -sm
} | hash)
prefix=$cache/deps-$({
    cat "$here"/llama/*
    declare -f build_llama
    cc --version 2>/dev/null
    c++ --version 2>/dev/null
    grep -m1 '^flags\|^Features' /proc/cpuinfo 2>/dev/null || sysctl -n machdep.cpu.brand_string
    echo "${wasmtime##*/} vulkan $vulkan metal $metal users $users_wasmtime"
} | hash)

case ${1:-} in
--print-prefix)
    echo "$prefix"
    exit
    ;;
--print-sources)
    echo "$sources"
    exit
    ;;
--check-toolchain)
    check_toolchain
    exit
    ;;
esac

if ! is_complete "$prefix"; then
    check_toolchain
    mkdir -p "$cache"
    if command -v flock >/dev/null; then
        exec 9>"$cache/lock"
        flock -n 9 || { say "another build of the dependencies is running: waiting for it" && flock 9; }
    fi
fi
if ! is_complete "$prefix"; then
    fetch_sources
    mkdir -p "$prefix"
    if [ -n "$users_wasmtime" ]; then
        link_users_wasmtime
    else
        build_wasmtime
        cp -R "$wasmtime/lib" "$wasmtime/include" "$prefix/"
    fi
    build_llama
    touch "$prefix/complete"
    say "done: $prefix"
fi
echo "$prefix"
