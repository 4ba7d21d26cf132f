/*
 * Graphs that make ggml read or write out of bounds, divide by zero, run for ever or abort, as programs: each is refused, with its reason.
 * Found by handing ggml's CPU backend such graphs directly; each says what it does there; the others are kin to them. The table at the end counts
 * them.
 */
#include "program/program_test.h"

#define G (&b->g)
/* What ggml's CPU backend does when it is handed the graph. */
typedef enum { MEMORY, DIVISION, LOOP, ABORT, KIN, EFFECTS } effect;
static unsigned refused[EFFECTS];

/* A graph of its own, which must be refused with these words. */
#define HOSTILE(effect, words, ...)                                                                                                                  \
    do {                                                                                                                                             \
        bench bench_ = new_bench(), *b = &bench_;                                                                                                    \
        __VA_ARGS__;                                                                                                                                 \
        refuse_graph(b, words);                                                                                                                      \
        refused[effect]++;                                                                                                                           \
    } while (0)

static void test_sizes(void **state_) {
    (void)state_;
    const int64_t huge = INT64_C(1) << 62;
    HOSTILE(MEMORY, "dimensions are 1 to", sp_neg(G, f32(b, -1, 1, 1, 1)));
    HOSTILE(DIVISION, "dimensions are 1 to", sp_neg(G, f32(b, 0, 1, 1, 1)));
    HOSTILE(MEMORY, "dimensions are 1 to", sp_neg(G, sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_dim(huge), sp_dim(0))));
    HOSTILE(KIN, "too many rows", sp_graph_memory_4d(G, NULL, IN, SP_TYPE_F32, sp_dim(1), sp_dim(65536), sp_dim(65536), sp_dim(65536), sp_dim(0)));
    HOSTILE(KIN, "too many rows", sp_graph_memory_2d(G, NULL, IN, SP_TYPE_F32, sp_dim(1), sp_dim(INT32_MAX), sp_dim(0)));
    HOSTILE(KIN, "larger than 2^40", sp_graph_memory_2d(G, NULL, IN, SP_TYPE_F32, sp_dim(INT32_MAX), sp_dim(1 << 20), sp_dim(0)));
    HOSTILE(MEMORY, "multiple of the type's block", sp_graph_memory_1d(G, NULL, IN, SP_TYPE_Q4_0, sp_dim(33), sp_dim(0)));
    HOSTILE(DIVISION, "no slot, type or shape", typed(b, 4, 32, 1, 1, 1));  /* q4_2 is gone */
    HOSTILE(DIVISION, "no slot, type or shape", typed(b, 31, 32, 1, 1, 1)); /* q4_0_4_4 is gone */
    HOSTILE(KIN, "no slot, type or shape", typed(b, 24, 32, 1, 1, 1));      /* i8: not for programs */
    HOSTILE(MEMORY, "no slot, type or shape", typed(b, 9999, 32, 1, 1, 1));
    HOSTILE(KIN, "offset must be", sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_dim(4), sp_dim(-32)));
    HOSTILE(KIN, "offset must be", sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_dim(4), sp_dim(huge)));
    HOSTILE(KIN, "offset must be", sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_dim(4), sp_dim(4)));
}

/* Nothing along a dimension: ggml takes remainders by it. */
static void test_nothing(void **state_) {
    (void)state_;
    HOSTILE(DIVISION, "dimensions are 1 to", sp_mul_mat(G, f32(b, 64, 4, 0, 1), f32(b, 64, 4, 2, 1)));
    HOSTILE(DIVISION, "dimensions are 1 to", sp_mul_mat(G, f32(b, 64, 4, 1, 0), f32(b, 64, 4, 1, 2)));
    HOSTILE(DIVISION, "dimensions are 1 to", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), f32(b, 64, 4, 0, 1), 1, 0));
    HOSTILE(DIVISION, "dimensions are 1 to", sp_flash_attn_ext(G, f32(b, 64, 5, 8, 1), f32(b, 64, 32, 2, 1), f32(b, 64, 32, 0, 1), SP_NONE, 1, 0, 0));
}

static sp_tensor with_strides(bench *b, uint32_t slot, int64_t nb1, int64_t nb2, int64_t nb3) {
    const sp_expr ne[4] = {sp_dim(8), sp_dim(4), sp_dim(2), sp_dim(1)}, nb[3] = {sp_dim(nb1), sp_dim(nb2), sp_dim(nb3)};
    return sp_graph_memory(G, NULL, slot, SP_TYPE_F32, ne, nb, sp_dim(0));
}

