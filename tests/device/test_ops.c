/*
 * Every operation of programs, on every device, against ggml's CPU result computed directly: the same call, in ggml's words, on the same numbers.
 * On devices that compute with ggml's CPU code and without packed weights the results are the same bytes.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include "device/device.h"
#include "memory/memory.h"
#include "samepage/graph.h"
#include "threads.h"

enum { MAX_IN = 7, MAX_CASES = 200, THREADS = SOME_THREADS(2) };

/* bound above 0: row ids below it, no two in a row the same; -1: positive numbers; -2: a causal mask. weight: a tensor of the model. */
typedef struct input {
    uint32_t type;
    int64_t ne[4];
    int bound;
    bool weight;
} input;

typedef struct op_case {
    const char *name;
    sp_tensor (*ours)(sp_graph *g, const sp_tensor *in); /* in[MAX_IN]: the output's window */
    struct ggml_tensor *(*theirs)(struct ggml_context *g, struct ggml_tensor **in);
    input in[MAX_IN];
    double gpu_nmse; /* what other kernels may differ by; 0: 1e-6 */
} op_case;

/* The programs' builder and ggml take the same arguments in the same order: one expression says both. */
#define SAME(NAME, op, ...)                                                                                                                          \
    static sp_tensor NAME##_ours(sp_graph *g, const sp_tensor *in) {                                                                                 \
        return sp_##op(g, __VA_ARGS__);                                                                                                              \
    }                                                                                                                                                \
    static struct ggml_tensor *NAME##_theirs(struct ggml_context *g, struct ggml_tensor **in) {                                                      \
        return ggml_##op(g, __VA_ARGS__);                                                                                                            \
    }
#define DIFFERENT(NAME, our_expression, their_expression)                                                                                            \
    static sp_tensor NAME##_ours(sp_graph *g, const sp_tensor *in) {                                                                                 \
        return our_expression;                                                                                                                       \
    }                                                                                                                                                \
    static struct ggml_tensor *NAME##_theirs(struct ggml_context *g, struct ggml_tensor **in) {                                                      \
        return their_expression;                                                                                                                     \
    }

static sp_tensor with_sinks(sp_graph *g, sp_tensor t, sp_tensor sinks) {
    sp_soft_max_add_sinks(g, t, sinks);
    return t;
}
static struct ggml_tensor *with_sinks_theirs(struct ggml_tensor *t, struct ggml_tensor *sinks) {
    ggml_soft_max_add_sinks(t, sinks);
    return t;
}
static struct ggml_tensor *zeros(struct ggml_context *c, enum ggml_type type, int64_t ne0, int64_t ne1) {
    struct ggml_tensor *t = ggml_new_tensor_2d(c, type, ne0, ne1);
    memset(t->data, 0, ggml_nbytes(t));
    return t;
}

SAME(mul_mat, mul_mat, in[0], in[1])
SAME(mul_mat_id, mul_mat_id, in[0], in[1], in[2])
SAME(add, add, in[0], in[1])
SAME(sub, sub, in[0], in[1])
SAME(mul, mul, in[0], in[1])
SAME(div, div, in[0], in[1])
SAME(add_id, add_id, in[0], in[1], in[2])
SAME(norm, norm, in[0], 1e-5f)
SAME(rms_norm, rms_norm, in[0], 1e-5f)
SAME(l2_norm, l2_norm, in[0], 1e-5f)
SAME(sum_rows, sum_rows, in[0])
DIFFERENT(rope, sp_rope_ext(g, in[0], in[1], SP_NONE, 64, 0, 0, 10000, 1, 0, 1, 0, 0),
          ggml_rope_ext(g, in[0], in[1], NULL, 64, 0, 0, 10000, 1, 0, 1, 0, 0))
