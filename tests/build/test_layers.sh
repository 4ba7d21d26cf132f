#!/usr/bin/env bash
# A layer includes headers of itself and of the layers below it, in the order of src/CMakeLists.txt; the command line is on top of all.
set -euo pipefail
cd "$SOURCE_DIR/src"

mapfile -t layers < <(sed -n 's/^sp_layer(\([a-z]*\).*/\1/p' CMakeLists.txt)
[ "${layers[0]}" = base ] || { echo "no layers found in src/CMakeLists.txt"; exit 1; }

failed=0
above=("${layers[@]}" cli)
for layer in "${layers[@]}"; do
    above=("${above[@]:1}")
    for other in "${above[@]}"; do
        if grep -n "^#include \"$other/" "$layer"/*.[ch]* "$layer"/*/*.[ch]* 2>/dev/null; then
            echo "$layer is below $other: it may not include its headers"
            failed=1
        fi
    done
done
exit $failed
