/* One verified operation becomes one ggml tensor, through ggml's public constructors. */
#include <string.h>

#include "device/device_impl.h"

static float param_float(const sp_spec_tensor *t, int i) {
    float value;
    memcpy(&value, &t->params[i], sizeof value);
    return value;
}

/*
 * ggml's products with weights in such a layout assert that b has three dimensions, take its rows for adjacent, and say neither when asked
 * (supports_op).
 */
bool sp_lower_takes_packed(const sp_spec *spec, const sp_spec_tensor *t, int source) {
    if (source != 0 || (t->op != SP_OP_MUL_MAT && t->op != SP_OP_MUL_MAT_ID)) {
        return false;
    }
    const sp_spec_tensor *b = &spec->tensors[t->src[1]];
    return b->ne[3] == 1 && b->nb[1] == (uint64_t)b->ne[0] * b->nb[0];
}

/*
 * ggml's allocator puts the result of some operations over any source of the same layout that is used for the last time. These read a source row by
 * row for rows of the result that come later.
 */
void sp_lower_keep_sources(const sp_spec_tensor *t, struct ggml_tensor *const *sources) {
    const int kept = t->op == SP_OP_ADD_ID ? 1 : t->op == SP_OP_ROPE_EXT || t->op == SP_OP_SOFT_MAX_EXT ? 2 : 0;
    if (kept && sources[kept]) {
        ggml_set_output(sources[kept]->view_src ? sources[kept]->view_src : sources[kept]);
    }
}

static struct ggml_tensor *lower_product(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *const *s) {
    struct ggml_tensor *out = t->op == SP_OP_MUL_MAT ? ggml_mul_mat(c, s[0], s[1]) : ggml_mul_mat_id(c, s[0], s[1], s[2]);
    if (t->params[0] == GGML_PREC_F32) {
        ggml_prec_set_acc(out, GGML_PREC_F32);
    }
    if (t->op == SP_OP_MUL_MAT && t->params[1]) {
        ggml_mul_mat_set_hint(out, GGML_HINT_SRC0_IS_HADAMARD);
    }
    return out;
}

static struct ggml_tensor *lower_flash_attn(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *const *s) {
    struct ggml_tensor *out = ggml_flash_attn_ext(c, s[0], s[1], s[2], s[3], param_float(t, 0), param_float(t, 1), param_float(t, 2));
    ggml_flash_attn_ext_add_sinks(out, s[4]);
    if (t->params[3] == GGML_PREC_F32) {
        ggml_prec_set_acc(out, GGML_PREC_F32);
    }
    return out;
}

static struct ggml_tensor *lower_soft_max(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *const *s) {
    struct ggml_tensor *out = ggml_soft_max_ext(c, s[0], s[1], param_float(t, 0), param_float(t, 1));
    ggml_soft_max_add_sinks(out, s[2]);
    return out;
}

static struct ggml_tensor *lower_rope(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *const *s) {
    int sections[4] = {(int)t->params[9], (int)t->params[10], (int)t->params[11], (int)t->params[12]};
    struct ggml_tensor *out =
        ggml_rope_multi(c, s[0], s[1], s[2], (int)t->params[0], sections, (int)t->params[1], (int)t->params[2], param_float(t, 3), param_float(t, 4),
                        param_float(t, 5), param_float(t, 6), param_float(t, 7), param_float(t, 8));
    return t->params[13] ? ggml_rope_set_offset(out, (int)t->params[13]) : out;
}

static struct ggml_tensor *lower_glu(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *const *s, enum ggml_glu_op op) {
    return s[1] ? ggml_glu_split(c, s[0], s[1], op) : ggml_glu(c, s[0], op, t->params[0] != 0);
}

static struct ggml_tensor *lower_view(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *const *s) {
    return ggml_view_4d(c, s[0], t->ne[0], t->ne[1], t->ne[2], t->ne[3], t->nb[1], t->nb[2], t->nb[3], t->offset);
}

