/*
 * Graphs that make ggml read or write out of bounds, divide by zero, run for ever or abort, as programs: each is refused, with its reason.
 * Found by handing ggml's CPU backend such graphs directly; those marked [mem], [div], [loop] and [abort] do that there, the others are kin to them.
 */
#include "program/program_test.h"

#define G (&b->g)
/* A graph of its own, which must be refused with these words. */
#define HOSTILE(words, ...)                                                                                                                          \
    do {                                                                                                                                             \
        bench bench_ = new_bench(), *b = &bench_;                                                                                                    \
        __VA_ARGS__;                                                                                                                                 \
        refuse_graph(b, words);                                                                                                                      \
    } while (0)

static void test_sizes(void **state_) {
    (void)state_;
    const int64_t huge = INT64_C(1) << 62;
    HOSTILE("dimensions are 1 to", sp_neg(G, f32(b, -1, 1, 1, 1)));                                                   /* [mem] */
    HOSTILE("dimensions are 1 to", sp_neg(G, f32(b, 0, 1, 1, 1)));                                                    /* [div] */
    HOSTILE("dimensions are 1 to", sp_neg(G, sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_dim(huge), sp_dim(0)))); /* [mem] */
    HOSTILE("too many rows", sp_graph_memory_4d(G, NULL, IN, SP_TYPE_F32, sp_dim(1), sp_dim(65536), sp_dim(65536), sp_dim(65536), sp_dim(0)));
    HOSTILE("too many rows", sp_graph_memory_2d(G, NULL, IN, SP_TYPE_F32, sp_dim(1), sp_dim(INT32_MAX), sp_dim(0)));
    HOSTILE("larger than 2^40", sp_graph_memory_2d(G, NULL, IN, SP_TYPE_F32, sp_dim(INT32_MAX), sp_dim(1 << 20), sp_dim(0)));
    HOSTILE("multiple of the type's block", sp_graph_memory_1d(G, NULL, IN, SP_TYPE_Q4_0, sp_dim(33), sp_dim(0))); /* [mem] */
    HOSTILE("no slot, type or shape", typed(b, 4, 32, 1, 1, 1));                                                   /* [div] q4_2 is gone */
    HOSTILE("no slot, type or shape", typed(b, 31, 32, 1, 1, 1));                                                  /* [div] q4_0_4_4 is gone */
    HOSTILE("no slot, type or shape", typed(b, 24, 32, 1, 1, 1));                                                  /* i8: not for programs */
    HOSTILE("no slot, type or shape", typed(b, 9999, 32, 1, 1, 1));                                                /* [mem] */
    HOSTILE("offset must be", sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_dim(4), sp_dim(-32)));
    HOSTILE("offset must be", sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_dim(4), sp_dim(huge)));
    HOSTILE("offset must be", sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_dim(4), sp_dim(4)));
}

static sp_tensor with_strides(bench *b, uint32_t slot, int64_t nb1, int64_t nb2, int64_t nb3) {
    const sp_expr ne[4] = {sp_dim(8), sp_dim(4), sp_dim(2), sp_dim(1)}, nb[3] = {sp_dim(nb1), sp_dim(nb2), sp_dim(nb3)};
    return sp_graph_memory(G, NULL, slot, SP_TYPE_F32, ne, nb, sp_dim(0));
}

static void test_views(void **state_) {
    (void)state_;
    HOSTILE("reaches out", sp_view_1d(G, f32(b, 64, 1, 1, 1), sp_dim(65), sp_dim(0)));
    HOSTILE("reaches out", sp_view_1d(G, f32(b, 64, 1, 1, 1), sp_dim(1), sp_dim(256)));
    HOSTILE("reaches out", strided(b, f32(b, 64, 4, 1, 1), 64, 4, 1, 1, 1 << 20, 1 << 22, 1 << 22, 0)); /* [mem] any stride passes in ggml */
    HOSTILE("reaches out", strided(b, f32(b, 64, 4, 1, 1), 64, 1, 2, 1, 256, 4096, 8192, 0));           /* [mem] */
    HOSTILE("reaches out", strided(b, f32(b, 64, 4, 1, 1), 64, 1, 1, 2, 256, 256, 4096, 0));            /* [mem] */
    HOSTILE("offset must be", sp_view_1d(G, f32(b, 64, 1, 1, 1), sp_dim(4), sp_dim(-256)));             /* [mem] it wraps */
    HOSTILE("offset must be", sp_view_1d(G, f32(b, 64, 1, 1, 1), sp_dim(4), sp_dim(2)));
    HOSTILE("offset must be", sp_view_1d(G, typed(b, SP_TYPE_Q8_0, 64, 1, 1, 1), sp_dim(32), sp_dim(4)));
    HOSTILE("multiple of the type's block", sp_view_1d(G, typed(b, SP_TYPE_Q8_0, 64, 1, 1, 1), sp_dim(16), sp_dim(0)));
    HOSTILE("strides must be", strided(b, f32(b, 64, 4, 1, 1), 8, 4, 1, 1, 6, 256, 256, 0));
    HOSTILE("strides must be", strided(b, f32(b, 64, 4, 1, 1), 8, 4, 1, 1, 0, 256, 256, 0));
    HOSTILE("strides must be", strided(b, f32(b, 64, 4, 1, 1), 8, 1, 1, 1, -256, 256, 256, 0));
    HOSTILE("strides must be", strided(b, f32(b, 64, 4, 1, 1), 8, 1, 1, 1, INT64_MAX - 3, 256, 256, 0));
    HOSTILE("overlap", strided(b, f32(b, 64, 4, 1, 1), 8, 4, 1, 1, 4, 256, 256, 0));
    HOSTILE("overlap", with_strides(b, STATE, 32, 32, 64));
    HOSTILE("overlap", with_strides(b, STATE, 64, 96, 512));
    HOSTILE("many elements", sp_reshape_2d(G, f32(b, 64, 4, 1, 1), sp_dim(64), sp_dim(5)));     /* [abort] */
    HOSTILE("contiguous", sp_reshape_1d(G, sp_transpose(G, f32(b, 64, 4, 1, 1)), sp_dim(256))); /* [abort] */
    HOSTILE("axes must differ", sp_permute(G, f32(b, 64, 4, 1, 1), 0, 0, 2, 3));                /* [abort] */
    HOSTILE("it must be 0 to 3", sp_permute(G, f32(b, 64, 4, 1, 1), 0, 1, 2, 4));               /* [abort] */
    HOSTILE("it must be 0 to 3", sp_permute(G, f32(b, 64, 4, 1, 1), 0, 1, 2, UINT32_MAX));      /* [abort] */
    HOSTILE("axis0 must be 0", sp_permute(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1), 1, 0, 2, 3));
    HOSTILE("does not take", sp_transpose(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1)));
}

