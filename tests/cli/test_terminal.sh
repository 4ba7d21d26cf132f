#!/usr/bin/env bash
# The chat as people see it: a real terminal (tmux), keys, Ctrl-C, history, and a session that is left and taken up again.
set -uo pipefail
command -v tmux >/dev/null || { echo "test_terminal: needs tmux"; exit 1; }
work=$(mktemp -d)
# The server stays when a terminal ends, and an ended terminal's screen stays and says how it ended.
printf 'set -g exit-empty off\nset -g remain-on-exit on\n' >"$work/tmux.conf"
terminal() { tmux -S "$work/tmux" -f "$work/tmux.conf" "$@"; }
trap 'terminal kill-server 2>/dev/null; rm -rf "$work"' EXIT
export XDG_STATE_HOME=$work/state XDG_DATA_HOME=$work/data TERM=xterm-256color

screen() { terminal capture-pane -p -J -S -200 -t "$window" | sed 's, *$,,'; }
fail() { echo "test_terminal: $*"; screen; exit 1; }
keys() { terminal send-keys -t "$window" "$@"; }
say() { keys -l -- "$1" && keys Enter; }
# see TEXT [SECONDS]: waits until the screen has it
see() {
    for _ in $(seq $((${2:-30} * 10))); do
        screen | grep -qF -- "$1" && return
        sleep 0.1
    done
    fail "wanted \"$1\""
}
# prompt: waits until the last line is the prompt alone
prompt() {
    for _ in $(seq 300); do
        [ "$(screen | grep -v '^$' | tail -1)" = ">" ] && return
        sleep 0.1
    done
    fail "no prompt"
}
# A fresh line. Again if need be: a Ctrl-C between two reads of the line editor is seen with the next key.
fresh_line() {
    for _ in 1 2 3; do
        keys C-c
        sleep 0.3
        [ "$(screen | grep -v '^$' | tail -1)" = ">" ] && return
    done
    prompt
}
windows=0
# open COMMAND: in a terminal of its own. One that does not come up says nothing of the chat: it is opened again, and that is said.
open() {
    for _ in 1 2 3; do
        windows=$((windows + 1))
        window=window$windows
        terminal new-session -d -s "$window" -x 110 -y 50 "touch $work/$window; $1; echo exit code \$?; sleep 1000"
        for _ in $(seq 100); do
            [ -e "$work/$window" ] && terminal has-session -t "$window" 2>/dev/null && return
            sleep 0.05
        done
        echo "test_terminal: $window did not come up:"
        screen
    done
    fail "no terminal opens"
}
start() {
    open "$SAMEPAGE chat -t 1 --temp 0 $*"
    see "/help lists the commands"
    prompt
}

# Without a session.
start
say "The red key is in the attic."
see "OK, the red key is in the attic."
prompt
say "/help"
see "Ctrl-C stops an answer"
see "samepage chat --session NAME keeps a conversation"
say "/undo"
see "/undo needs a session"
say "/nothing of this"
see "/nothing: no such command; /help lists them"
say "/stats"
see "of guest memory"
say "/regenerate"
prompt
[ "$(screen | grep -c '^OK, the red key is in the attic.')" = 2 ] || fail "/regenerate gave no second answer"
keys Up Up Up Up Up Up Enter # through the history to the first line
see "> The red key is in the attic."
prompt
fresh_line
keys -l "abc"
fresh_line
say "/exit"
see "exit code 0"

# History is there the next time.
start
keys Up Up
see "> The red key is in the attic."
fresh_line
keys C-d
see "exit code 0"

# Ctrl-C ends an answer, not the chat; what was said of it is kept.
start --session long --ignore-eos
see "session long, new"
say "Tell me all."
sleep 1.5
keys C-c
see "[interrupted]"
prompt
say "/log"
see "*     2      1"
say "/exit"
see "exit code 0"
start --session long
see "session long, continued"
see "> Tell me all."
say "/exit"
see "exit code 0"

# Begin, leave, take up again: the last lines are there; undo, log, goto, fork.
start --session s
say "My name is Ada."
see "Nice to meet you, Ada."
prompt
say "The code is 4711."
prompt
keys C-d
see "exit code 0"
start --session s
see "session s, continued"
see "> My name is Ada."
see "> The code is 4711."
say "What is my name?"
see "Your name is Ada."
prompt
say "/undo 2"
see "[commit 2, "
say "What is the code?"
prompt
say "/log"
see "*     5      2"
say "/goto 4"
see "[commit 4, "
say "What is the code?"
see "4711."
prompt
say "/undo 99"
see "steps can be undone from here"
say "/name here"
say "/log 1"
see "[here]"
say "/fork other"
see "[forked: samepage chat --session other]"
say "/exit"
see "exit code 0"
start --session other
see "session other, continued"
see "> What is the code?"
say "What is my name?"
see "Your name is Ada."
say "/exit"
see "exit code 0"

# Killed in the middle of an answer: the turns before it are there.
start --session s --ignore-eos
say "Tell me all."
sleep 1
pkill -KILL -f "samepage chat -t 1 --temp 0 --session s --ignore-eos" -P "$(terminal display -p -t "$window" '#{pane_pid}')" || fail "nobody to kill"
see "exit code 137"
start --session s
see "> What is the code?"
screen | grep -qF "> Tell me all." && fail "a turn that was never finished is there"
say "/exit"
see "exit code 0"

# A passphrase is asked for, and not shown.
open "$SAMEPAGE sessions export -e s $work/s.out"
see "Passphrase:"
say "secret"
see "Once more:"
say "secret"
see "exit code 0"
screen | grep -q secret && fail "the passphrase was shown"
open "$SAMEPAGE sessions import $work/s.out in"
see "Passphrase:"
keys C-c
see "exit code 1"
open "$SAMEPAGE sessions import $work/s.out in; $SAMEPAGE sessions rm in"
see "Passphrase:"
say "secret"
see "Remove session in for good? [y/N]"
say "n"
see "nothing was removed"
see "exit code 1"
# A device that takes its time says so, until it is there, or is not.
echo '#include <unistd.h>
__attribute__((constructor)) static void slow(void) { sleep(3); }' | "${CC:-cc}" -shared -fPIC -x c -o "$work/libcuda.so.1" - || fail "needs a C compiler"
open "LD_LIBRARY_PATH=$work $SAMEPAGE run --device cuda:0 $BUILD_DIR/guest/counter.wasm"
see "opening cuda:0 (the first time its driver compiles the kernels): 1 s"
see "exit code 1"
see 'no device "cuda:0"'
screen | grep -qF "opening cuda:0" && fail "the line is there still"
echo "test_terminal: passed"