static void test_views(void **state_) {
    (void)state_;
    HOSTILE(KIN, "reaches out", sp_view_1d(G, f32(b, 64, 1, 1, 1), sp_dim(65), sp_dim(0)));
    HOSTILE(KIN, "reaches out", sp_view_1d(G, f32(b, 64, 1, 1, 1), sp_dim(1), sp_dim(256)));
    HOSTILE(MEMORY, "reaches out", strided(b, f32(b, 64, 4, 1, 1), 64, 4, 1, 1, 1 << 20, 1 << 22, 1 << 22, 0)); /* any stride passes in ggml */
    HOSTILE(MEMORY, "reaches out", strided(b, f32(b, 64, 4, 1, 1), 64, 1, 2, 1, 256, 4096, 8192, 0));
    HOSTILE(MEMORY, "reaches out", strided(b, f32(b, 64, 4, 1, 1), 64, 1, 1, 2, 256, 256, 4096, 0));
    HOSTILE(MEMORY, "offset must be", sp_view_1d(G, f32(b, 64, 1, 1, 1), sp_dim(4), sp_dim(-256))); /* it wraps */
    HOSTILE(KIN, "offset must be", sp_view_1d(G, f32(b, 64, 1, 1, 1), sp_dim(4), sp_dim(2)));
    HOSTILE(KIN, "offset must be", sp_view_1d(G, typed(b, SP_TYPE_Q8_0, 64, 1, 1, 1), sp_dim(32), sp_dim(4)));
    HOSTILE(KIN, "multiple of the type's block", sp_view_1d(G, typed(b, SP_TYPE_Q8_0, 64, 1, 1, 1), sp_dim(16), sp_dim(0)));
    HOSTILE(KIN, "strides must be", strided(b, f32(b, 64, 4, 1, 1), 8, 4, 1, 1, 6, 256, 256, 0));
    HOSTILE(KIN, "strides must be", strided(b, f32(b, 64, 4, 1, 1), 8, 4, 1, 1, 0, 256, 256, 0));
    HOSTILE(KIN, "strides must be", strided(b, f32(b, 64, 4, 1, 1), 8, 1, 1, 1, -256, 256, 256, 0));
    HOSTILE(KIN, "strides must be", strided(b, f32(b, 64, 4, 1, 1), 8, 1, 1, 1, INT64_MAX - 3, 256, 256, 0));
    HOSTILE(KIN, "overlap", strided(b, f32(b, 64, 4, 1, 1), 8, 4, 1, 1, 4, 256, 256, 0));
    HOSTILE(KIN, "overlap", with_strides(b, STATE, 32, 32, 64));
    HOSTILE(KIN, "overlap", with_strides(b, STATE, 64, 96, 512));
    HOSTILE(ABORT, "many elements", sp_reshape_2d(G, f32(b, 64, 4, 1, 1), sp_dim(64), sp_dim(5)));
    HOSTILE(ABORT, "contiguous", sp_reshape_1d(G, sp_transpose(G, f32(b, 64, 4, 1, 1)), sp_dim(256)));
    HOSTILE(ABORT, "axes must differ", sp_permute(G, f32(b, 64, 4, 1, 1), 0, 0, 2, 3));
    HOSTILE(ABORT, "it must be 0 to 3", sp_permute(G, f32(b, 64, 4, 1, 1), 0, 1, 2, 4));
    HOSTILE(ABORT, "it must be 0 to 3", sp_permute(G, f32(b, 64, 4, 1, 1), 0, 1, 2, UINT32_MAX));
    HOSTILE(KIN, "axis0 must be 0", sp_permute(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1), 1, 0, 2, 3));
    HOSTILE(KIN, "does not take", sp_transpose(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1)));
}

static void test_matrix_products(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "a.ne0 is 64; it must be equal to b.ne0, which is 32", sp_mul_mat(G, f32(b, 64, 4, 1, 1), f32(b, 32, 4, 1, 1)));
    HOSTILE(ABORT, "b.ne2 is 3; it must be a multiple of a.ne2", sp_mul_mat(G, f32(b, 64, 4, 2, 1), f32(b, 64, 4, 3, 1)));
    HOSTILE(ABORT, "b.ne3 is 3; it must be a multiple of a.ne3", sp_mul_mat(G, f32(b, 64, 4, 1, 2), f32(b, 64, 4, 1, 3)));
    HOSTILE(ABORT, "side by side", sp_mul_mat(G, sp_transpose(G, f32(b, 4, 64, 1, 1)), f32(b, 64, 4, 1, 1)));
    HOSTILE(ABORT, "side by side", sp_mul_mat(G, f32(b, 64, 4, 1, 1), sp_transpose(G, f32(b, 4, 64, 1, 1))));
    HOSTILE(MEMORY, "a has type i32", sp_mul_mat(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1), f32(b, 64, 4, 1, 1))); /* no dot product */
    HOSTILE(MEMORY, "a has type i64", sp_mul_mat(G, typed(b, SP_TYPE_I64, 64, 4, 1, 1), f32(b, 64, 4, 1, 1)));
    HOSTILE(ABORT, "b must be f32", sp_mul_mat(G, typed(b, SP_TYPE_Q4_0, 64, 4, 1, 1), typed(b, SP_TYPE_F16, 64, 4, 1, 1)));
    HOSTILE(KIN, "b has type q8_0", sp_mul_mat(G, typed(b, SP_TYPE_Q4_0, 64, 4, 1, 1), typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1)));
    HOSTILE(ABORT, "b has type i32", sp_mul_mat(G, f32(b, 64, 4, 1, 1), typed(b, SP_TYPE_I32, 64, 4, 1, 1)));
    HOSTILE(KIN, "prec is 3", sp_mul_mat_set_prec(G, sp_mul_mat(G, f32(b, 64, 4, 1, 1), f32(b, 64, 4, 1, 1)), 3));
}

static sp_tensor experts(bench *b, int64_t used, int64_t tokens, sp_tensor chosen) {
    return sp_mul_mat_id(G, f32(b, 64, 16, 8, 1), f32(b, 64, used, tokens, 1), chosen);
}

