#!/usr/bin/env bash
# What is kept to start faster: converted weights are, within their limit, told and cleared; what can't be kept is told in a line, and nothing fails.
set -euo pipefail
work=$(mktemp -d "$BUILD_DIR/cache.XXXXXX")
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache
"$BUILD_DIR/tests/make-models" tiny "$work" "$SOURCE_DIR/models/pocket/pocket-q8_0.gguf" >/dev/null
model=$work/llama-q4_0.gguf

say() {
    "$SAMEPAGE" generate -t 1 --temp 0 -n 6 --ignore-eos --prompt "The red key is" -m "$model" "$@" 2>"$work/said"
}
kept() { # kept KIND: how many files
    "$SAMEPAGE" cache --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]]["files"])' "$1"
}
is() { # is WANTED GOT WHAT
    [ "$1" = "$2" ] || { echo "$3: expected $1, got $2" && cat "$work/said" && exit 1; }
}

first=$(say --keep-weights 0)
is 0 "$(kept weights)" "weights kept with --keep-weights 0"
is 1 "$(kept programs)" "programs"
is "$first" "$(say)" "text"
if [ "$(kept weights)" = 0 ]; then
    echo "skipped: ggml has no faster layout on this machine"
    exit 0
fi
is "" "$(cat "$work/said")" "standard error"
is "$first" "$(say)" "text of the next start"
is "$first" "$("$SAMEPAGE" cache --clear >/dev/null && say --keep-weights 100K)" "text with a small limit"
is 0 "$(kept weights)" "weights kept beyond the limit"
grep -q "not kept for the next start: .* limit" "$work/said" || { echo "the limit is not told" && cat "$work/said" && exit 1; }
is "$first" "$(ulimit -f 200 && say)" "text with a full disk"
is 0 "$(kept weights)" "weights kept on a full disk"
grep -q "not kept for the next start" "$work/said" || { echo "the full disk is not told" && cat "$work/said" && exit 1; }
say >/dev/null
is 1 "$(kept weights)" "weights"
"$SAMEPAGE" cache --clear | grep -q cleared
is 000 "$(kept weights)$(kept programs)$(kept modules)" "what is left"
chmod 500 "$XDG_CACHE_HOME/samepage/programs"
if [ "$(id -u)" != 0 ]; then
    is "$first" "$(say)" "text with a folder that can't be written"
fi
chmod 700 "$XDG_CACHE_HOME/samepage/programs"
touch "$XDG_CACHE_HOME/samepage/programs/x.weights.tmp"
is 1 "$(kept unfinished)" "unfinished files"
echo "cache: as it should be"
