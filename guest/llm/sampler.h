/*
 * sampler: from logits to a token, in the order that llama.cpp uses: bias, penalties, top-k, top-p, min-p, temperature, chance.
 * Pure: calls nothing outside of the C library.
 */
#ifndef LLM_SAMPLER_H
#define LLM_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "samepage/llm.h"

typedef struct sampler {
    sp_llm_config config;
    const sp_llm_bias *biases; /* config.n_bias */
    uint64_t random[4];        /* xoshiro256++ (Blackman and Vigna, 2019) */
} sampler;

/* Seeds the generator with splitmix64, as its authors recommend. */
void sampler_seed(sampler *s, uint64_t seed);

/*
 * Picks a token. logits: n floats, changed by biases and penalties. recent: the context's tokens, the last one last. *logprob, if not NULL, becomes
 * the natural logarithm of the token's probability before biases, penalties and cuts.
 */
int32_t sampler_pick(sampler *s, float *logits, uint32_t n, const int32_t *recent, uint32_t n_recent, float *logprob);

#endif