static void test_matrix_products(void **state_) {
    (void)state_;
    HOSTILE("a.ne0 is 64; it must be equal to b.ne0, which is 32", sp_mul_mat(G, f32(b, 64, 4, 1, 1), f32(b, 32, 4, 1, 1))); /* [abort] */
    HOSTILE("b.ne2 is 3; it must be a multiple of a.ne2", sp_mul_mat(G, f32(b, 64, 4, 2, 1), f32(b, 64, 4, 3, 1)));          /* [abort] */
    HOSTILE("b.ne3 is 3; it must be a multiple of a.ne3", sp_mul_mat(G, f32(b, 64, 4, 1, 2), f32(b, 64, 4, 1, 3)));          /* [abort] */
    HOSTILE("side by side", sp_mul_mat(G, sp_transpose(G, f32(b, 4, 64, 1, 1)), f32(b, 64, 4, 1, 1)));                       /* [abort] */
    HOSTILE("side by side", sp_mul_mat(G, f32(b, 64, 4, 1, 1), sp_transpose(G, f32(b, 4, 64, 1, 1))));                       /* [abort] */
    HOSTILE("a has type i32", sp_mul_mat(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1), f32(b, 64, 4, 1, 1)));                /* [mem] no dot product */
    HOSTILE("a has type i64", sp_mul_mat(G, typed(b, SP_TYPE_I64, 64, 4, 1, 1), f32(b, 64, 4, 1, 1)));                /* [mem] */
    HOSTILE("b must be f32", sp_mul_mat(G, typed(b, SP_TYPE_Q4_0, 64, 4, 1, 1), typed(b, SP_TYPE_F16, 64, 4, 1, 1))); /* [abort] */
    HOSTILE("b has type q8_0", sp_mul_mat(G, typed(b, SP_TYPE_Q4_0, 64, 4, 1, 1), typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1)));
    HOSTILE("b has type i32", sp_mul_mat(G, f32(b, 64, 4, 1, 1), typed(b, SP_TYPE_I32, 64, 4, 1, 1))); /* [abort] */
    HOSTILE("prec is 3", sp_mul_mat_set_prec(G, sp_mul_mat(G, f32(b, 64, 4, 1, 1), f32(b, 64, 4, 1, 1)), 3));
}

static sp_tensor experts(bench *b, int64_t used, int64_t tokens, sp_tensor chosen) {
    return sp_mul_mat_id(G, f32(b, 64, 16, 8, 1), f32(b, 64, used, tokens, 1), chosen);
}

static void test_experts(void **state_) {
    (void)state_;
    HOSTILE("ids.ne1 is 4; it must be equal to b.ne2", experts(b, 2, 3, ids(b, 2, 4)));                /* [abort] */
    HOSTILE("ids.ne0 is 3; it must be a multiple of b.ne1", experts(b, 2, 3, ids(b, 3, 3)));           /* [abort] */
    HOSTILE("ids has type i64", experts(b, 2, 3, typed(b, SP_TYPE_I64, 2, 3, 1, 1)));                  /* [abort] */
    HOSTILE("as.ne3 is 2", sp_mul_mat_id(G, f32(b, 64, 16, 8, 2), f32(b, 64, 2, 3, 1), ids(b, 2, 3))); /* [abort] */
    HOSTILE("no more than there are rows", experts(b, 1, 3, ids(b, 9, 3)));                            /* [mem] */
    HOSTILE("one row of their window", experts(b, 2, 3, sp_reshape_2d(G, ids(b, 3, 2), sp_dim(2), sp_dim(3))));
    HOSTILE("must be a window of memory", experts(b, 2, 3, sp_cast(G, f32(b, 2, 3, 1, 1), SP_TYPE_I32)));         /* [mem] */
    HOSTILE("can be larger", experts(b, 1, 3, sp_argsort(G, sp_clamp(G, f32(b, 9, 3, 1, 1), 0, 1), 0)));          /* [mem] */
    HOSTILE("must be a window of memory", sp_get_rows(G, f32(b, 64, 4, 1, 1), sp_argmax(G, f32(b, 4, 4, 1, 1)))); /* -1 on some devices */
    HOSTILE("without WRITE", experts(b, 2, 3, state(b, SP_TYPE_I32, 2, 3, 1, 1)));
    HOSTILE("one row of argsort", experts(b, 1, 3, strided(b, sp_argsort(G, sp_clamp(G, f32(b, 8, 3, 1, 1), 0, 1), 0), 4, 3, 1, 1, 28, 96, 96, 0)));
    HOSTILE("b.ne0", sp_add_id(G, f32(b, 64, 2, 3, 1), f32(b, 32, 8, 1, 1), ids(b, 2, 3)));   /* [abort] */
    HOSTILE("ids.ne0", sp_add_id(G, f32(b, 64, 2, 3, 1), f32(b, 64, 8, 1, 1), ids(b, 1, 3))); /* [abort] */
}

