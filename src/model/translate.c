/* ggml's operations and their op_params as programs know them. The layouts of op_params are those that ggml.c's constructors write. */
#include <string.h>

#include "model/trace.h"

static uint16_t unary(int32_t op) {
    switch ((enum ggml_unary_op)op) {
    case GGML_UNARY_OP_SILU:
        return SP_OP_SILU;
    case GGML_UNARY_OP_GELU:
        return SP_OP_GELU;
    case GGML_UNARY_OP_GELU_ERF:
        return SP_OP_GELU_ERF;
    case GGML_UNARY_OP_GELU_QUICK:
        return SP_OP_GELU_QUICK;
    case GGML_UNARY_OP_TANH:
        return SP_OP_TANH;
    case GGML_UNARY_OP_SIGMOID:
        return SP_OP_SIGMOID;
    case GGML_UNARY_OP_RELU:
        return SP_OP_RELU;
    case GGML_UNARY_OP_SOFTPLUS:
        return SP_OP_SOFTPLUS;
    case GGML_UNARY_OP_EXP:
        return SP_OP_EXP;
    case GGML_UNARY_OP_NEG:
        return SP_OP_NEG;
    default:
        return 0;
    }
}

static uint16_t glu(const int32_t *p, uint32_t *out) {
    out[0] = (uint32_t)p[1];
    switch ((enum ggml_glu_op)p[0]) {
    case GGML_GLU_OP_REGLU:
        return SP_OP_REGLU;
    case GGML_GLU_OP_GEGLU:
        return SP_OP_GEGLU;
    case GGML_GLU_OP_SWIGLU:
        return SP_OP_SWIGLU;
    case GGML_GLU_OP_GEGLU_ERF:
        return SP_OP_GEGLU_ERF;
    case GGML_GLU_OP_GEGLU_QUICK:
        return SP_OP_GEGLU_QUICK;
    case GGML_GLU_OP_SWIGLU_OAI:
        out[1] = (uint32_t)p[2], out[2] = (uint32_t)p[3];
        return SP_OP_SWIGLU_OAI;
    case GGML_GLU_OP_SWIGLU_CLAMP:
        out[1] = (uint32_t)p[3];
        return SP_OP_SWIGLU_CLAMP;
    default:
        return 0;
    }
}

/* Operations whose parameters are the first words as they are. */
static uint16_t plain(enum ggml_op op, int *words) {
    static const struct {
        enum ggml_op from;
        uint16_t to;
        int words;
    } table[] = {{GGML_OP_MUL_MAT, SP_OP_MUL_MAT, 2},
                 {GGML_OP_MUL_MAT_ID, SP_OP_MUL_MAT_ID, 1},
                 {GGML_OP_ADD, SP_OP_ADD, 0},
                 {GGML_OP_SUB, SP_OP_SUB, 0},
                 {GGML_OP_MUL, SP_OP_MUL, 0},
                 {GGML_OP_DIV, SP_OP_DIV, 0},
                 {GGML_OP_NORM, SP_OP_NORM, 1},
                 {GGML_OP_RMS_NORM, SP_OP_RMS_NORM, 1},
                 {GGML_OP_L2_NORM, SP_OP_L2_NORM, 1},
                 {GGML_OP_SUM_ROWS, SP_OP_SUM_ROWS, 0},
                 {GGML_OP_SOFT_MAX, SP_OP_SOFT_MAX_EXT, 2},
                 {GGML_OP_FLASH_ATTN_EXT, SP_OP_FLASH_ATTN_EXT, 4},
                 {GGML_OP_GET_ROWS, SP_OP_GET_ROWS, 0},
                 {GGML_OP_SET_ROWS, SP_OP_SET_ROWS, 0},
                 {GGML_OP_CONT, SP_OP_CONT, 0},
                 {GGML_OP_RESHAPE, SP_OP_RESHAPE, 0},
                 {GGML_OP_VIEW, SP_OP_VIEW, 0},
                 {GGML_OP_PERMUTE, SP_OP_PERMUTE, 4},
                 {GGML_OP_TRANSPOSE, SP_OP_TRANSPOSE, 0},
                 {GGML_OP_REPEAT, SP_OP_REPEAT, 0},
                 {GGML_OP_CONCAT, SP_OP_CONCAT, 1},
                 {GGML_OP_SCALE, SP_OP_SCALE, 2},
                 {GGML_OP_CLAMP, SP_OP_CLAMP, 2},
                 {GGML_OP_ARGMAX, SP_OP_ARGMAX, 0},
                 {GGML_OP_SQR, SP_OP_SQR, 0},
                 {GGML_OP_SQRT, SP_OP_SQRT, 0},
                 {GGML_OP_ADD_ID, SP_OP_ADD_ID, 0},
                 {GGML_OP_FILL, SP_OP_FILL, 1},
                 {GGML_OP_ARGSORT, SP_OP_ARGSORT, 1},
                 {GGML_OP_SSM_CONV, SP_OP_SSM_CONV, 0},
                 {GGML_OP_SSM_SCAN, SP_OP_SSM_SCAN, 1},
                 {GGML_OP_GATED_DELTA_NET, SP_OP_GATED_DELTA_NET, 1},
                 {GGML_OP_RWKV_WKV6, SP_OP_RWKV_WKV6, 0},
                 {GGML_OP_RWKV_WKV7, SP_OP_RWKV_WKV7, 0},
                 {GGML_OP_LIGHTNING_INDEXER, SP_OP_LIGHTNING_INDEXER, 0}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].from == op) {
            *words = table[i].words;
            return table[i].to;
        }
    }
    return 0;
}

