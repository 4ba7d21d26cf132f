#!/usr/bin/env bash
# Conversations that are kept, through pipes: each chat below is a process of its own. What is shown, what is refused, and what is on the disk.
set -uo pipefail
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
pocket=$SOURCE_DIR/models/pocket/pocket-q8_0.gguf
out=$store/out.txt err=$store/err.txt

fail() { echo "test_sessions: $*"; tail -n +1 "$out" "$err" 2>/dev/null; exit 1; }
chat() { local name=$1; shift; "$SAMEPAGE" chat -t 1 --store "$store" --session "$name" "$@" >"$out" 2>"$err"; }
sessions() { local command=$1; shift; "$SAMEPAGE" sessions "$command" --store "$store" "$@" >"$out" 2>"$err"; }
expect() { grep -qF -- "$1" "$2" || fail "wanted \"$1\""; }
# expect_code WANTED MESSAGE COMMAND...: this exit code, and these words on standard error
expect_code() {
    local wanted=$1 words=$2 code=0
    shift 2
    "$@" || code=$?
    [ "$code" = "$wanted" ] || fail "$*: exit code $code, not $wanted"
    [ -z "$words" ] || expect "$words" "$err"
}
field() { python3 -c 'import json, sys; print(eval("d" + sys.argv[1], {"d": json.load(sys.stdin)}))' "$1" <"$out"; }
own_bytes() { sessions show --json "$1" && field '["own_bytes"]'; }

# Begun, and continued by another process: what was said is known, and was not read again.
chat a --temp 0 <<<"My name is Ada." || fail "begin"
[ "$(stat -c %a "$store/a.session")" = 600 ] || fail "a session is readable by others"
chat a <<<"What is my name?" || fail "continue"
expect "Your name is Ada." "$out"
printf '/stats\nWhat is my name?\n/stats\n' >"$store/in.txt"
chat a <"$store/in.txt" || fail "stats"
there=$(grep -o '([0-9]* were there)' "$out" | tail -1 | tr -dc 0-9)
[ "$there" -gt 40 ] || fail "continuing found $there tokens in the cache: the prompt was read again"

# The settings that were given stay (--temp 0), and can be changed.
for _ in 1 2 3; do
    chat a <<<"/undo" || fail "undo"
    chat a <<<"What is my name?" || fail "ask again"
    expect "Your name is Ada." "$out"
done
chat a -n 1 <<<"What is my name?" || fail "-n 1"
[ "$(wc -c <"$out")" -lt 8 ] || fail "-n 1 on continuing changed nothing"
chat a <<<"What is my name?"
[ "$(wc -c <"$out")" -lt 8 ] || fail "-n 1 did not stay"
expect_code 2 "-c 512 can't change it" chat a -c 512 </dev/null
expect_code 2 "-b 7 can't change it" chat a -b 7 </dev/null
expect_code 2 "has a cache of f16 and f16" chat a -ctk q8_0 </dev/null
chat quantised --temp 0 -ctk q8_0 -ctv q8_0 <<<"My name is Ada." || fail "a quantised cache"
chat quantised <<<"What is my name?" || fail "its type did not stay"
expect "Your name is Ada." "$out"
expect_code 2 "--system-prompt is for new ones" chat a --system-prompt "Be brief." </dev/null

# Undo, log, goto, names.
chat log --temp 0 <<<$'The red key is in the attic.\n/name told\nWhere is the red key?\n/log' || fail "log"
expect "The red key is in the attic. -> " "$out"
expect "[told]" "$out"
expect_code 1 "" chat log <<<$'/undo 9\n/goto nowhere\n/goto 99\n/name 7\n/undo x\n/bogus\n/fork a/b\n/fork a'
for words in "only 2 steps can be undone" "there is no commit nowhere" "there is no commit 99" "a name that is no number" "x: must be a whole number" \
    "/bogus: no such command" '"a/b" can'"'"'t name a session' "there is a session a already"; do
    expect "$words" "$err"
done
chat log <<<$'/goto told\n/log' || fail "goto"
grep -q '^\* *2 ' "$out" || fail "goto did not go to commit 2"
expect_code 1 "needs a session" bash -c '"$0" chat <<<"/undo" >"$1" 2>"$2"' "$SAMEPAGE" "$out" "$err"

# Ten turns, back to turn four, another question: both branches live, and the store grew by the new turn alone.
questions=("My name is Ada." "The code is 4711." "Omar has seven shells." "The red key is in the attic." "What is my name?" "What is the code?"
    "How many shells does Omar have?" "Where is the red key?" "What is my name?" "What is the code?")
