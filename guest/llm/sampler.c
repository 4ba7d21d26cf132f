/* See sampler.h. */
#include "sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __wasm_simd128__
#include <wasm_simd128.h>
#endif

typedef struct candidate {
    int32_t token;
    float logit;
} candidate;

/* Candidates after the first cut; more than this many are never needed: what is left out has a probability below exp(-30). */
enum { MAX_CANDIDATES = 4096 };
static candidate candidates[MAX_CANDIDATES];

void sampler_seed(sampler *s, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        seed += 0x9e3779b97f4a7c15u;
        uint64_t z = seed;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        s->random[i] = z ^ (z >> 31);
    }
}

static uint64_t rotl(uint64_t x, int k) {
    return (x << k) | (x >> (64 - k));
}

/* Uniform in [0, 1). */
static double uniform(sampler *s) {
    uint64_t *r = s->random, result = rotl(r[0] + r[3], 23) + r[0], t = r[1] << 17;
    r[2] ^= r[0], r[3] ^= r[1], r[1] ^= r[2], r[0] ^= r[3], r[2] ^= t, r[3] = rotl(r[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

static float largest(const float *logits, uint32_t n) {
    uint32_t i = 0;
    float best = -INFINITY;
#ifdef __wasm_simd128__
    v128_t a = wasm_f32x4_splat(-INFINITY), b = a, c = a, d = a; /* four, since each waits for its last */
    for (; i + 16 <= n; i += 16) {
        a = wasm_f32x4_pmax(a, wasm_v128_load(logits + i)); /* a NaN never wins */
        b = wasm_f32x4_pmax(b, wasm_v128_load(logits + i + 4));
        c = wasm_f32x4_pmax(c, wasm_v128_load(logits + i + 8));
        d = wasm_f32x4_pmax(d, wasm_v128_load(logits + i + 12));
    }
    v128_t lanes = wasm_f32x4_pmax(wasm_f32x4_pmax(a, b), wasm_f32x4_pmax(c, d));
    float four[4];
    wasm_v128_store(four, lanes);
    for (int l = 0; l < 4; l++) {
        best = four[l] > best ? four[l] : best;
    }
#endif
    for (; i < n; i++) {
        best = logits[i] > best ? logits[i] : best;
    }
    return best;
}

/* The first index from `from` on whose logit is at least `least`; n: none. */
static uint32_t next_at_least(const float *logits, uint32_t from, uint32_t n, float least) {
    uint32_t i = from;
#ifdef __wasm_simd128__
    v128_t bound = wasm_f32x4_splat(least);
    while (i + 16 <= n &&
           !wasm_v128_any_true(wasm_v128_or(
               wasm_v128_or(wasm_f32x4_ge(wasm_v128_load(logits + i), bound), wasm_f32x4_ge(wasm_v128_load(logits + i + 4), bound)),
               wasm_v128_or(wasm_f32x4_ge(wasm_v128_load(logits + i + 8), bound), wasm_f32x4_ge(wasm_v128_load(logits + i + 12), bound))))) {
        i += 16;
    }
    while (i + 4 <= n && !wasm_v128_any_true(wasm_f32x4_ge(wasm_v128_load(logits + i), bound))) {
        i += 4;
    }
#endif
    while (i < n && !(logits[i] >= least)) {
        i++;
    }
    return i;
}

float sampler_logprob(const float *logits, uint32_t n, int32_t token) {
    float most = largest(logits, n);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += expf(logits[i] - most);
    }
    return logits[token] - most - (float)log(sum);
}

static bool penalises(const sp_llm_config *c) {
    return c->repeat_last_n != 0 && (c->repeat_penalty != 1 || c->presence_penalty != 0 || c->frequency_penalty != 0);
}

/* As llama.cpp: a repeated token's logit is divided (multiplied where negative) by the repeat penalty, and lowered by frequency times count plus
 * presence. */
static void penalise(const sampler *s, float *logits, uint32_t n, const int32_t *recent, uint32_t n_recent) {
    const sp_llm_config *c = &s->config;
    if (!penalises(c)) {
        return;
    }
    uint32_t look = c->repeat_last_n < 0 || (uint32_t)c->repeat_last_n > n_recent ? n_recent : (uint32_t)c->repeat_last_n;
    const int32_t *window = recent + (n_recent - look);
    for (uint32_t i = 0; i < look; i++) {
        int32_t token = window[i];
        uint32_t count = 0;
        bool first = true;
        for (uint32_t j = 0; j < look; j++) {
            first = first && !(j < i && window[j] == token);
            count += window[j] == token;
        }
        if (!first || token < 0 || (uint32_t)token >= n) {
            continue;
        }
        float *l = &logits[token];
        *l = *l <= 0 ? *l * c->repeat_penalty : *l / c->repeat_penalty;
        *l -= (float)count * c->frequency_penalty + c->presence_penalty;
    }
}

static int by_logit(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit) : x->token - y->token;
}

/* Puts the k likeliest into candidates, sorted, by a heap whose smallest is on top. */
static uint32_t likeliest(const float *logits, uint32_t n, uint32_t k) {
    uint32_t count = 0;
    float least = largest(logits, n) - 30;
    for (uint32_t i = next_at_least(logits, 0, n, least); i < n; i = next_at_least(logits, i + 1, n, least)) {
        candidate c = {(int32_t)i, logits[i]};
        uint32_t at;
        if (count < k) {
            for (at = count++; at && by_logit(&candidates[(at - 1) / 2], &c) < 0; at = (at - 1) / 2) {
                candidates[at] = candidates[(at - 1) / 2];
            }
        } else if (by_logit(&c, &candidates[0]) < 0) {
            at = 0;
            for (uint32_t child = 1; child < k; child = 2 * at + 1) {
                child += child + 1 < k && by_logit(&candidates[child + 1], &candidates[child]) > 0;
                if (by_logit(&candidates[child], &c) < 0) {
                    break;
                }
                candidates[at] = candidates[child];
                at = child;
            }
        } else {
            continue;
        }
        candidates[at] = c;
        least = count == k ? candidates[0].logit : least;
    }
    qsort(candidates, count, sizeof *candidates, by_logit);
    return count;
}

/* Keeps the smallest set of candidates whose probability is at least p. */
static uint32_t cut_top_p(uint32_t count, float p) {
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += exp(candidates[i].logit - candidates[0].logit);
    }
    for (uint32_t i = 0; i < count; i++) {
        sum += exp(candidates[i].logit - candidates[0].logit) / total;
        if (sum >= p) {
            return i + 1;
        }
    }
    return count;
}