static void test_element_by_element(void **state_) {
    (void)state_;
    HOSTILE("a.ne0 is 64; it must be a multiple of b.ne0", sp_add(G, f32(b, 64, 4, 1, 1), f32(b, 48, 4, 1, 1)));           /* [abort] */
    HOSTILE("a.ne1 is 4; it must be a multiple of b.ne1", sp_mul(G, f32(b, 64, 4, 1, 1), f32(b, 64, 8, 1, 1)));            /* [abort] */
    HOSTILE("a.ne3 is 1; it must be a multiple of b.ne3", sp_div(G, f32(b, 64, 4, 1, 1), f32(b, 64, 4, 1, 2)));            /* [abort] */
    HOSTILE("b must have a's type", sp_add(G, f32(b, 64, 4, 1, 1), typed(b, SP_TYPE_F16, 64, 4, 1, 1)));                   /* [abort] */
    HOSTILE("b must have a's type", sp_sub(G, typed(b, SP_TYPE_F16, 64, 4, 1, 1), typed(b, SP_TYPE_BF16, 64, 4, 1, 1)));   /* [abort] */
    HOSTILE("a has type i32", sp_add(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1), typed(b, SP_TYPE_I32, 64, 4, 1, 1)));          /* [abort] */
    HOSTILE("a has type q4_0", sp_mul(G, typed(b, SP_TYPE_Q4_0, 64, 4, 1, 1), f32(b, 64, 4, 1, 1)));                       /* [abort] */
    HOSTILE("side by side", sp_add(G, sp_transpose(G, f32(b, 4, 64, 1, 1)), f32(b, 64, 4, 1, 1)));                         /* [abort] */
    HOSTILE("side by side", sp_silu(G, sp_transpose(G, f32(b, 4, 64, 1, 1))));                                             /* [mem] */
    HOSTILE("a has type i32", sp_gelu(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1)));                                             /* [abort] */
    HOSTILE("a has type q8_0", sp_tanh(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1)));                                           /* [abort] */
    HOSTILE("a has type f16", sp_scale(G, typed(b, SP_TYPE_F16, 64, 4, 1, 1), 2));                                         /* [abort] */
    HOSTILE("contiguous", sp_scale(G, strided(b, f32(b, 64, 4, 1, 1), 32, 4, 1, 1, 256, 1024, 1024, 0), 2));               /* [abort] */
    HOSTILE("dimensions of size 1 too", sp_scale(G, strided(b, f32(b, 64, 4, 1, 1), 64, 1, 4, 1, 4096, 256, 1024, 0), 2)); /* [mem] it steps by nb1 */
    HOSTILE("dimensions of size 1 too", sp_scale(G, strided(b, f32(b, 64, 4, 1, 1), 64, 1, 1, 1, 256, 1024, 1024, 0), 2)); /* [abort] */
    HOSTILE("must be laid out", sp_clamp(G, sp_permute(G, f32(b, 64, 4, 4, 1), 0, 2, 1, 3), 0, 1));                        /* [mem] */
    HOSTILE("dimensions of size 1 too", sp_clamp(G, strided(b, f32(b, 64, 4, 1, 1), 64, 1, 4, 1, 4096, 256, 1024, 0), 0, 1)); /* [mem] */
    HOSTILE("min must be at most max", sp_clamp(G, f32(b, 64, 4, 1, 1), 1, 0));
    HOSTILE("min is nan", sp_clamp(G, f32(b, 64, 4, 1, 1), NAN, 0));
    HOSTILE("value is", sp_fill(G, f32(b, 64, 4, 1, 1), NAN));
    HOSTILE("a has type i32", sp_fill(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1), 0)); /* [abort] */
    HOSTILE("a.ne0 must be even", sp_swiglu(G, f32(b, 63, 4, 1, 1)));
    HOSTILE("a's shape and type", sp_swiglu_split(G, f32(b, 64, 4, 1, 1), f32(b, 64, 3, 1, 1)));               /* [abort] */
    HOSTILE("a's shape and type", sp_geglu_split(G, f32(b, 64, 4, 1, 1), typed(b, SP_TYPE_F16, 64, 4, 1, 1))); /* [abort] */
    HOSTILE("at one distance", sp_geglu(G, sp_permute(G, f32(b, 64, 4, 4, 1), 0, 2, 1, 3)));                   /* [abort] */
    HOSTILE("a has type f16", sp_swiglu_oai(G, typed(b, SP_TYPE_F16, 64, 4, 1, 1), SP_NONE, 1, 7));            /* [abort] */
    HOSTILE("limit is -1", sp_swiglu_oai(G, f32(b, 64, 4, 1, 1), SP_NONE, 1, -1));
}