static struct ggml_tensor *lower_shape(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *const *s) {
    const int64_t *n = t->ne;
    switch (t->op) {
    case SP_OP_CONT:
        return ggml_cont_4d(c, s[0], n[0], n[1], n[2], n[3]);
    case SP_OP_RESHAPE:
        return ggml_reshape_4d(c, s[0], n[0], n[1], n[2], n[3]);
    case SP_OP_REPEAT:
        return ggml_repeat_4d(c, s[0], n[0], n[1], n[2], n[3]);
    case SP_OP_VIEW:
        return lower_view(c, t, s);
    case SP_OP_PERMUTE:
        return ggml_permute(c, s[0], (int)t->params[0], (int)t->params[1], (int)t->params[2], (int)t->params[3]);
    case SP_OP_TRANSPOSE:
        return ggml_transpose(c, s[0]);
    case SP_OP_CONCAT:
        return ggml_concat(c, s[0], s[1], (int)t->params[0]);
    case SP_OP_GET_ROWS:
        return ggml_get_rows(c, s[0], s[1]);
    case SP_OP_SET_ROWS:
        return ggml_set_rows(c, s[0], s[1], s[2]);
    case SP_OP_CPY:
        return ggml_cpy(c, s[0], s[1]);
    default:
        return ggml_cast(c, s[0], (enum ggml_type)t->type);
    }
}

static struct ggml_tensor *lower_unary(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *a) {
    static const struct {
        uint16_t op;
        enum ggml_unary_op unary;
    } table[] = {{SP_OP_SILU, GGML_UNARY_OP_SILU},         {SP_OP_GELU, GGML_UNARY_OP_GELU},
                 {SP_OP_GELU_ERF, GGML_UNARY_OP_GELU_ERF}, {SP_OP_GELU_QUICK, GGML_UNARY_OP_GELU_QUICK},
                 {SP_OP_TANH, GGML_UNARY_OP_TANH},         {SP_OP_SIGMOID, GGML_UNARY_OP_SIGMOID},
                 {SP_OP_RELU, GGML_UNARY_OP_RELU},         {SP_OP_SOFTPLUS, GGML_UNARY_OP_SOFTPLUS},
                 {SP_OP_EXP, GGML_UNARY_OP_EXP},           {SP_OP_NEG, GGML_UNARY_OP_NEG}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].op == t->op) {
            return ggml_unary(c, a, table[i].unary);
        }
    }
    return NULL;
}

/* ggml-vulkan compares as integers where only the largest is asked for, so that of negative numbers it takes the least; not so in argmax. */
static struct ggml_tensor *lower_top_k(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *a) {
    if (t->params[0] != 1 || !ggml_is_contiguous(a)) {
        return ggml_top_k(c, a, (int)t->params[0]);
    }
    struct ggml_tensor *top = ggml_argmax(c, ggml_reshape_2d(c, a, a->ne[0], ggml_nrows(a)));
    for (int i = 0; i < GGML_MAX_DIMS; i++) {
        top->ne[i] = t->ne[i];
        top->nb[i] = i ? top->nb[i - 1] * (size_t)top->ne[i - 1] : ggml_type_size(top->type);
    }
    return top;
}

