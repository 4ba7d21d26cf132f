/*
 * fuzz: what is handed in by guests and files, attacked. One target a file, fuzz/fuzz_NAME.c, which defines the entry below; what it found worth
 * keeping lies in fuzz/corpus/NAME. Under `make fuzz` libFuzzer calls the entry, with ASan and UBSan; in every other build replay.c calls it once for
 * each file of the corpus, which is an ordinary test (replay_NAME). Flags of libFuzzer that a target wants: fuzz/fuzz_NAME.options.
 *
 * A target aborts where something that must hold does not (CHECK); it never prints. It is called millions of times in one process, so it frees
 * what it takes, and its result depends on the input alone.
 */
#ifndef SP_FUZZ_FUZZ_H
#define SP_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* One input. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libFuzzer's own mutation of data (at most capacity bytes), for targets that have a mutator of their own (LLVMFuzzerCustomMutator). */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t capacity);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t capacity, unsigned seed);

/* Something that must hold for every input. */
#define CHECK(condition)                                                                                                                             \
    do {                                                                                                                                             \
        if (!(condition)) {                                                                                                                          \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);                                                           \
            abort();                                                                                                                                 \
        }                                                                                                                                            \
    } while (0)

#endif