static void test_experts(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "ids.ne1 is 4; it must be equal to b.ne2", experts(b, 2, 3, ids(b, 2, 4)));
    HOSTILE(ABORT, "ids.ne0 is 3; it must be a multiple of b.ne1", experts(b, 2, 3, ids(b, 3, 3)));
    HOSTILE(ABORT, "ids has type i64", experts(b, 2, 3, typed(b, SP_TYPE_I64, 2, 3, 1, 1)));
    HOSTILE(ABORT, "as.ne3 is 2", sp_mul_mat_id(G, f32(b, 64, 16, 8, 2), f32(b, 64, 2, 3, 1), ids(b, 2, 3)));
    HOSTILE(MEMORY, "no more than there are rows", experts(b, 1, 3, ids(b, 9, 3)));
    HOSTILE(KIN, "one row of their window", experts(b, 2, 3, sp_reshape_2d(G, ids(b, 3, 2), sp_dim(2), sp_dim(3))));
    HOSTILE(MEMORY, "must be a window of memory", experts(b, 2, 3, sp_cast(G, f32(b, 2, 3, 1, 1), SP_TYPE_I32)));
    HOSTILE(MEMORY, "can be larger", experts(b, 1, 3, sp_argsort(G, sp_clamp(G, f32(b, 9, 3, 1, 1), 0, 1), 0)));
    HOSTILE(KIN, "must be a window of memory", sp_get_rows(G, f32(b, 64, 4, 1, 1), sp_argmax(G, f32(b, 4, 4, 1, 1)))); /* -1 on some devices */
    HOSTILE(KIN, "without WRITE", experts(b, 2, 3, state(b, SP_TYPE_I32, 2, 3, 1, 1)));
    HOSTILE(KIN, "one row of argsort",
            experts(b, 1, 3, strided(b, sp_argsort(G, sp_clamp(G, f32(b, 8, 3, 1, 1), 0, 1), 0), 4, 3, 1, 1, 28, 96, 96, 0)));
    HOSTILE(ABORT, "b.ne0", sp_add_id(G, f32(b, 64, 2, 3, 1), f32(b, 32, 8, 1, 1), ids(b, 2, 3)));
    HOSTILE(ABORT, "ids.ne0", sp_add_id(G, f32(b, 64, 2, 3, 1), f32(b, 64, 8, 1, 1), ids(b, 1, 3)));
}

static void test_more_than_devices_do(void **state_) {
    (void)state_;
    HOSTILE(KIN, "a.ne3 is 2; it must be 1",
            sp_add_id(G, f32(b, 64, 2, 3, 2), f32(b, 64, 8, 1, 1), ids(b, 2, 3))); /* ggml-vulkan leaves half of it */
}

static void test_element_by_element(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "a.ne0 is 64; it must be a multiple of b.ne0", sp_add(G, f32(b, 64, 4, 1, 1), f32(b, 48, 4, 1, 1)));
    HOSTILE(ABORT, "a.ne1 is 4; it must be a multiple of b.ne1", sp_mul(G, f32(b, 64, 4, 1, 1), f32(b, 64, 8, 1, 1)));
    HOSTILE(ABORT, "a.ne3 is 1; it must be a multiple of b.ne3", sp_div(G, f32(b, 64, 4, 1, 1), f32(b, 64, 4, 1, 2)));
    HOSTILE(ABORT, "b must have a's type", sp_add(G, f32(b, 64, 4, 1, 1), typed(b, SP_TYPE_F16, 64, 4, 1, 1)));
    HOSTILE(ABORT, "b must have a's type", sp_sub(G, typed(b, SP_TYPE_F16, 64, 4, 1, 1), typed(b, SP_TYPE_BF16, 64, 4, 1, 1)));
    HOSTILE(ABORT, "a has type i32", sp_add(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1), typed(b, SP_TYPE_I32, 64, 4, 1, 1)));
    HOSTILE(ABORT, "a has type q4_0", sp_mul(G, typed(b, SP_TYPE_Q4_0, 64, 4, 1, 1), f32(b, 64, 4, 1, 1)));
    HOSTILE(ABORT, "side by side", sp_add(G, sp_transpose(G, f32(b, 4, 64, 1, 1)), f32(b, 64, 4, 1, 1)));
    HOSTILE(MEMORY, "side by side", sp_silu(G, sp_transpose(G, f32(b, 4, 64, 1, 1))));
    HOSTILE(ABORT, "a has type i32", sp_gelu(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1)));
    HOSTILE(ABORT, "a has type q8_0", sp_tanh(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1)));
    HOSTILE(ABORT, "a has type f16", sp_scale(G, typed(b, SP_TYPE_F16, 64, 4, 1, 1), 2));
    HOSTILE(ABORT, "contiguous", sp_scale(G, strided(b, f32(b, 64, 4, 1, 1), 32, 4, 1, 1, 256, 1024, 1024, 0), 2));
    HOSTILE(MEMORY, "dimensions of size 1 too",
            sp_scale(G, strided(b, f32(b, 64, 4, 1, 1), 64, 1, 4, 1, 4096, 256, 1024, 0), 2)); /* it steps by nb1 */
    HOSTILE(ABORT, "dimensions of size 1 too", sp_scale(G, strided(b, f32(b, 64, 4, 1, 1), 64, 1, 1, 1, 256, 1024, 1024, 0), 2));
    HOSTILE(MEMORY, "must be laid out", sp_clamp(G, sp_permute(G, f32(b, 64, 4, 4, 1), 0, 2, 1, 3), 0, 1));
    HOSTILE(MEMORY, "dimensions of size 1 too", sp_clamp(G, strided(b, f32(b, 64, 4, 1, 1), 64, 1, 4, 1, 4096, 256, 1024, 0), 0, 1));
    HOSTILE(KIN, "min must be at most max", sp_clamp(G, f32(b, 64, 4, 1, 1), 1, 0));
    HOSTILE(KIN, "min is nan", sp_clamp(G, f32(b, 64, 4, 1, 1), NAN, 0));
    HOSTILE(KIN, "value is", sp_fill(G, f32(b, 64, 4, 1, 1), NAN));
    HOSTILE(ABORT, "a has type i32", sp_fill(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1), 0));
    HOSTILE(KIN, "a.ne0 must be even", sp_swiglu(G, f32(b, 63, 4, 1, 1)));
    HOSTILE(ABORT, "a's shape and type", sp_swiglu_split(G, f32(b, 64, 4, 1, 1), f32(b, 64, 3, 1, 1)));
    HOSTILE(ABORT, "a's shape and type", sp_geglu_split(G, f32(b, 64, 4, 1, 1), typed(b, SP_TYPE_F16, 64, 4, 1, 1)));
    HOSTILE(ABORT, "at one distance", sp_geglu(G, sp_permute(G, f32(b, 64, 4, 4, 1), 0, 2, 1, 3)));
    HOSTILE(ABORT, "a has type f16", sp_swiglu_oai(G, typed(b, SP_TYPE_F16, 64, 4, 1, 1), SP_NONE, 1, 7));
    HOSTILE(KIN, "limit is -1", sp_swiglu_oai(G, f32(b, 64, 4, 1, 1), SP_NONE, 1, -1));
}