SAME(rope_yarn, rope_ext, in[0], in[1], in[2], 48, 2, 4096, 10000.0f, 0.25f, 1.0f, 1.1f, 32.0f, 1.0f)
SAME(soft_max, soft_max, in[0])
SAME(soft_max_mask, soft_max_ext, in[0], in[1], 0.125f, 0.0f)
SAME(soft_max_alibi, soft_max_ext, in[0], in[1], 0.125f, 8.0f)
SAME(flash_attn, flash_attn_ext, in[0], in[1], in[2], in[3], 0.125f, 0.0f, 0.0f)
SAME(flash_attn_cap, flash_attn_ext, in[0], in[1], in[2], in[3], 0.125f, 0.0f, 30.0f)
SAME(get_rows, get_rows, in[0], in[1])
SAME(cast_f16, cast, in[0], GGML_TYPE_F16)
SAME(cast_q8_0, cast, in[0], GGML_TYPE_Q8_0)
SAME(clamp, clamp, in[0], -0.5f, 0.25f)
SAME(scale, scale, in[0], 0.3f)
SAME(scale_bias, scale_bias, in[0], 0.3f, -2.0f)
SAME(fill, fill, in[0], 1.5f)
SAME(concat, concat, in[0], in[1], 1)
SAME(argmax, argmax, in[0])
SAME(sqr, sqr, in[0])
SAME(sqrt, sqrt, in[0])
SAME(silu, silu, in[0])
SAME(gelu, gelu, in[0])
SAME(gelu_erf, gelu_erf, in[0])
SAME(gelu_quick, gelu_quick, in[0])
SAME(tanh, tanh, in[0])
SAME(sigmoid, sigmoid, in[0])
SAME(relu, relu, in[0])
SAME(softplus, softplus, in[0])
SAME(exp, exp, in[0])
SAME(neg, neg, in[0])
SAME(reglu, reglu, in[0])
SAME(geglu, geglu_split, in[0], in[1])
SAME(swiglu, swiglu_split, in[0], in[1])
SAME(swiglu_swapped, swiglu_swapped, in[0])
SAME(geglu_erf, geglu_erf, in[0])
SAME(geglu_quick, geglu_quick, in[0])
SAME(swiglu_oai, swiglu_oai, in[0], in[1], 1.702f, 7.0f)
SAME(ssm_conv, ssm_conv, in[0], in[1])
DIFFERENT(ssm_scan, sp_ssm_scan(g, in[0], in[1], in[2], in[3], in[4], in[5], in[6]),
          ggml_ssm_scan(g, in[0], in[1], in[2], in[3], in[4], in[5], in[6], 1))
DIFFERENT(gated_delta_net, sp_gated_delta_net(g, in[0], in[1], in[2], in[3], in[4], in[5]),
          ggml_gated_delta_net(g, in[0], in[1], in[2], in[3], in[4], in[5], 1))
SAME(dsv4_hc_pre, dsv4_hc_pre, in[0], in[1])
SAME(lightning_indexer, lightning_indexer, in[0], in[1], in[2], in[3])
SAME(swiglu_clamp, swiglu_clamp, in[0], in[1], 0.5f)
SAME(rwkv_wkv6, rwkv_wkv6, in[0], in[1], in[2], in[3], in[4], in[5])
SAME(rwkv_wkv7, rwkv_wkv7, in[0], in[1], in[2], in[3], in[4], in[5], in[6])
DIFFERENT(soft_max_sinks, with_sinks(g, sp_soft_max_ext(g, in[0], in[1], 0.125f, 0), in[2]),
          with_sinks_theirs(ggml_soft_max_ext(g, in[0], in[1], 0.125f, 0), in[2]))
DIFFERENT(cont_permuted, sp_cont(g, sp_permute(g, in[0], 0, 2, 1, 3)), ggml_cont(g, ggml_permute(g, in[0], 0, 2, 1, 3)))
DIFFERENT(cont_transposed, sp_cont(g, sp_transpose(g, in[0])), ggml_cont(g, ggml_transpose(g, in[0])))
DIFFERENT(reshape, sp_neg(g, sp_reshape_2d(g, in[0], sp_dim(96), sp_dim(14))), ggml_neg(g, ggml_reshape_2d(g, in[0], 96, 14)))
DIFFERENT(view, sp_neg(g, sp_view_2d(g, in[0], sp_dim(32), sp_dim(5), sp_dim(64 * 4), sp_dim(128))),
          ggml_neg(g, ggml_view_2d(g, in[0], 32, 5, 64 * 4, 128)))