/* Keeps those at least p times as likely as the likeliest. */
static uint32_t cut_min_p(uint32_t count, float p) {
    float least = candidates[0].logit + logf(p);
    while (count > 1 && candidates[count - 1].logit < least) {
        count--;
    }
    return count;
}

static int32_t draw(sampler *s, uint32_t count) {
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += exp((candidates[i].logit - candidates[0].logit) / s->config.temperature);
    }
    double at = uniform(s) * total;
    for (uint32_t i = 0; i < count; i++) {
        sum += exp((candidates[i].logit - candidates[0].logit) / s->config.temperature);
        if (at < sum) {
            return candidates[i].token;
        }
    }
    return candidates[count - 1].token;
}

void sampler_adjust(const sampler *s, float *logits, uint32_t n, const int32_t *recent, uint32_t n_recent) {
    for (uint32_t i = 0; i < s->config.n_bias; i++) {
        if (s->biases[i].token >= 0 && (uint32_t)s->biases[i].token < n) {
            logits[s->biases[i].token] += s->biases[i].bias;
        }
    }
    penalise(s, logits, n, recent, n_recent);
}

bool sampler_takes_largest(const sampler *s) {
    return s->config.temperature <= 0 && s->config.n_bias == 0 && !penalises(&s->config);
}

int32_t sampler_choose(sampler *s, const float *logits, uint32_t n) {
    const sp_llm_config *c = &s->config;
    float most = largest(logits, n);
    if (most == -INFINITY) {
        return -1;
    }
    if (c->temperature <= 0) {
        uint32_t i = next_at_least(logits, 0, n, most);
        return i < n ? (int32_t)i : 0;
    }
    uint32_t k = c->top_k > 0 && c->top_k < MAX_CANDIDATES ? (uint32_t)c->top_k : MAX_CANDIDATES;
    uint32_t count = likeliest(logits, n, k < n ? k : n);
    count = count && c->top_p < 1 ? cut_top_p(count, c->top_p) : count;
    count = count && c->min_p > 0 ? cut_min_p(count, c->min_p) : count;
    return count ? draw(s, count) : 0;
}

uint32_t sampler_top(const float *logits, uint32_t n, uint32_t most, sp_llm_likely *out) {
    most = most < SP_LLM_MAX_TOP ? most : SP_LLM_MAX_TOP;
    uint32_t count = most ? likeliest(logits, n, most < n ? most : n) : 0;
    float base = count ? sampler_logprob(logits, n, candidates[0].token) - candidates[0].logit : 0;
    for (uint32_t i = 0; i < count; i++) {
        out[i] = (sp_llm_likely){.token = candidates[i].token, .logprob = candidates[i].logit + base};
    }
    return count;
}