static void test_norms_and_sums(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "eps is -1", sp_rms_norm(G, f32(b, 64, 4, 1, 1), -1));
    HOSTILE(ABORT, "eps is", sp_norm(G, f32(b, 64, 4, 1, 1), NAN));
    HOSTILE(KIN, "eps is inf", sp_l2_norm(G, f32(b, 64, 4, 1, 1), INFINITY));
    HOSTILE(ABORT, "a has type f16", sp_rms_norm(G, typed(b, SP_TYPE_F16, 64, 4, 1, 1), 0));
    HOSTILE(ABORT, "side by side", sp_rms_norm(G, sp_transpose(G, f32(b, 64, 4, 1, 1)), 0));
    HOSTILE(ABORT, "a has type i32", sp_sum_rows(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1)));
    HOSTILE(ABORT, "side by side", sp_sum_rows(G, sp_transpose(G, f32(b, 64, 4, 1, 1))));
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
    HOSTILE(ABORT, "one of the first three", sections(b, 0, 0, 0, 8));
    HOSTILE(ABORT, "at most a.ne0", sections(b, 32, 32, 1, 0));
    HOSTILE(MEMORY, "section0 is -1", sections(b, -1, 8, 8, 0));
}

static void test_state_spaces(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "sx.ne0 is 3", sp_ssm_conv(G, f32(b, 3, 8, 1, 1), f32(b, 4, 8, 1, 1)));
    HOSTILE(ABORT, "sx.ne1 is 8", sp_ssm_conv(G, f32(b, 10, 8, 1, 1), f32(b, 4, 9, 1, 1)));
    HOSTILE(MEMORY, "c has type f16", sp_ssm_conv(G, f32(b, 10, 8, 1, 1), typed(b, SP_TYPE_F16, 4, 8, 1, 1)));
#define SCAN(heads, groups, decay, head_dim)                                                                                                         \
    sp_ssm_scan(G, f32(b, 16, head_dim, 4, 3), f32(b, 8, heads, 5, 2), f32(b, 4, 5, 2, 1), f32(b, decay, 4, 1, 1), f32(b, 16, groups, 5, 2),         \
                f32(b, 16, groups, 5, 2), ids(b, 2, 1))
    HOSTILE(ABORT, "s.ne2 is 4", SCAN(6, 2, 1, 8));
    HOSTILE(ABORT, "x.ne1 is 4", SCAN(4, 3, 1, 8));
    HOSTILE(ABORT, "A.ne0 must be 1 or s.ne0", SCAN(4, 2, 2, 8));
    HOSTILE(ABORT, "s.ne1 is 9", SCAN(4, 2, 1, 9));
}

static void test_linear_attention(void **state_) {
    (void)state_;
#define DELTA(key, gates, width)                                                                                                                     \
    sp_gated_delta_net(G, f32(b, 16, 2, 5, 1), f32(b, key, 2, 5, 1), f32(b, 16, 4, 5, 2), f32(b, gates, 4, 5, 2), f32(b, 1, 4, 5, 2),                \
                       f32(b, width, 16, 4, 2))
    HOSTILE(MEMORY, "k.ne0 is 8", DELTA(8, 1, 16));
    HOSTILE(ABORT, "g.ne0 must be 1 or v.ne0", DELTA(16, 2, 16));
    HOSTILE(ABORT, "state.ne0 is 8", DELTA(16, 1, 8));
    HOSTILE(MEMORY, "ne0 must be a multiple of 64", sp_tensor r = f32(b, 32, 4, 6, 1);
            sp_rwkv_wkv7(G, r, r, r, r, r, r, f32(b, 32 * 32 * 4, 1, 1, 1)));
}

static void test_wkv_state(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "state.ne0 must be", sp_tensor r = f32(b, 64, 4, 6, 1); sp_rwkv_wkv7(G, r, r, r, r, r, r, f32(b, 64, 1, 1, 1)));
    HOSTILE(MEMORY, "multiple of state.ne1", sp_tensor r = f32(b, 64, 4, 6, 1);
            sp_rwkv_wkv6(G, r, r, r, f32(b, 64, 4, 1, 1), r, f32(b, 64 * 64 * 4, 4, 1, 1)));
}

static void test_lightning_indexer(void **state_) {
    (void)state_;
#define INDEXER(cells, heads)                                                                                                                        \
    sp_lightning_indexer(G, f32(b, 64, 8, 5, 1), typed(b, SP_TYPE_F16, 64, 1, 32, 1), f32(b, heads, 5, 1, 1), typed(b, SP_TYPE_F16, cells, 5, 1, 1))
    HOSTILE(ABORT, "mask.ne0 is 31", INDEXER(31, 8));
    HOSTILE(ABORT, "q.ne1 is 8", INDEXER(32, 7));
}

