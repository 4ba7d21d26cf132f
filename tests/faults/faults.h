/*
 * A seam between the project's own code and the system: a copy of the library whose calls of malloc, open, pwrite and the like were renamed (by
 * objcopy) to functions of this file, which fail when they are told to. What Wasmtime, ggml and libllama call is not touched: they abort where there
 * is no memory, by design.
 */
#ifndef TESTS_FAULTS_H
#define TESTS_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum fault_kind {
    FAULT_FAIL,  /* the call fails, as when there is no memory, or a disk is full or broken */
    FAULT_STAYS, /* and so do all calls of its kind that follow: a disk that is full stays full */
    FAULT_SHORT, /* reads and writes transfer a part; other calls do what they always do */
} fault_kind;

/* The nth call from now on fails, 1 being the next; 0: none, calls are counted only. */
void faults_arm(uint64_t nth, fault_kind kind);
/* No call fails any more. How many there were since faults_arm. */
uint64_t faults_disarm(void);
/* The name of the function that failed last; NULL: none did since faults_arm. */
const char *faults_failed(void);

#endif
