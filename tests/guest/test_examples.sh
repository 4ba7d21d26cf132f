#!/usr/bin/env bash
# Every example, on every kind of device that there is.
set -euo pipefail

expect() { # expect WHAT WANTED GOT
    [ "$2" = "$3" ] || { printf '%s: expected\n%s\ngot\n%s\n' "$1" "$2" "$3" && exit 1; }
}

for example in "$SOURCE_DIR"/guest/examples/*.c; do
    lines=$(wc -l <"$example")
    [ "$lines" -lt 100 ] || { echo "$example has $lines lines: an example stays under 100" && exit 1; }
done

devices=$("$SAMEPAGE" devices --json | python3 -c 'import json, sys; print(*[d["name"] for d in json.load(sys.stdin)])')
for device in $devices; do
    run() { "$SAMEPAGE" run --device "$device" "$BUILD_DIR/guest/$1.wasm"; }
    expect "gemm on $device" "16384 elements, 0 wrong" "$(run gemm </dev/null)"
    expect "mlp on $device" "4 ok" "$(run mlp </dev/null | grep -c ', ok$') ok"
    expect "echo on $device" $'one\ntwo words\n' "$(printf 'one\ntwo words\n' | run echo)"$'\n'
    expect "counter on $device" $'5\n2\n2\nsay "add N", "get" or "stop"' "$(printf 'add 5\nadd -3\nget\nwhat\nstop\nget\n' | run counter)"
    echo "$device: gemm mlp echo counter"
done
for kind in cpu discrete; do
    [[ " $devices " == *" $kind "* ]] || { echo "there is no device $kind" && exit 1; }
done
