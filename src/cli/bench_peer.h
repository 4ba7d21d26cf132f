/* The peer that benchmarks measure against: libllama on the same GGUF, set up as llama.cpp's own tools set it up. */
#ifndef SP_CLI_BENCH_PEER_H
#define SP_CLI_BENCH_PEER_H

#include "samepage.h"

typedef struct sp_peer sp_peer;

/* Opens path with n_ctx cells of F16 cache, batches of 512, flash attention, `threads` threads in a pool that stays. *out is NULL on failure. */
sp_status sp_peer_open(const char *path, uint32_t n_ctx, int threads, sp_peer **out, sp_error *err);
void sp_peer_close(sp_peer *peer);

/* Forgets the context, evaluates the tokens in batches of 512 and returns the likeliest next one, or -1 if libllama fails. */
int32_t sp_peer_prefill(sp_peer *peer, const int32_t *tokens, uint32_t count);
/* Evaluates one token and returns the likeliest next one, or -1. */
int32_t sp_peer_decode(sp_peer *peer, int32_t token);

#endif
