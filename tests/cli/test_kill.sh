#!/usr/bin/env bash
# Kills a chat at random moments. SAMEPAGE_KILLS says how often: a few here; the record is make kill. KILL_JOBS of them at once (1), each with a store, and
# a seed, of its own; KILL_SEED repeats a run.
set -euo pipefail
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
kills=${SAMEPAGE_KILLS:-60} jobs=${KILL_JOBS:-1} seed=${KILL_SEED:-$RANDOM}
pids=()
for job in $(seq "$jobs"); do
    mkdir "$store/$job"
    python3 "$SOURCE_DIR/tests/cli/kill_chat.py" "$SAMEPAGE" "$store/$job" $(((kills + job - 1) / jobs)) $((seed + job)) >"$store/$job.txt" 2>&1 &
    pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do
    wait "$pid" || failed=1
done
cat "$store"/*.txt
[ $failed = 0 ] && awk '/ kills in / { kills += $1; split($0, part, "): "); turns += part[2] } END { print kills, "kills in all,", turns, "acknowledged turns, all there" }' "$store"/*.txt
exit $failed
