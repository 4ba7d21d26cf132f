#!/usr/bin/env bash
# LoRA adapters on the command line: they change what is said, and a session goes on with the adapters that it began with alone.
set -euo pipefail
model=$SOURCE_DIR/models/pocket/pocket-q8_0.gguf
work=$(mktemp -d "$BUILD_DIR/adapters.XXXXXX")
trap 'rm -rf "$work"' EXIT
export XDG_DATA_HOME=$work
"$BUILD_DIR/tests/make-adapter" "$model" "$work/a.gguf" 1
"$BUILD_DIR/tests/make-adapter" "$model" "$work/b.gguf" 2

say() {
    "$SAMEPAGE" generate -t 1 --temp 0 -n 12 --ignore-eos --prompt "The red key is" "$@"
}
expect() { # expect STATUS WORDS COMMAND...
    local wanted=$1 words=$2 status=0
    shift 2
    "$@" >"$work/out" 2>&1 || status=$?
    if [ "$status" != "$wanted" ] || ! grep -qF -- "$words" "$work/out"; then
        echo "$*: status $status (expected $wanted, with \"$words\")" && cat "$work/out" && exit 1
    fi
}

plain=$(say)
[ "$(say --lora "$work/a.gguf")" != "$plain" ] || { echo "an adapter changes nothing" && exit 1; }
[ "$(say --lora-scaled "$work/a.gguf:0")" = "$plain" ] || { echo "an adapter with scale 0 changes something" && exit 1; }
[ "$(say --lora "$work/a.gguf")" = "$(say --lora-scaled "$work/a.gguf:1")" ] || { echo "the scale 1 is not as trained" && exit 1; }
expect 0 "" say --lora "$work/a.gguf" --lora-scaled "$work/b.gguf:0.5"

expect 0 "" say --session s --lora "$work/a.gguf"
expect 0 "" say --session s --lora "$work/a.gguf"
for other in "" "--lora $work/b.gguf" "--lora-scaled $work/a.gguf:0.5" "--lora $work/a.gguf --lora $work/b.gguf"; do
    # shellcheck disable=SC2086
    expect 2 "made with --lora $work/a.gguf;" say --session s $other
done
expect 0 "" say --session t
expect 2 "made with none;" say --session t --lora "$work/a.gguf"

expect 1 "no such file" say --lora "$work/c.gguf"
expect 1 "not a LoRA adapter" say --lora "$model"
expect 2 "must be a file, a colon and a number" say --lora-scaled "$work/a.gguf"
expect 2 "must be a file, a colon and a number" say --lora-scaled "$work/a.gguf:much"
expect 0 "" "$SAMEPAGE" embed -t 1 --prompt "a" --lora "$work/a.gguf"
# Weights that are no numbers are said so, and give no vector.
python3 - "$work/a.gguf" "$work/nan.gguf" <<'PYTHON'
import sys
b = bytearray(open(sys.argv[1], "rb").read())
b[-4096:] = b"\xff\xff\xff\x7f" * 1024
open(sys.argv[2], "wb").write(b)
PYTHON
expect 1 "the model gives no number" say --lora "$work/nan.gguf"
expect 1 "text 1: the model gives what are no numbers" "$SAMEPAGE" embed -t 1 --prompt "a" --lora "$work/nan.gguf"
echo "adapters: as they should be"
