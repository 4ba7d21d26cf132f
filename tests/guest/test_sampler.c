/*
 * The guest's sampler, compiled for this machine, against llama.cpp's: the same logits after biases and penalties; after the cuts no token that
 * llama.cpp would not take, and each as often as llama.cpp's probabilities say.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <llama.h>

#include "../../guest/llm/sampler.c"

enum { VOCAB = 1000, RECENT = 100, DRAWS = 20000 };

static float original[VOCAB];
static int32_t recent[RECENT];

static int make_logits(void **state) {
    (void)state;
    uint32_t chance = 7;
    for (int i = 0; i < VOCAB; i++) {
        chance = chance * 1664525 + 1013904223;
        original[i] = (float)(chance >> 8) / (1 << 24) * 12 - 8; /* [-8, 4) */
    }
    for (int i = 0; i < RECENT; i++) {
        recent[i] = (i * 37 + i / 3) % VOCAB / (i % 2 ? 1 : 20); /* some repeat */
    }
    return 0;
}

static llama_token_data_array candidates_of(llama_token_data data[VOCAB], const float *logits) {
    for (int i = 0; i < VOCAB; i++) {
        data[i] = (llama_token_data){i, logits[i], 0};
    }
    return (llama_token_data_array){data, VOCAB, -1, false};
}

static void apply(struct llama_sampler *step, llama_token_data_array *list) {
    llama_sampler_apply(step, list);
    llama_sampler_free(step);
}

static void expect_adjusted(const sampler *s) {
    const sp_llm_config *c = &s->config;
    llama_token_data data[VOCAB];
    llama_token_data_array wanted = candidates_of(data, original);
    llama_logit_bias biases[8];
    for (uint32_t i = 0; i < c->n_bias; i++) {
        biases[i] = (llama_logit_bias){s->biases[i].token, s->biases[i].bias};
    }
    apply(llama_sampler_init_logit_bias(VOCAB, (int32_t)c->n_bias, biases), &wanted);
    struct llama_sampler *penalties = llama_sampler_init_penalties(VOCAB, c->repeat_last_n < 0 ? RECENT : c->repeat_last_n, c->repeat_penalty,
                                                                   c->frequency_penalty, c->presence_penalty);
    for (int i = 0; i < RECENT; i++) {
        llama_sampler_accept(penalties, recent[i]);
    }
    apply(penalties, &wanted);
    float got[VOCAB];
    bool same = true;
    memcpy(got, original, sizeof got);
    sampler_adjust(s, got, VOCAB, recent, RECENT);
    for (int i = 0; i < VOCAB; i++) {
        assert_true(fabsf(got[data[i].id] - data[i].logit) <= 1e-6f * (1 + fabsf(data[i].logit)));
        same &= got[i] == original[i];
    }
    assert_int_equal(sampler_takes_largest(s), same);
}

static void test_biases_and_penalties(void **state) {
    (void)state;
    const sp_llm_bias biases[] = {{3, 5}, {999, -100}, {40, 0.5f}};
    sampler s = {.config = {.repeat_penalty = 1}, .biases = biases};
    expect_adjusted(&s);
    s.config.n_bias = 3;
    expect_adjusted(&s);
    s.config.repeat_last_n = 64;
    s.config.repeat_penalty = 1.3f;
    expect_adjusted(&s);
    s.config.repeat_last_n = -1;
    s.config.frequency_penalty = 0.4f;
    expect_adjusted(&s);
    s.config.repeat_last_n = 20;
    s.config.presence_penalty = 0.7f;
    expect_adjusted(&s);
    s.config.repeat_last_n = 0; /* off, whatever the penalties */
    expect_adjusted(&s);
}

/* Draws often, and compares with llama.cpp's probabilities after the same cuts. */
static void expect_drawn(int32_t top_k, float top_p, float min_p, float temperature) {
    llama_token_data data[VOCAB];
    llama_token_data_array wanted = candidates_of(data, original);
    apply(llama_sampler_init_top_k(top_k), &wanted);
    apply(llama_sampler_init_top_p(top_p, 1), &wanted);
    apply(llama_sampler_init_min_p(min_p, 1), &wanted);
    apply(llama_sampler_init_temp(temperature), &wanted);
    double total = 0, most = -INFINITY, probability[VOCAB] = {0};
    for (size_t i = 0; i < wanted.size; i++) {
        most = fmax(most, (double)wanted.data[i].logit);
    }
    for (size_t i = 0; i < wanted.size; i++) {
        total += probability[wanted.data[i].id] = exp((double)wanted.data[i].logit - most);
    }
    sampler s = {.config = {.top_k = top_k, .top_p = top_p, .min_p = min_p, .temperature = temperature, .repeat_penalty = 1}};
    sampler_seed(&s, 11);
    int drawn[VOCAB] = {0};
    for (int i = 0; i < DRAWS; i++) {
        int32_t token = sampler_choose(&s, original, VOCAB);
        assert_in_range(token, 0, VOCAB - 1);
        drawn[token]++;
    }
    for (int i = 0; i < VOCAB; i++) {
        double p = probability[i] / total, expected = p * DRAWS;
        if (p == 0 && drawn[i]) {
            fail_msg("token %d was drawn; llama.cpp cuts it", i);
        }
        if (fabs(drawn[i] - expected) > 5 * sqrt(expected * (1 - p)) + 1) { /* five standard deviations */
            fail_msg("token %d was drawn %d times of %d; %.1f are expected", i, drawn[i], DRAWS, expected);
        }
    }
}

static void test_cuts(void **state) {
    (void)state;
    expect_drawn(0, 1, 0, 1);
    expect_drawn(5, 1, 0, 1);
    expect_drawn(40, 0.95f, 0.05f, 0.8f); /* the defaults */
    expect_drawn(0, 0.5f, 0, 1.5f);
    expect_drawn(0, 1, 0.2f, 1);
    expect_drawn(1, 1, 0, 1);
    expect_drawn(100, 0.9f, 0.01f, 0.3f);
}

static void test_greedy_and_seeds(void **state) {
    (void)state;
    int32_t best = 0;
    for (int i = 0; i < VOCAB; i++) {
        best = original[i] > original[best] ? i : best;
    }
    sampler greedy = {.config = {.top_p = 1, .repeat_penalty = 1}}, a = {.config = {.top_p = 1, .temperature = 1, .repeat_penalty = 1}}, b = a;
    assert_int_equal(sampler_choose(&greedy, original, VOCAB), best);
    sampler_seed(&a, 5);
    sampler_seed(&b, 5);
    int different = 0;
    for (int i = 0; i < 100; i++) {
        assert_int_equal(sampler_choose(&a, original, VOCAB), sampler_choose(&b, original, VOCAB));
    }
    sampler_seed(&b, 6);
    for (int i = 0; i < 100; i++) {
        different += sampler_choose(&a, original, VOCAB) != sampler_choose(&b, original, VOCAB);
    }
    assert_true(different > 50);
    float nothing[VOCAB];
    for (int i = 0; i < VOCAB; i++) {
        nothing[i] = -INFINITY;
    }
    assert_int_equal(sampler_choose(&greedy, nothing, VOCAB), -1);
    assert_int_equal(sampler_choose(&a, nothing, VOCAB), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_biases_and_penalties),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_greedy_and_seeds),
    };
    return cmocka_run_group_tests(tests, make_logits, NULL);
}