static void test_norms_and_sums(void **state_) {
    (void)state_;
    HOSTILE("eps is -1", sp_rms_norm(G, f32(b, 64, 4, 1, 1), -1)); /* [abort] */
    HOSTILE("eps is", sp_norm(G, f32(b, 64, 4, 1, 1), NAN));       /* [abort] */
    HOSTILE("eps is inf", sp_l2_norm(G, f32(b, 64, 4, 1, 1), INFINITY));
    HOSTILE("a has type f16", sp_rms_norm(G, typed(b, SP_TYPE_F16, 64, 4, 1, 1), 0)); /* [abort] */
    HOSTILE("side by side", sp_rms_norm(G, sp_transpose(G, f32(b, 64, 4, 1, 1)), 0)); /* [abort] */
    HOSTILE("a has type i32", sp_sum_rows(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1)));    /* [abort] */
    HOSTILE("side by side", sp_sum_rows(G, sp_transpose(G, f32(b, 64, 4, 1, 1))));    /* [abort] */
}

static sp_tensor rope(bench *b, sp_tensor a, sp_tensor positions, sp_tensor factors, int n_dims, int mode) {
    return sp_rope_ext(G, a, positions, factors, n_dims, mode, 0, 10000, 1, 0, 1, 0, 0);
}

static sp_tensor sections(bench *b, int s0, int s1, int s2, int s3) {
    const int all[4] = {s0, s1, s2, s3};
    return sp_rope_multi(G, f32(b, 64, 8, 5, 1), ids(b, 20, 1), SP_NONE, 64, all, 8, 0, 10000, 1, 0, 1, 0, 0);
}

static void test_rope_sections(void **state_) {
    (void)state_;
    HOSTILE("one of the first three", sections(b, 0, 0, 0, 8)); /* [abort] */
    HOSTILE("at most a.ne0", sections(b, 32, 32, 1, 0));        /* [abort] */
    HOSTILE("section0 is -1", sections(b, -1, 8, 8, 0));        /* [mem] */
}

static void test_state_spaces(void **state_) {
    (void)state_;
    HOSTILE("sx.ne0 is 3", sp_ssm_conv(G, f32(b, 3, 8, 1, 1), f32(b, 4, 8, 1, 1)));                    /* [abort] */
    HOSTILE("sx.ne1 is 8", sp_ssm_conv(G, f32(b, 10, 8, 1, 1), f32(b, 4, 9, 1, 1)));                   /* [abort] */
    HOSTILE("c has type f16", sp_ssm_conv(G, f32(b, 10, 8, 1, 1), typed(b, SP_TYPE_F16, 4, 8, 1, 1))); /* [mem] */
#define SCAN(heads, groups, decay, head_dim)                                                                                                         \
    sp_ssm_scan(G, f32(b, 16, head_dim, 4, 3), f32(b, 8, heads, 5, 2), f32(b, 4, 5, 2, 1), f32(b, decay, 4, 1, 1), f32(b, 16, groups, 5, 2),         \
                f32(b, 16, groups, 5, 2), ids(b, 2, 1))
    HOSTILE("s.ne2 is 4", SCAN(6, 2, 1, 8));               /* [abort] */
    HOSTILE("x.ne1 is 4", SCAN(4, 3, 1, 8));               /* [abort] */
    HOSTILE("A.ne0 must be 1 or s.ne0", SCAN(4, 2, 2, 8)); /* [abort] */
    HOSTILE("s.ne1 is 9", SCAN(4, 2, 1, 9));               /* [abort] */
}

static void test_linear_attention(void **state_) {
    (void)state_;
#define DELTA(key, gates, width)                                                                                                                     \
    sp_gated_delta_net(G, f32(b, 16, 2, 5, 1), f32(b, key, 2, 5, 1), f32(b, 16, 4, 5, 2), f32(b, gates, 4, 5, 2), f32(b, 1, 4, 5, 2),                \
                       f32(b, width, 16, 4, 2))
    HOSTILE("k.ne0 is 8", DELTA(8, 1, 16));                /* [mem] */
    HOSTILE("g.ne0 must be 1 or v.ne0", DELTA(16, 2, 16)); /* [abort] */
    HOSTILE("state.ne0 is 8", DELTA(16, 1, 8));            /* [abort] */
    HOSTILE("ne0 must be a multiple of 64", sp_tensor r = f32(b, 32, 4, 6, 1);
            sp_rwkv_wkv7(G, r, r, r, r, r, r, f32(b, 32 * 32 * 4, 1, 1, 1))); /* [mem] */
}

