#!/usr/bin/env bash
# The main job on the embedded model, short: what can compute here, that guest and device have one set of pages, a conversation, and what to try next.
#
#   demo.sh SAMEPAGE
set -euo pipefail
samepage=$1

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || title() { printf '\n%s\n' "$*"; }

title "What can compute here (samepage devices)"
"$samepage" devices

title "One set of pages (samepage proof)"
"$samepage" proof

title "A conversation: model graph, cache, sampler and history live in a WebAssembly guest (samepage chat)"
questions=("The red key is in the attic." "Where is the red key?" "My name is Ada." "What is my name?")
# With no terminal, chat takes a message from each line and prints an answer on each line.
mapfile -t answers < <(printf '%s\n' "${questions[@]}" | "$samepage" chat --temp 0)
for i in "${!questions[@]}"; do
    printf '  you     %s\n  pocket  %s\n' "${questions[i]}" "${answers[i]:?chat gave no answer}"
done

title "A conversation is a file: another process goes on with it, and takes it back (samepage chat --session)"
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
# said PROCESS MESSAGE...: a chat of its own with these messages; commands of the chat have no answer
said() {
    local process=$1 answer
    shift
    mapfile -t answers < <(printf '%s\n' "$@" | "$samepage" chat --store "$store" --session demo --temp 0)
    answer=0
    for message in "$@"; do
        printf '  %-9s %s\n' "$process" "$message"
        case $message in
        /*) ;;
        *) printf '  pocket    %s\n' "${answers[answer++]:?chat gave no answer}" ;;
        esac
    done
}
said "first" "My name is Ada."
said "second" "What is my name?" "The red key is in the attic."
said "third" "/undo" "Where is the red key?" "What is my name?"
"$samepage" sessions --store "$store"

title "Try next"
cat <<TEXT
  $samepage chat                        talk to it yourself; tell it facts about people, things and places, and ask for them
  $samepage chat --session NAME         a conversation that stays: leave, come back, /undo, /log, /goto, /fork
  $samepage chat -m MODEL.gguf          talk to a model of yours (nearly every text model that llama.cpp knows)
  $samepage generate -p "Once upon a time" --json
  $samepage run build/guest/gemm.wasm   the product of two matrices, on the guest's own pages
  $samepage help
TEXT