DIFFERENT(repeat, sp_repeat_4d(g, in[0], sp_dim(64), sp_dim(6), sp_dim(4), sp_dim(1)), ggml_repeat_4d(g, in[0], 64, 6, 4, 1))
DIFFERENT(argsort, sp_argsort(g, sp_clamp(g, in[0], -INFINITY, INFINITY), 1), ggml_argsort(g, in[0], GGML_SORT_ORDER_DESC))
/* ggml does not say in which order top_k gives its rows: compare what they name, summed up. */
DIFFERENT(top_k,
          sp_sum_rows(g,
                      sp_cont(g, sp_transpose(g, sp_get_rows(g, in[1],
                                                             sp_reshape_1d(g, sp_top_k(g, sp_clamp(g, in[0], -INFINITY, INFINITY), 8), sp_dim(8)))))),
          ggml_sum_rows(g, ggml_cont(g, ggml_transpose(g, ggml_get_rows(g, in[1], ggml_reshape_1d(g, ggml_top_k(g, in[0], 8), 8))))))
/* The largest of negative numbers, of which one device took the least. */
DIFFERENT(top_1, sp_top_k(g, sp_clamp(g, sp_neg(g, sp_exp(g, in[0])), -INFINITY, INFINITY), 1),
          ggml_reshape_2d(g, ggml_argmax(g, ggml_neg(g, ggml_exp(g, in[0]))), 1, 7))
/* What these write goes to a window of the output, which holds zeros before. */
DIFFERENT(set_rows, sp_set_rows(g, in[MAX_IN], in[0], in[1]), ggml_set_rows(g, zeros(g, GGML_TYPE_F16, 64, 16), in[0], in[1]))
DIFFERENT(set_rows_q8_0, sp_set_rows(g, in[MAX_IN], in[0], in[1]), ggml_set_rows(g, zeros(g, GGML_TYPE_Q8_0, 64, 16), in[0], in[1]))
DIFFERENT(cpy, sp_cpy(g, in[0], in[MAX_IN]), ggml_cpy(g, in[0], zeros(g, GGML_TYPE_F16, 64, 16)))

#define F32(...)                                                                                                                                     \
    { SP_TYPE_F32, {__VA_ARGS__}, 0, false }
#define POSITIVE(...)                                                                                                                                \
    { SP_TYPE_F32, {__VA_ARGS__}, -1, false }
#define F16(...)                                                                                                                                     \
    { SP_TYPE_F16, {__VA_ARGS__}, 0, false }
#define MASK(...)                                                                                                                                    \
    { SP_TYPE_F16, {__VA_ARGS__}, -2, false }
#define IDS(bound, ...)                                                                                                                              \
    { SP_TYPE_I32, {__VA_ARGS__}, bound, false }
#define IDS64(bound, ...)                                                                                                                            \
    { SP_TYPE_I64, {__VA_ARGS__}, bound, false }