static void test_dsv4_hc_pre(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "weights.ne0 is 5", sp_dsv4_hc_pre(G, f32(b, 64, 4, 5, 1), f32(b, 5, 5, 1, 1)));
    HOSTILE(ABORT, "weights.ne1 is 4", sp_dsv4_hc_pre(G, f32(b, 64, 4, 5, 1), f32(b, 4, 4, 1, 1)));
}

static void test_rope(void **state_) {
    (void)state_;
    HOSTILE(LOOP, "n_dims is 0", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 0, 0));
    HOSTILE(MEMORY, "n_dims is -2", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, -2, 0));
    HOSTILE(ABORT, "must be even", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 63, 0));
    HOSTILE(ABORT, "at most a.ne0", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 128, 0));
    HOSTILE(MEMORY, "must be even", rope(b, f32(b, 63, 8, 5, 1), ids(b, 5, 1), SP_NONE, 62, 0));
    HOSTILE(ABORT, "mode must be", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 1));
    HOSTILE(ABORT, "positions.ne0 must be four times", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 8));
    HOSTILE(ABORT, "mode must be", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 4));
    HOSTILE(ABORT, "positions.ne0 must be", rope(b, f32(b, 64, 8, 5, 1), ids(b, 4, 1), SP_NONE, 64, 0));
    HOSTILE(ABORT, "positions.ne1 is 2", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 2), SP_NONE, 64, 0));
    HOSTILE(ABORT, "positions has type", rope(b, f32(b, 64, 8, 5, 1), f32(b, 5, 1, 1, 1), SP_NONE, 64, 0));
    HOSTILE(MEMORY, "positions must be laid out",
            rope(b, f32(b, 64, 8, 5, 1), sp_transpose(G, strided(b, ids(b, 8, 5), 1, 5, 1, 1, 32, 160, 160, 0)), SP_NONE, 64, 0));
    HOSTILE(MEMORY, "freq_factors.ne0", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), f32(b, 16, 1, 1, 1), 32, 0));
    HOSTILE(ABORT, "freq_factors has type", rope(b, f32(b, 64, 8, 5, 1), ids(b, 5, 1), typed(b, SP_TYPE_F16, 32, 1, 1, 1), 64, 0));
    HOSTILE(ABORT, "a has type bf16", rope(b, typed(b, SP_TYPE_BF16, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 0));
    HOSTILE(ABORT, "side by side", rope(b, sp_permute(G, f32(b, 8, 64, 5, 1), 1, 0, 2, 3), ids(b, 5, 1), SP_NONE, 64, 0));
    HOSTILE(KIN, "freq_base is", sp_rope_ext(G, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 0, 0, NAN, 1, 0, 1, 0, 0));
}

static void test_soft_max(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "a has type f16", sp_soft_max(G, typed(b, SP_TYPE_F16, 64, 4, 1, 1)));
    HOSTILE(ABORT, "contiguous", sp_soft_max(G, sp_transpose(G, f32(b, 64, 4, 1, 1))));
    HOSTILE(ABORT, "mask.ne0 is 32", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), f32(b, 32, 4, 1, 1), 1, 0));
    HOSTILE(ABORT, "mask.ne1 is 3", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), f32(b, 64, 3, 1, 1), 1, 0));
    HOSTILE(ABORT, "a.ne2 is 2", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), f32(b, 64, 4, 3, 1), 1, 0));
    HOSTILE(ABORT, "mask has type", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), typed(b, SP_TYPE_BF16, 64, 4, 1, 1), 1, 0));
    HOSTILE(ABORT, "needs a mask", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), SP_NONE, 1, 8));
    HOSTILE(KIN, "scale is", sp_soft_max_ext(G, f32(b, 64, 4, 2, 1), SP_NONE, NAN, 0));
    HOSTILE(KIN, "sinks.ne0 is 3", sp_tensor sinks = f32(b, 3, 1, 1, 1);
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
    HOSTILE(MEMORY, "q has type f16", attend(b, typed(b, SP_TYPE_F16, 64, 5, 8, 1), ok, ok, ok, 0));
    HOSTILE(ABORT, "q.ne0 is 32", attend(b, f32(b, 32, 5, 8, 1), ok, ok, ok, 0));
    HOSTILE(ABORT, "q.ne2 is 7", attend(b, f32(b, 64, 5, 7, 1), ok, ok, ok, 0));
    HOSTILE(ABORT, "q.ne3 is 2", attend(b, f32(b, 64, 5, 8, 2), ok, ok, ok, 0));
    HOSTILE(MEMORY, "k has type i32", attend(b, ok, typed(b, SP_TYPE_I32, 64, 32, 2, 1), ok, ok, 0));
    HOSTILE(ABORT, "v has type i64", attend(b, ok, ok, typed(b, SP_TYPE_I64, 64, 32, 2, 1), ok, 0));
    HOSTILE(MEMORY, "v.ne1 is 16", attend(b, ok, ok, typed(b, SP_TYPE_F16, 64, 16, 2, 1), ok, 0));
    HOSTILE(MEMORY, "q.ne2 is 8; it must be a multiple of v.ne2", attend(b, ok, ok, typed(b, SP_TYPE_F16, 64, 32, 3, 1), ok, 0));
    HOSTILE(DIVISION, "q.ne2 is 8; it must be a multiple of v.ne2", attend(b, ok, ok, typed(b, SP_TYPE_F16, 64, 32, 16, 1), ok, 0));
    HOSTILE(ABORT, "q.ne3 is 1; it must be equal to v.ne3", attend(b, ok, ok, typed(b, SP_TYPE_F16, 64, 32, 2, 2), ok, 0));
    HOSTILE(MEMORY, "mask.ne0 is 16", attend(b, ok, ok, ok, typed(b, SP_TYPE_F16, 16, 64, 1, 1), 0));
    HOSTILE(MEMORY, "mask.ne1 is 4", attend(b, ok, ok, ok, typed(b, SP_TYPE_F16, 32, 4, 1, 1), 0));
    HOSTILE(ABORT, "mask.ne2", attend(b, ok, ok, ok, typed(b, SP_TYPE_F16, 32, 64, 3, 1), 0));
    HOSTILE(ABORT, "mask has type f32", attend(b, ok, ok, ok, f32(b, 32, 64, 1, 1), 0));
    HOSTILE(KIN, "mask must be laid out",
            attend(b, ok, ok, ok, strided(b, typed(b, SP_TYPE_F16, 64, 64, 1, 1), 32, 64, 1, 1, 128, 8192, 8192, 0), 0));
    HOSTILE(ABORT, "needs a mask", attend(b, ok, ok, ok, ok, 8));
    HOSTILE(ABORT, "side by side", attend(b, ok, sp_permute(G, typed(b, SP_TYPE_F16, 32, 64, 2, 1), 1, 0, 2, 3), ok, ok, 0));
    HOSTILE(KIN, "sinks.ne0 is 7", sp_tensor sinks = f32(b, 7, 1, 1, 1); attend(b, ok, ok, ok, ok, 0);
            sp_flash_attn_ext_add_sinks(G, G->n_tensors - 1, sinks));
}

