#!/usr/bin/env bash
# What is installed is whole and can be moved: an embedder builds against it by pkg-config and by CMake's find_package, and runs. The library shows the
# functions of samepage.h and nothing else.
set -euo pipefail
here=$SOURCE_DIR/tests/install
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$CMAKE" --install "$BUILD_DIR" --prefix "$work/first" >/dev/null
mv "$work/first" "$work/moved"
prefix=$work/moved
lib=$(dirname "$(find "$prefix" -name libsamepage.so)")

"$prefix/bin/samepage" version

export PKG_CONFIG_PATH=$lib/pkgconfig
read -ra flags < <(pkg-config --cflags --libs samepage)
"$CC" -std=c17 -Wall -Wextra -Werror -o "$work/by-pkg-config" "$here/embed.c" "${flags[@]}"
LD_LIBRARY_PATH=$lib "$work/by-pkg-config" "$BUILD_DIR/guest"

"$CMAKE" -S "$here" -B "$work/by-cmake" -DCMAKE_PREFIX_PATH="$prefix" >/dev/null
"$CMAKE" --build "$work/by-cmake" >/dev/null
"$work/by-cmake/embed" "$BUILD_DIR/guest"

shown=$(nm -D --defined-only "$lib/libsamepage.so" | awk '$2 == "T" { print $3 }' | sort)
declared=$(grep -o '^SP_API [^;(]*(' "$prefix/include/samepage.h" | sed 's/($//; s/.*[ *]//' | sort)
diff <(echo "$declared") <(echo "$shown") || { echo "libsamepage.so shows other functions (right) than samepage.h declares (left)"; exit 1; }