/* What carries state from token to token. */
static struct ggml_tensor *lower_recurrent(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *const *s) {
    switch (t->op) {
    case SP_OP_SSM_CONV:
        return ggml_ssm_conv(c, s[0], s[1]);
    case SP_OP_SSM_SCAN:
        return ggml_ssm_scan(c, s[0], s[1], s[2], s[3], s[4], s[5], s[6], (int64_t)t->params[0]);
    case SP_OP_GATED_DELTA_NET:
        return ggml_gated_delta_net(c, s[0], s[1], s[2], s[3], s[4], s[5], (int64_t)t->params[0]);
    case SP_OP_RWKV_WKV6:
        return ggml_rwkv_wkv6(c, s[0], s[1], s[2], s[3], s[4], s[5]);
    default:
        return ggml_rwkv_wkv7(c, s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
    }
}

struct ggml_tensor *sp_lower_op(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *const *s) {
    switch (t->op) {
    case SP_OP_MUL_MAT:
    case SP_OP_MUL_MAT_ID:
        return lower_product(c, t, s);
    case SP_OP_ADD:
        return ggml_add(c, s[0], s[1]);
    case SP_OP_SUB:
        return ggml_sub(c, s[0], s[1]);
    case SP_OP_MUL:
        return ggml_mul(c, s[0], s[1]);
    case SP_OP_DIV:
        return ggml_div(c, s[0], s[1]);
    case SP_OP_ADD_ID:
        return ggml_add_id(c, s[0], s[1], s[2]);
    case SP_OP_NORM:
        return ggml_norm(c, s[0], param_float(t, 0));
    case SP_OP_RMS_NORM:
        return ggml_rms_norm(c, s[0], param_float(t, 0));
    case SP_OP_L2_NORM:
        return ggml_l2_norm(c, s[0], param_float(t, 0));
    case SP_OP_SUM_ROWS:
        return ggml_sum_rows(c, s[0]);
    case SP_OP_ROPE_EXT:
        return lower_rope(c, t, s);
    case SP_OP_SOFT_MAX_EXT:
        return lower_soft_max(c, t, s);
    case SP_OP_FLASH_ATTN_EXT:
        return lower_flash_attn(c, t, s);
    case SP_OP_GET_ROWS:
    case SP_OP_SET_ROWS:
    case SP_OP_CPY:
    case SP_OP_CAST:
    case SP_OP_CONT:
    case SP_OP_RESHAPE:
    case SP_OP_VIEW:
    case SP_OP_PERMUTE:
    case SP_OP_TRANSPOSE:
    case SP_OP_REPEAT:
    case SP_OP_CONCAT:
        return lower_shape(c, t, s);
    case SP_OP_SCALE:
        return ggml_scale_bias(c, s[0], param_float(t, 0), param_float(t, 1));
    case SP_OP_CLAMP:
        return ggml_clamp(c, s[0], param_float(t, 0), param_float(t, 1));
    case SP_OP_ARGSORT:
        return ggml_argsort(c, s[0], t->params[0] ? GGML_SORT_ORDER_DESC : GGML_SORT_ORDER_ASC);
    case SP_OP_TOP_K:
        return lower_top_k(c, t, s[0]);
    case SP_OP_ARGMAX:
        return ggml_argmax(c, s[0]);
    case SP_OP_SQR:
        return ggml_sqr(c, s[0]);
    case SP_OP_SQRT:
        return ggml_sqrt(c, s[0]);
    case SP_OP_FILL:
        return ggml_fill(c, s[0], param_float(t, 0));
    case SP_OP_REGLU:
        return lower_glu(c, t, s, GGML_GLU_OP_REGLU);
    case SP_OP_GEGLU:
        return lower_glu(c, t, s, GGML_GLU_OP_GEGLU);
    case SP_OP_SWIGLU:
        return lower_glu(c, t, s, GGML_GLU_OP_SWIGLU);
    case SP_OP_GEGLU_ERF:
        return lower_glu(c, t, s, GGML_GLU_OP_GEGLU_ERF);
    case SP_OP_GEGLU_QUICK:
        return lower_glu(c, t, s, GGML_GLU_OP_GEGLU_QUICK);
    case SP_OP_SWIGLU_OAI:
        return ggml_swiglu_oai(c, s[0], s[1], param_float(t, 1), param_float(t, 2));
    case SP_OP_SWIGLU_CLAMP:
        return ggml_swiglu_clamp(c, s[0], s[1], param_float(t, 1));
    case SP_OP_LIGHTNING_INDEXER:
        return ggml_lightning_indexer(c, s[0], s[1], s[2], s[3]);
    case SP_OP_DSV4_HC_PRE:
        return ggml_dsv4_hc_pre(c, s[0], s[1]);
    case SP_OP_SSM_CONV:
    case SP_OP_SSM_SCAN:
    case SP_OP_GATED_DELTA_NET:
    case SP_OP_RWKV_WKV6:
    case SP_OP_RWKV_WKV7:
        return lower_recurrent(c, t, s);
    default:
        return lower_unary(c, t, s[0]);
    }
}
