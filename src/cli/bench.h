/* Benchmarks: each measures samepage and a peer on the same work within one run, and reports ratios. */
#ifndef SP_CLI_BENCH_H
#define SP_CLI_BENCH_H

#include <jansson.h>

#include "samepage.h"

typedef struct sp_bench_options {
    const char *model;  /* a GGUF instead of the standard subjects, or NULL */
    const char *folder; /* where synthetic models are kept */
    int threads, rounds;
    bool json, small; /* small: the embedded model alone */
} sp_bench_options;

uint32_t sp_bench_n_ctx(const sp_bench_options *options);

/* Writes the synthetic Llama of 1.24 B parameters unless it is there. */
sp_status sp_bench_synthetic(const char *path, uint32_t type, sp_error *err);

/* Each appends its rows to results and, unless json is asked for, prints a table as it goes. */
sp_status sp_bench_decode(const sp_bench_options *options, json_t *results, sp_error *err);
sp_status sp_bench_step(const sp_bench_options *options, json_t *results, sp_error *err);

/* The command. */
int sp_cmd_bench(int argc, char **argv);

#endif
