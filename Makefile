# What a newcomer types. Each goal does everything that it needs; CMake and its presets do the work.
#
#   make demo          build, and run the main job on the embedded model
#   make test          build, and pass the tests
#   make build         the release binary alone: build/samepage
#   make asan tsan     the tests under sanitizers
#   make check-darwin  compile the project's own C for Apple silicon
#   make format tidy   format the sources; run clang-tidy over them
#   make install       into PREFIX (/usr/local)
#   make clean

PREFIX ?= /usr/local
SHELL := /bin/bash
SOURCES = $(shell git ls-files '*.c' '*.h' '*.cpp' | grep -v third_party)

.PHONY: demo test build dependencies asan tsan check-darwin check-format format tidy install clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

dependencies:
	@third_party/install-packages.sh
	@third_party/build-deps.sh >/dev/null

build: dependencies
	@cmake --preset release >build-configure.log 2>&1 || { cat build-configure.log; exit 1; }
	@mv build-configure.log build/configure.log
	@cmake --build --preset release

demo: build
	@scripts/demo.sh build/samepage

test: build check-format check-darwin
	ctest --test-dir build --output-on-failure --no-tests=error
	$(MAKE) asan

asan tsan: dependencies
	@cmake --preset $@ >/dev/null
	@cmake --build --preset $@
	ctest --test-dir build-$@ --output-on-failure --no-tests=error -LE slow

check-format:
	@clang-format-16 --dry-run --Werror $(SOURCES)

format:
	clang-format-16 -i $(SOURCES)

check-darwin: dependencies
	@scripts/check-darwin.sh

tidy: build
	@git ls-files 'src/*.c' | grep -v _darwin | xargs -P $$(nproc) -n 1 clang-tidy-16 -p build --quiet --warnings-as-errors='*'

install: build
	cmake --install build --prefix $(PREFIX)

clean:
	rm -rf build build-debug build-asan build-tsan
