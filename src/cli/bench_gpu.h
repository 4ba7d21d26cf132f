/* `samepage bench gpu`: what its files share. */
#ifndef SP_CLI_BENCH_GPU_H
#define SP_CLI_BENCH_GPU_H

#include <jansson.h>
#include <stdio.h>

#include "cli/llm_client.h"
#include "samepage.h"

enum { GPU_MAX_ROUNDS = 31, GPU_MAX_ACTORS = 1024, GPU_SHORT = 8 };

typedef struct gpu_options {
    const char *device, *folder, *llama_bench, *batched_bench, *types, *size, *actors;
    int32_t rounds, tokens, depth, forks, threads;
    bool json;
} gpu_options;

/* Settings of a conversation with so much context that decodes greedily and does not stop by itself. */
sp_llm_settings sp_gpu_settings(const gpu_options *o, const char *model, int32_t n_ctx);

/* A text of n tokens or a few less; malloc'ed. NULL: no memory, or no words. */
char *sp_gpu_text(const sp_model *model, uint32_t n, size_t *count);

/* A program's output, line by line; NULL with a word on standard error if it can't be started. To be closed with pclose. */
FILE *sp_gpu_run_peer(const char *command);

/* Tokens a second; `limit`: the share of what the card's memory allows, 0: not told. */
typedef struct gpu_row {
    const char *model, *phase;
    int actors, context;
    double samepage, llama_cpp, limit;
} gpu_row;

/* A row of the table (without --json), and of the results. */
void sp_gpu_report(const gpu_options *o, json_t *results, const gpu_row *row);

/* bench_gpu_device.c: the device without a model. Microseconds that the smallest program takes, from here to the device and back. */
sp_status sp_gpu_round_trip(sp_device *device, double *us, sp_error *err);
/* Bytes a second that a product of so many bytes of weights and one column reads. */
sp_status sp_gpu_product_bandwidth(sp_device *device, uint64_t bytes, double *rate, sp_error *err);

/* bench_gpu_actors.c: many actors that decode at once; and forks of a long session. SP_ERR_ARGUMENT: --actors. */
sp_status sp_gpu_bench_actors(const gpu_options *o, const char *name, const char *path, json_t *results, sp_error *err);
sp_status sp_gpu_bench_forks(const gpu_options *o, const char *name, const char *path, json_t *results, sp_error *err);

#endif
