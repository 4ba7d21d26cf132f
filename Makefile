# What a newcomer types. Each goal does everything that it needs; CMake and its presets do the work.
#
#   make demo          build, and run the main job on the embedded model
#   make test          build, and pass the tests
#   make build         the release binary alone: build/samepage
#   make asan tsan     the unit tests under sanitizers
#   make fuzz          each fuzzing target for FUZZ_SECONDS (60), with sanitizers; the figures at the end
#   make hostile       hostile guests, and what their neighbours notice; HOSTILE_SECONDS=N a measurement
#   make faults        every allocation and system call of ours fails once, at each position; FAULTS_JOBS=N processes (one a core)
#   make coverage      lines and branches that the unit tests take, of the code that reads untrusted bytes (20 minutes); COVERAGE_TESTS: which tests
#   make kill          kill a chat KILLS (10000) times at random moments, KILL_JOBS (2) at once, and look whether every acknowledged turn is there
#   make check-darwin  compile the project's own C for Apple silicon
#   make format tidy   format the sources; run clang-tidy over them
#   make install       into PREFIX (/usr/local)
#   make clean         remove the build folders (the dependencies' cache stays)

PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
SHELL := /bin/bash
SOURCES = $(shell find src include guest tests fuzz '(' -name '*.[ch]' -o -name '*.[ch]pp' ')')

.PHONY: faults hostile kill demo test build dependencies asan tsan fuzz coverage check-darwin check-format format tidy install clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

# Rust comes first, since nobody but the user can install it.
dependencies:
	@third_party/build-deps.sh --check-toolchain
	@third_party/install-packages.sh
	@third_party/build-deps.sh >/dev/null

build: dependencies
	@mkdir -p build
	@cmake --preset release >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
	@cmake --build --preset release

demo: build
	@scripts/demo.sh build/samepage

# The whole suite on the release binary comes last, so that its summary ends the output.
test: build check-format check-darwin tidy asan
	ctest --test-dir build --output-on-failure --no-tests=error

asan tsan: dependencies
	@mkdir -p build-$@
	@cmake --preset $@ >build-$@/configure.log 2>&1 || { cat build-$@/configure.log; exit 1; }
	@cmake --build --preset $@
	ctest --test-dir build-$@ --output-on-failure --no-tests=error --label-regex unit

fuzz: dependencies
	@mkdir -p build-fuzz
	@cmake --preset fuzz >build-fuzz/configure.log 2>&1 || { cat build-fuzz/configure.log; exit 1; }
	@cmake --build --preset fuzz --target fuzzers
	@scripts/fuzz.sh $(FUZZ_SECONDS)

hostile: build
	@ctest --test-dir build --output-on-failure --no-tests=error --verbose --tests-regex '^test_hostile_guests$$'

faults: build
	@FAULTS_EVERY=1 ctest --test-dir build --output-on-failure --no-tests=error --timeout 7200 --verbose --tests-regex '^test_faults$$'

coverage: dependencies
	@mkdir -p build-coverage
	@cmake --preset coverage >build-coverage/configure.log 2>&1 || { cat build-coverage/configure.log; exit 1; }
	@cmake --build --preset coverage
	@scripts/coverage.sh $(COVERAGE_TESTS)

KILLS ?= 10000
KILL_JOBS ?= 2
kill: build
	@SAMEPAGE=$(CURDIR)/build/samepage SOURCE_DIR=$(CURDIR) SAMEPAGE_KILLS=$(KILLS) KILL_JOBS=$(KILL_JOBS) tests/cli/test_kill.sh

check-format: dependencies
	@clang-format-16 --dry-run --Werror $(SOURCES)
	@echo "check-format: $(words $(SOURCES)) files are formatted"

format:
	clang-format-16 -i $(SOURCES)

check-darwin: dependencies
	@scripts/check-darwin.sh

tidy: build
	@scripts/tidy.sh

install: build
	cmake --install build --prefix $(PREFIX)

clean:
	rm -rf build build-debug build-asan build-tsan build-fuzz build-coverage
