/*
 * Every operation, accepted, with its result's type, shape and strides compared with those that ggml itself gives to the same graph; and the table of
 * rules itself.
 */
#include "program/program_test.h"

#include <ggml.h>

#include "program/program_impl.h"

/* Two builders side by side: ours and ggml's. */
typedef struct pair {
    bench b;
    struct ggml_context *ctx;
    struct ggml_tensor *theirs[64]; /* by number of our tensor */
} pair;

static int setup(void **state_) {
    static pair p;
    memset(&p, 0, sizeof p);
    p.b = new_bench();
    p.ctx = ggml_init((struct ggml_init_params){.mem_size = 1 << 20, .no_alloc = true});
    *state_ = &p;
    return p.ctx ? 0 : -1;
}

static int teardown(void **state_) {
    pair *p = *state_;
    sp_graph_free(&p->b.g);
    ggml_free(p->ctx);
    return 0;
}

static sp_tensor leaf(pair *p, uint32_t slot, uint32_t type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3) {
    sp_tensor t = window(&p->b, slot, type, ne0, ne1, ne2, ne3);
    p->theirs[t] = ggml_new_tensor_4d(p->ctx, (enum ggml_type)type, ne0, ne1, ne2, ne3);
    return t;
}

static void compare(pair *p, sp_tensor t, struct ggml_tensor *theirs) {
    outcome o = check_with(&p->b, NULL, 0);
    if (o.status != SP_OK) {
        fail_msg("refused: %s", o.err.message);
    }
    const sp_spec_tensor *ours = &o.spec->tensors[t];
    assert_int_equal(ours->type, theirs->type);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(ours->ne[i], theirs->ne[i]);
        assert_int_equal(ours->nb[i], theirs->nb[i]);
    }
    uint64_t extent;
    assert_true(sp_extent(ours, &extent));
    assert_int_equal(extent, ggml_nbytes(theirs));
    p->theirs[t] = theirs;
    drop(&o);
}

#define G (&p->b.g)
#define C (p->ctx)
#define T(t) (p->theirs[t])
#define F32(...) leaf(p, IN, SP_TYPE_F32, __VA_ARGS__)
#define TYPED(type, ...) leaf(p, IN, type, __VA_ARGS__)
#define WRITABLE(type, ...) leaf(p, STATE, type, __VA_ARGS__)

static void test_matrix_products(void **state_) {
    pair *p = *state_;
    sp_tensor a = TYPED(SP_TYPE_Q4_0, 64, 7, 2, 1), b = F32(64, 3, 4, 5);
    compare(p, sp_mul_mat(G, a, b), ggml_mul_mat(C, T(a), T(b)));
    sp_tensor h = TYPED(SP_TYPE_F16, 64, 7, 1, 1), hb = TYPED(SP_TYPE_F16, 64, 2, 1, 1);
    compare(p, sp_mul_mat(G, h, hb), ggml_mul_mat(C, T(h), T(hb)));
    sp_tensor as = TYPED(SP_TYPE_F16, 64, 7, 8, 1), x = F32(64, 1, 3, 1), ids = TYPED(SP_TYPE_I32, 2, 3, 1, 1);
    compare(p, sp_mul_mat_id(G, as, x, ids), ggml_mul_mat_id(C, T(as), T(x), T(ids)));
}

static void test_arithmetic(void **state_) {
    pair *p = *state_;
    sp_tensor a = F32(64, 6, 4, 2), b = F32(32, 3, 1, 2), h = TYPED(SP_TYPE_F16, 64, 6, 4, 2);
    compare(p, sp_add(G, a, b), ggml_add(C, T(a), T(b)));
    compare(p, sp_sub(G, a, b), ggml_sub(C, T(a), T(b)));
    compare(p, sp_mul(G, a, a), ggml_mul(C, T(a), T(a)));
    compare(p, sp_div(G, h, b), ggml_div(C, T(h), T(b)));
    compare(p, sp_scale_bias(G, a, 2, 1), ggml_scale_bias(C, T(a), 2, 1));
    compare(p, sp_clamp(G, a, -INFINITY, 3), ggml_clamp(C, T(a), -INFINITY, 3));
    compare(p, sp_fill(G, a, -INFINITY), ggml_fill(C, T(a), -INFINITY));
    compare(p, sp_sum_rows(G, a), ggml_sum_rows(C, T(a)));
    sp_tensor small = F32(64, 4, 1, 1), bias = F32(64, 8, 1, 1), ids = TYPED(SP_TYPE_I32, 4, 1, 1, 1);
    compare(p, sp_add_id(G, small, bias, ids), ggml_add_id(C, T(small), T(bias), T(ids)));
}