static void test_rows(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "a.ne2 is 3; it must be equal to ids.ne1", sp_get_rows(G, f32(b, 64, 9, 3, 1), ids(b, 4, 2)));
    HOSTILE(ABORT, "ids has type i64", sp_get_rows(G, f32(b, 64, 9, 1, 1), typed(b, SP_TYPE_I64, 4, 1, 1, 1)));
    HOSTILE(ABORT, "a has type i64", sp_get_rows(G, typed(b, SP_TYPE_I64, 64, 9, 1, 1), ids(b, 4, 1)));
    HOSTILE(MEMORY, "side by side", sp_get_rows(G, sp_transpose(G, f32(b, 9, 64, 1, 1)), ids(b, 4, 1)));
    HOSTILE(ABORT, "ids.ne3 is 2", sp_get_rows(G, f32(b, 64, 9, 1, 1), typed(b, SP_TYPE_I32, 4, 1, 1, 2)));
    HOSTILE(ABORT, "a.ne0 is 64; it must be equal to b.ne0", sp_set_rows(G, state(b, SP_TYPE_F16, 64, 9, 1, 1), f32(b, 32, 4, 1, 1), ids(b, 4, 1)));
    HOSTILE(ABORT, "b.ne1 is 4; it must be equal to ids.ne0", sp_set_rows(G, state(b, SP_TYPE_F16, 64, 9, 1, 1), f32(b, 64, 4, 1, 1), ids(b, 3, 1)));
    HOSTILE(MEMORY, "a has type iq3_s", sp_set_rows(G, state(b, SP_TYPE_IQ3_S, 256, 9, 1, 1), f32(b, 256, 4, 1, 1), ids(b, 4, 1))); /* calls NULL */
    HOSTILE(KIN, "a has type i32", sp_set_rows(G, state(b, SP_TYPE_I32, 64, 9, 1, 1), f32(b, 64, 4, 1, 1), ids(b, 4, 1)));
    HOSTILE(ABORT, "b has type bf16", sp_set_rows(G, state(b, SP_TYPE_F16, 64, 9, 1, 1), typed(b, SP_TYPE_BF16, 64, 4, 1, 1), ids(b, 4, 1)));
    HOSTILE(ABORT, "ids has type f32", sp_set_rows(G, state(b, SP_TYPE_F16, 64, 9, 1, 1), f32(b, 64, 4, 1, 1), f32(b, 4, 1, 1, 1)));
    HOSTILE(KIN, "with WRITE", sp_set_rows(G, f32(b, 64, 9, 1, 1), f32(b, 64, 4, 1, 1), ids(b, 4, 1)));
    HOSTILE(KIN, "with WRITE", sp_set_rows(G, weight(b, SP_TYPE_F32, 64, 9, 1, 1), f32(b, 64, 4, 1, 1), ids(b, 4, 1)));
    HOSTILE(KIN, "with WRITE", sp_set_rows(G, sp_neg(G, f32(b, 64, 9, 1, 1)), f32(b, 64, 4, 1, 1), ids(b, 4, 1)));
    HOSTILE(KIN, "reads what it writes", sp_tensor s = state(b, SP_TYPE_F32, 64, 9, 1, 1);
            sp_set_rows(G, s, sp_view_2d(G, s, sp_dim(64), sp_dim(4), sp_dim(256), sp_dim(0)), ids(b, 4, 1)));
}

