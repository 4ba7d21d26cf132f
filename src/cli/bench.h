/* `samepage bench`: what its measurements share. */
#ifndef SP_CLI_BENCH_H
#define SP_CLI_BENCH_H

#include "samepage.h"

/* A measurement: argv[0] is its name. Returns the exit code. */
int sp_bench_decode(int argc, char **argv);
int sp_bench_state(int argc, char **argv);

uint64_t sp_bench_now_ns(void);
/* Sorts the values. */
double sp_bench_median(double *values, int n);

/* The embedded model as a file, which libllama can open too. */
sp_status sp_bench_write_pocket(const char *path, sp_error *err);
/* The synthetic Llama of 1.24 B parameters in a type of weights, unless the file is there. */
sp_status sp_bench_write_synthetic(const char *path, uint32_t type, sp_error *err);

#endif
