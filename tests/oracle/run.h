/* oracle/run: runs generated programs on a device and has the evaluator judge what came out. */
#ifndef SP_TESTS_ORACLE_RUN_H
#define SP_TESTS_ORACLE_RUN_H

#include "oracle/evaluate.h"
#include "oracle/generate.h"

/* A device, memory for slots between pages that can't be touched, and the pool's weights. One thread at a time. */
typedef struct runner runner;

/* NULL on failure, with the reason. */
runner *runner_open(const char *device, int threads, sp_error *err);
void runner_close(runner *r);
/* What the device wants windows to be aligned to, at least 32. */
uint32_t runner_alignment(const runner *r);

typedef enum run_outcome {
    RUN_EQUAL,       /* it ran, and every result is right */
    RUN_UNSUPPORTED, /* the device lacks an operation, or the program wants more memory than the runner has */
    RUN_WRONG,       /* it ran, and result says what is not right */
    RUN_FAILED,      /* it did not run, though it was accepted; err says why */
} run_outcome;

typedef struct run_options {
    uint64_t seed; /* of the data */
    bool wild;     /* any bytes, NaN too, instead of numbers of a sensible size */
} run_options;

run_outcome runner_run(runner *r, const generated *p, const run_options *options, eval_result *result, sp_error *err);

/* A row id out of range: the run must be refused, and nothing written. True if it was, or if the program has no row ids in memory. */
bool runner_refuses_bad_ids(runner *r, const generated *p, uint64_t seed, sp_error *err);

#endif
