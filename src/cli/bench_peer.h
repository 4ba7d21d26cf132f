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

/*
 * Makes the cache hold `count` tokens, as if it had evaluated them: libllama's state of the tokens that were prefilled last, made longer with
 * finite values. SP_ERR_UNSUPPORTED: the state does not look as it does for a plain attention cache of F16.
 */
sp_status sp_peer_assume(sp_peer *peer, uint32_t count, sp_error *err);
/* libllama's sequence state file. Tokens: as many as the cache holds. */
sp_status sp_peer_save(sp_peer *peer, const char *path, const int32_t *tokens, uint32_t count, sp_error *err);
/* The same back, into an empty cache; tokens has room for capacity. */
sp_status sp_peer_load(sp_peer *peer, const char *path, int32_t *tokens, uint32_t capacity, sp_error *err);

#endif