static void test_wkv_state(void **state_) {
    (void)state_;
    HOSTILE("state.ne0 must be", sp_tensor r = f32(b, 64, 4, 6, 1); sp_rwkv_wkv7(G, r, r, r, r, r, r, f32(b, 64, 1, 1, 1))); /* [abort] */
    HOSTILE("multiple of state.ne1", sp_tensor r = f32(b, 64, 4, 6, 1);
            sp_rwkv_wkv6(G, r, r, r, f32(b, 64, 4, 1, 1), r, f32(b, 64 * 64 * 4, 4, 1, 1))); /* [mem] */
}

static void test_lightning_indexer(void **state_) {
    (void)state_;
#define INDEXER(cells, heads)                                                                                                                        \
    sp_lightning_indexer(G, f32(b, 64, 8, 5, 1), typed(b, SP_TYPE_F16, 64, 1, 32, 1), f32(b, heads, 5, 1, 1), typed(b, SP_TYPE_F16, cells, 5, 1, 1))
    HOSTILE("mask.ne0 is 31", INDEXER(31, 8)); /* [abort] */
    HOSTILE("q.ne1 is 8", INDEXER(32, 7));     /* [abort] */
}

static void test_rope(void **state_) {
    (void)state_;
    HOSTILE("n_dims is 0", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 0, 0));                       /* [loop] */
    HOSTILE("n_dims is -2", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, -2, 0));                     /* [mem] */
    HOSTILE("must be even", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 63, 0));                     /* [abort] */
    HOSTILE("at most a.ne0", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 128, 0));                   /* [abort] */
    HOSTILE("must be even", rope(b, f32(b, 63, 8, 5, 1), ids(b, 5, 1), SP_NONE, 62, 0));                     /* [mem] */
    HOSTILE("mode must be", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 1));                     /* [abort] */
    HOSTILE("positions.ne0 must be four times", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 8)); /* [abort] */
    HOSTILE("mode must be", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 4));                     /* [abort] */
    HOSTILE("positions.ne0 must be", rope(b, f32(b, 64, 8, 5, 1), ids(b, 4, 1), SP_NONE, 64, 0));            /* [abort] */
    HOSTILE("positions.ne1 is 2", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 2), SP_NONE, 64, 0));               /* [abort] */
    HOSTILE("positions has type", rope(b, f32(b, 64, 8, 5, 1), f32(b, 5, 1, 1, 1), SP_NONE, 64, 0));         /* [abort] */
    HOSTILE("positions must be laid out",
            rope(b, f32(b, 64, 8, 5, 1), sp_transpose(G, strided(b, ids(b, 8, 5), 1, 5, 1, 1, 32, 160, 160, 0)), SP_NONE, 64, 0)); /* [mem] */
    HOSTILE("freq_factors.ne0", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), f32(b, 16, 1, 1, 1), 32, 0));                           /* [mem] */
    HOSTILE("freq_factors has type", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), typed(b, SP_TYPE_F16, 32, 1, 1, 1), 64, 0));       /* [abort] */
    HOSTILE("a has type bf16", rope(b, typed(b, SP_TYPE_BF16, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 0));                        /* [abort] */
    HOSTILE("side by side", rope(b, sp_permute(G, f32(b, 8, 64, 5, 1), 1, 0, 2, 3), ids(b, 5, 1), SP_NONE, 64, 0));                /* [abort] */
    HOSTILE("freq_base is", sp_rope_ext(G, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 0, 0, NAN, 1, 0, 1, 0, 0));
}

static void test_soft_max(void **state_) {
    (void)state_;
    HOSTILE("a has type f16", sp_soft_max(G, typed(b, SP_TYPE_F16, 64, 4, 1, 1)));                                /* [abort] */
    HOSTILE("contiguous", sp_soft_max(G, sp_transpose(G, f32(b, 64, 4, 1, 1))));                                  /* [abort] */
    HOSTILE("mask.ne0 is 32", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), f32(b, 32, 4, 1, 1), 1, 0));                /* [abort] */
    HOSTILE("mask.ne1 is 3", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), f32(b, 64, 3, 1, 1), 1, 0));                 /* [abort] */
    HOSTILE("a.ne2 is 2", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), f32(b, 64, 4, 3, 1), 1, 0));                    /* [abort] */
    HOSTILE("mask has type", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), typed(b, SP_TYPE_BF16, 64, 4, 1, 1), 1, 0)); /* [abort] */
    HOSTILE("needs a mask", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), SP_NONE, 1, 8));                              /* [abort] */
    HOSTILE("scale is", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), SP_NONE, NAN, 0));
    HOSTILE("sinks.ne0 is 3", sp_tensor sinks = f32(b, 3, 1, 1, 1);
            sp_soft_max_add_sinks(G, sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), SP_NONE, 1, 0), sinks));
}

/* Attention of 5 queries in 8 heads over 32 keys in 2, one thing wrong. */
static void attend(bench *b, sp_tensor q, sp_tensor k, sp_tensor v, sp_tensor mask, float max_bias) {
    sp_flash_attn_ext(G, q == SP_NONE ? f32(b, 64, 5, 8, 1) : q, k == SP_NONE ? typed(b, SP_TYPE_F16, 64, 32, 2, 1) : k,
                      v == SP_NONE ? typed(b, SP_TYPE_F16, 64, 32, 2, 1) : v, mask, 1, max_bias, 0);
}

