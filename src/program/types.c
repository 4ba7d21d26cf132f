/* The types and operations that programs may use, as tables. */
#include "program/program_impl.h"

/* Block and byte sizes as in ggml (ggml-common.h); a test compares them with the pinned ggml. */
static const struct {
    uint32_t id;
    sp_type_traits traits;
} types[] = {
    {SP_TYPE_F32, {"f32", 1, 4, false}},           {SP_TYPE_F16, {"f16", 1, 2, false}},          {SP_TYPE_BF16, {"bf16", 1, 2, false}},
    {SP_TYPE_I32, {"i32", 1, 4, false}},           {SP_TYPE_I64, {"i64", 1, 8, false}},          {SP_TYPE_Q4_0, {"q4_0", 32, 18, true}},
    {SP_TYPE_Q4_1, {"q4_1", 32, 20, true}},        {SP_TYPE_Q5_0, {"q5_0", 32, 22, true}},       {SP_TYPE_Q5_1, {"q5_1", 32, 24, true}},
    {SP_TYPE_Q8_0, {"q8_0", 32, 34, true}},        {SP_TYPE_Q2_K, {"q2_K", 256, 84, true}},      {SP_TYPE_Q3_K, {"q3_K", 256, 110, true}},
    {SP_TYPE_Q4_K, {"q4_K", 256, 144, true}},      {SP_TYPE_Q5_K, {"q5_K", 256, 176, true}},     {SP_TYPE_Q6_K, {"q6_K", 256, 210, true}},
    {SP_TYPE_IQ2_XXS, {"iq2_xxs", 256, 66, true}}, {SP_TYPE_IQ2_XS, {"iq2_xs", 256, 74, true}},  {SP_TYPE_IQ3_XXS, {"iq3_xxs", 256, 98, true}},
    {SP_TYPE_IQ1_S, {"iq1_s", 256, 50, true}},     {SP_TYPE_IQ4_NL, {"iq4_nl", 32, 18, true}},   {SP_TYPE_IQ3_S, {"iq3_s", 256, 110, true}},
    {SP_TYPE_IQ2_S, {"iq2_s", 256, 82, true}},     {SP_TYPE_IQ4_XS, {"iq4_xs", 256, 136, true}}, {SP_TYPE_IQ1_M, {"iq1_m", 256, 56, true}},
    {SP_TYPE_MXFP4, {"mxfp4", 32, 17, true}},
};

const sp_type_traits *sp_type_get(uint32_t type) {
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (types[i].id == type) {
            return &types[i].traits;
        }
    }
    return NULL;
}

unsigned sp_type_class(uint32_t type) {
    switch (type) {
    case SP_TYPE_F32:
        return T_F32;
    case SP_TYPE_F16:
        return T_F16;
    case SP_TYPE_BF16:
        return T_BF16;
    case SP_TYPE_I32:
        return T_I32;
    case SP_TYPE_I64:
        return T_I64;
    case SP_TYPE_Q4_0:
    case SP_TYPE_Q4_1:
    case SP_TYPE_Q5_0:
    case SP_TYPE_Q5_1:
    case SP_TYPE_Q8_0:
    case SP_TYPE_IQ4_NL:
        return T_Q;
    default:
        return T_WQ;
    }
}

const char *sp_op_name(uint32_t op) {
    switch (op) {
#define X(id, NAME, name, min_src, max_src, n_params)                                                                                                \
    case id:                                                                                                                                         \
        return #name;
        SP_OPS(X)
#undef X
    default:
        return NULL;
    }
}
