#!/usr/bin/env bash
# What people get wrong, and what they are told: the message names what was wrong and what to do, the exit code tells a wrong line (2) from a failure (1).
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
pocket=$SOURCE_DIR/models/pocket/pocket-q8_0.gguf
n=0

# wrong CODE MESSAGE COMMAND [ARGUMENT...]: samepage must fail so, with one line on standard error and nothing on standard output
wrong() {
    local code=$1 words=$2 got=0
    shift 2
    "$SAMEPAGE" "$@" >out.txt 2>err.txt </dev/null || got=$?
    n=$((n + 1))
    if [ "$got" != "$code" ] || ! grep -qF -- "$words" err.txt || [ "$(wc -l <err.txt)" != 1 ] || [ -s out.txt ]; then
        echo "samepage $*: exit code $got, wanted $code with \"$words\"; it said:"
        cat err.txt out.txt
        exit 1
    fi
}

echo "some words" >text.txt
mkdir folder
head -c 3000000 "$pocket" >short.gguf
head -c 3000 "$pocket" >shorter.gguf
LC_ALL=C sed 's/llama/xxxxx/g' "$pocket" >unknown.gguf
: >empty
printf '\0asm\1\0\0\0\2\17\1\3env\6memory\2\0\1' >imports-memory.wasm
printf '\0asm\1\0\0\0\1\4\1\140\0\0\2\14\1\3env\4nope\0\0\3\2\1\0\5\3\1\0\1\7\23\2\6memory\2\0\6_start\0\1\12\4\1\2\0\13' >imports-unknown.wasm
printf '\0asm\1\0\0\0\2\17\1\3env' >cut.wasm

# Models.
wrong 1 "nosuch.gguf: no such file" chat -m nosuch.gguf
wrong 1 "text.txt: not a GGUF file" chat -m text.txt
wrong 1 "empty: " chat -m empty
wrong 1 "folder: not a file that can be read" chat -m folder
wrong 1 "short.gguf: truncated: tensor " chat -m short.gguf
wrong 1 "shorter.gguf: a damaged or truncated GGUF file" chat -m shorter.gguf
wrong 1 'architecture "xxxxx"' chat -m unknown.gguf

# Contexts.
wrong 1 "the prompt has 21 tokens; the context has room for 16" generate -c 16 -p "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
wrong 1 "no space for the cache: " chat -c 10000000
wrong 2 "--ctx-size 99999999: must be 0 to 16777216" chat -c 99999999

# Guests.
wrong 1 "text.txt: not a WebAssembly module" run text.txt
wrong 1 "nosuch.wasm: no such file" run nosuch.wasm
wrong 1 "imports-memory.wasm: the module imports its memory (env.memory)" run imports-memory.wasm
wrong 1 "imports-unknown.wasm: " run imports-unknown.wasm
grep -q "env.nope\|env::nope" err.txt || { echo "the unknown import is not named: $(cat err.txt)"; exit 1; }
wrong 1 "cut.wasm: " run cut.wasm
wrong 2 "which guest?" run

# Devices. One without room is one whose process may have no address space.
wrong 1 'no device "gpu9" here; there is cpu' chat --device gpu9
wrong 1 'no device "vulkan:77" here; there is cpu' generate -p x --device vulkan:77
wrong 1 'no device "" here' proof --device ""
(
    ulimit -v 3000000
    wrong 1 "can't reserve 4128 MiB of address space" chat
) || exit 1

# Options.
wrong 2 "--temp -1: must be 0 or more" chat --temp -1
wrong 2 "--temp warm: must be a number" chat --temp warm
wrong 2 "--temp nan: must be a number" chat --temp nan
wrong 2 "--top-k 1.5: must be a whole number" chat --top-k 1.5
wrong 2 "--top-p 2: must be 0 to 1" chat --top-p 2
wrong 2 "--seed -2: must be a whole number" chat --seed -2
wrong 2 "--batch-size 513: must be 0 to 512" chat -b 513
wrong 2 "--predict -5: must be -1 or more" generate -p x -n -5
wrong 2 "--logit-bias 5: must be a token id" chat --logit-bias 5
wrong 2 "-m needs a value" chat -m
wrong 2 "--bogus: no such option" chat --bogus
wrong 2 "extra: chat takes no operands" chat extra
for command in devices version proof cache; do
    wrong 2 "extra: $command takes no operands" $command extra
done
wrong 2 "--prompt and --file exclude each other" generate -p x -f y
wrong 1 "nosuch: no such file" generate -f nosuch
wrong 2 "name one file" inspect
wrong 1 "neither a WebAssembly module, a program nor a GGUF file" inspect text.txt
wrong 2 "bogus: no such command" bogus
wrong 2 "bogus: no such command" help bogus
wrong 2 "name what to measure" bench
wrong 2 "--contexts 5,4: must be whole numbers, ascending" bench state --contexts 5,4
wrong 2 "--pooling rank: must be none, mean, cls or last" embed --pooling rank
wrong 2 "--prompt and --file exclude each other" embed -p x -f y
wrong 2 "a file, a colon and a number" embed -p x --lora-scaled x
wrong 1 "nosuch.gguf: no such file" embed -p x --lora nosuch.gguf

# Standard streams that are closed, full, or no text. A file that is opened later must not be taken for a closed one.
"$SAMEPAGE" chat <&- >out.txt 2>err.txt
[ $? = 1 ] && grep -q "standard input can't be read: chat takes its messages from there" err.txt && [ ! -s out.txt ] || { echo "stdin closed: $(cat err.txt)"; exit 1; }
"$SAMEPAGE" generate <&- >out.txt 2>err.txt
[ $? = 1 ] && grep -q "standard input: can't be read" err.txt || { echo "generate, stdin closed: $(cat err.txt)"; exit 1; }
"$SAMEPAGE" chat </dev/null >out.txt 2>err.txt
[ $? = 0 ] && [ ! -s out.txt ] && [ ! -s err.txt ] || { echo "an empty chat: $(cat err.txt)"; exit 1; }
for stdout in /dev/full closed; do
    code=0
    if [ $stdout = closed ]; then
        "$SAMEPAGE" devices >&- 2>err.txt || code=$?
    else
        "$SAMEPAGE" chat -n 1 <<<"Hello." >$stdout 2>err.txt || code=$?
    fi
    [ $code = 1 ] && grep -q "standard output can't be written" err.txt || { echo "stdout $stdout: exit code $code, $(cat err.txt)"; exit 1; }
done
printf 'a\377b\nHello.\n' | "$SAMEPAGE" chat -n 1 >out.txt 2>err.txt
[ $? = 1 ] && grep -q "the text is not UTF-8" err.txt && [ "$(wc -l <out.txt)" = 2 ] || { echo "no UTF-8: $(cat err.txt out.txt)"; exit 1; }
# Names in files are anybody's: none reaches the terminal as it is. This module exports its memory a second time, as ESC c: "reset the terminal".
printf '\0asm\1\0\0\0\1\4\1\140\0\0\3\2\1\0\5\3\1\0\1\7\30\3\6memory\2\0\6_start\0\0\2\33c\2\0\12\4\1\2\0\13' >named.wasm
"$SAMEPAGE" inspect named.wasm >out.txt 2>err.txt
[ $? = 0 ] && grep -q "export *memory  *c" out.txt && ! LC_ALL=C grep -q $'\033' out.txt || { echo "inspect: $(cat err.txt) $(cat -v out.txt)"; exit 1; }
echo "test_bad_input: $n wrong command lines are told so"
