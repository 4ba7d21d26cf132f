#!/usr/bin/env bash
# The disk is full in the middle of a chat: what can't be saved is told, the chat goes on, the commits before stand; with room again, so does saving.
# Twice: a file that may not grow (which needs no rights), and a small file system that is full (where a user may mount one for himself).
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "test_full_disk: $*"; tail -n +1 "$work"/*.txt; exit 1; }
turns() { "$SAMEPAGE" sessions show --store "$1" s --json | python3 -c 'import json, sys; print(sum(c["kind"] == "turn" for c in json.load(sys.stdin)["commit_list"]))'; }

# after STORE WANTED: the chat in out.txt, err.txt and code.txt answered all and saved WANTED turns
after() {
    [ "$(wc -l <"$work/out.txt")" = 5 ] || fail "the chat did not answer everything"
    [ "$(cat "$work/code.txt")" = 1 ] || fail "exit code $(cat "$work/code.txt") although turns were not saved"
    grep -q "samepage: this is not saved: .*$2" "$work/err.txt" || fail "nobody said that turns are not saved"
    "$SAMEPAGE" sessions verify --store "$1" s || fail "the session is damaged"
    local n
    n=$(turns "$1")
    [ "$n" -ge 1 ] && [ "$n" -lt 6 ] || fail "$n turns were saved"
    # What was said and saved is known, and there is room again.
    "$SAMEPAGE" chat -t 1 --store "$1" --session s <<<"What is my name?" >"$work/out.txt" 2>"$work/err.txt" || fail "the session does not go on"
    grep -q "Your name is Ada." "$work/out.txt" || fail "the last commit is not whole"
    [ "$(turns "$1")" = $((n + 1)) ] || fail "the next turn was not saved"
    echo "full disk ($2): $n turns were saved before it, the one after it too"
}

# Not the embedded model: it is in a file of the system's memory, which a limit on files counts too.
model=$SOURCE_DIR/models/pocket/pocket-q8_0.gguf
questions=("The red key is in the attic." "Where is the red key?" "What is my name?" "Omar has seven shells." "How many shells does Omar have?")

"$SAMEPAGE" chat -t 1 --store "$work/limit" --session s --temp 0 -m "$model" <<<"My name is Ada." >"$work/out.txt" 2>"$work/err.txt" || fail "begin"
size=$(stat -c %s "$work/limit/s.session")
(
    ulimit -f $(((size + 300000) / 1024))
    printf '%s\n' "${questions[@]}" | "$SAMEPAGE" chat -t 1 --store "$work/limit" --session s >"$work/out.txt" 2>"$work/err.txt"
    echo $? >"$work/code.txt"
)
after "$work/limit" "File too large"

if unshare -rm true 2>/dev/null; then
    # shellcheck disable=SC2016
    export -f fail turns after
    export work model
    unshare -rm bash -c '
        mkdir "$work/small" && mount -t tmpfs -o size=4m tmpfs "$work/small" || exit 1
        "$SAMEPAGE" chat -t 1 --store "$work/small" --session s --temp 0 -m "$model" <<<"My name is Ada." >"$work/out.txt" 2>"$work/err.txt" || fail begin
        dd if=/dev/zero of="$work/small/filler" bs=4k count=10000 2>/dev/null
        truncate -s -300K "$work/small/filler"
        printf "%s\n" "$@" | "$SAMEPAGE" chat -t 1 --store "$work/small" --session s >"$work/out.txt" 2>"$work/err.txt"
        echo $? >"$work/code.txt"
        rm "$work/small/filler"
        after "$work/small" "No space left on device"
    ' bash "${questions[@]}" || fail "on a small file system"
else
    echo "test_full_disk: no small file system: this user may not mount one (unshare -rm)"
fi
