/*
 * Programs from a generator that reads the verifier's table of rules: those that are accepted run on devices, and every result is compared with an
 * evaluator of our own; those with one rule broken are refused, with that rule's reason. Seeds are fixed; tests/tools/check-programs.c does any
 * number.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <ggml.h>

#include "oracle/fill.h"
#include "oracle/numbers.h"
#include "oracle/run.h"

enum { PROGRAMS = 1500, BROKEN = 4000 };

/* Who adds an operation to the table writes its evaluation too. */
static void test_every_operation_has_an_evaluator(void **state) {
    (void)state;
    for (uint16_t op = 1; sp_rule_get(op); op++) {
        if (!eval_is_view(op) && !eval_op_get(op)) {
            fail_msg("%s has no evaluator: add one to tests/oracle/evaluate.c", sp_op_name(op));
        }
    }
}

static gen_options options_for(const runner *r) {
    gen_options options = {.ops = 6, .alignment = r ? runner_alignment(r) : 32};
    options.weights = weight_pool(&options.n_weights);
    return options;
}

static void run_programs(const char *device) {
    sp_error err = {0};
    runner *r = runner_open(device, 1, &err);
    if (!r) {
        fail_msg("%s", err.message);
    }
    gen_options options = options_for(r);
    unsigned hidden = 0, compared = 0, unsupported = 0, by_op[256] = {0};
    for (uint64_t seed = 1; compared < PROGRAMS && seed < 4 * PROGRAMS; seed++) {
        choices c = {.state = seed};
        generated p;
        options.chains = seed % 2;
        if (!generate(&c, &options, &p)) {
            continue;
        }
        const run_options run = {.seed = seed, .wild = seed % 8 == 0};
        eval_result result;
        const run_outcome outcome = runner_run(r, &p, &run, &result, &err);
        if (outcome == RUN_WRONG) {
            fail_msg("%s: seed %llu: %s: %s", device, (unsigned long long)seed, sp_op_name(result.op), result.reason);
        }
        if (outcome == RUN_FAILED) {
            fail_msg("%s: seed %llu: accepted, but does not run: %s", device, (unsigned long long)seed, err.message);
        }
        compared += outcome == RUN_EQUAL;
        hidden += outcome == RUN_EQUAL ? p.n_hidden : 0;
        unsupported += outcome == RUN_UNSUPPORTED;
        for (uint32_t i = 0; i < p.spec->n_tensors; i++) {
            by_op[p.spec->tensors[i].op % 256] += outcome == RUN_EQUAL;
        }
        if (seed % 4 == 0 && !runner_refuses_bad_ids(r, &p, seed * 7919, &err)) {
            fail_msg("%s: seed %llu: a row id out of range was not refused", device, (unsigned long long)seed);
        }
        generated_free(&p);
    }
    runner_close(r);
    assert_int_equal(compared, PROGRAMS);
    assert_true(hidden > PROGRAMS / 4);
    assert_true(unsupported < PROGRAMS / 20);
    for (uint16_t op = 1; sp_rule_get(op); op++) {
        if (by_op[op] == 0) {
            fail_msg("no program with %s among %d: teach tests/oracle/propose.c what it takes", sp_op_name(op), PROGRAMS);
        }
    }
}

static void test_cpu(void **state) {
    (void)state;
    run_programs("cpu");
}

static void test_discrete(void **state) {
    (void)state;
    run_programs("discrete");
}

/*
 * Operations of which ggml-vulkan takes more for granted than it says, each in programs of its own, in one process: what it can't do is refused, and
 * nothing that was freed is touched.
 */