static void test_norms(void **state_) {
    pair *p = *state_;
    sp_tensor a = F32(64, 6, 4, 2);
    compare(p, sp_norm(G, a, 1e-5f), ggml_norm(C, T(a), 1e-5f));
    compare(p, sp_rms_norm(G, a, 0), ggml_rms_norm(C, T(a), 0));
    compare(p, sp_l2_norm(G, a, 1e-5f), ggml_l2_norm(C, T(a), 1e-5f));
}

static void test_unary(void **state_) {
    pair *p = *state_;
    sp_tensor a = TYPED(SP_TYPE_F16, 64, 6, 4, 2);
#define UNARY(name) compare(p, sp_##name(G, a), ggml_##name(C, T(a)));
    UNARY(sqr)
    UNARY(sqrt) UNARY(silu) UNARY(gelu) UNARY(gelu_erf) UNARY(gelu_quick) UNARY(tanh) UNARY(sigmoid) UNARY(relu) UNARY(softplus) UNARY(exp) UNARY(neg)
}

static void test_gated(void **state_) {
    pair *p = *state_;
    sp_tensor a = F32(64, 6, 4, 2), b = F32(64, 6, 4, 2);
#define GATED(name)                                                                                                                                  \
    compare(p, sp_##name(G, a), ggml_##name(C, T(a)));                                                                                               \
    compare(p, sp_##name##_swapped(G, a), ggml_##name##_swapped(C, T(a)));                                                                           \
    compare(p, sp_##name##_split(G, a, b), ggml_##name##_split(C, T(a), T(b)));
    GATED(reglu)
    GATED(geglu)
    GATED(swiglu) GATED(geglu_erf) GATED(geglu_quick) compare(p, sp_swiglu_oai(G, a, b, 1.7f, 7), ggml_swiglu_oai(C, T(a), T(b), 1.7f, 7));
    compare(p, sp_swiglu_clamp(G, a, b, 7), ggml_swiglu_clamp(C, T(a), T(b), 7));
}

static void test_attention(void **state_) {
    pair *p = *state_;
    sp_tensor q = F32(64, 5, 8, 1), k = TYPED(SP_TYPE_Q8_0, 64, 32, 2, 1), v = TYPED(SP_TYPE_Q4_0, 32, 32, 2, 1);
    sp_tensor mask = TYPED(SP_TYPE_F16, 32, 64, 1, 1), sinks = F32(8, 1, 1, 1);
    compare(p, sp_flash_attn_ext(G, q, k, v, SP_NONE, 1, 0, 0), ggml_flash_attn_ext(C, T(q), T(k), T(v), NULL, 1, 0, 0));
    sp_tensor t = sp_flash_attn_ext(G, q, k, v, mask, 1, 8, 30);
    sp_flash_attn_ext_set_prec(G, t, 10);
    sp_flash_attn_ext_add_sinks(G, t, sinks);
    compare(p, t, ggml_flash_attn_ext(C, T(q), T(k), T(v), T(mask), 1, 8, 30));
    sp_tensor scores = F32(32, 5, 8, 1);
    compare(p, sp_soft_max(G, scores), ggml_soft_max(C, T(scores)));
    t = sp_soft_max_ext(G, scores, mask, 1, 8);
    sp_soft_max_add_sinks(G, t, sinks);
    compare(p, t, ggml_soft_max_ext(C, T(scores), T(mask), 1, 8));
}

static void test_rope(void **state_) {
    pair *p = *state_;
    sp_tensor a = F32(64, 8, 5, 1), positions = TYPED(SP_TYPE_I32, 5, 1, 1, 1), factors = F32(32, 1, 1, 1);
    compare(p, sp_rope(G, a, positions, 64, 0), ggml_rope(C, T(a), T(positions), 64, 0));
    compare(p, sp_rope_ext(G, a, positions, factors, 32, 2, 4096, 10000, 1, 0, 1, 32, 1),
            ggml_rope_ext(C, T(a), T(positions), T(factors), 32, 2, 4096, 10000, 1, 0, 1, 32, 1));
}

static void test_rope_sections(void **state_) {
    pair *p = *state_;
    int sections[4] = {8, 12, 12, 0};
    sp_tensor a = F32(64, 8, 5, 1), positions = TYPED(SP_TYPE_I32, 20, 1, 1, 1);
    for (int mode = 8; mode <= 40; mode += 32) {
        compare(p, sp_rope_multi(G, a, positions, SP_NONE, 64, sections, mode, 4096, 10000, 1, 0, 1, 32, 1),
                ggml_rope_multi(C, T(a), T(positions), NULL, 64, sections, mode, 4096, 10000, 1, 0, 1, 32, 1));
    }
}

static void test_state_spaces(void **state_) {
    pair *p = *state_;
    sp_tensor sx = F32(10, 6, 2, 1), kernel = F32(4, 6, 1, 1);
    compare(p, sp_ssm_conv(G, sx, kernel), ggml_ssm_conv(C, T(sx), T(kernel)));
    for (int64_t decay = 1; decay <= 16; decay += 15) { /* one for each head, or for each element of the state */
        sp_tensor s = F32(16, 8, 4, 3), x = F32(8, 4, 5, 2), dt = F32(4, 5, 2, 1), a = F32(decay, 4, 1, 1), b = F32(16, 2, 5, 2),
                  c = F32(16, 2, 5, 2), ids = TYPED(SP_TYPE_I32, 2, 1, 1, 1);
        compare(p, sp_ssm_scan(G, s, x, dt, a, b, c, ids), ggml_ssm_scan(C, T(s), T(x), T(dt), T(a), T(b), T(c), T(ids), 1));
    }
}

static void test_linear_attention(void **state_) {
    pair *p = *state_;
    for (int64_t gates = 1; gates <= 16; gates += 15) {
        sp_tensor q = F32(16, 2, 5, 1), v = F32(16, 4, 5, 2), gate = F32(gates, 4, 5, 2), beta = F32(1, 4, 5, 2), s = F32(16, 16, 4, 2);
        compare(p, sp_gated_delta_net(G, q, q, v, gate, beta, s), ggml_gated_delta_net(C, T(q), T(q), T(v), T(gate), T(beta), T(s), 1));
    }
    sp_tensor a = F32(64, 4, 6, 1), tf = F32(64, 4, 1, 1), s = F32(64 * 64 * 4, 2, 1, 1);
    compare(p, sp_rwkv_wkv6(G, a, a, a, tf, a, s), ggml_rwkv_wkv6(C, T(a), T(a), T(a), T(tf), T(a), T(s)));
    compare(p, sp_rwkv_wkv7(G, a, a, a, a, a, a, s), ggml_rwkv_wkv7(C, T(a), T(a), T(a), T(a), T(a), T(a), T(s)));
}

static void test_lightning_indexer(void **state_) {
    pair *p = *state_;
    sp_tensor q = F32(64, 8, 5, 1), k = TYPED(SP_TYPE_F16, 64, 1, 32, 1), weights = F32(8, 5, 1, 1), mask = TYPED(SP_TYPE_F16, 32, 5, 1, 1);
    compare(p, sp_lightning_indexer(G, q, k, weights, mask), ggml_lightning_indexer(C, T(q), T(k), T(weights), T(mask)));
}

static void test_dsv4_hc_pre(void **state_) {
    pair *p = *state_;
    sp_tensor x = F32(64, 3, 5, 1), weights = F32(3, 5, 1, 1);
    compare(p, sp_dsv4_hc_pre(G, x, weights), ggml_dsv4_hc_pre(C, T(x), T(weights)));
}

static void test_rows(void **state_) {
    pair *p = *state_;
    sp_tensor a = TYPED(SP_TYPE_Q8_0, 64, 9, 3, 2), ids = TYPED(SP_TYPE_I32, 4, 3, 2, 1);
    compare(p, sp_get_rows(G, a, ids), ggml_get_rows(C, T(a), T(ids)));
    sp_tensor words = TYPED(SP_TYPE_I32, 64, 9, 1, 1), id = TYPED(SP_TYPE_I32, 4, 1, 1, 1);
    compare(p, sp_get_rows(G, words, id), ggml_get_rows(C, T(words), T(id)));
    static const uint32_t types[] = {SP_TYPE_F32, SP_TYPE_F16, SP_TYPE_BF16, SP_TYPE_Q8_0, SP_TYPE_Q4_0};
    sp_tensor rows = F32(64, 4, 1, 1), wide = TYPED(SP_TYPE_I64, 4, 1, 1, 1);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        sp_tensor cache = WRITABLE(types[i], 64, 100, 1, 1);
        compare(p, sp_set_rows(G, cache, rows, i % 2 ? wide : id), ggml_set_rows(C, T(cache), T(rows), T(i % 2 ? wide : id)));
    }
}

static void test_copies(void **state_) {
    pair *p = *state_;
    sp_tensor a = F32(64, 6, 1, 1), half = WRITABLE(SP_TYPE_F16, 6, 64, 1, 1), quant = WRITABLE(SP_TYPE_Q8_0, 64, 6, 1, 1);
    compare(p, sp_cpy(G, a, half), ggml_cpy(C, T(a), T(half)));
    compare(p, sp_cpy(G, a, quant), ggml_cpy(C, T(a), T(quant)));
    compare(p, sp_cast(G, a, SP_TYPE_BF16), ggml_cast(C, T(a), GGML_TYPE_BF16));
    compare(p, sp_cast(G, a, SP_TYPE_Q4_0), ggml_cast(C, T(a), GGML_TYPE_Q4_0));
    compare(p, sp_cast(G, quant, SP_TYPE_F32), ggml_cast(C, T(quant), GGML_TYPE_F32));
    sp_tensor t = sp_transpose(G, a);
    compare(p, t, ggml_transpose(C, T(a)));
    compare(p, sp_cont(G, t), ggml_cont(C, T(t)));
    compare(p, sp_cont_2d(G, t, sp_dim(32), sp_dim(12)), ggml_cont_2d(C, T(t), 32, 12));
}

static void test_shapes(void **state_) {
    pair *p = *state_;
    sp_tensor a = F32(64, 6, 4, 2), b = F32(64, 6, 3, 2), q = TYPED(SP_TYPE_Q8_0, 64, 6, 4, 2);
    compare(p, sp_reshape_2d(G, a, sp_dim(32), sp_dim(96)), ggml_reshape_2d(C, T(a), 32, 96));
    compare(p, sp_view_1d(G, a, sp_dim(10), sp_dim(40)), ggml_view_1d(C, T(a), 10, 40));
    compare(p, sp_view_2d(G, a, sp_dim(10), sp_dim(6), sp_dim(256), sp_dim(40)), ggml_view_2d(C, T(a), 10, 6, 256, 40));
    compare(p, sp_view_3d(G, q, sp_dim(32), sp_dim(2), sp_dim(4), sp_dim(68), sp_dim(408), sp_dim(34)), ggml_view_3d(C, T(q), 32, 2, 4, 68, 408, 34));
    compare(p, sp_permute(G, a, 2, 0, 3, 1), ggml_permute(C, T(a), 2, 0, 3, 1));
    compare(p, sp_permute(G, q, 0, 2, 1, 3), ggml_permute(C, T(q), 0, 2, 1, 3));
    compare(p, sp_repeat_4d(G, a, sp_dim(128), sp_dim(6), sp_dim(8), sp_dim(2)), ggml_repeat_4d(C, T(a), 128, 6, 8, 2));
    compare(p, sp_concat(G, a, b, 2), ggml_concat(C, T(a), T(b), 2));
}

static void test_sorting(void **state_) {
    pair *p = *state_;
    sp_tensor a = F32(64, 6, 1, 1), logits = sp_clamp(G, a, -INFINITY, INFINITY);
    compare(p, logits, ggml_clamp(C, T(a), -INFINITY, INFINITY));
    sp_tensor order = sp_argsort(G, logits, 1);
    compare(p, order, ggml_argsort(C, T(logits), GGML_SORT_ORDER_DESC));
    compare(p, sp_top_k(G, logits, 4), ggml_top_k(C, T(logits), 4));
    compare(p, sp_argmax(G, a), ggml_argmax(C, T(a)));
    /* a mixture of experts: the best 4 of 64 for each of 6 tokens */
    sp_tensor best = sp_view_2d(G, order, sp_dim(4), sp_dim(6), sp_dim(256), sp_dim(0));
    sp_tensor as = TYPED(SP_TYPE_F16, 32, 8, 64, 1), x = F32(32, 1, 6, 1), weights = sp_reshape_3d(G, a, sp_dim(1), sp_dim(64), sp_dim(6));
    struct ggml_tensor *their_best = ggml_view_2d(C, T(order), 4, 6, 256, 0);
    compare(p, sp_mul_mat_id(G, as, x, best), ggml_mul_mat_id(C, T(as), T(x), their_best));
    compare(p, sp_get_rows(G, weights, best), ggml_get_rows(C, ggml_reshape_3d(C, T(a), 1, 64, 6), their_best));
}

static void check_rule(uint32_t op, const char *name, int min_src, int max_src, int n_params) {
    const sp_rule *rule = sp_rule_get(op);
    assert_non_null(rule);
    assert_int_equal(rule->op, op);
    assert_string_equal(sp_op_name(op), name);
    assert_true(rule->min_src == min_src && rule->max_src == max_src && rule->n_params == n_params);
    for (int i = 0; i < max_src; i++) {
        assert_non_null(rule->src[i].name);
        assert_int_not_equal(rule->src[i].types, 0);
    }
    for (int i = 0; i < n_params; i++) {
        assert_non_null(rule->params[i].name);
    }
    assert_true((rule->shape != NULL) == (rule->shape_text != NULL));
    assert_true((rule->extra != NULL) == (rule->extra_text != NULL));
}

/* Each operation has a rule, and the rule fits the list in samepage/program.h. */
static void test_table(void **state_) {
    (void)state_;
#define X(id, ID, name, min_src, max_src, n_params) check_rule(id, #name, min_src, max_src, n_params);
    SP_OPS(X)
#undef X
    assert_null(sp_rule_get(0));
    assert_null(sp_rule_get(58));
    assert_null(sp_rule_get(UINT32_MAX));
    assert_null(sp_op_name(58));
}

/* Types as in ggml; and the builder's table as ours. */
static void test_types(void **state_) {
    (void)state_;
    int known = 0;
    for (uint32_t type = 0; type < 64; type++) {
        const sp_type_traits *ours = sp_type_get(type);
        uint32_t block, size;
        assert_int_equal(sp_type_block(type, &block, &size), ours != NULL);
        if (!ours) {
            continue;
        }
        known++;
        assert_int_equal(ours->block, ggml_blck_size((enum ggml_type)type));
        assert_int_equal(ours->size, ggml_type_size((enum ggml_type)type));
        assert_int_equal(ours->quantised, ggml_is_quantized((enum ggml_type)type));
        assert_string_equal(ours->name, ggml_type_name((enum ggml_type)type));
        assert_int_equal(block, ours->block);
        assert_int_equal(size, ours->size);
    }
    assert_int_equal(known, 25);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(matrix_products),
        TEST(arithmetic),
        TEST(norms),
        TEST(unary),
        TEST(gated),
        TEST(attention),
        TEST(rope),
        TEST(rope_sections),
        TEST(state_spaces),
        TEST(linear_attention),
        TEST(lightning_indexer),
        TEST(dsv4_hc_pre),
        TEST(rows),
        TEST(copies),
        TEST(shapes),
        TEST(sorting),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