static void test_copies(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "as many elements", sp_cpy(G, f32(b, 64, 4, 1, 1), state(b, SP_TYPE_F32, 64, 5, 1, 1)));
    HOSTILE(ABORT, "no copy between", sp_cpy(G, f32(b, 64, 4, 1, 1), state(b, SP_TYPE_I64, 64, 4, 1, 1)));
    HOSTILE(ABORT, "no copy between", sp_cpy(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1), state(b, SP_TYPE_F16, 64, 4, 1, 1)));
    HOSTILE(ABORT, "no copy between", sp_cast(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1), SP_TYPE_F16));
    HOSTILE(ABORT, "no copy between", sp_cast(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1), SP_TYPE_Q4_0));
    HOSTILE(MEMORY, "no copy between", sp_cast(G, f32(b, 256, 4, 1, 1), SP_TYPE_IQ2_XXS)); /* calls NULL */
    HOSTILE(MEMORY, "multiple of the type's block", sp_cast(G, f32(b, 63, 4, 1, 1), SP_TYPE_Q8_0));
    HOSTILE(ABORT, "rows side by side and one shape", sp_cast(G, sp_transpose(G, f32(b, 64, 64, 1, 1)), SP_TYPE_Q8_0));
    HOSTILE(MEMORY, "rows side by side and one shape",
            sp_cont_2d(G, strided(b, typed(b, SP_TYPE_Q8_0, 64, 8, 1, 1), 32, 8, 1, 1, 68, 544, 544, 0), sp_dim(64), sp_dim(4)));
    HOSTILE(MEMORY, "rows side by side and one shape", sp_cpy(G, f32(b, 96, 2, 1, 1), state(b, SP_TYPE_Q8_0, 64, 3, 1, 1)));
    HOSTILE(ABORT, "contiguous tensor",
            sp_cpy(G, f32(b, 32, 8, 1, 1), strided(b, state(b, SP_TYPE_Q8_0, 64, 8, 1, 1), 32, 8, 1, 1, 68, 544, 544, 0)));
    HOSTILE(KIN, "with WRITE", sp_cpy(G, f32(b, 64, 4, 1, 1), f32(b, 64, 4, 1, 1)));
    HOSTILE(KIN, "with WRITE", sp_cpy(G, f32(b, 64, 4, 1, 1), weight(b, SP_TYPE_F32, 64, 4, 1, 1)));
    HOSTILE(KIN, "reads what it writes", sp_tensor s = state(b, SP_TYPE_F32, 64, 4, 1, 1); sp_cpy(G, s, s));
    HOSTILE(KIN, "reads what it writes", sp_tensor s = state(b, SP_TYPE_F32, 64, 1, 1, 1);
            sp_cpy(G, sp_view_1d(G, s, sp_dim(32), sp_dim(0)), sp_view_1d(G, s, sp_dim(32), sp_dim(64))));
    HOSTILE(ABORT, "multiple of a's", sp_repeat_4d(G, f32(b, 64, 4, 1, 1), sp_dim(64), sp_dim(6), sp_dim(1), sp_dim(1)));
    HOSTILE(ABORT, "a has type i64", sp_repeat_4d(G, typed(b, SP_TYPE_I64, 64, 1, 1, 1), sp_dim(64), sp_dim(6), sp_dim(1), sp_dim(1)));
    HOSTILE(ABORT, "all dimensions but dim", sp_concat(G, f32(b, 64, 4, 1, 1), f32(b, 64, 3, 1, 1), 0));
    HOSTILE(ABORT, "dim is 4", sp_concat(G, f32(b, 64, 4, 1, 1), f32(b, 64, 4, 1, 1), 4));
    HOSTILE(ABORT, "one type", sp_concat(G, f32(b, 64, 4, 1, 1), typed(b, SP_TYPE_I32, 64, 4, 1, 1), 1));
}

static void test_sorting(void **state_) {
    (void)state_;
    HOSTILE(ABORT, "order is 2", sp_argsort(G, sp_clamp(G, f32(b, 64, 4, 1, 1), 0, 1), 2));
    HOSTILE(MEMORY, "k is 0", sp_top_k(G, sp_clamp(G, f32(b, 64, 4, 1, 1), 0, 1), 0));
    HOSTILE(ABORT, "k must be at most", sp_top_k(G, sp_clamp(G, f32(b, 64, 4, 1, 1), 0, 1), 65));
    HOSTILE(MEMORY, "k is -1", sp_top_k(G, sp_clamp(G, f32(b, 64, 4, 1, 1), 0, 1), UINT32_MAX));
    HOSTILE(MEMORY, "may hold NaN", sp_argsort(G, f32(b, 64, 4, 1, 1), 0)); /* std::sort on NaN */
    HOSTILE(MEMORY, "may hold NaN", sp_argsort(G, sp_soft_max(G, f32(b, 64, 4, 1, 1)), 0));
    HOSTILE(KIN, "may hold NaN", sp_tensor s = state(b, SP_TYPE_F32, 64, 4, 1, 1);
            sp_argsort(G, sp_graph_into(G, sp_clamp(G, f32(b, 64, 4, 1, 1), 0, 1), s), 0));
    HOSTILE(ABORT, "a has type i32", sp_argsort(G, typed(b, SP_TYPE_I32, 64, 4, 1, 1), 0));
    HOSTILE(MEMORY, "must be laid out", sp_argsort(G, sp_permute(G, sp_clamp(G, f32(b, 64, 4, 4, 1), 0, 1), 0, 2, 1, 3), 0));
    HOSTILE(ABORT, "a.ne2 is 2", sp_argmax(G, f32(b, 64, 4, 2, 1)));
    HOSTILE(MEMORY, "must be laid out", sp_argmax(G, sp_transpose(G, f32(b, 64, 4, 1, 1))));
}