#define TYPED(type, ...)                                                                                                                             \
    { SP_TYPE_##type, {__VA_ARGS__}, 0, false }
#define WEIGHT(type, ...)                                                                                                                            \
    { SP_TYPE_##type, {__VA_ARGS__}, 0, true }
#define CASE(NAME, ...)                                                                                                                              \
    { #NAME, NAME##_ours, NAME##_theirs, {__VA_ARGS__}, 0 }
#define PRODUCT(NAME, ...)                                                                                                                           \
    { #NAME, NAME##_ours, NAME##_theirs, {__VA_ARGS__}, 5e-4 }
#define CASE_A(NAME) CASE(NAME, F32(64, 7, 3, 1))
#define CASE_AB(NAME) CASE(NAME, F32(64, 7, 3, 1), F32(64, 7, 3, 1))

static const op_case cases[] = {
    PRODUCT(mul_mat, F32(64, 33, 2, 1), F32(64, 17, 4, 1)),
    PRODUCT(mul_mat, F16(64, 33, 2, 1), F32(64, 17, 4, 1)),
    PRODUCT(mul_mat, TYPED(Q8_0, 64, 33, 1, 1), F32(64, 17, 1, 1)),
    PRODUCT(mul_mat, WEIGHT(Q4_0, 256, 64, 1, 1), F32(256, 9, 1, 1)),
    PRODUCT(mul_mat, WEIGHT(Q8_0, 256, 64, 1, 1), F32(256, 1, 1, 1)),
    PRODUCT(mul_mat, WEIGHT(Q4_K, 256, 64, 1, 1), F32(256, 9, 1, 1)),
    PRODUCT(mul_mat, WEIGHT(Q6_K, 256, 64, 1, 1), F32(256, 9, 1, 1)),
    PRODUCT(mul_mat_id, F32(64, 32, 4, 1), F32(64, 2, 5, 1), IDS(4, 2, 5, 1, 1)),
    PRODUCT(mul_mat_id, WEIGHT(Q8_0, 64, 32, 4, 1), F32(64, 1, 5, 1), IDS(4, 2, 5, 1, 1)),
    CASE(add, F32(64, 7, 3, 1), F32(64, 1, 3, 1)),
    CASE_AB(sub),
    CASE(mul, F32(64, 7, 3, 1), F32(64, 1, 1, 1)),
    CASE(div, F32(64, 7, 3, 1), POSITIVE(64, 7, 3, 1)),
    CASE(add_id, F32(64, 2, 5, 1), F32(64, 4, 1, 1), IDS(4, 2, 5, 1, 1)),
    CASE_A(norm),
    CASE_A(rms_norm),
    CASE_A(l2_norm),
    CASE_A(sum_rows),
    CASE(rope, F32(64, 4, 7, 1), IDS(1000, 7, 1, 1, 1)),
    CASE(rope_yarn, F32(64, 4, 7, 1), IDS(1000, 7, 1, 1, 1), POSITIVE(32, 1, 1, 1)),
    CASE_A(soft_max),
    CASE(soft_max_mask, F32(64, 7, 4, 1), MASK(64, 7, 1, 1)),
    CASE(soft_max_alibi, F32(64, 7, 4, 1), MASK(64, 7, 1, 1)),
    CASE(soft_max_sinks, F32(64, 7, 4, 1), MASK(64, 7, 1, 1), F32(4, 1, 1, 1)),
    PRODUCT(flash_attn, F32(64, 5, 4, 1), F16(64, 256, 2, 1), F16(64, 256, 2, 1), MASK(256, 64, 1, 1)),
    PRODUCT(flash_attn, F32(64, 1, 4, 1), TYPED(Q8_0, 64, 256, 2, 1), TYPED(Q8_0, 64, 256, 2, 1), MASK(256, 64, 1, 1)),
    PRODUCT(flash_attn_cap, F32(64, 5, 4, 1), F16(64, 256, 2, 1), F16(64, 256, 2, 1), MASK(256, 64, 1, 1)),
    CASE(get_rows, F32(64, 16, 1, 1), IDS(16, 9, 1, 1, 1)),
    CASE(get_rows, WEIGHT(Q8_0, 64, 16, 1, 1), IDS(16, 9, 1, 1, 1)),
    CASE(set_rows, F32(64, 9, 1, 1), IDS64(16, 9, 1, 1, 1)),
    PRODUCT(set_rows_q8_0, F32(64, 9, 1, 1), IDS(16, 9, 1, 1, 1)),
    CASE(cpy, F32(64, 16, 1, 1)),
    CASE_A(cast_f16),
    PRODUCT(cast_q8_0, F32(64, 7, 3, 1)),
    CASE_A(cont_permuted),
    CASE_A(cont_transposed),
    CASE_A(reshape),
    CASE_A(view),
    CASE(repeat, F32(32, 3, 2, 1)),
    CASE(concat, F32(64, 7, 3, 1), F32(64, 2, 3, 1)),
    CASE_A(scale),
    CASE_A(scale_bias),
    CASE_A(clamp),
    CASE_A(fill),
    CASE_A(argsort),
    CASE(top_k, F32(64, 1, 1, 1), F32(16, 64, 1, 1)),
    CASE(top_1, F32(64, 7, 1, 1)),
    CASE(argmax, F32(64, 7, 1, 1)),
    CASE_A(sqr),
    CASE(sqrt, POSITIVE(64, 7, 3, 1)),
    CASE_A(silu),
    CASE_A(gelu),
    CASE_A(gelu_erf),
    CASE_A(gelu_quick),
    CASE_A(tanh),
    CASE_A(sigmoid),
    CASE_A(relu),
    CASE_A(softplus),
    CASE_A(exp),
    CASE_A(neg),
    CASE_A(reglu),
    CASE_AB(geglu),
    CASE_AB(swiglu),
    CASE_A(swiglu_swapped),
    CASE_A(geglu_erf),
    CASE_A(geglu_quick),
    CASE_AB(swiglu_oai),
    CASE_AB(swiglu_clamp),
    CASE(ssm_conv, F32(10, 64, 2, 1), F32(4, 64, 1, 1)),
    /* Mamba 2: state of 128, heads of 64; two sequences of five tokens */
    CASE(ssm_scan, F32(128, 64, 4, 2), F32(64, 4, 5, 2), F32(4, 5, 2, 1), F32(1, 4, 1, 1), F32(128, 2, 5, 2), F32(128, 2, 5, 2), IDS(2, 2, 1, 1, 1)),
    CASE(gated_delta_net, F32(64, 2, 5, 1), F32(64, 2, 5, 1), F32(64, 4, 5, 1), F32(1, 4, 5, 1), POSITIVE(1, 4, 5, 1), F32(64, 64, 4, 1)),
    CASE(dsv4_hc_pre, F32(64, 4, 5, 1), F32(4, 5, 1, 1)),
    PRODUCT(lightning_indexer, F32(128, 8, 3, 1), F16(128, 1, 64, 1), F32(8, 3, 1, 1), MASK(64, 3, 1, 1)),
    CASE(rwkv_wkv6, F32(64, 2, 6, 1), F32(64, 2, 6, 1), F32(64, 2, 6, 1), F32(64, 2, 1, 1), POSITIVE(64, 2, 6, 1), F32(64 * 64 * 2, 2, 1, 1)),
    CASE(rwkv_wkv7, F32(64, 2, 6, 1), POSITIVE(64, 2, 6, 1), F32(64, 2, 6, 1), F32(64, 2, 6, 1), F32(64, 2, 6, 1), F32(64, 2, 6, 1),
         F32(64 * 64 * 2, 2, 1, 1)),
};
enum { N_CASES = sizeof cases / sizeof cases[0] };
_Static_assert((int)N_CASES <= (int)MAX_CASES, "room for what is kept");

/* ---- numbers ---- */

static uint32_t chance = 1;

static float number(void) {
    chance = chance * 1664525 + 1013904223;
    return (float)(chance >> 8) / (1 << 23) - 1; /* [-1, 1) */
}

static void fill_floats(const input *in, uint8_t *at, int64_t n) {
    float *values = malloc((size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++) {
        values[i] = in->bound == -1 ? fabsf(number()) + 0.25f : number();
        if (in->bound == -2) { /* token t sees the cells up to 3 t */
            values[i] = i % in->ne[0] <= 3 * (i / in->ne[0]) ? 0 : -INFINITY;
        }
    }
    if (in->type == SP_TYPE_F32) {
        memcpy(at, values, (size_t)n * sizeof *values);
    } else {
        ggml_quantize_chunk((enum ggml_type)in->type, values, at, 0, n / in->ne[0], in->ne[0], NULL);
    }
    free(values);
}

static void fill_input(const input *in, uint8_t *at) {
    int64_t n = in->ne[0] * in->ne[1] * in->ne[2] * in->ne[3];
    if (in->type != SP_TYPE_I32 && in->type != SP_TYPE_I64) {
        fill_floats(in, at, n);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t id = (i * 7 + 3) % in->bound;
        in->type == SP_TYPE_I32 ? (void)(((int32_t *)(void *)at)[i] = (int32_t)id) : (void)(((int64_t *)(void *)at)[i] = id);
    }
}

/* ---- the two sides ---- */

static struct ggml_tensor *compute_directly(const op_case *c, struct ggml_context *context, struct ggml_tensor **in) {
    for (int i = 0; i < MAX_IN && c->in[i].ne[0]; i++) {
        const int64_t *ne = c->in[i].ne;
        in[i] = ggml_new_tensor_4d(context, (enum ggml_type)c->in[i].type, ne[0], ne[1], ne[2], ne[3]);
        fill_input(&c->in[i], in[i]->data);
    }
    struct ggml_tensor *out = c->theirs(context, in);
    struct ggml_cgraph *graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, out);
    assert_int_equal(ggml_graph_compute_with_ctx(context, graph, THREADS), GGML_STATUS_SUCCESS);
    return out;
}

typedef struct model {
    struct sp_weight_entry entries[MAX_IN];
    sp_weight_table table;
} model;

static bool find_weight(void *context, uint32_t handle, const char *name, sp_weight_info *out) {
    const model *m = context;
    for (uint32_t i = 0; handle == 0 && i < m->table.n; i++) {
        if (strcmp(m->entries[i].name, name) == 0) {
            *out = (sp_weight_info){.type = m->entries[i].type, .index = i};
            memcpy(out->ne, m->entries[i].ne, sizeof out->ne);
            return true;
        }
    }
    return false;
}

enum { PAGES = 1 << 20 };

/* Writes the inputs behind one another, and the program that reads them; the result goes to a window of slot "out". */
static const void *build(const op_case *c, struct ggml_tensor *const *theirs, const struct ggml_tensor *wanted, sp_graph *g, uint8_t *memory,
                         uint8_t *file, model *m, uint32_t *size) {
    static const char *const names[MAX_IN] = {"w0", "w1", "w2", "w3", "w4", "w5", "w6"};
    sp_graph_init(g);
    uint32_t slot = sp_graph_slot(g, "in", SP_SLOT_READ), out = sp_graph_slot(g, "out", SP_SLOT_READ | SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor in[MAX_IN + 1];
    int64_t at = 0, at_file = 0;
    for (int i = 0; i < MAX_IN && theirs[i]; i++) {
        const int64_t *ne = theirs[i]->ne;
        int64_t bytes = (int64_t)ggml_nbytes(theirs[i]);
        memcpy(c->in[i].weight ? file + at_file : memory + at, theirs[i]->data, (size_t)bytes);
        if (c->in[i].weight) {
            m->entries[m->table.n] = (struct sp_weight_entry){.name = names[i], .type = c->in[i].type, .offset = (uint64_t)at_file};
            memcpy(m->entries[m->table.n++].ne, ne, sizeof theirs[i]->ne);
            in[i] = sp_graph_weight(g, names[i]);
            at_file += (bytes + 255) / 256 * 256;
        } else {
            in[i] = sp_graph_memory_4d(g, NULL, slot, c->in[i].type, sp_dim(ne[0]), sp_dim(ne[1]), sp_dim(ne[2]), sp_dim(ne[3]), sp_dim(at));
            at += (bytes + 255) / 256 * 256;
        }
    }
    const int64_t *ne = wanted->ne;
    sp_tensor window =
        sp_graph_memory_4d(g, NULL, out, (uint32_t)wanted->type, sp_dim(ne[0]), sp_dim(ne[1]), sp_dim(ne[2]), sp_dim(ne[3]), sp_dim(0));
    in[MAX_IN] = window;
    sp_tensor result = c->ours(g, in);
    if (g->tensors[result].op != SP_OP_SET_ROWS && g->tensors[result].op != SP_OP_CPY) {
        sp_graph_into(g, result, window);
    }
    const void *bytes = sp_graph_bytes(g, size);
    assert_true(at <= PAGES && at_file <= PAGES);
    if (!bytes) {
        fail_msg("%s: %s", c->name, g->error);
    }
    return bytes;
}

/* A device with one region for all cases: the first half is what programs read, the second what they write. */
typedef struct bench {
    sp_device *device;
    sp_device_info info;
    uint8_t *base, *file;
    sp_device_memory *memory;
    sp_workspace *workspace;
    /* Kept until the end: lavapipe of Mesa 22.3 now and then crashes in its own thread when buffers go between runs. */
    sp_executable *executables[MAX_CASES];
    sp_device_weights *weights[MAX_CASES];
    int n;
} bench;

static bench open_bench(const char *name, sp_memory *memory, sp_memory *file) {
    sp_error err = {0};
    bench b = {.base = sp_memory_base(memory), .file = sp_memory_base(file)};
    sp_status status = sp_device_open(name, THREADS, &b.device, &err);
    status = status ? status : sp_device_describe(b.device, &b.info);
    status = status ? status : sp_device_memory_open(b.device, b.base, (uint64_t)2 * PAGES, &b.memory, &err);
    status = status ? status : sp_workspace_open(b.device, UINT64_MAX, &b.workspace, &err);
    if (status != SP_OK) {
        fail_msg("%s: %s", name, err.message);
    }
    return b;
}

static void close_bench(bench *b) {
    for (int i = 0; i < b->n; i++) {
        sp_executable_close(b->executables[i]);
        sp_device_weights_close(b->weights[i]);
    }
    sp_workspace_close(b->workspace);
    sp_device_memory_close(b->memory);
    sp_device_close(b->device);
}

/* What the device makes of it; it lies in the second half. */
static void compute_on(bench *b, const op_case *c, const void *bytes, uint32_t size, model *m) {
    sp_error err = {0};
    sp_program *program = NULL;
    sp_spec *spec = NULL;
    sp_device_weights *weights = NULL;
    sp_executable *executable = NULL;
    m->table.base = b->file, m->table.size = PAGES, m->table.entries = m->entries;
    sp_weight_source source = {find_weight, m};
    sp_status status = sp_program_load(bytes, size, &source, &program, &err);
    status = status ? status : sp_program_specialise(program, NULL, 0, NULL, &spec, &err);
    status = status ? status : sp_device_weights_open(b->device, &m->table, NULL, NULL, &weights, &err);
    status = status ? status : sp_device_memory_sync(b->memory, 0, (uint64_t)2 * PAGES, SP_SYNC_TO_DEVICE, &err);
    const sp_slot_binding bindings[2] = {{b->memory, 0, PAGES}, {b->memory, PAGES, PAGES}};
    status = status ? status : sp_device_prepare(b->workspace, spec, bindings, &weights, 1, &executable, &err);
    status = status ? status : sp_device_execute(executable, &err);
    status = status ? status : sp_device_memory_sync(b->memory, PAGES, PAGES, SP_SYNC_FROM_DEVICE, &err);
    if (status != SP_OK) {
        fail_msg("%s: %s", c->name, err.message);
    }
    b->executables[b->n] = executable, b->weights[b->n++] = weights;
    sp_spec_free(spec);
    sp_program_free(program);
}

/* ---- comparing ---- */

static double *as_doubles(const void *bytes, enum ggml_type type, int64_t n) {
    double *values = malloc((size_t)n * sizeof *values);
    float *floats = malloc((size_t)n * sizeof *floats);
    if (type == GGML_TYPE_I32) {
        for (int64_t i = 0; i < n; i++) {
            values[i] = ((const int32_t *)bytes)[i];
        }
    } else {
        type == GGML_TYPE_F32 ? (void)memcpy(floats, bytes, (size_t)n * sizeof *floats) : ggml_get_type_traits(type)->to_float(bytes, floats, n);
        for (int64_t i = 0; i < n; i++) {
            values[i] = floats[i];
        }
    }
    free(floats);
    return values;
}

/* Mean squared error over mean square. */
static double nmse(const void *got, const struct ggml_tensor *wanted) {
    int64_t n = ggml_nelements(wanted);
    double *a = as_doubles(got, wanted->type, n), *b = as_doubles(wanted->data, wanted->type, n), error = 0, square = 0;
    for (int64_t i = 0; i < n; i++) {
        if (a[i] == b[i]) { /* infinities too */
            square += isinf(b[i]) ? 0 : b[i] * b[i];
            continue;
        }
        error += (a[i] - b[i]) * (a[i] - b[i]);
        square += b[i] * b[i];
    }
    free(a);
    free(b);
    return isnan(error) ? INFINITY : error == 0 ? 0 : error / square;
}

static bool has_weight(const op_case *c) {
    for (int i = 0; i < MAX_IN; i++) {
        if (c->in[i].weight) {
            return true;
        }
    }
    return false;
}

static void compare(bench *b, const op_case *c) {
    struct ggml_context *context = ggml_init((struct ggml_init_params){.mem_size = 16 << 20});
    struct ggml_tensor *in[MAX_IN] = {0};
    chance = 1;
    const struct ggml_tensor *wanted = compute_directly(c, context, in);
    const uint8_t *got = b->base + PAGES;
    memset(b->base, 0, (size_t)2 * PAGES);
    sp_graph g;
    model m = {0};
    uint32_t size = 0;
    const void *program = build(c, in, wanted, &g, b->base, b->file, &m, &size);
    compute_on(b, c, program, size, &m);
    bool ggml_cpu = strcmp(b->info.name, "cpu") == 0 || strcmp(b->info.name, "discrete") == 0;
    double error = nmse(got, wanted), allowed = c->gpu_nmse > 0 ? c->gpu_nmse : 1e-6;
    if (ggml_cpu && !has_weight(c) && memcmp(got, wanted->data, ggml_nbytes(wanted)) != 0) {
        fail_msg("%s on %s: not the same bytes (nmse %g)", c->name, b->info.name, error);
    }
    if (error > allowed) {
        fail_msg("%s on %s: nmse %g, more than %g", c->name, b->info.name, error, allowed);
    }
    sp_graph_free(&g);
    ggml_free(context);
}

static void test_every_operation(void **state) {
    (void)state;
    sp_device_info infos[16];
    size_t count = 0;
    sp_error err;
    sp_memory *memory = NULL, *file = NULL;
    assert_int_equal(sp_memory_create((uint64_t)2 * PAGES, (uint64_t)2 * PAGES, 0, &memory, &err), SP_OK);
    assert_int_equal(sp_memory_create(PAGES, PAGES, 0, &file, &err), SP_OK);
    assert_int_equal(sp_device_list(infos, 16, &count, &err), SP_OK);
    for (size_t d = 0; d < count && d < 16; d++) {
        bench b = open_bench(infos[d].name, memory, file);
        for (int i = 0; i < N_CASES; i++) {
            compare(&b, &cases[i]);
        }
        close_bench(&b);
        print_message("%s: %d cases\n", infos[d].name, N_CASES);
    }
    sp_memory_destroy(memory);
    sp_memory_destroy(file);
}

/* A new operation needs a case here. */
static void test_no_operation_is_left_out(void **state) {
    (void)state;
    for (uint32_t op = 1; op < 200; op++) {
        const char *name = sp_op_name(op);
        bool found = !name;
        for (int i = 0; !found && i < N_CASES; i++) {
            struct ggml_context *context = ggml_init((struct ggml_init_params){.mem_size = 16 << 20});
            struct ggml_tensor *in[MAX_IN] = {0};
            const struct ggml_tensor *wanted = compute_directly(&cases[i], context, in);
            static uint8_t memory[PAGES], file[PAGES];
            sp_graph g;
            model m = {0};
            uint32_t size;
            build(&cases[i], in, wanted, &g, memory, file, &m, &size);
            for (uint32_t t = 0; t < g.n_tensors; t++) {
                found = found || (g.tensors[t].kind == SP_TENSOR_OP && g.tensors[t].op == op);
            }
            sp_graph_free(&g);
            ggml_free(context);
        }
        if (!found) {
            fail_msg("no case for %s", name);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_operation_is_left_out),
        cmocka_unit_test(test_every_operation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
