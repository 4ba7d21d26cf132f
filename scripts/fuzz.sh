#!/usr/bin/env bash
# Runs the fuzzing targets for SECONDS of wall-clock time each, as many at once as there are cores, and prints what they did. What was found worth keeping
# stays in build-fuzz/corpus, so that the next run goes on from there; inputs that made a fault lie in build-fuzz/faults.
#   scripts/fuzz.sh SECONDS [TARGET...]      targets by name: program_bytes ...
#   scripts/fuzz.sh --keep [TARGET...]       adds to fuzz/corpus what covers more than is there, and drops what covers nothing new
set -euo pipefail
cd "$(dirname "$0")/.."
export LLVM_PROFILE_FILE=/dev/null ASAN_SYMBOLIZER_PATH=${ASAN_SYMBOLIZER_PATH:-$(command -v llvm-symbolizer-16 || true)}
export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=${ASAN_OPTIONS:-allocator_may_return_null=1}

[ $# -gt 0 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
first=$1
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    for source in fuzz/fuzz_*.c; do
        name=$(basename "$source" .c)
        targets+=("${name#fuzz_}")
    done
fi

options() {
    [ ! -e "fuzz/fuzz_$1.options" ] || grep -v '^#' "fuzz/fuzz_$1.options"
}

if [ "$first" = --keep ]; then
    for name in "${targets[@]}"; do
        mkdir -p "build-fuzz/corpus/$name" "fuzz/corpus/$name" "build-fuzz/kept/$name"
        # shellcheck disable=SC2046
        "build-fuzz/fuzz/fuzz_$name" -merge=1 $(options "$name") "build-fuzz/kept/$name" "fuzz/corpus/$name" "build-fuzz/corpus/$name" 2>/dev/null
        rm -f "fuzz/corpus/$name"/*
        find "build-fuzz/kept/$name" -type f -size -64k -exec mv -t "fuzz/corpus/$name" {} +
        rm -r "build-fuzz/kept/$name"
        echo "$name: $(find "fuzz/corpus/$name" -type f | wc -l) inputs, $(du -sb "fuzz/corpus/$name" | cut -f1) bytes"
    done
    exit 0
fi

case $first in
    *[!0-9]* | '') echo "fuzz: \"$first\" is no number of seconds" >&2; exit 2 ;;
esac
seconds=$first
logs=build-fuzz/logs
mkdir -p "$logs" build-fuzz/faults

fuzz_one() {
    local name=$1
    mkdir -p "build-fuzz/corpus/$name" "fuzz/corpus/$name"
    local TIMEFORMAT='cpu_seconds: %U %S'
    # shellcheck disable=SC2046
    { time "build-fuzz/fuzz/fuzz_$name" -max_total_time="$seconds" -print_final_stats=1 -rss_limit_mb=4096 -timeout=60 \
        -artifact_prefix="build-fuzz/faults/$name-" $(options "$name") "build-fuzz/corpus/$name" "fuzz/corpus/$name"; } >"$logs/$name.txt" 2>&1 ||
        echo "faults: 1" >>"$logs/$name.txt"
}

for name in "${targets[@]}"; do
    [ -x "build-fuzz/fuzz/fuzz_$name" ] || { echo "fuzz: there is no target $name" >&2; exit 2; }
    while [ "$(jobs -rp | wc -l)" -ge "${FUZZ_JOBS:-$(nproc)}" ]; do
        wait -n
    done
    rm -f "$logs/$name.txt"
    fuzz_one "$name" &
done
wait

value() { # NAME FIELD
    sed -n "s/^\(stat::\)\{0,1\}$2: *//p" "$logs/$1.txt" | tail -1
}
failed=0
printf '%-20s %14s %12s %12s %8s %7s\n' target executions cpu-minutes a-second corpus faults
for name in "${targets[@]}"; do
    count=$(value "$name" number_of_executed_units)
    cpu=$(value "$name" cpu_seconds | awk '{ print $1 + $2 }') # in the program and in the system for it
    faults=$(value "$name" faults)
    awk -v name="$name" -v count="${count:-0}" -v cpu="${cpu:-0}" -v faults="${faults:-0}" -v corpus="$(find "build-fuzz/corpus/$name" -type f | wc -l)" \
        'BEGIN { printf "%-20s %14d %12.1f %12d %8d %7d\n", name, count, cpu / 60, (cpu > 0 ? count / cpu : 0), corpus, faults }'
    if [ "${faults:-0}" != 0 ]; then
        failed=1
        echo "  $(grep -m 1 -E 'ERROR: |runtime error|does not hold|SUMMARY' "$logs/$name.txt" || echo "see $logs/$name.txt")"
        echo "  input: $(grep -o 'build-fuzz/faults/[^ ]*' "$logs/$name.txt" | tail -1); again: build-fuzz/fuzz/fuzz_$name INPUT"
    fi
done
exit $failed