static void test_vulkan(void **state) {
    (void)state;
    static const uint16_t ops[] = {SP_OP_ADD, SP_OP_CONT, SP_OP_RWKV_WKV6, SP_OP_GATED_DELTA_NET, SP_OP_GET_ROWS};
    sp_error err = {0};
    runner *r = runner_open("vulkan:0", 1, &err);
    if (!r) {
        fprintf(stderr, "skipped: no Vulkan device: %s\n", err.message);
        skip();
    }
    gen_options options = options_for(r);
    unsigned all = 0;
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        unsigned compared = 0;
        options.only_op = ops[i];
        for (uint64_t seed = 1; compared < 10 && seed < 200; seed++) {
            choices c = {.state = seed};
            generated p;
            if (!generate(&c, &options, &p)) {
                continue;
            }
            eval_result result;
            const run_outcome outcome = runner_run(r, &p, &(run_options){.seed = seed}, &result, &err);
            if (outcome == RUN_WRONG || outcome == RUN_FAILED) {
                fail_msg("%s, seed %llu: %s", sp_op_name(ops[i]), (unsigned long long)seed, outcome == RUN_WRONG ? result.reason : err.message);
            }
            compared += outcome == RUN_EQUAL;
            generated_free(&p);
        }
        all += compared;
    }
    runner_close(r);
    assert_true(all >= 30); /* few have the one head size that there is for some */
}

static void test_broken(void **state) {
    (void)state;
    const gen_options options = options_for(NULL);
    unsigned refused = 0, conditions = 0;
    for (uint64_t seed = 1; refused < BROKEN && seed < 4 * BROKEN; seed++) {
        choices c = {.state = ~seed};
        generated p;
        if (!generate_broken(&c, &options, &p)) {
            continue;
        }
        sp_error err = {0};
        if (gen_check(&p, &err)) {
            fail_msg("seed %llu: %s with a broken %s was accepted; it should say: %s", (unsigned long long)seed, sp_op_name(p.last_op), p.broken,
                     p.words);
        }
        if (!strstr(err.message, p.words)) {
            fail_msg("seed %llu: %s with a broken %s says: %s; it should say: %s", (unsigned long long)seed, sp_op_name(p.last_op), p.broken,
                     err.message, p.words);
        }
        refused++;
        conditions += strcmp(p.broken, "condition") == 0;
        generated_free(&p);
    }
    assert_int_equal(refused, BROKEN);
    assert_true(conditions > BROKEN / 20);
}

/* The judge itself: one bit that is not right is found, wherever it is. */
static void test_judge_finds_faults(void **state) {
    (void)state;
    const gen_options options = options_for(NULL);
    unsigned found = 0, all = 0;
    for (uint64_t seed = 1; all < 50; seed++) {
        choices c = {.state = seed};
        generated p;
        if (!generate(&c, &options, &p)) {
            continue;
        }
        uint8_t *slots[GEN_SLOTS];
        for (uint32_t i = 0; i < GEN_SLOTS; i++) {
            slots[i] = calloc(1, p.spec->slots[i].size + 1);
        }
        fill_slots(p.spec, slots, seed, false);
        /* Nothing ran: what should have been written was not. */
        const sp_weight_table *table = weight_pool_table();
        const eval_input input = {.spec = p.spec, .before = (const uint8_t *const *)slots, .after = (const uint8_t *const *)slots};
        bool weights = false;
        for (uint32_t i = 0; i < p.spec->n_tensors; i++) {
            weights |= p.spec->tensors[i].kind == SP_TENSOR_WEIGHT;
        }
        if (table && !weights) {
            all++;
            found += !eval_judge(&input).ok;
        }
        for (uint32_t i = 0; i < GEN_SLOTS; i++) {
            free(slots[i]);
        }
        generated_free(&p);
    }
    assert_true(found >= 45); /* a result may be what the memory held already */
}