/* Results put into windows: what is read is not what is written. */
static void test_destinations(void **state_) {
    (void)state_;
    HOSTILE(KIN, "contiguous window of the result's type and shape", sp_tensor s = state(b, SP_TYPE_F32, 64, 5, 1, 1);
            sp_graph_into(G, sp_neg(G, f32(b, 64, 4, 1, 1)), s));
    HOSTILE(KIN, "contiguous window of the result's type and shape", sp_tensor s = state(b, SP_TYPE_F16, 64, 4, 1, 1);
            sp_graph_into(G, sp_neg(G, f32(b, 64, 4, 1, 1)), s));
    HOSTILE(KIN, "in a slot with WRITE", sp_tensor a = f32(b, 64, 4, 1, 1); sp_graph_into(G, sp_neg(G, a), a));
    HOSTILE(KIN, "a view has no destination", sp_tensor s = state(b, SP_TYPE_F32, 64, 4, 1, 1);
            sp_graph_into(G, sp_reshape_2d(G, f32(b, 64, 4, 1, 1), sp_dim(64), sp_dim(4)), s));
    HOSTILE(KIN, "it has a destination already", sp_tensor s = state(b, SP_TYPE_F32, 64, 4, 1, 1), t = state(b, SP_TYPE_F32, 64, 4, 1, 1);
            sp_graph_into(G, sp_cpy(G, f32(b, 64, 4, 1, 1), s), t));
    HOSTILE(KIN, "also its source", sp_tensor s = state(b, SP_TYPE_F32, 64, 64, 1, 1); sp_graph_into(G, sp_mul_mat(G, s, f32(b, 64, 64, 1, 1)), s));
    HOSTILE(KIN, "also its source", sp_tensor s = state(b, SP_TYPE_F32, 64, 64, 1, 1); sp_graph_into(G, sp_add(G, f32(b, 64, 64, 1, 1), s), s));
    HOSTILE(KIN, "also its source", sp_tensor s = state(b, SP_TYPE_F32, 64, 2, 2, 1); sp_graph_into(G, sp_neg(G, sp_permute(G, s, 0, 2, 1, 3)), s));
    HOSTILE(KIN, "by the operation before it", sp_tensor s = state(b, SP_TYPE_F32, 64, 2, 2, 1);
            sp_graph_into(G, sp_mul(G, sp_rms_norm(G, sp_permute(G, s, 0, 2, 1, 3), 0), f32(b, 64, 1, 1, 1)), s));
    HOSTILE(KIN, "use one window", state(b, SP_TYPE_F32, 64, 4, 1, 1); sp_graph_memory_1d(G, NULL, STATE, SP_TYPE_F32, sp_dim(64), sp_dim(64)));
    HOSTILE(KIN, "nothing was written to before", uint32_t out = sp_graph_slot(G, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
            sp_neg(G, sp_graph_memory_1d(G, NULL, out, SP_TYPE_F32, sp_dim(64), sp_dim(0))));
}

/* Row ids are the guest's to write until the moment of the run: checked then, in a copy. */
static void check_ids(effect what, bool distinct, int32_t first, int32_t second, const char *words) {
    bench bench_ = new_bench(), *b = &bench_;
    sp_tensor chosen = ids(b, 2, 3);
    if (distinct) {
        sp_mul_mat_id(G, f32(b, 64, 16, 8, 1), f32(b, 64, 2, 3, 1), chosen);
    } else {
        sp_get_rows(G, f32(b, 64, 8, 3, 1), chosen);
    }
    outcome o = check_with(b, NULL, 0);
    assert_int_equal(o.status, SP_OK);
    assert_int_equal(o.spec->n_indices, 1);
    const int32_t data[6] = {0, 1, 2, 3, first, second};
    assert_int_equal(sp_spec_check_index(o.spec, &o.spec->indices[0], data, &o.err), SP_ERR_RANGE);
    if (!strstr(o.err.message, words)) {
        fail_msg("says: %s; should say: %s", o.err.message, words);
    }
    refused[what]++;
    drop(&o);
    sp_graph_free(G);
}

static void test_row_ids_of_a_run(void **state_) {
    (void)state_;
    check_ids(ABORT, false, 8, 0, "it must be 0 to 7");
    check_ids(ABORT, false, 0, -1, "it must be 0 to 7");
    check_ids(ABORT, false, INT32_MIN, 0, "it must be 0 to 7");
    check_ids(MEMORY, true, 8, 0, "it must be 0 to 7");
    check_ids(MEMORY, true, 0, -1, "it must be 0 to 7");
    check_ids(KIN, true, 5, 5, "names 5 twice for one token");
}

/* Too many nodes: ggml aborts when its graph is full, and overflows its stack on a long chain. */
static void test_sizes_of_programs(void **state_) {
    (void)state_;
    bench bench_ = new_bench(), *b = &bench_;
    sp_tensor a = f32(b, 4, 1, 1, 1);
    for (int i = 0; i < 100000; i++) {
        a = sp_neg(G, a);
    }
    refuse_graph(b, "100001 tensors");
    refused[MEMORY]++;
}

/* Last: what was refused, by what it would have done. */
static void test_table(void **state_) {
    (void)state_;
    static const char *const effects[EFFECTS] = {"read or wrote out of bounds", "divided by zero", "ran for ever", "ended the process",
                                                 "kin to these, or refused for devices that check less"};
    unsigned all = 0;
    for (int i = 0; i < EFFECTS; i++) {
        print_message("%4u %s\n", refused[i], effects[i]);
        all += refused[i];
    }
    print_message("%4u hostile graphs, each refused with its reason\n", all);
    assert_true(all >= 84 && refused[MEMORY] >= 22 && refused[DIVISION] >= 6 && refused[LOOP] >= 1 && refused[ABORT] >= 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_matrix_products),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_more_than_devices_do),
        cmocka_unit_test(test_element_by_element),
        cmocka_unit_test(test_norms_and_sums),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_rope_sections),
        cmocka_unit_test(test_state_spaces),
        cmocka_unit_test(test_linear_attention),
        cmocka_unit_test(test_wkv_state),
        cmocka_unit_test(test_lightning_indexer),
        cmocka_unit_test(test_dsv4_hc_pre),
        cmocka_unit_test(test_soft_max),
        cmocka_unit_test(test_flash_attention),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_sorting),
        cmocka_unit_test(test_destinations),
        cmocka_unit_test(test_row_ids_of_a_run),
        cmocka_unit_test(test_sizes_of_programs),
        cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