static void test_flash_attention(void **state_) {
    (void)state_;
    const sp_tensor ok = SP_NONE;
    HOSTILE("q has type f16", attend(b, typed(b, SP_TYPE_F16, 64, 5, 8, 1), ok, ok, ok, 0));                               /* [mem] */
    HOSTILE("q.ne0 is 32", attend(b, f32(b, 32, 5, 8, 1), ok, ok, ok, 0));                                                 /* [abort] */
    HOSTILE("q.ne2 is 7", attend(b, f32(b, 64, 5, 7, 1), ok, ok, ok, 0));                                                  /* [abort] */
    HOSTILE("q.ne3 is 2", attend(b, f32(b, 64, 5, 8, 2), ok, ok, ok, 0));                                                  /* [abort] */
    HOSTILE("k has type i32", attend(b, ok, typed(b, SP_TYPE_I32, 64, 32, 2, 1), ok, ok, 0));                              /* [mem] */
    HOSTILE("v has type i64", attend(b, ok, ok, typed(b, SP_TYPE_I64, 64, 32, 2, 1), ok, 0));                              /* [abort] */
    HOSTILE("v.ne1 is 16", attend(b, ok, ok, typed(b, SP_TYPE_F16, 64, 16, 2, 1), ok, 0));                                 /* [mem] */
    HOSTILE("q.ne2 is 8; it must be a multiple of v.ne2", attend(b, ok, ok, typed(b, SP_TYPE_F16, 64, 32, 3, 1), ok, 0));  /* [mem] */
    HOSTILE("q.ne2 is 8; it must be a multiple of v.ne2", attend(b, ok, ok, typed(b, SP_TYPE_F16, 64, 32, 16, 1), ok, 0)); /* [div] */
    HOSTILE("q.ne3 is 1; it must be equal to v.ne3", attend(b, ok, ok, typed(b, SP_TYPE_F16, 64, 32, 2, 2), ok, 0));       /* [abort] */
    HOSTILE("mask.ne0 is 16", attend(b, ok, ok, ok, typed(b, SP_TYPE_F16, 16, 64, 1, 1), 0));                              /* [mem] */
    HOSTILE("mask.ne1 is 4", attend(b, ok, ok, ok, typed(b, SP_TYPE_F16, 32, 4, 1, 1), 0));                                /* [mem] */
    HOSTILE("mask.ne2", attend(b, ok, ok, ok, typed(b, SP_TYPE_F16, 32, 64, 3, 1), 0));                                    /* [abort] */
    HOSTILE("mask has type f32", attend(b, ok, ok, ok, f32(b, 32, 64, 1, 1), 0));                                          /* [abort] */
    HOSTILE("mask must be laid out", attend(b, ok, ok, ok, strided(b, typed(b, SP_TYPE_F16, 64, 64, 1, 1), 32, 64, 1, 1, 128, 8192, 8192, 0), 0));
    HOSTILE("needs a mask", attend(b, ok, ok, ok, ok, 8));                                                             /* [abort] */
    HOSTILE("side by side", attend(b, ok, sp_permute(G, typed(b, SP_TYPE_F16, 32, 64, 2, 1), 1, 0, 2, 3), ok, ok, 0)); /* [abort] */
    HOSTILE("sinks.ne0 is 7", sp_tensor sinks = f32(b, 7, 1, 1, 1); attend(b, ok, ok, ok, ok, 0);
            sp_flash_attn_ext_add_sinks(G, G->n_tensors - 1, sinks));
}

static void test_rows(void **state_) {
    (void)state_;
    HOSTILE("a.ne2 is 3; it must be equal to ids.ne1", sp_get_rows(G, f32(b, 64, 9, 3, 1), ids(b, 4, 2))); /* [abort] */
    HOSTILE("ids has type i64", sp_get_rows(G, f32(b, 64, 9, 1, 1), typed(b, SP_TYPE_I64, 4, 1, 1, 1)));   /* [abort] */
    HOSTILE("a has type i64", sp_get_rows(G, typed(b, SP_TYPE_I64, 64, 9, 1, 1), ids(b, 4, 1)));           /* [abort] */
    HOSTILE("side by side", sp_get_rows(G, sp_transpose(G, f32(b, 9, 64, 1, 1)), ids(b, 4, 1)));           /* [mem] */
    HOSTILE("ids.ne3 is 2", sp_get_rows(G, f32(b, 64, 9, 1, 1), typed(b, SP_TYPE_I32, 4, 1, 1, 2)));       /* [abort] */
    HOSTILE("a.ne0 is 64; it must be equal to b.ne0",
            sp_set_rows(G, state(b, SP_TYPE_F16, 64, 9, 1, 1), f32(b, 32, 4, 1, 1), ids(b, 4, 1))); /* [abort] */
    HOSTILE("b.ne1 is 4; it must be equal to ids.ne0",
            sp_set_rows(G, state(b, SP_TYPE_F16, 64, 9, 1, 1), f32(b, 64, 4, 1, 1), ids(b, 3, 1)));                         /* [abort] */
    HOSTILE("a has type iq3_s", sp_set_rows(G, state(b, SP_TYPE_IQ3_S, 256, 9, 1, 1), f32(b, 256, 4, 1, 1), ids(b, 4, 1))); /* [mem] calls NULL */
    HOSTILE("a has type i32", sp_set_rows(G, state(b, SP_TYPE_I32, 64, 9, 1, 1), f32(b, 64, 4, 1, 1), ids(b, 4, 1)));
    HOSTILE("b has type bf16", sp_set_rows(G, state(b, SP_TYPE_F16, 64, 9, 1, 1), typed(b, SP_TYPE_BF16, 64, 4, 1, 1), ids(b, 4, 1))); /* [abort] */
    HOSTILE("ids has type f32", sp_set_rows(G, state(b, SP_TYPE_F16, 64, 9, 1, 1), f32(b, 64, 4, 1, 1), f32(b, 4, 1, 1, 1)));          /* [abort] */
    HOSTILE("with WRITE", sp_set_rows(G, f32(b, 64, 9, 1, 1), f32(b, 64, 4, 1, 1), ids(b, 4, 1)));
    HOSTILE("with WRITE", sp_set_rows(G, weight(b, SP_TYPE_F32, 64, 9, 1, 1), f32(b, 64, 4, 1, 1), ids(b, 4, 1)));
    HOSTILE("with WRITE", sp_set_rows(G, sp_neg(G, f32(b, 64, 9, 1, 1)), f32(b, 64, 4, 1, 1), ids(b, 4, 1)));
    HOSTILE("reads what it writes", sp_tensor s = state(b, SP_TYPE_F32, 64, 9, 1, 1);
            sp_set_rows(G, s, sp_view_2d(G, s, sp_dim(64), sp_dim(4), sp_dim(256), sp_dim(0)), ids(b, 4, 1)));
}