/* Our reading of blocks against ggml's, for the types that are read by us. */
static void test_numbers(void **state) {
    (void)state;
    static const uint32_t types[] = {SP_TYPE_Q4_0, SP_TYPE_Q4_1, SP_TYPE_Q5_0, SP_TYPE_Q5_1, SP_TYPE_Q8_0, SP_TYPE_IQ4_NL, SP_TYPE_MXFP4};
    uint8_t bytes[1024];
    float theirs[256];
    double ours[256];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * 73 + i / 7);
    }
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        ggml_get_type_traits((enum ggml_type)types[t])->to_float(bytes, theirs, 256);
        numbers_read_row(types[t], bytes, sp_type_get(types[t])->size, 256, ours);
        for (int i = 0; i < 256; i++) {
            assert_true(fabs(ours[i] - (double)theirs[i]) <= 1e-6 * fabs(ours[i]));
        }
    }
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const double value = number_from_half((uint16_t)bits);
        const float half = ggml_fp16_to_fp32((ggml_fp16_t)bits);
        assert_true(isnan(value) ? isnan(half) : value == (double)half);
        if (!isnan(value)) {
            assert_int_equal(number_to_half(value), bits);
            assert_int_equal(number_to_half(value * 1.00001), ggml_fp32_to_fp16((float)(value * 1.00001)));
        }
    }
}

/* What ggml loses when it quantises numbers of any size is no more than is allowed, and not much less. */
static void test_rounding_of_blocks(void **state) {
    (void)state;
    static const uint32_t types[] = {SP_TYPE_Q4_0, SP_TYPE_Q4_1, SP_TYPE_Q5_0, SP_TYPE_Q5_1, SP_TYPE_Q8_0, SP_TYPE_IQ4_NL};
    choices c = {.state = 1};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        double worst = 0;
        for (int round = 0; round < 2000; round++) {
            float values[32];
            uint8_t block[64];
            double back[32], largest = 0;
            const float size = ldexpf(1, (int)choose(&c, 40) - 27), shift = chance(&c, 2) ? 0 : (float)choose(&c, 3) - 1;
            for (int i = 0; i < 32; i++) {
                values[i] = size * (shift + ((float)choose(&c, 1 << 16) - (1 << 15)) * 0x1p-15f * (chance(&c, 4) ? 1 : 0.1f));
                largest = fmax(largest, fabs((double)values[i]));
            }
            ggml_quantize_chunk((enum ggml_type)types[t], values, block, 0, 1, 32, NULL);
            numbers_read_row(types[t], block, sp_type_get(types[t])->size, 32, back);
            for (int i = 0; i < 32; i++) {
                const double error = fabs(back[i] - (double)values[i]), allowed = number_rounding(types[t], (double)values[i], largest) * 1.01;
                if (error > allowed) {
                    fail_msg("type %u makes %.9g of %.9g in a block of up to %.9g; allowed are %.3g", types[t], back[i], (double)values[i], largest,
                             allowed);
                }
                worst = allowed > 0 ? fmax(worst, error / allowed) : worst;
            }
        }
        assert_true(worst > 0.5);
    }
}

/* Sums of 32 elements that are no halves make a product's answer undefined where blocks have a least element, and there alone. */
static void test_sums_beyond_halves(void **state) {
    (void)state;
    double a[64], b[64];
    for (int i = 0; i < 64; i++) {
        a[i] = 1, b[i] = i < 32 ? 1 : 2000;
    }
    assert_false(isnan(eval_product_tolerance(SP_TYPE_Q5_1, a, b, 64, false)));
    for (int i = 32; i < 64; i++) {
        b[i] = 2100; /* their sum: 67,200 */
    }
    assert_true(isnan(eval_product_tolerance(SP_TYPE_Q5_1, a, b, 64, false)));
    assert_true(isnan(eval_product_tolerance(SP_TYPE_Q4_1, a, b, 64, false)));
    assert_false(isnan(eval_product_tolerance(SP_TYPE_Q5_0, a, b, 64, false)));
    assert_false(isnan(eval_product_tolerance(SP_TYPE_F16, a, b, 64, false)));
    b[63] = -63000; /* and back within */
    assert_false(isnan(eval_product_tolerance(SP_TYPE_Q5_1, a, b, 64, false)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_rounding_of_blocks),
        cmocka_unit_test(test_sums_beyond_halves),
        cmocka_unit_test(test_every_operation_has_an_evaluator),
        cmocka_unit_test(test_judge_finds_faults),
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_discrete),
        cmocka_unit_test(test_vulkan),
        cmocka_unit_test(test_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
