/* `samepage bench`: what its measurements share. */
#ifndef SP_CLI_BENCH_H
#define SP_CLI_BENCH_H

#include "samepage.h"

/* A measurement: argv[0] is its name. Returns the exit code. */
int sp_bench_decode(int argc, char **argv);
int sp_bench_gpu(int argc, char **argv);
int sp_bench_state(int argc, char **argv);
int sp_bench_start(int argc, char **argv);
int sp_bench_check(int argc, char **argv);
int sp_bench_lookup(int argc, char **argv);

uint64_t sp_bench_now_ns(void);
/* Sorts the values. */
double sp_bench_median(double *values, int n);

/* The embedded model as a file, which libllama can open too. */
sp_status sp_bench_write_pocket(const char *path, sp_error *err);
/* A synthetic model of about 1 B parameters (sp_synthetic_1b's kinds) in a type of weights, unless the file is there. */
sp_status sp_bench_write_synthetic(const char *path, const char *kind, uint32_t type, sp_error *err);
/* Bytes per second that so many threads read from memory: the best of a few passes over 512 MiB. 0: no memory for it. */
double sp_bench_bandwidth(int threads);

#endif
