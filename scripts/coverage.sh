#!/usr/bin/env bash
# Runs the unit tests of build-coverage, the fault runs at every position among them, and prints which lines and branches of the code that reads untrusted
# bytes they took; build-coverage/html shows them, build-coverage/untaken.txt lists the branches that none took.
#   scripts/coverage.sh [TESTS]      a regular expression of ctest (default: all unit tests; then it fails below COVERAGE_LEAST, 99, percent of branches)
set -euo pipefail
cd "$(dirname "$0")/.."

out=build-coverage
rm -rf $out/profiles
mkdir -p $out/profiles
export FAULTS_EVERY=${FAULTS_EVERY:-1} # branches that only failing calls take
LLVM_PROFILE_FILE=$PWD/$out/profiles/%m-%p.profraw ctest --test-dir $out --label-regex unit ${1:+--tests-regex "$1"} --output-on-failure --no-tests=error >$out/tests.txt 2>&1 ||
    { tail -40 $out/tests.txt; exit 1; }
if [ -z "${1:-}" ]; then # what maps files is other code where pages are larger
    LLVM_PROFILE_FILE=$PWD/$out/profiles/%m-%p.profraw ctest --test-dir $out --tests-regex '^test_page_sizes$' --no-tests=error >>$out/tests.txt 2>&1 ||
        { tail -40 $out/tests.txt; exit 1; }
fi
llvm-profdata-16 merge -sparse $out/profiles/*.profraw -o $out/all.profdata

# What guests, files and clients hand in: programs, sessions, modules and arguments of imports.
mapfile -t sources < <(find src/program src/snapshot src/abi -name '*.c' | sort)
mapfile -t binaries < <(find $out/tests $out/fuzz -maxdepth 2 -type f -perm -u+x '(' -name 'test_*' -o -name 'fuzz_*' ')')
objects=("${binaries[0]}")
for binary in "${binaries[@]:1}"; do
    objects+=(-object "$binary")
done

llvm-cov-16 report -show-branch-summary -instr-profile=$out/all.profdata "${objects[@]}" "${sources[@]}" 2>/dev/null >$out/report.txt
llvm-cov-16 show -format=html -show-branches=count -output-dir=$out/html -instr-profile=$out/all.profdata "${objects[@]}" "${sources[@]}" 2>/dev/null

llvm-cov-16 export -format=lcov -instr-profile=$out/all.profdata "${objects[@]}" "${sources[@]}" 2>/dev/null |
    awk -F'[:,]' '/^SF:/ { file = substr($0, 4); n = 0; while ((getline text < file) > 0) line[++n] = text; close(file); sub(/.*\/src\//, "src/", file) }
        /^BRDA:/ && ($5 == 0 || $5 == "-") { at = file ":" $2; if (at != last) { sub(/^ */, "", line[$2]); printf "%s: %s\n", at, line[$2] } last = at }' \
        >$out/untaken.txt

# Columns: name, regions (3), functions (3), lines (3), branches (3).
awk 'BEGIN { printf "%-36s %7s %8s %9s %8s\n", "file", "lines", "covered", "branches", "covered" }
     NF == 13 && $1 != "Filename" { name = $1; total = name == "TOTAL"
         printf "%-36s %7d %8s %9d %8s\n", total ? "all" : name, $8, $10, $11, $13 }' $out/report.txt
echo "each branch: $out/html/index.html; those that no test took: $out/untaken.txt"
[ -n "${1:-}" ] || awk -v least="${COVERAGE_LEAST:-99}" '$1 == "TOTAL" { exit !($13 + 0 >= least) }' $out/report.txt ||
    { echo "coverage: fewer than ${COVERAGE_LEAST:-99} % of the branches are taken" >&2; exit 1; }
