/*
 * The table of rules per operation. The check applies it, docs/program.md prints it, and generators of programs read it.
 *
 * The rules are ggml's (ggml.c, and what ggml_compute_forward_* needs of its sources), and what ggml leaves to luck: it checks shapes by assertion,
 * types often not at all, and several operations step through rows by nb1 alone.
 */

#include "program/program_impl.h"
#include "program/shapes.h"

/* Counts of sources and parameters, from the one list in samepage/program.h. */
enum {
#define X(id, NAME, name, min_src, max_src, n_params) MIN_##NAME = min_src, MAX_##NAME = max_src, PARAMS_##NAME = n_params,
    SP_OPS(X)
#undef X
};

#define OP(NAME) .op = SP_OP_##NAME, .min_src = MIN_##NAME, .max_src = MAX_##NAME, .n_params = PARAMS_##NAME
#define DIM(source, dim) (source) * 4 + (dim)
#define EQ(l, ld, r, rd)                                                                                                                             \
    { C_EQ, l, ld, r, rd }
#define GE(l, ld, r, rd)                                                                                                                             \
    { C_GE, l, ld, r, rd }
#define MULTIPLE(l, ld, r, rd)                                                                                                                       \
    { C_MULTIPLE, l, ld, r, rd }
#define ONE(l, ld)                                                                                                                                   \
    { C_CONST, l, ld, 1, 0 }
/* Source l has source 0's first three dimensions, and no fourth. */
#define LIKE(l) EQ(l, 0, 0, 0), EQ(l, 1, 0, 1), EQ(l, 2, 0, 2), ONE(l, 3)
#define WKV_SHAPE                                                                                                                                    \
    "f32; [ne0 * ne1; ne2 + ne0 * n; 1; 1] with the first source's dimensions and n = state.ne1: what comes out, then the states; n divides ne2, "   \
    "and state.ne0 is ne0 * ne0 * ne1; rwkv_wkv7: ne0 is a multiple of 64"
#define SAME_AS_A .result_type = R_A, .result_ne = {DIM(0, 0), DIM(0, 1), DIM(0, 2), DIM(0, 3)}
#define F32_AS_A .result_type = R_F32, .result_ne = {DIM(0, 0), DIM(0, 1), DIM(0, 2), DIM(0, 3)}

#define BINARY(NAME)                                                                                                                                 \
    [SP_OP_##NAME] = {OP(NAME),                                                                                                                      \
                      .src = {{"a", T_FLOAT, L_ROWS}, {"b", T_FLOAT, L_ROWS}},                                                                       \
                      .conds = {MULTIPLE(0, 0, 1, 0), MULTIPLE(0, 1, 1, 1), MULTIPLE(0, 2, 1, 2), MULTIPLE(0, 3, 1, 3)},                             \
                      SAME_AS_A,                                                                                                                     \
                      .in_place = true,                                                                                                              \
                      .extra = sp_extra_binary,                                                                                                      \
                      .extra_text = "b has a's type or is f32"}
#define UNARY(NAME) [SP_OP_##NAME] = {OP(NAME), .src = {{"a", T_F32 | T_F16, L_ROWS}}, SAME_AS_A, .in_place = true}
#define NORM(NAME) [SP_OP_##NAME] = {OP(NAME), .src = {{"a", T_F32, L_ROWS}}, .params = {{"eps", P_NOT_NEGATIVE, 0, 0}}, F32_AS_A}
#define GLU(NAME)                                                                                                                                    \
    [SP_OP_##NAME] = {OP(NAME), .src = {{"a", T_F32 | T_F16, L_FLAT}, {"b", T_F32 | T_F16, L_FLAT}}, .params = {{"swapped", P_RANGE, 0, 1}},         \
                      .shape = sp_shape_glu, .shape_text = GLU_SHAPE}
#define GLU_SHAPE                                                                                                                                    \
    "a's type; [a.ne0 / 2 without b, else a.ne0; a.ne1; a.ne2; a.ne3]; b has a's shape and type; without b, a.ne0 is even; with b, swapped is 0"

