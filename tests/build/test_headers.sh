#!/usr/bin/env bash
# Every header compiles alone: the public one as C++ too, those for guests for WebAssembly.
set -euo pipefail
cd "$SOURCE_DIR"

failed=0
check() { # check HEADER COMPILER...
    local header=$1
    shift
    "$@" -Wall -Wextra -Werror -fsyntax-only -include "$header" /dev/null || { echo "$header does not compile alone: $*"; failed=1; }
}

mapfile -t headers < <(find include src -name '*.h')
mapfile -t guest_headers < <(find guest -name '*.h')
[[ ${#headers[@]} -gt 0 && ${#guest_headers[@]} -gt 0 ]] || { echo "no headers found in $PWD"; exit 1; }
for header in "${headers[@]}"; do
    check "$header" "$CC" -std=gnu17 -D_GNU_SOURCE -Iinclude -Isrc -Iguest/include -isystem "$DEPS/include" -x c
done
while read -r header; do
    check "$header" "$CXX" -std=c++17 -D_GNU_SOURCE -Iinclude -Isrc -Iguest/include -isystem "$DEPS/include" -isystem "$DEPS/include/llama-common" -x c++
done < <(find src -name '*.hpp')
check include/samepage.h "$CC" -std=c17 -pedantic -x c
check include/samepage.h "$CXX" -std=c++17 -pedantic -x c++
for header in "${guest_headers[@]}"; do
    check "$header" "$WASM_CC" --target=wasm32-wasi -std=gnu17 -Iguest/include -x c
done
exit $failed