static void test_copies(void **state_) {
    (void)state_;
    HOSTILE("as many elements", sp_cpy(G, f32(b, 64, 4, 1, 1), state(b, SP_TYPE_F32, 64, 5, 1, 1)));               /* [abort] */
    HOSTILE("no copy between", sp_cpy(G, f32(b, 64, 4, 1, 1), state(b, SP_TYPE_I64, 64, 4, 1, 1)));                /* [abort] */
    HOSTILE("no copy between", sp_cpy(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1), state(b, SP_TYPE_F16, 64, 4, 1, 1))); /* [abort] */
    HOSTILE("no copy between", sp_cast(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1), SP_TYPE_F16));                      /* [abort] */
    HOSTILE("no copy between", sp_cast(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1), SP_TYPE_Q4_0));                     /* [abort] */
    HOSTILE("no copy between", sp_cast(G, f32(b, 256, 4, 1, 1), SP_TYPE_IQ2_XXS));                                 /* [mem] calls NULL */
    HOSTILE("multiple of the type's block", sp_cast(G, f32(b, 63, 4, 1, 1), SP_TYPE_Q8_0));                        /* [mem] */
    HOSTILE("rows side by side and one shape", sp_cast(G, sp_transpose(G, f32(b, 64, 64, 1, 1)), SP_TYPE_Q8_0));   /* [abort] */
    HOSTILE("rows side by side and one shape",
            sp_cont_2d(G, strided(b, typed(b, SP_TYPE_Q8_0, 64, 8, 1, 1), 32, 8, 1, 1, 68, 544, 544, 0), sp_dim(64), sp_dim(4))); /* [mem] */
    HOSTILE("rows side by side and one shape", sp_cpy(G, f32(b, 96, 2, 1, 1), state(b, SP_TYPE_Q8_0, 64, 3, 1, 1)));              /* [mem] */
    HOSTILE("contiguous tensor",
            sp_cpy(G, f32(b, 32, 8, 1, 1), strided(b, state(b, SP_TYPE_Q8_0, 64, 8, 1, 1), 32, 8, 1, 1, 68, 544, 544, 0))); /* [abort] */
    HOSTILE("with WRITE", sp_cpy(G, f32(b, 64, 4, 1, 1), f32(b, 64, 4, 1, 1)));
    HOSTILE("with WRITE", sp_cpy(G, f32(b, 64, 4, 1, 1), weight(b, SP_TYPE_F32, 64, 4, 1, 1)));
    HOSTILE("reads what it writes", sp_tensor s = state(b, SP_TYPE_F32, 64, 4, 1, 1); sp_cpy(G, s, s));
    HOSTILE("reads what it writes", sp_tensor s = state(b, SP_TYPE_F32, 64, 1, 1, 1);
            sp_cpy(G, sp_view_1d(G, s, sp_dim(32), sp_dim(0)), sp_view_1d(G, s, sp_dim(32), sp_dim(64))));
    HOSTILE("multiple of a's", sp_repeat_4d(G, f32(b, 64, 4, 1, 1), sp_dim(64), sp_dim(6), sp_dim(1), sp_dim(1)));               /* [abort] */
    HOSTILE("a has type i64", sp_repeat_4d(G, typed(b, SP_TYPE_I64, 64, 1, 1, 1), sp_dim(64), sp_dim(6), sp_dim(1), sp_dim(1))); /* [abort] */
    HOSTILE("all dimensions but dim", sp_concat(G, f32(b, 64, 4, 1, 1), f32(b, 64, 3, 1, 1), 0));                                /* [abort] */
    HOSTILE("dim is 4", sp_concat(G, f32(b, 64, 4, 1, 1), f32(b, 64, 4, 1, 1), 4));                                              /* [abort] */
    HOSTILE("one type", sp_concat(G, f32(b, 64, 4, 1, 1), typed(b, SP_TYPE_I32, 64, 4, 1, 1), 1));                               /* [abort] */
}

