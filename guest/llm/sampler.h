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

/* Adds biases and penalties to n logits. recent: the context's tokens, the last one last. */
void sampler_adjust(const sampler *s, float *logits, uint32_t n, const int32_t *recent, uint32_t n_recent);
/* Is the token with the largest logit, as the model gave it, what will be picked? */
bool sampler_takes_largest(const sampler *s);
/* Picks a token by adjusted logits. -1: all of them are minus infinity. */
int32_t sampler_choose(sampler *s, const float *logits, uint32_t n);

/* The natural logarithm of a token's probability. */
float sampler_logprob(const float *logits, uint32_t n, int32_t token);
/* The `most` likeliest tokens (up to SP_LLM_MAX_TOP), the likeliest first, with theirs; returns how many. */
uint32_t sampler_top(const float *logits, uint32_t n, uint32_t most, sp_llm_likely *out);

#endif
