/* The language-model actor as benchmarks drive it: one request at a time, times taken on this side of the sandbox. */
#ifndef SP_CLI_BENCH_GUEST_H
#define SP_CLI_BENCH_GUEST_H

#include "samepage.h"
#include "samepage/llm.h"

typedef struct sp_bench_guest sp_bench_guest;

typedef struct sp_bench_answer {
    uint32_t n_prompt, n_answer; /* tokens evaluated, tokens generated */
    uint64_t prompt_ns;          /* from the request to the first token */
    uint64_t answer_ns;          /* from the first token to the last */
    sp_actor_stats before, after;
} sp_bench_answer;

/* Opens path on the device called device_name, greedy, with n_ctx cells. model is for tokenising; it belongs to the guest. *out is NULL on failure. */
sp_status sp_bench_guest_open(const char *path, const char *device_name, uint32_t n_ctx, int threads, sp_bench_guest **out, sp_error *err);
void sp_bench_guest_close(sp_bench_guest *guest);
sp_model *sp_bench_guest_model(sp_bench_guest *guest);
sp_actor *sp_bench_guest_actor(sp_bench_guest *guest);

/* Forgets the context and continues text by n tokens, whatever they are. */
sp_status sp_bench_guest_complete(sp_bench_guest *guest, const char *text, int32_t n, sp_bench_answer *out, sp_error *err);

#endif