static void test_sorting(void **state_) {
    (void)state_;
    HOSTILE("order is 2", sp_argsort(G, sp_clamp(G, f32(b, 64, 4, 1, 1), 0, 1), 2));       /* [abort] */
    HOSTILE("k is 0", sp_top_k(G, sp_clamp(G, f32(b, 64, 4, 1, 1), 0, 1), 0));             /* [mem] */
    HOSTILE("k must be at most", sp_top_k(G, sp_clamp(G, f32(b, 64, 4, 1, 1), 0, 1), 65)); /* [abort] */
    HOSTILE("k is -1", sp_top_k(G, sp_clamp(G, f32(b, 64, 4, 1, 1), 0, 1), UINT32_MAX));   /* [mem] */
    HOSTILE("may hold NaN", sp_argsort(G, f32(b, 64, 4, 1, 1), 0));                        /* [mem] std::sort on NaN */
    HOSTILE("may hold NaN", sp_argsort(G, sp_soft_max(G, f32(b, 64, 4, 1, 1)), 0));        /* [mem] */
    HOSTILE("may hold NaN", sp_tensor s = state(b, SP_TYPE_F32, 64, 4, 1, 1);
            sp_argsort(G, sp_graph_into(G, sp_clamp(G, f32(b, 64, 4, 1, 1), 0, 1), s), 0));
    HOSTILE("a has type i32", sp_argsort(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1), 0));                                  /* [abort] */
    HOSTILE("must be laid out", sp_argsort(G, sp_permute(G, sp_clamp(G, f32(b, 64, 4, 4, 1), 0, 1), 0, 2, 1, 3), 0)); /* [mem] */
    HOSTILE("a.ne2 is 2", sp_argmax(G, f32(b, 64, 4, 2, 1)));                                                         /* [abort] */
    HOSTILE("must be laid out", sp_argmax(G, sp_transpose(G, f32(b, 64, 4, 1, 1))));                                  /* [mem] */
}

/* Results put into windows: what is read is not what is written. */
static void test_destinations(void **state_) {
    (void)state_;
    HOSTILE("contiguous window of the result's type and shape", sp_tensor s = state(b, SP_TYPE_F32, 64, 5, 1, 1);
            sp_graph_into(G, sp_neg(G, f32(b, 64, 4, 1, 1)), s));
    HOSTILE("contiguous window of the result's type and shape", sp_tensor s = state(b, SP_TYPE_F16, 64, 4, 1, 1);
            sp_graph_into(G, sp_neg(G, f32(b, 64, 4, 1, 1)), s));
    HOSTILE("in a slot with WRITE", sp_tensor a = f32(b, 64, 4, 1, 1); sp_graph_into(G, sp_neg(G, a), a));
    HOSTILE("a view has no destination", sp_tensor s = state(b, SP_TYPE_F32, 64, 4, 1, 1);
            sp_graph_into(G, sp_reshape_2d(G, f32(b, 64, 4, 1, 1), sp_dim(64), sp_dim(4)), s));
    HOSTILE("it has a destination already", sp_tensor s = state(b, SP_TYPE_F32, 64, 4, 1, 1), t = state(b, SP_TYPE_F32, 64, 4, 1, 1);
            sp_graph_into(G, sp_cpy(G, f32(b, 64, 4, 1, 1), s), t));
    HOSTILE("also its source", sp_tensor s = state(b, SP_TYPE_F32, 64, 64, 1, 1); sp_graph_into(G, sp_mul_mat(G, s, f32(b, 64, 64, 1, 1)), s));
    HOSTILE("also its source", sp_tensor s = state(b, SP_TYPE_F32, 64, 64, 1, 1); sp_graph_into(G, sp_add(G, f32(b, 64, 64, 1, 1), s), s));
    HOSTILE("also its source", sp_tensor s = state(b, SP_TYPE_F32, 64, 2, 2, 1); sp_graph_into(G, sp_neg(G, sp_permute(G, s, 0, 2, 1, 3)), s));
    HOSTILE("by the operation before it", sp_tensor s = state(b, SP_TYPE_F32, 64, 2, 2, 1);
            sp_graph_into(G, sp_mul(G, sp_rms_norm(G, sp_permute(G, s, 0, 2, 1, 3), 0), f32(b, 64, 1, 1, 1)), s));
    HOSTILE("use one window", state(b, SP_TYPE_F32, 64, 4, 1, 1); sp_graph_memory_1d(G, NULL, STATE, SP_TYPE_F32, sp_dim(64), sp_dim(64)));
    HOSTILE("nothing was written to before", uint32_t out = sp_graph_slot(G, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
            sp_neg(G, sp_graph_memory_1d(G, NULL, out, SP_TYPE_F32, sp_dim(64), sp_dim(0))));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_matrix_products),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_element_by_element),
        cmocka_unit_test(test_norms_and_sums),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_rope_sections),
        cmocka_unit_test(test_state_spaces),
        cmocka_unit_test(test_linear_attention),
        cmocka_unit_test(test_wkv_state),
        cmocka_unit_test(test_lightning_indexer),
        cmocka_unit_test(test_soft_max),
        cmocka_unit_test(test_flash_attention),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_sorting),
        cmocka_unit_test(test_destinations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