printf '%s\n' "${questions[@]}" >"$store/in.txt"
chat ten --temp 0 <"$store/in.txt" || fail "ten turns"
[ "$(wc -l <"$out")" = 10 ] || fail "ten answers"
before=$(own_bytes ten)
chat ten <<<$'/goto 5\nWhere is the red key?' || fail "branch"
expect "The red key is in the attic." "$out"
after=$(own_bytes ten)
sessions show --json ten
turn=$(field '["commit_list"][-1]["file_bytes"]')
[ "$(field '["commit_list"][-1]["parent"]')" = 5 ] || fail "the branch does not hang on commit 5"
one=$(field '["commit_list"][5]["file_bytes"]')
echo "ten turns: $before bytes; the other branch's turn added $((after - before)); its commit $turn, the fifth turn's $one"
# The head's record and the turn: no more than a page or two beyond the commit.
[ $((after - before)) -le $((turn + 16384)) ] || fail "the store grew by more than the new turn"
chat ten <<<$'/goto 11\nWhat is my name?' || fail "the old branch"
expect "Your name is Ada." "$out"
sessions tree ten || fail "tree of commits"
grep -q '├─' "$out" || fail "the tree of commits has no branches"

# Forks share what is on the disk.
sessions fork ten@5 branch || fail "fork"
[ "$(own_bytes branch)" -le 32768 ] || fail "a fork of $(own_bytes branch) bytes shares nothing"
chat branch <<<"Where is the red key?" || fail "a fork answers"
expect "The red key is in the attic." "$out"
sessions tree || fail "tree"
expect "└─ branch (from commit 5)" "$out"
expect_code 1 "there is a session branch already" sessions fork ten branch
expect_code 1 "there is no commit 99" sessions fork ten@99 other
expect_code 1 "there is no session nobody" sessions fork nobody other
expect_code 2 "can't name a session" sessions fork ten ../other
sessions rm ten </dev/null || fail "rm"
chat branch <<<"What is my name?" || fail "a fork outlives whom it branched from"
expect "Your name is Ada." "$out"
expect_code 1 "there is no session ten" sessions rm ten </dev/null

# Two processes on one session: the second is told who has it.
mkfifo "$store/fifo"
"$SAMEPAGE" chat --store "$store" --session a <"$store/fifo" >/dev/null 2>&1 &
holder=$!
exec 3>"$store/fifo"
for _ in $(seq 100); do # until it holds the lock
    grep -q "FLOCK.* $holder " /proc/locks && break
    sleep 0.1
done
expect_code 1 "" chat a </dev/null
expect "session a is in use" "$err"
expect "$holder" "$err"
expect_code 1 "" sessions compact a
sessions list || fail "list while another process holds a session"
exec 3>&-
wait "$holder"
chat a </dev/null || fail "the lock stays when its holder is gone"

# On another device, and back.
chat device --temp 0 <<<"My name is Ada." || fail "cpu"
chat device --device discrete <<<$'What is my name?\nThe code is 4711.' || fail "discrete"
expect "Your name is Ada." "$out"
chat device <<<$'What is the code?\n/undo 2\nWhat is the code?' || fail "cpu again"
[ "$(sed -n 1p "$out")" = "The code is 4711." ] || fail "what discrete wrote is not there"
[ "$(sed -n 2p "$out")" != "The code is 4711." ] || fail "what was undone is known"

# One message from a script.
generate() { "$SAMEPAGE" generate -t 1 --store "$store" --session "$@" >"$out" 2>"$err"; }
generate one --temp 0 -p "My name is Ada." || fail "generate begins a session"
generate one -p "What is my name?" --json || fail "generate goes on"
[ "$(field '["text"]')" = "Your name is Ada." ] || fail "generate knows nothing"
chat one <<<$'/log\n/undo\nWhat is my name?' || fail "chat goes on where generate was"
expect "What is my name? -> Your name is Ada." "$out"

# A model that moved: named by what is in it, found again with -m.
cp "$pocket" "$store/m.gguf"
chat moved -m "$store/m.gguf" <<<"My name is Ada." || fail "another model's path"
chat moved <<<"What is my name?" || fail "the path was remembered"
mv "$store/m.gguf" "$store/n.gguf"
expect_code 1 "say where it is now with -m" chat moved </dev/null
chat moved -m "$store/n.gguf" <<<"What is my name?" || fail "-m"
chat moved </dev/null || fail "the new path was not remembered"
other=$(find "$SOURCE_DIR/models/pocket" -name '*.gguf' ! -name pocket-q8_0.gguf | head -1)
sessions show --json moved
expect_code 2 "session moved belongs to another model (expected fingerprint $(field '["fingerprint"]'), $other has " chat moved -m "$other" </dev/null