static const sp_rule rules[] = {
    [SP_OP_MUL_MAT] = {OP(MUL_MAT), .src = {{"a", T_MATRIX, L_ROWS}, {"b", T_FLOAT, L_ROWS}},
                       .params = {{"prec", P_PREC, 0, 0}, {"hint", P_RANGE, 0, 1}},
                       .conds = {EQ(0, 0, 1, 0), MULTIPLE(1, 2, 0, 2), MULTIPLE(1, 3, 0, 3)}, .result_type = R_F32,
                       .result_ne = {DIM(0, 1), DIM(1, 1), DIM(1, 2), DIM(1, 3)}, .extra = sp_extra_mul_mat,
                       .extra_text = "b is f32, or f16 or bf16 where a is; with hint 1 (a is the normalised Hadamard matrix, and a device may take "
                                     "the transform's word for it) both are f32, and a is a square whose size is a power of 2"},
    [SP_OP_MUL_MAT_ID] = {OP(MUL_MAT_ID), .src = {{"as", T_MATRIX, L_ROWS}, {"b", T_F32, L_ROWS}, {"ids", T_I32, L_ROWS}},
                          .params = {{"prec", P_PREC, 0, 0}},
                          .conds = {EQ(0, 0, 1, 0), ONE(0, 3), ONE(1, 3), ONE(2, 2), ONE(2, 3), EQ(2, 1, 1, 2), MULTIPLE(2, 0, 1, 1)},
                          .result_type = R_F32, .result_ne = {DIM(0, 1), DIM(2, 0), DIM(1, 2), R_ONE}, .index = {2, 0, 2, true}},
    BINARY(ADD),
    BINARY(SUB),
    BINARY(MUL),
    BINARY(DIV),
    NORM(NORM),
    NORM(RMS_NORM),
    NORM(L2_NORM),
    [SP_OP_SUM_ROWS] = {OP(SUM_ROWS), .src = {{"a", T_F32, L_ROWS}}, .result_type = R_F32, .result_ne = {R_ONE, DIM(0, 1), DIM(0, 2), DIM(0, 3)}},
    [SP_OP_ROPE_EXT] =
        {OP(ROPE_EXT), .src = {{"a", T_F32 | T_F16, L_ROWS}, {"positions", T_I32, L_CONTIGUOUS}, {"freq_factors", T_F32, L_CONTIGUOUS}},
         .params = {{"n_dims", P_RANGE, 2, INT32_MAX},
                    {"mode", P_RANGE, 0, 40},
                    {"n_ctx_orig", P_RANGE, 0, INT32_MAX},
                    {"freq_base", P_POSITIVE, 0, 0},
                    {"freq_scale", P_POSITIVE, 0, 0},
                    {"ext_factor", P_FINITE, 0, 0},
                    {"attn_factor", P_FINITE, 0, 0},
                    {"beta_fast", P_FINITE, 0, 0},
                    {"beta_slow", P_FINITE, 0, 0},
                    {"section0", P_RANGE, 0, 1 << 20},
                    {"section1", P_RANGE, 0, 1 << 20},
                    {"section2", P_RANGE, 0, 1 << 20},
                    {"section3", P_RANGE, 0, 1 << 20},
                    {"offset", P_RANGE, 0, INT32_MAX}},
         .conds = {ONE(1, 1), ONE(1, 2), ONE(1, 3)}, SAME_AS_A, .extra = sp_extra_rope,
         .extra_text = "mode is 0 (normal), 2 (neox), 8 (sections) or 40 (sections, interleaved); a.ne0, n_dims and offset are even, and offset + "
                       "n_dims at most a.ne0; "
                       "freq_factors.ne0 >= a.ne0 / 2; positions.ne0 is a.ne2, and four times as much with sections, of which one of the first three "
                       "is above 0 and that are a.ne0 together at most; without, they are 0"},
    [SP_OP_SOFT_MAX_EXT] = {OP(SOFT_MAX_EXT),
                            .src = {{"a", T_F32, L_CONTIGUOUS}, {"mask", T_F32 | T_F16, L_CONTIGUOUS}, {"sinks", T_F32, L_CONTIGUOUS}},
                            .params = {{"scale", P_FINITE, 0, 0}, {"max_bias", P_NOT_NEGATIVE, 0, 0}},
                            .conds = {EQ(1, 0, 0, 0), GE(1, 1, 0, 1), MULTIPLE(0, 2, 1, 2), MULTIPLE(0, 3, 1, 3), EQ(2, 0, 0, 2)}, SAME_AS_A,
                            .extra = sp_extra_soft_max, .extra_text = "max_bias above 0 needs a mask"},
    [SP_OP_FLASH_ATTN_EXT] =
        {OP(FLASH_ATTN_EXT),
         .src = {{"q", T_F32, L_ROWS},
                 {"k", T_FLOAT | T_Q, L_ROWS},
                 {"v", T_FLOAT | T_Q, L_ROWS},
                 {"mask", T_F16, L_CONTIGUOUS},
                 {"sinks", T_F32, L_CONTIGUOUS}},
         .params = {{"scale", P_FINITE, 0, 0}, {"max_bias", P_NOT_NEGATIVE, 0, 0}, {"logit_softcap", P_NOT_NEGATIVE, 0, 0}, {"prec", P_PREC, 0, 0}},
         .conds = {EQ(0, 0, 1, 0), MULTIPLE(0, 2, 1, 2), MULTIPLE(0, 2, 2, 2), EQ(0, 3, 1, 3), EQ(0, 3, 2, 3), EQ(2, 1, 1, 1), GE(3, 0, 1, 1),
                   GE(3, 1, 0, 1), MULTIPLE(0, 2, 3, 2), MULTIPLE(0, 3, 3, 3), EQ(4, 0, 0, 2)},
         .result_type = R_F32, .result_ne = {DIM(2, 0), DIM(0, 2), DIM(0, 1), DIM(0, 3)}, .extra = sp_extra_flash_attn,
         .extra_text = "max_bias above 0 needs a mask"},
    [SP_OP_GET_ROWS] = {OP(GET_ROWS), .src = {{"a", T_MATRIX | T_I32, L_ROWS}, {"ids", T_I32, L_ROWS}},
                        .conds = {EQ(0, 2, 1, 1), EQ(0, 3, 1, 2), ONE(1, 3)}, .result_type = R_ROWS,
                        .result_ne = {DIM(0, 0), DIM(1, 0), DIM(1, 1), DIM(1, 2)}, .index = {1, 0, 1, false}},
    [SP_OP_SET_ROWS] = {OP(SET_ROWS), .src = {{"a", T_FLOAT | T_Q, L_ROWS}, {"b", T_F32 | T_F16, L_ROWS}, {"ids", T_I32 | T_I64, L_ROWS}},
                        .conds = {EQ(0, 0, 1, 0), EQ(0, 2, 1, 2), EQ(0, 3, 1, 3), EQ(1, 1, 2, 0), MULTIPLE(1, 2, 2, 1), MULTIPLE(1, 3, 2, 2),
                                  ONE(2, 3)},
                        SAME_AS_A, .view = V_WRITES_A, .index = {2, 0, 1, false}},
    [SP_OP_CPY] = {OP(CPY), .src = {{"a", T_ANY, L_ANY}, {"b", T_ANY, L_ANY}}, .result_type = R_B,
                   .result_ne = {DIM(1, 0), DIM(1, 1), DIM(1, 2), DIM(1, 3)}, .view = V_WRITES_B, .extra = sp_extra_copy, .extra_text = COPY_TEXT},
    [SP_OP_CAST] = {OP(CAST), .src = {{"a", T_ANY, L_ANY}}, .result_type = R_FIELD, .result_ne = {DIM(0, 0), DIM(0, 1), DIM(0, 2), DIM(0, 3)},
                    .extra = sp_extra_cast, .extra_text = "as for cpy to a contiguous tensor of a's shape"},
    [SP_OP_CONT] = {OP(CONT), .src = {{"a", T_ANY, L_ANY}}, .shape = sp_shape_cont,
                    .shape_text = "a's type; ne if given, with as many elements as a, else a's shape", .extra = sp_extra_cast,
                    .extra_text = "as for cpy to a contiguous tensor of the result's shape"},
    [SP_OP_RESHAPE] = {OP(RESHAPE), .src = {{"a", T_ANY, L_DENSE}}, .shape = sp_shape_reshape,
                       .shape_text = "a's type; ne, with as many elements as a", .view = V_VIEW},
    [SP_OP_VIEW] = {OP(VIEW), .src = {{"a", T_ANY, L_ANY}}, .shape = sp_shape_view,
                    .shape_text = "a's type; ne, nb (contiguous if absent) and offset as given, offset a multiple of the type's size",
                    .view = V_VIEW},
    [SP_OP_PERMUTE] = {OP(PERMUTE), .src = {{"a", T_ANY, L_ANY}},
                       .params = {{"axis0", P_RANGE, 0, 3}, {"axis1", P_RANGE, 0, 3}, {"axis2", P_RANGE, 0, 3}, {"axis3", P_RANGE, 0, 3}},
                       .shape = sp_shape_permute,
                       .shape_text = "a's type; dimension i of a becomes dimension axis_i; the axes differ; axis0 is 0 where a is quantised",
                       .view = V_VIEW},
    [SP_OP_TRANSPOSE] = {OP(TRANSPOSE), .src = {{"a", T_FLOAT | T_I32 | T_I64, L_ANY}}, .shape = sp_shape_transpose,
                         .shape_text = "a's type; [a.ne1; a.ne0; a.ne2; a.ne3]", .view = V_VIEW},
    [SP_OP_REPEAT] = {OP(REPEAT), .src = {{"a", T_FLOAT | T_I32, L_ROWS}}, .shape = sp_shape_repeat,
                      .shape_text = "a's type; ne, each a multiple of a's"},
    [SP_OP_CONCAT] = {OP(CONCAT), .src = {{"a", T_FLOAT | T_I32, L_ANY}, {"b", T_FLOAT | T_I32, L_ANY}}, .params = {{"dim", P_RANGE, 0, 3}},
                      .shape = sp_shape_concat, .shape_text = "a's type, which is b's; the sum of a and b in dimension dim, equal in the others"},
    [SP_OP_SCALE] = {OP(SCALE), .src = {{"a", T_F32, L_PACKED}}, .params = {{"scale", P_FINITE, 0, 0}, {"bias", P_FINITE, 0, 0}}, F32_AS_A,
                     .in_place = true},
    [SP_OP_CLAMP] = {OP(CLAMP), .src = {{"a", T_F32, L_PACKED}}, .params = {{"min", P_NUMBER, 0, 0}, {"max", P_NUMBER, 0, 0}}, F32_AS_A,
                     .in_place = true, .extra = sp_extra_clamp, .extra_text = "min <= max"},
    [SP_OP_ARGSORT] = {OP(ARGSORT), .src = {{"a", T_F32, L_PACKED}}, .params = {{"order", P_RANGE, 0, 1}}, .result_type = R_I32,
                       .result_ne = {DIM(0, 0), DIM(0, 1), DIM(0, 2), DIM(0, 3)}, .extra = sp_extra_sort, .extra_text = SORT_TEXT},
    [SP_OP_TOP_K] = {OP(TOP_K), .src = {{"a", T_F32, L_PACKED}}, .params = {{"k", P_RANGE, 1, INT32_MAX}}, .shape = sp_shape_top_k,
                     .shape_text = "i32; [k; a.ne1; a.ne2; a.ne3]; k <= a.ne0", .extra = sp_extra_sort, .extra_text = SORT_TEXT},
    [SP_OP_ARGMAX] = {OP(ARGMAX), .src = {{"a", T_F32, L_PACKED}}, .conds = {ONE(0, 2), ONE(0, 3)}, .result_type = R_I32,
                      .result_ne = {DIM(0, 1), R_ONE, R_ONE, R_ONE}},
    UNARY(SQR),
    UNARY(SQRT),
    UNARY(SILU),
    UNARY(GELU),
    UNARY(GELU_ERF),
    UNARY(GELU_QUICK),
    UNARY(TANH),
    UNARY(SIGMOID),
    UNARY(RELU),
    UNARY(SOFTPLUS),
    UNARY(EXP),
    UNARY(NEG),
    GLU(REGLU),
    GLU(GEGLU),
    GLU(SWIGLU),
    [SP_OP_SWIGLU_OAI] = {OP(SWIGLU_OAI), .src = {{"a", T_F32, L_FLAT}, {"b", T_F32, L_FLAT}},
                          .params = {{"swapped", P_RANGE, 0, 0}, {"alpha", P_FINITE, 0, 0}, {"limit", P_NOT_NEGATIVE, 0, 0}}, .shape = sp_shape_glu,
                          .shape_text = GLU_SHAPE},
    GLU(GEGLU_ERF),
    GLU(GEGLU_QUICK),
    [SP_OP_ADD_ID] = {OP(ADD_ID), .src = {{"a", T_F32, L_ROWS}, {"b", T_F32, L_ROWS}, {"ids", T_I32, L_ROWS}},
                      .conds = {EQ(0, 0, 1, 0), EQ(0, 1, 2, 0), EQ(0, 2, 2, 1), ONE(2, 2), ONE(2, 3), ONE(0, 3)}, F32_AS_A,
                      .index = {2, 1, 1, false}},
    [SP_OP_SSM_CONV] = {OP(SSM_CONV), .src = {{"sx", T_F32, L_PACKED}, {"c", T_F32, L_PACKED}},
                        .conds = {EQ(0, 1, 1, 1), GE(0, 0, 1, 0), ONE(0, 3), ONE(1, 2), ONE(1, 3)}, .shape = sp_shape_ssm_conv,
                        .shape_text = "f32; [sx.ne1; sx.ne0 - c.ne0 + 1; sx.ne2; 1]"},
    [SP_OP_SSM_SCAN] = {OP(SSM_SCAN),
                        .src = {{"s", T_F32, L_PACKED},
                                {"x", T_F32, L_ROWS},
                                {"dt", T_F32, L_PACKED},
                                {"A", T_F32, L_PACKED},
                                {"B", T_F32, L_ROWS},
                                {"C", T_F32, L_ROWS},
                                {"ids", T_I32, L_PACKED}},
                        .params = {{"K", P_RANGE, 1, 1}},
                        .conds = {EQ(0, 1, 1, 0), EQ(0, 2, 1, 1), EQ(2, 0, 1, 1),      EQ(2, 1, 1, 2), EQ(2, 2, 1, 3), ONE(2, 3),
                                  EQ(3, 1, 1, 1), ONE(3, 2),      ONE(3, 3),           EQ(4, 0, 0, 0), EQ(4, 2, 1, 2), EQ(4, 3, 1, 3),
                                  EQ(5, 0, 4, 0), EQ(5, 1, 4, 1), EQ(5, 2, 4, 2),      EQ(5, 3, 4, 3), EQ(6, 0, 1, 3), ONE(6, 1),
                                  ONE(6, 2),      ONE(6, 3),      MULTIPLE(1, 1, 4, 1)},
                        .shape = sp_shape_ssm_scan,
                        .shape_text = "f32; [elements of x + s.ne0 * s.ne1 * s.ne2 * ids.ne0; 1; 1; 1]: what comes out, "
                                      "then the states",
                        .index = {6, 0, 3, false}, .extra = sp_extra_ssm_scan,
                        .extra_text = "A.ne0 is 1 or s.ne0; rows of x, B and C follow each other in dimension 1"},
    [SP_OP_GATED_DELTA_NET] = {OP(GATED_DELTA_NET),
                               .src = {{"q", T_F32, L_ROWS},
                                       {"k", T_F32, L_ROWS},
                                       {"v", T_F32, L_ROWS},
                                       {"g", T_F32, L_PACKED},
                                       {"beta", T_F32, L_PACKED},
                                       {"state", T_F32, L_PACKED}},
                               .params = {{"K", P_RANGE, 1, 1}},
                               .conds = {EQ(0, 0, 2, 0), EQ(1, 0, 2, 0), EQ(0, 2, 2, 2), EQ(1, 2, 2, 2), MULTIPLE(2, 3, 0, 3), MULTIPLE(2, 3, 1, 3),
                                         EQ(3, 1, 2, 1), EQ(3, 2, 2, 2), EQ(3, 3, 2, 3), ONE(4, 0), EQ(4, 1, 2, 1), EQ(4, 2, 2, 2), EQ(4, 3, 2, 3),
                                         EQ(5, 0, 2, 0), EQ(5, 1, 2, 0), EQ(5, 2, 2, 1), EQ(5, 3, 2, 3)},
                               .shape = sp_shape_gated_delta_net,
                               .shape_text = "f32; [v.ne0 * v.ne1; (v.ne2 + v.ne0) * v.ne3; 1; 1]: what comes out, then the states",
                               .extra = sp_extra_gated_delta_net, .extra_text = "g.ne0 is 1 or v.ne0"},
    [SP_OP_LIGHTNING_INDEXER] = {OP(LIGHTNING_INDEXER),
                                 .src = {{"q", T_F32, L_ROWS}, {"k", T_FLOAT | T_Q, L_ROWS}, {"weights", T_F32, L_ROWS}, {"mask", T_F16, L_ROWS}},
                                 .conds = {EQ(0, 0, 1, 0), EQ(3, 0, 1, 2), EQ(0, 1, 2, 0), ONE(1, 1), EQ(3, 1, 0, 2), EQ(2, 1, 0, 2), ONE(2, 2),
                                           ONE(3, 2), EQ(1, 3, 0, 3), EQ(2, 3, 0, 3), MULTIPLE(0, 3, 3, 3)},
                                 .result_type = R_F32, .result_ne = {DIM(1, 2), DIM(0, 2), R_ONE, DIM(0, 3)}},
    [SP_OP_SWIGLU_CLAMP] = {OP(SWIGLU_CLAMP), .src = {{"a", T_F32, L_FLAT}, {"b", T_F32, L_FLAT}},
                            .params = {{"swapped", P_RANGE, 0, 0}, {"limit", P_NOT_NEGATIVE, 0, 0}}, .shape = sp_shape_glu, .shape_text = GLU_SHAPE},
    [SP_OP_RWKV_WKV6] = {OP(RWKV_WKV6),
                         .src = {{"k", T_F32, L_PACKED},
                                 {"v", T_F32, L_PACKED},
                                 {"r", T_F32, L_PACKED},
                                 {"tf", T_F32, L_PACKED},
                                 {"td", T_F32, L_PACKED},
                                 {"state", T_F32, L_PACKED}},
                         .conds = {LIKE(1), LIKE(2), LIKE(4), EQ(3, 0, 0, 0), EQ(3, 1, 0, 1), ONE(3, 2), ONE(3, 3), ONE(0, 3), ONE(5, 2), ONE(5, 3)},
                         .shape = sp_shape_wkv, .shape_text = WKV_SHAPE},
    [SP_OP_RWKV_WKV7] = {OP(RWKV_WKV7),
                         .src = {{"r", T_F32, L_PACKED},
                                 {"w", T_F32, L_PACKED},
                                 {"k", T_F32, L_PACKED},
                                 {"v", T_F32, L_PACKED},
                                 {"a", T_F32, L_PACKED},
                                 {"b", T_F32, L_PACKED},
                                 {"state", T_F32, L_PACKED}},
                         .conds = {LIKE(1), LIKE(2), LIKE(3), LIKE(4), LIKE(5), ONE(0, 3), ONE(6, 2), ONE(6, 3)}, .shape = sp_shape_wkv,
                         .shape_text = WKV_SHAPE},
    [SP_OP_DSV4_HC_PRE] = {OP(DSV4_HC_PRE), .src = {{"x", T_F32, L_ROWS}, {"weights", T_F32, L_ROWS}},
                           .conds = {EQ(1, 0, 0, 1), EQ(1, 1, 0, 2), ONE(1, 2), ONE(1, 3), ONE(0, 3)}, .result_type = R_F32,
                           .result_ne = {DIM(0, 0), DIM(0, 2), R_ONE, R_ONE}},
    [SP_OP_FILL] = {OP(FILL), .src = {{"a", T_F32 | T_F16, L_CONTIGUOUS}}, .params = {{"value", P_NUMBER, 0, 0}}, SAME_AS_A, .in_place = true},
};

const sp_rule *sp_rule_get(uint32_t op) {
    return op < sizeof rules / sizeof rules[0] && rules[op].op ? &rules[op] : NULL;
}