/* ggml keeps notes in the parameters of views, copies and reshapes, and hints in those of attention and products. */
static bool takes_all(enum ggml_op op) {
    return op != GGML_OP_VIEW && op != GGML_OP_RESHAPE && op != GGML_OP_PERMUTE && op != GGML_OP_TRANSPOSE && op != GGML_OP_CONT &&
           op != GGML_OP_FLASH_ATTN_EXT && op != GGML_OP_MUL_MAT && op != GGML_OP_MUL_MAT_ID;
}

uint16_t sp_trace_operation(const trace_node *node, uint32_t out[SP_PROGRAM_MAX_PARAMS]) {
    memset(out, 0, SP_PROGRAM_MAX_PARAMS * sizeof *out);
    const int32_t *p = node->params;
    switch (node->op) {
    case GGML_OP_UNARY:
        return unary(p[0]);
    case GGML_OP_GLU:
        return glu(p, out);
    case GGML_OP_CPY:
        return node->self_source ? SP_OP_CAST : SP_OP_CPY;
    case GGML_OP_DSV4_HC_PRE: { /* without gates, whose scale is 1 */
        float scale;
        memcpy(&scale, p, sizeof scale);
        return scale == 1 && p[1] == 0 ? SP_OP_DSV4_HC_PRE : 0;
    }
    case GGML_OP_TOP_K:
        if (node->whole_row) { /* the best of all are all, in whatever order */
            out[0] = 1;
            return SP_OP_ARGSORT;
        }
        out[0] = (uint32_t)node->ne[0];
        return SP_OP_TOP_K;
    case GGML_OP_ROPE: /* n_dims, mode, n_ctx_orig at 1, 2, 4; six floats and four sections from 5 on */
        out[0] = (uint32_t)p[1], out[1] = (uint32_t)p[2], out[2] = (uint32_t)p[4];
        memcpy(out + 3, p + 5, 6 * sizeof *out);
        for (int i = 0; i < 4; i++) { /* only the multi-section modes read them */
            out[9 + i] = p[2] & GGML_ROPE_TYPE_MROPE ? (uint32_t)p[11 + i] : 0;
        }
        out[13] = (uint32_t)p[15];
        return SP_OP_ROPE_EXT;
    default: {
        int words = 0;
        uint16_t op = plain(node->op, &words);
        memcpy(out, p, (size_t)words * sizeof *out);
        for (int i = words; i < (int)(sizeof node->params / sizeof *p); i++) {
            if (p[i] && takes_all(node->op)) {
                return 0; /* a parameter that programs do not have */
            }
        }
        return op;
    }
    }
}