# Out and in again.
sessions export log "$store/plain.out" || fail "export"
sessions export log@told "$store/z.out" -z || fail "export --compress"
SAMEPAGE_PASSPHRASE=secret sessions export -z --encrypt log "$store/e.out" || fail "export --encrypt"
for file in plain z e; do
    grep -qa "red key" "$store/$file.out" && found=yes || found=no
    [ "$found" = "$([ $file = plain ] && echo yes || echo no)" ] || fail "$file.out: the text is $found"
done
sessions import "$store/plain.out" || fail "import"
[ "$(cat "$out")" = plain ] || fail "import does not say the name"
sessions import "$store/z.out" unzipped || fail "import of a compressed one"
expect_code 1 "no passphrase: set SAMEPAGE_PASSPHRASE" setsid "$SAMEPAGE" sessions import --store "$store" "$store/e.out" opened 2>"$err" </dev/null
echo wrong >"$store/wrong.txt"
echo secret >"$store/right.txt"
expect_code 2 "passphrase" sessions import "$store/e.out" opened --passphrase-file "$store/wrong.txt"
sessions import "$store/e.out" opened --passphrase-file "$store/right.txt" || fail "import of an encrypted one"
expect_code 1 "there is a session opened already" sessions import "$store/plain.out" opened
expect_code 1 "No such file" sessions import "$store/nothing.out"
for name in plain unzipped opened; do
    chat $name --temp 0 <<<"Where is the red key?" || fail "$name does not go on"
    expect "The red key is in the attic." "$out"
done
expect_code 1 "" sessions import "$pocket" model

# Compaction keeps the head and what has a name.
expect_code 0 "" sessions compact plain
expect "2 of " "$out"
chat plain <<<$'/goto told\nWhere is the red key?' || fail "a named commit is gone after compaction"
expect "The red key is in the attic." "$out"

# Everything is whole, and a damaged one is told.
sessions verify || fail "verify"
cp "$store/unzipped.session" "$store/bad.session"
for page in $(seq 2 20); do
    printf 'x' | dd of="$store/bad.session" bs=1 seek=$((page * 4096 + 100)) conv=notrunc status=none
done
expect_code 1 "session bad:" sessions verify bad
echo hello >"$store/text.session"
expect_code 1 "session text:" chat text </dev/null
# Another guest's, another model's, a newer format's: what was expected and what was found.
"$BUILD_DIR/tests/session-file" write "$store/other.session" || fail "session-file"
expect_code 2 "session other was made by another version of the language-model guest (expected module 0102030000000000, this samepage has" chat other </dev/null
expect_code 2 "continue it with the samepage that made it" chat other </dev/null
"$BUILD_DIR/tests/session-file" version "$store/other.session" 7 || fail "session-file version"
newer="version 7 of the format; this build reads version 1: a newer samepage wrote it"
expect_code 1 "session other: $store/other.session: $newer" chat other </dev/null
for command in show verify compact; do
    expect_code 1 "$newer" sessions $command other
done
expect_code 1 "$newer" sessions import "$store/other.session" newer
expect_code 1 "$newer" sessions fork other newer
sessions list || fail "list with a damaged one"
expect "$newer" "$out"
sessions tree || fail "tree with a damaged one"
expect "other, can't be read" "$out"
sessions rm other </dev/null || fail "a newer one can't be removed"
(ulimit -n 10 && sessions list) || fail "list where few files may be open"
! grep -q "Too many open files" "$out" || fail "list keeps all sessions open"
for label in 12 head $'two\nlines' $'\e[31mred' $'\xff'; do
    expect_code 2 "one line of UTF-8" sessions name log "$label"
done
sessions list --json || fail "list --json"
[ "$(field '["sessions"].__len__()')" -ge 9 ] || fail "list --json has $(field '["sessions"].__len__()') sessions"
expect_code 2 "can't name a session" chat -x </dev/null
expect_code 2 "sessions has no such command" bash -c '"$0" sessions bogus 2>"$1"' "$SAMEPAGE" "$err"
expect_code 2 "--store needs --session" bash -c '"$0" chat --store x 2>"$1"' "$SAMEPAGE" "$err"
for command in list show tree fork name rm export import compact verify; do
    sessions $command --help || fail "$command --help"
    expect "usage: samepage sessions $command" "$out"
done
echo "test_sessions: passed"
