/*
 * Builds programs (samepage/program.h) the way one builds a ggml graph: same names, same argument order. Header-only C, for guests and for hosts.
 *
 *     sp_graph g;
 *     sp_graph_init(&g);
 *     sp_expr n = sp_symbol(&g, "n", 1, 512);                            // gets its value at each run
 *     uint32_t in = sp_graph_slot(&g, "x", SP_SLOT_READ);                // memory of yours, bound at run time
 *     uint32_t out = sp_graph_slot(&g, "y", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
 *     sp_tensor w = sp_graph_weight(&g, "output.weight");                // a tensor of the model, [64, 10]
 *     sp_tensor x = sp_graph_memory_2d(&g, "x", in, SP_TYPE_F32, sp_dim(64), n, sp_dim(0));
 *     sp_tensor y = sp_graph_memory_2d(&g, "y", out, SP_TYPE_F32, sp_dim(10), n, sp_dim(0));
 *     sp_graph_into(&g, sp_mul_mat(&g, w, x), y);                        // computes y = w x
 *     uint32_t size;
 *     const void *bytes = sp_graph_bytes(&g, &size);
 *     if (!bytes) puts(g.error);
 *     int32_t program = sp_program_load(bytes, size);                    // samepage/abi.h
 *     sp_graph_free(&g);
 *
 * Words: a slot is a piece of your memory that the program reads or writes; a window is a typed, shaped part of a slot; a weight is a tensor of a
 * model; everything else is a result. Dimension 0 runs along memory, as in ggml: a matrix of 10 rows of 64 numbers is [64, 10]. Results are
 * temporaries that you never see, unless sp_graph_into says in which window they go, or sp_cpy and sp_set_rows write them into one.
 *
 * Errors stick: the first one is kept in g.error, every call after it does nothing, and sp_graph_bytes and sp_graph_finish fail. So check once, at
 * the end. The builder checks what it needs to write the program; shapes and types are checked when the program is loaded and run, with the reason in
 * words.
 *
 * The second part of this header reads programs: see "reading".
 */
#ifndef SAMEPAGE_GRAPH_H
#define SAMEPAGE_GRAPH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "samepage/program.h"

/* A tensor of the graph under construction: its number. SP_NONE: no tensor, where one is optional. */
typedef uint32_t sp_tensor;
#define SP_NONE SP_PROGRAM_NONE

/* A dimension, stride or offset: a * symbol + b, or the constant b. Make it with sp_dim, sp_symbol and sp_affine. */
typedef struct sp_expr {
    int64_t a, b;
    uint32_t symbol;
} sp_expr;

typedef struct sp_graph {
    const char *error; /* the first error, or NULL */
    sp_program_symbol *symbols;
    sp_program_expr *exprs;
    sp_program_slot *slots;
    sp_program_tensor *tensors;
    char *strings;
    void *bytes; /* the finished program */
    uint32_t n_symbols, n_exprs, n_slots, n_tensors, n_strings;
    uint32_t cap_symbols, cap_exprs, cap_slots, cap_tensors, cap_strings;
} sp_graph;

static inline void sp_graph_init(sp_graph *g) {
    memset(g, 0, sizeof *g);
}

static inline void sp_graph_free(sp_graph *g) {
    free(g->symbols);
    free(g->exprs);
    free(g->slots);
    free(g->tensors);
    free(g->strings);
    free(g->bytes);
    sp_graph_init(g);
}

/* ---- inner parts ---- */

static inline void sp_graph_fail(sp_graph *g, const char *why) {
    if (!g->error) {
        g->error = why;
    }
}

/* Makes room for one more element of size bytes; false when out of memory or after an error. */
static inline bool sp_graph_grow(sp_graph *g, void *array, uint32_t needed, uint32_t *capacity, size_t size) {
    void *old, *grown;
    uint32_t wanted = *capacity ? *capacity : 16;
    if (g->error) {
        return false;
    }
    while (wanted < needed) {
        wanted *= 2;
    }
    if (wanted == *capacity) {
        return true;
    }
    memcpy(&old, array, sizeof old);
    grown = realloc(old, wanted * size);
    if (!grown) {
        sp_graph_fail(g, "out of memory");
        return false;
    }
    memcpy(array, &grown, sizeof grown);
    *capacity = wanted;
    return true;
}

/* Adds a name; its offset. NULL and "" are no name. */
static inline uint32_t sp_graph_string(sp_graph *g, const char *text) {
    size_t length = text ? strlen(text) : 0;
    uint32_t at = g->n_strings;
    if (length == 0) {
        return SP_NONE;
    }
    if (length > 63) {
        sp_graph_fail(g, "a name is longer than 63 bytes");
        return SP_NONE;
    }
    if (!sp_graph_grow(g, &g->strings, at + (uint32_t)length + 1, &g->cap_strings, 1)) {
        return SP_NONE;
    }
    memcpy(g->strings + at, text, length + 1);
    g->n_strings += (uint32_t)length + 1;
    return at;
}

/* The number of an expression; equal ones share one. */
static inline uint32_t sp_graph_expr(sp_graph *g, sp_expr e) {
    uint32_t i;
    for (i = g->n_exprs; i-- > 0;) {
        if (g->exprs[i].a == e.a && g->exprs[i].b == e.b && g->exprs[i].symbol == e.symbol) {
            return i;
        }
    }
    if (!sp_graph_grow(g, &g->exprs, g->n_exprs + 1, &g->cap_exprs, sizeof *g->exprs)) {
        return SP_NONE;
    }
    memset(&g->exprs[g->n_exprs], 0, sizeof *g->exprs);
    g->exprs[g->n_exprs].a = e.a;
    g->exprs[g->n_exprs].b = e.b;
    g->exprs[g->n_exprs].symbol = e.symbol;
    return g->n_exprs++;
}

/* Adds an empty tensor; NULL after an error. */
static inline sp_program_tensor *sp_graph_tensor(sp_graph *g, uint16_t kind, const char *name) {
    sp_program_tensor *t;
    uint32_t text = sp_graph_string(g, name);
    if (!sp_graph_grow(g, &g->tensors, g->n_tensors + 1, &g->cap_tensors, sizeof *g->tensors)) {
        return NULL;
    }
    t = &g->tensors[g->n_tensors++];
    memset(t, 0, sizeof *t);
    t->kind = kind;
    t->name = text;
    t->dst = SP_NONE;
    t->offset = SP_NONE;
    memset(t->src, 0xff, sizeof t->src);
    memset(t->ne, 0xff, sizeof t->ne);
    memset(t->nb, 0xff, sizeof t->nb);
    return t;
}

static inline void sp_graph_set_dims(sp_graph *g, sp_program_tensor *t, const sp_expr ne[4]) {
    int i;
    for (i = 0; i < 4; i++) {
        t->ne[i] = sp_graph_expr(g, ne[i]);
    }
}

static inline uint32_t sp_float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* ---- dimensions ---- */

/* A constant. */
static inline sp_expr sp_dim(int64_t value) {
    sp_expr e = {0, value, SP_NONE};
    return e;
}

/* A new symbol: a number between min and max that is given at each run, in the order in which symbols were made. At most 16; max is at most 2^31-1.
 */
static inline sp_expr sp_symbol(sp_graph *g, const char *name, uint64_t min, uint64_t max) {
    sp_expr e = {1, 0, g->n_symbols};
    uint32_t text = sp_graph_string(g, name);
    if (text == SP_NONE) {
        sp_graph_fail(g, "a symbol needs a name");
    }
    if (sp_graph_grow(g, &g->symbols, g->n_symbols + 1, &g->cap_symbols, sizeof *g->symbols)) {
        sp_program_symbol *s = &g->symbols[g->n_symbols++];
        s->name = text;
        s->reserved = 0;
        s->min = min;
        s->max = max;
    }
    return e;
}

/* a * e + b. */
static inline sp_expr sp_affine(int64_t a, sp_expr e, int64_t b) {
    sp_expr r = {a * e.a, a * e.b + b, (a && e.a) ? e.symbol : SP_NONE};
    return r;
}

/* x * y, one of which must be constant. */
static inline sp_expr sp_graph_product(sp_graph *g, sp_expr x, sp_expr y) {
    if (x.symbol != SP_NONE && y.symbol != SP_NONE) {
        sp_graph_fail(g, "a stride is the product of two symbols: give all strides yourself (sp_view_4d)");
    }
    return x.symbol == SP_NONE ? sp_affine(x.b, y, 0) : sp_affine(y.b, x, 0);
}

/* ---- slots, windows, weights ---- */

/* A new slot; flags: SP_SLOT_*. Its number, for windows and for sp_program_bind. Names must differ. */
static inline uint32_t sp_graph_slot(sp_graph *g, const char *name, uint32_t flags) {
    uint32_t text = sp_graph_string(g, name);
    if (text == SP_NONE) {
        sp_graph_fail(g, "a slot needs a name");
    }
    if (flags & SP_SLOT_STATE) {
        flags |= SP_SLOT_READ | SP_SLOT_WRITE;
    }
    if (!sp_graph_grow(g, &g->slots, g->n_slots + 1, &g->cap_slots, sizeof *g->slots)) {
        return SP_NONE;
    }
    g->slots[g->n_slots].name = text;
    g->slots[g->n_slots].flags = flags;
    return g->n_slots++;
}

/*
 * A window of a slot: SP_TYPE_*, shape, strides in bytes of dimensions 1 to 3 (nb; NULL: contiguous), offset in bytes from the slot's start (a
 * multiple of 32). name is for listings, or NULL. In a slot with SP_SLOT_WRITE windows may not overlap: make one and view it.
 */
static inline sp_tensor sp_graph_memory(sp_graph *g, const char *name, uint32_t slot, uint32_t type, const sp_expr ne[4], const sp_expr *nb,
                                        sp_expr offset) {
    sp_program_tensor *t;
    int i;
    if (slot >= g->n_slots) {
        sp_graph_fail(g, "a window names no slot of this graph");
    }
    t = sp_graph_tensor(g, SP_TENSOR_MEMORY, name);
    if (!t) {
        return SP_NONE;
    }
    t->type = (uint16_t)type;
    t->slot = slot;
    sp_graph_set_dims(g, t, ne);
    for (i = 0; nb && i < 3; i++) {
        t->nb[i] = sp_graph_expr(g, nb[i]);
    }
    t->offset = sp_graph_expr(g, offset);
    return g->n_tensors - 1;
}

static inline sp_tensor sp_graph_memory_4d(sp_graph *g, const char *name, uint32_t slot, uint32_t type, sp_expr ne0, sp_expr ne1, sp_expr ne2,
                                           sp_expr ne3, sp_expr offset) {
    sp_expr ne[4];
    ne[0] = ne0, ne[1] = ne1, ne[2] = ne2, ne[3] = ne3;
    return sp_graph_memory(g, name, slot, type, ne, NULL, offset);
}
static inline sp_tensor sp_graph_memory_3d(sp_graph *g, const char *name, uint32_t slot, uint32_t type, sp_expr ne0, sp_expr ne1, sp_expr ne2,
                                           sp_expr offset) {
    return sp_graph_memory_4d(g, name, slot, type, ne0, ne1, ne2, sp_dim(1), offset);
}
static inline sp_tensor sp_graph_memory_2d(sp_graph *g, const char *name, uint32_t slot, uint32_t type, sp_expr ne0, sp_expr ne1, sp_expr offset) {
    return sp_graph_memory_4d(g, name, slot, type, ne0, ne1, sp_dim(1), sp_dim(1), offset);
}
static inline sp_tensor sp_graph_memory_1d(sp_graph *g, const char *name, uint32_t slot, uint32_t type, sp_expr ne0, sp_expr offset) {
    return sp_graph_memory_4d(g, name, slot, type, ne0, sp_dim(1), sp_dim(1), sp_dim(1), offset);
}

/* A tensor of a model, by its name in the GGUF; shape and type are the model's. model: its handle, 0 for the first. */
static inline sp_tensor sp_graph_weight_of(sp_graph *g, uint32_t model, const char *name) {
    sp_program_tensor *t;
    if (!name || !*name) {
        sp_graph_fail(g, "a weight needs a name");
    }
    t = sp_graph_tensor(g, SP_TENSOR_WEIGHT, name);
    if (!t) {
        return SP_NONE;
    }
    t->slot = model;
    return g->n_tensors - 1;
}
static inline sp_tensor sp_graph_weight(sp_graph *g, const char *name) {
    return sp_graph_weight_of(g, 0, name);
}

/* ---- operations ---- */

/*
 * Any operation by its number: SP_OP_*, sources in ggml's order (SP_NONE for an optional one that is absent), and as many parameter words as it takes
 * (may be NULL: zeros). What the functions below are made of.
 */
static inline sp_tensor sp_graph_op(sp_graph *g, uint32_t op, uint32_t n_src, const sp_tensor *src, uint32_t n_params, const uint32_t *params) {
    sp_program_tensor *t;
    uint32_t i;
    if (n_src > SP_PROGRAM_MAX_SRC || n_params > SP_PROGRAM_MAX_PARAMS) {
        sp_graph_fail(g, "an operation has too many sources or parameters");
        return SP_NONE;
    }
    for (i = 0; i < n_src; i++) {
        if (src[i] != SP_NONE && src[i] >= g->n_tensors) {
            sp_graph_fail(g, "a source is no tensor of this graph");
        }
    }
    t = sp_graph_tensor(g, SP_TENSOR_OP, NULL);
    if (!t) {
        return SP_NONE;
    }
    t->op = (uint16_t)op;
    t->n_src = (uint16_t)n_src;
    memcpy(t->src, src, n_src * sizeof *src);
    if (params) {
        memcpy(t->params, params, n_params * sizeof *params);
    }
    return g->n_tensors - 1;
}

static inline sp_tensor sp_graph_op1(sp_graph *g, uint32_t op, sp_tensor a) {
    return sp_graph_op(g, op, 1, &a, 0, NULL);
}
static inline sp_tensor sp_graph_op2(sp_graph *g, uint32_t op, sp_tensor a, sp_tensor b) {
    sp_tensor src[2];
    src[0] = a, src[1] = b;
    return sp_graph_op(g, op, 2, src, 0, NULL);
}
static inline sp_tensor sp_graph_op3(sp_graph *g, uint32_t op, sp_tensor a, sp_tensor b, sp_tensor c) {
    sp_tensor src[3];
    src[0] = a, src[1] = b, src[2] = c;
    return sp_graph_op(g, op, 3, src, 0, NULL);
}
/* The tensor's parameter word; a word that nobody reads after an error. */
static inline uint32_t *sp_graph_param(sp_graph *g, sp_tensor t, uint32_t i) {
    static uint32_t nowhere;
    return g->error || t >= g->n_tensors ? &nowhere : &g->tensors[t].params[i];
}
static inline sp_tensor sp_graph_with_dims(sp_graph *g, sp_tensor t, sp_expr ne0, sp_expr ne1, sp_expr ne2, sp_expr ne3) {
    sp_expr ne[4];
    ne[0] = ne0, ne[1] = ne1, ne[2] = ne2, ne[3] = ne3;
    if (!g->error) {
        sp_graph_set_dims(g, &g->tensors[t], ne);
    }
    return t;
}

/* A name for listings. */
static inline sp_tensor sp_set_name(sp_graph *g, sp_tensor t, const char *name) {
    if (!g->error && t < g->n_tensors && g->tensors[t].kind == SP_TENSOR_OP) {
        g->tensors[t].name = sp_graph_string(g, name);
    }
    return t;
}

/*
 * Puts the result of an operation into a window that was made before it, of the result's type and shape and contiguous, in a slot with SP_SLOT_WRITE.
 * Not for views, sp_cpy and sp_set_rows. Returns result.
 */
static inline sp_tensor sp_graph_into(sp_graph *g, sp_tensor result, sp_tensor window) {
    if (!g->error && (result >= g->n_tensors || window >= result || g->tensors[result].kind != SP_TENSOR_OP)) {
        sp_graph_fail(g, "a destination must be made before the operation that writes it");
    }
    if (!g->error) {
        g->tensors[result].dst = window;
    }
    return result;
}

#define SP_GRAPH_UNARY(NAME, name)                                                                                                                   \
    static inline sp_tensor sp_##name(sp_graph *g, sp_tensor a) {                                                                                    \
        return sp_graph_op1(g, SP_OP_##NAME, a);                                                                                                     \
    }
#define SP_GRAPH_BINARY(NAME, name)                                                                                                                  \
    static inline sp_tensor sp_##name(sp_graph *g, sp_tensor a, sp_tensor b) {                                                                       \
        return sp_graph_op2(g, SP_OP_##NAME, a, b);                                                                                                  \
    }
/* ggml's a half, b the other half of one tensor; swapped; or two tensors. */
#define SP_GRAPH_GLU(NAME, name)                                                                                                                     \
    static inline sp_tensor sp_##name(sp_graph *g, sp_tensor a) {                                                                                    \
        return sp_graph_op1(g, SP_OP_##NAME, a);                                                                                                     \
    }                                                                                                                                                \
    static inline sp_tensor sp_##name##_swapped(sp_graph *g, sp_tensor a) {                                                                          \
        sp_tensor t = sp_graph_op1(g, SP_OP_##NAME, a);                                                                                              \
        *sp_graph_param(g, t, 0) = 1;                                                                                                                \
        return t;                                                                                                                                    \
    }                                                                                                                                                \
    static inline sp_tensor sp_##name##_split(sp_graph *g, sp_tensor a, sp_tensor b) {                                                               \
        return sp_graph_op2(g, SP_OP_##NAME, a, b);                                                                                                  \
    }

SP_GRAPH_BINARY(MUL_MAT, mul_mat)
SP_GRAPH_BINARY(ADD, add)
SP_GRAPH_BINARY(SUB, sub)
SP_GRAPH_BINARY(MUL, mul)
SP_GRAPH_BINARY(DIV, div)
SP_GRAPH_BINARY(GET_ROWS, get_rows) /* a, ids */
SP_GRAPH_BINARY(CPY, cpy)           /* writes a into b, a window or a view of one */
SP_GRAPH_UNARY(SUM_ROWS, sum_rows)
SP_GRAPH_UNARY(CONT, cont)
SP_GRAPH_UNARY(TRANSPOSE, transpose)
SP_GRAPH_UNARY(ARGMAX, argmax)
SP_GRAPH_UNARY(SQR, sqr)
SP_GRAPH_UNARY(SQRT, sqrt)
SP_GRAPH_UNARY(SILU, silu)
SP_GRAPH_UNARY(GELU, gelu)
SP_GRAPH_UNARY(GELU_ERF, gelu_erf)
SP_GRAPH_UNARY(GELU_QUICK, gelu_quick)
SP_GRAPH_UNARY(TANH, tanh)
SP_GRAPH_UNARY(SIGMOID, sigmoid)
SP_GRAPH_UNARY(RELU, relu)
SP_GRAPH_UNARY(SOFTPLUS, softplus)
SP_GRAPH_UNARY(EXP, exp)
SP_GRAPH_UNARY(NEG, neg)
SP_GRAPH_GLU(REGLU, reglu)
SP_GRAPH_GLU(GEGLU, geglu)
SP_GRAPH_GLU(SWIGLU, swiglu)
SP_GRAPH_GLU(GEGLU_ERF, geglu_erf)
SP_GRAPH_GLU(GEGLU_QUICK, geglu_quick)

static inline sp_tensor sp_mul_mat_id(sp_graph *g, sp_tensor as, sp_tensor b, sp_tensor ids) {
    return sp_graph_op3(g, SP_OP_MUL_MAT_ID, as, b, ids);
}
/* a: what is written, a window or a view of one; b: rows; ids: where each goes. */
static inline sp_tensor sp_set_rows(sp_graph *g, sp_tensor a, sp_tensor b, sp_tensor ids) {
    return sp_graph_op3(g, SP_OP_SET_ROWS, a, b, ids);
}
static inline sp_tensor sp_add_id(sp_graph *g, sp_tensor a, sp_tensor b, sp_tensor ids) {
    return sp_graph_op3(g, SP_OP_ADD_ID, a, b, ids);
}
/* 1: a is a normalised Hadamard matrix. Of mul_mat. */
static inline void sp_mul_mat_set_hint(sp_graph *g, sp_tensor t, uint32_t hint) {
    *sp_graph_param(g, t, 1) = hint;
}
/* prec: 0 default, 10 f32. Of mul_mat and mul_mat_id. */
static inline void sp_mul_mat_set_prec(sp_graph *g, sp_tensor t, uint32_t prec) {
    *sp_graph_param(g, t, 0) = prec;
}

static inline sp_tensor sp_graph_op1f(sp_graph *g, uint32_t op, sp_tensor a, float p0, float p1) {
    sp_tensor t = sp_graph_op1(g, op, a);
    *sp_graph_param(g, t, 0) = sp_float_bits(p0);
    *sp_graph_param(g, t, 1) = sp_float_bits(p1);
    return t;
}
static inline sp_tensor sp_norm(sp_graph *g, sp_tensor a, float eps) {
    return sp_graph_op1f(g, SP_OP_NORM, a, eps, 0);
}
static inline sp_tensor sp_rms_norm(sp_graph *g, sp_tensor a, float eps) {
    return sp_graph_op1f(g, SP_OP_RMS_NORM, a, eps, 0);
}
static inline sp_tensor sp_l2_norm(sp_graph *g, sp_tensor a, float eps) {
    return sp_graph_op1f(g, SP_OP_L2_NORM, a, eps, 0);
}
static inline sp_tensor sp_scale(sp_graph *g, sp_tensor a, float s) {
    return sp_graph_op1f(g, SP_OP_SCALE, a, s, 0);
}
static inline sp_tensor sp_scale_bias(sp_graph *g, sp_tensor a, float s, float b) {
    return sp_graph_op1f(g, SP_OP_SCALE, a, s, b);
}
static inline sp_tensor sp_clamp(sp_graph *g, sp_tensor a, float min, float max) {
    return sp_graph_op1f(g, SP_OP_CLAMP, a, min, max);
}
/* A tensor like a, full of value. */
static inline sp_tensor sp_fill(sp_graph *g, sp_tensor a, float value) {
    return sp_graph_op1f(g, SP_OP_FILL, a, value, 0);
}

/* mask may be SP_NONE. */
static inline sp_tensor sp_soft_max_ext(sp_graph *g, sp_tensor a, sp_tensor mask, float scale, float max_bias) {
    sp_tensor t = mask == SP_NONE ? sp_graph_op1(g, SP_OP_SOFT_MAX_EXT, a) : sp_graph_op2(g, SP_OP_SOFT_MAX_EXT, a, mask);
    *sp_graph_param(g, t, 0) = sp_float_bits(scale);
    *sp_graph_param(g, t, 1) = sp_float_bits(max_bias);
    return t;
}
static inline sp_tensor sp_soft_max(sp_graph *g, sp_tensor a) {
    return sp_soft_max_ext(g, a, SP_NONE, 1, 0);
}

/* Sets an optional source that ggml adds after the fact; it must have been made before t. */
static inline void sp_graph_add_source(sp_graph *g, sp_tensor t, uint32_t i, sp_tensor source) {
    if (!g->error && (t >= g->n_tensors || source >= t)) {
        sp_graph_fail(g, "a source must be made before the operation that reads it");
    }
    if (!g->error) {
        g->tensors[t].src[i] = source;
        g->tensors[t].n_src = (uint16_t)(i + 1);
    }
}
static inline void sp_soft_max_add_sinks(sp_graph *g, sp_tensor t, sp_tensor sinks) {
    sp_graph_add_source(g, t, 2, sinks);
}

/* mask may be SP_NONE. */
static inline sp_tensor sp_flash_attn_ext(sp_graph *g, sp_tensor q, sp_tensor k, sp_tensor v, sp_tensor mask, float scale, float max_bias,
                                          float logit_softcap) {
    sp_tensor src[4], t;
    src[0] = q, src[1] = k, src[2] = v, src[3] = mask;
    t = sp_graph_op(g, SP_OP_FLASH_ATTN_EXT, mask == SP_NONE ? 3 : 4, src, 0, NULL);
    *sp_graph_param(g, t, 0) = sp_float_bits(scale);
    *sp_graph_param(g, t, 1) = sp_float_bits(max_bias);
    *sp_graph_param(g, t, 2) = sp_float_bits(logit_softcap);
    return t;
}
static inline void sp_flash_attn_ext_set_prec(sp_graph *g, sp_tensor t, uint32_t prec) {
    *sp_graph_param(g, t, 3) = prec;
}
static inline void sp_flash_attn_ext_add_sinks(sp_graph *g, sp_tensor t, sp_tensor sinks) {
    sp_graph_add_source(g, t, 4, sinks);
}

/* positions: i32, one for each a.ne2; freq_factors may be SP_NONE; mode: 0 normal, 2 neox. */
static inline sp_tensor sp_rope_ext(sp_graph *g, sp_tensor a, sp_tensor positions, sp_tensor freq_factors, int n_dims, int mode, int n_ctx_orig,
                                    float freq_base, float freq_scale, float ext_factor, float attn_factor, float beta_fast, float beta_slow) {
    uint32_t params[9];
    sp_tensor src[3];
    src[0] = a, src[1] = positions, src[2] = freq_factors;
    params[0] = (uint32_t)n_dims;
    params[1] = (uint32_t)mode;
    params[2] = (uint32_t)n_ctx_orig;
    params[3] = sp_float_bits(freq_base);
    params[4] = sp_float_bits(freq_scale);
    params[5] = sp_float_bits(ext_factor);
    params[6] = sp_float_bits(attn_factor);
    params[7] = sp_float_bits(beta_fast);
    params[8] = sp_float_bits(beta_slow);
    return sp_graph_op(g, SP_OP_ROPE_EXT, freq_factors == SP_NONE ? 2 : 3, src, 9, params);
}
/* With sections: positions, four for each a.ne2 (all of the first, then all of the second, ...); mode: 8, or 40 for interleaved ones. */
static inline sp_tensor sp_rope_multi(sp_graph *g, sp_tensor a, sp_tensor positions, sp_tensor freq_factors, int n_dims, const int sections[4],
                                      int mode, int n_ctx_orig, float freq_base, float freq_scale, float ext_factor, float attn_factor,
                                      float beta_fast, float beta_slow) {
    sp_tensor t =
        sp_rope_ext(g, a, positions, freq_factors, n_dims, mode, n_ctx_orig, freq_base, freq_scale, ext_factor, attn_factor, beta_fast, beta_slow);
    uint32_t i;
    for (i = 0; i < 4; i++) {
        *sp_graph_param(g, t, 9 + i) = (uint32_t)sections[i];
    }
    return t;
}
static inline sp_tensor sp_rope(sp_graph *g, sp_tensor a, sp_tensor positions, int n_dims, int mode) {
    return sp_rope_ext(g, a, positions, SP_NONE, n_dims, mode, 0, 10000.0f, 1, 0, 1, 0, 0);
}

/* order: 0 ascending, 1 descending. a must be free of NaN: the result of sp_clamp, which with infinities changes nothing else. */
static inline sp_tensor sp_argsort(sp_graph *g, sp_tensor a, uint32_t order) {
    return sp_graph_op(g, SP_OP_ARGSORT, 1, &a, 1, &order);
}
static inline sp_tensor sp_top_k(sp_graph *g, sp_tensor a, uint32_t k) {
    return sp_graph_op(g, SP_OP_TOP_K, 1, &a, 1, &k);
}
static inline sp_tensor sp_concat(sp_graph *g, sp_tensor a, sp_tensor b, uint32_t dim) {
    sp_tensor t = sp_graph_op2(g, SP_OP_CONCAT, a, b);
    *sp_graph_param(g, t, 0) = dim;
    return t;
}
/* b may be SP_NONE. */
static inline sp_tensor sp_swiglu_oai(sp_graph *g, sp_tensor a, sp_tensor b, float alpha, float limit) {
    sp_tensor t = b == SP_NONE ? sp_graph_op1(g, SP_OP_SWIGLU_OAI, a) : sp_graph_op2(g, SP_OP_SWIGLU_OAI, a, b);
    *sp_graph_param(g, t, 1) = sp_float_bits(alpha);
    *sp_graph_param(g, t, 2) = sp_float_bits(limit);
    return t;
}
static inline sp_tensor sp_swiglu_clamp(sp_graph *g, sp_tensor a, sp_tensor b, float limit) {
    sp_tensor t = b == SP_NONE ? sp_graph_op1(g, SP_OP_SWIGLU_CLAMP, a) : sp_graph_op2(g, SP_OP_SWIGLU_CLAMP, a, b);
    *sp_graph_param(g, t, 1) = sp_float_bits(limit);
    return t;
}

/* What carries state from token to token; the result holds what comes out, and then the states. */
static inline sp_tensor sp_ssm_conv(sp_graph *g, sp_tensor sx, sp_tensor c) {
    return sp_graph_op2(g, SP_OP_SSM_CONV, sx, c);
}
static inline sp_tensor sp_ssm_scan(sp_graph *g, sp_tensor s, sp_tensor x, sp_tensor dt, sp_tensor a, sp_tensor b, sp_tensor c, sp_tensor ids) {
    uint32_t k = 1;
    sp_tensor src[7];
    src[0] = s, src[1] = x, src[2] = dt, src[3] = a, src[4] = b, src[5] = c, src[6] = ids;
    return sp_graph_op(g, SP_OP_SSM_SCAN, 7, src, 1, &k);
}
static inline sp_tensor sp_gated_delta_net(sp_graph *g, sp_tensor q, sp_tensor k, sp_tensor v, sp_tensor gate, sp_tensor beta, sp_tensor state) {
    uint32_t kept = 1;
    sp_tensor src[6];
    src[0] = q, src[1] = k, src[2] = v, src[3] = gate, src[4] = beta, src[5] = state;
    return sp_graph_op(g, SP_OP_GATED_DELTA_NET, 6, src, 1, &kept);
}
static inline sp_tensor sp_rwkv_wkv6(sp_graph *g, sp_tensor k, sp_tensor v, sp_tensor r, sp_tensor tf, sp_tensor td, sp_tensor state) {
    sp_tensor src[6];
    src[0] = k, src[1] = v, src[2] = r, src[3] = tf, src[4] = td, src[5] = state;
    return sp_graph_op(g, SP_OP_RWKV_WKV6, 6, src, 0, NULL);
}
static inline sp_tensor sp_rwkv_wkv7(sp_graph *g, sp_tensor r, sp_tensor w, sp_tensor k, sp_tensor v, sp_tensor a, sp_tensor b, sp_tensor state) {
    sp_tensor src[7];
    src[0] = r, src[1] = w, src[2] = k, src[3] = v, src[4] = a, src[5] = b, src[6] = state;
    return sp_graph_op(g, SP_OP_RWKV_WKV7, 7, src, 0, NULL);
}
static inline sp_tensor sp_lightning_indexer(sp_graph *g, sp_tensor q, sp_tensor k, sp_tensor weights, sp_tensor mask) {
    sp_tensor src[4];
    src[0] = q, src[1] = k, src[2] = weights, src[3] = mask;
    return sp_graph_op(g, SP_OP_LIGHTNING_INDEXER, 4, src, 0, NULL);
}
/* x [n, k, tokens], weights [k, tokens]: for each token the sum of its k rows, weighted. */
static inline sp_tensor sp_dsv4_hc_pre(sp_graph *g, sp_tensor x, sp_tensor weights) {
    return sp_graph_op2(g, SP_OP_DSV4_HC_PRE, x, weights);
}
static inline sp_tensor sp_cast(sp_graph *g, sp_tensor a, uint32_t type) {
    sp_tensor t = sp_graph_op1(g, SP_OP_CAST, a);
    if (!g->error) {
        g->tensors[t].type = (uint16_t)type;
    }
    return t;
}

/* ---- shapes ---- */

static inline sp_tensor sp_permute(sp_graph *g, sp_tensor a, uint32_t axis0, uint32_t axis1, uint32_t axis2, uint32_t axis3) {
    uint32_t axes[4];
    axes[0] = axis0, axes[1] = axis1, axes[2] = axis2, axes[3] = axis3;
    return sp_graph_op(g, SP_OP_PERMUTE, 1, &a, 4, axes);
}
static inline sp_tensor sp_repeat_4d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr ne1, sp_expr ne2, sp_expr ne3) {
    return sp_graph_with_dims(g, sp_graph_op1(g, SP_OP_REPEAT, a), ne0, ne1, ne2, ne3);
}
static inline sp_tensor sp_reshape_4d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr ne1, sp_expr ne2, sp_expr ne3) {
    return sp_graph_with_dims(g, sp_graph_op1(g, SP_OP_RESHAPE, a), ne0, ne1, ne2, ne3);
}
static inline sp_tensor sp_reshape_3d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr ne1, sp_expr ne2) {
    return sp_reshape_4d(g, a, ne0, ne1, ne2, sp_dim(1));
}
static inline sp_tensor sp_reshape_2d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr ne1) {
    return sp_reshape_4d(g, a, ne0, ne1, sp_dim(1), sp_dim(1));
}
static inline sp_tensor sp_reshape_1d(sp_graph *g, sp_tensor a, sp_expr ne0) {
    return sp_reshape_4d(g, a, ne0, sp_dim(1), sp_dim(1), sp_dim(1));
}
static inline sp_tensor sp_cont_4d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr ne1, sp_expr ne2, sp_expr ne3) {
    return sp_graph_with_dims(g, sp_graph_op1(g, SP_OP_CONT, a), ne0, ne1, ne2, ne3);
}
static inline sp_tensor sp_cont_3d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr ne1, sp_expr ne2) {
    return sp_cont_4d(g, a, ne0, ne1, ne2, sp_dim(1));
}
static inline sp_tensor sp_cont_2d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr ne1) {
    return sp_cont_4d(g, a, ne0, ne1, sp_dim(1), sp_dim(1));
}
static inline sp_tensor sp_cont_1d(sp_graph *g, sp_tensor a, sp_expr ne0) {
    return sp_cont_4d(g, a, ne0, sp_dim(1), sp_dim(1), sp_dim(1));
}

/* Strides and offsets in bytes, from the start of a. */
static inline sp_tensor sp_view_4d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr ne1, sp_expr ne2, sp_expr ne3, sp_expr nb1, sp_expr nb2,
                                   sp_expr nb3, sp_expr offset) {
    sp_tensor t = sp_graph_with_dims(g, sp_graph_op1(g, SP_OP_VIEW, a), ne0, ne1, ne2, ne3);
    if (!g->error) {
        g->tensors[t].nb[0] = sp_graph_expr(g, nb1);
        g->tensors[t].nb[1] = sp_graph_expr(g, nb2);
        g->tensors[t].nb[2] = sp_graph_expr(g, nb3);
        g->tensors[t].offset = sp_graph_expr(g, offset);
    }
    return t;
}
static inline sp_tensor sp_view_3d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr ne1, sp_expr ne2, sp_expr nb1, sp_expr nb2, sp_expr offset) {
    return sp_view_4d(g, a, ne0, ne1, ne2, sp_dim(1), nb1, nb2, sp_graph_product(g, nb2, ne2), offset);
}
static inline sp_tensor sp_view_2d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr ne1, sp_expr nb1, sp_expr offset) {
    sp_expr nb2 = sp_graph_product(g, nb1, ne1);
    return sp_view_4d(g, a, ne0, ne1, sp_dim(1), sp_dim(1), nb1, nb2, nb2, offset);
}
static inline sp_tensor sp_view_1d(sp_graph *g, sp_tensor a, sp_expr ne0, sp_expr offset) {
    sp_tensor t = sp_graph_with_dims(g, sp_graph_op1(g, SP_OP_VIEW, a), ne0, sp_dim(1), sp_dim(1), sp_dim(1));
    if (!g->error) {
        g->tensors[t].offset = sp_graph_expr(g, offset);
    }
    return t;
}

/* ---- finishing ---- */

/*
 * Writes the program to buffer if capacity bytes suffice (buffer must be aligned to 8). Its size in bytes; 0 after an error, which g->error names.
 * The graph stays as it is.
 */
static inline uint32_t sp_graph_finish(sp_graph *g, void *buffer, uint32_t capacity) {
    sp_program_header h;
    char *at = (char *)buffer;
    uint64_t size;
    if (!g->error && g->n_tensors == 0) {
        sp_graph_fail(g, "the graph has no tensors");
    }
    memset(&h, 0, sizeof h);
    h.magic = SP_PROGRAM_MAGIC;
    h.version = SP_PROGRAM_VERSION;
    h.n_symbols = g->n_symbols;
    h.n_exprs = g->n_exprs;
    h.n_slots = g->n_slots;
    h.n_tensors = g->n_tensors;
    h.strings_size = (g->n_strings + 7) / 8 * 8;
    size = sizeof h + (uint64_t)h.n_symbols * sizeof *g->symbols + (uint64_t)h.n_exprs * sizeof *g->exprs + (uint64_t)h.n_slots * sizeof *g->slots +
           (uint64_t)h.n_tensors * sizeof *g->tensors + h.strings_size;
    if (size > 0x7fffffffu) {
        sp_graph_fail(g, "the program is larger than 2 GiB");
    }
    if (g->error) {
        return 0;
    }
    h.size = (uint32_t)size;
    if (!buffer || size > capacity) {
        return h.size;
    }
    memcpy(at, &h, sizeof h);
    at += sizeof h;
#define SP_GRAPH_SECTION(from, count)                                                                                                                \
    if (count) {                                                                                                                                     \
        memcpy(at, from, (count) * sizeof *(from));                                                                                                  \
        at += (count) * sizeof *(from);                                                                                                              \
    }
    SP_GRAPH_SECTION(g->symbols, g->n_symbols)
    SP_GRAPH_SECTION(g->exprs, g->n_exprs)
    SP_GRAPH_SECTION(g->slots, g->n_slots)
    SP_GRAPH_SECTION(g->tensors, g->n_tensors)
    SP_GRAPH_SECTION(g->strings, g->n_strings)
#undef SP_GRAPH_SECTION
    memset(at, 0, h.strings_size - g->n_strings);
    return h.size;
}

/* The program in memory of the graph's, valid until sp_graph_free or the next call; NULL after an error, which g->error names. */
static inline const void *sp_graph_bytes(sp_graph *g, uint32_t *size) {
    *size = sp_graph_finish(g, NULL, 0);
    free(g->bytes);
    g->bytes = *size ? malloc(*size) : NULL;
    if (*size && !g->bytes) {
        sp_graph_fail(g, "out of memory");
    }
    if (!g->bytes) {
        *size = 0;
        return NULL;
    }
    sp_graph_finish(g, g->bytes, *size);
    return g->bytes;
}

/*
 * ---- reading ----
 *
 * For who gets a program from elsewhere (sp_model_get_program) and wants to know its slots and symbols, and how many bytes to give each slot. bytes
 * must be a whole program, aligned to 8, from a source that is trusted to make them right; sp_program_is_whole tells garbage from programs, no more.
 */

static inline bool sp_program_is_whole(const void *bytes, uint32_t size) {
    const sp_program_header *h = (const sp_program_header *)bytes;
    return size >= sizeof *h && h->magic == SP_PROGRAM_MAGIC && h->version == SP_PROGRAM_VERSION && h->size == size &&
           sizeof *h + (uint64_t)h->n_symbols * sizeof(sp_program_symbol) + (uint64_t)h->n_exprs * sizeof(sp_program_expr) +
                   (uint64_t)h->n_slots * sizeof(sp_program_slot) + (uint64_t)h->n_tensors * sizeof(sp_program_tensor) + h->strings_size ==
               size;
}

/* The tables, header counts long. */
static inline const sp_program_symbol *sp_program_symbol_table(const void *bytes) {
    return (const sp_program_symbol *)((const char *)bytes + sizeof(sp_program_header));
}
static inline const sp_program_expr *sp_program_expr_table(const void *bytes) {
    return (const sp_program_expr *)(sp_program_symbol_table(bytes) + ((const sp_program_header *)bytes)->n_symbols);
}
static inline const sp_program_slot *sp_program_slot_table(const void *bytes) {
    return (const sp_program_slot *)(sp_program_expr_table(bytes) + ((const sp_program_header *)bytes)->n_exprs);
}
static inline const sp_program_tensor *sp_program_tensor_table(const void *bytes) {
    return (const sp_program_tensor *)(sp_program_slot_table(bytes) + ((const sp_program_header *)bytes)->n_slots);
}
/* A name by its offset; "" for SP_NONE. */
static inline const char *sp_program_text(const void *bytes, uint32_t name) {
    return name == SP_NONE ? "" : (const char *)(sp_program_tensor_table(bytes) + ((const sp_program_header *)bytes)->n_tensors) + name;
}

/* A slot or symbol by its name; SP_NONE if there is none. */
static inline uint32_t sp_program_find_slot(const void *bytes, const char *name) {
    const sp_program_slot *slots = sp_program_slot_table(bytes);
    uint32_t i;
    for (i = 0; i < ((const sp_program_header *)bytes)->n_slots; i++) {
        if (strcmp(sp_program_text(bytes, slots[i].name), name) == 0) {
            return i;
        }
    }
    return SP_NONE;
}
static inline uint32_t sp_program_find_symbol(const void *bytes, const char *name) {
    const sp_program_symbol *symbols = sp_program_symbol_table(bytes);
    uint32_t i;
    for (i = 0; i < ((const sp_program_header *)bytes)->n_symbols; i++) {
        if (strcmp(sp_program_text(bytes, symbols[i].name), name) == 0) {
            return i;
        }
    }
    return SP_NONE;
}

/* An expression with values for the symbols; 0 for SP_NONE. */
static inline int64_t sp_program_evaluate(const void *bytes, uint32_t expr, const uint64_t *symbols) {
    const sp_program_expr *e;
    if (expr == SP_NONE) {
        return 0;
    }
    e = sp_program_expr_table(bytes) + expr;
    return (e->symbol == SP_NONE ? 0 : e->a * (int64_t)symbols[e->symbol]) + e->b;
}

/* Elements in a block of a type, and bytes; false for a type that programs do not know. */
static inline bool sp_type_block(uint32_t type, uint32_t *elements, uint32_t *bytes) {
    static const struct {
        uint8_t type;
        uint16_t elements, bytes;
    } types[] = {
        {SP_TYPE_F32, 1, 4},        {SP_TYPE_F16, 1, 2},       {SP_TYPE_BF16, 1, 2},       {SP_TYPE_I32, 1, 4},      {SP_TYPE_I64, 1, 8},
        {SP_TYPE_Q4_0, 32, 18},     {SP_TYPE_Q4_1, 32, 20},    {SP_TYPE_Q5_0, 32, 22},     {SP_TYPE_Q5_1, 32, 24},   {SP_TYPE_Q8_0, 32, 34},
        {SP_TYPE_Q2_K, 256, 84},    {SP_TYPE_Q3_K, 256, 110},  {SP_TYPE_Q4_K, 256, 144},   {SP_TYPE_Q5_K, 256, 176}, {SP_TYPE_Q6_K, 256, 210},
        {SP_TYPE_IQ2_XXS, 256, 66}, {SP_TYPE_IQ2_XS, 256, 74}, {SP_TYPE_IQ3_XXS, 256, 98}, {SP_TYPE_IQ1_S, 256, 50}, {SP_TYPE_IQ4_NL, 32, 18},
        {SP_TYPE_IQ3_S, 256, 110},  {SP_TYPE_IQ2_S, 256, 82},  {SP_TYPE_IQ4_XS, 256, 136}, {SP_TYPE_IQ1_M, 256, 56}, {SP_TYPE_MXFP4, 32, 17}};
    size_t i;
    for (i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (types[i].type == type) {
            *elements = types[i].elements;
            *bytes = types[i].bytes;
            return true;
        }
    }
    return false;
}

/* Shape, strides and place of a memory window with values for the symbols. */
typedef struct sp_window {
    uint32_t type;
    int64_t ne[4];
    uint64_t nb[4];
    uint64_t offset; /* bytes from the slot's start */
    uint64_t end;    /* one past its last byte, from the slot's start */
} sp_window;

static inline sp_window sp_program_window(const void *bytes, uint32_t tensor, const uint64_t *symbols) {
    const sp_program_tensor *t = sp_program_tensor_table(bytes) + tensor;
    sp_window w;
    uint32_t block = 1, size = 0;
    int i;
    memset(&w, 0, sizeof w);
    sp_type_block(t->type, &block, &size);
    w.type = t->type;
    w.nb[0] = size;
    w.offset = (uint64_t)sp_program_evaluate(bytes, t->offset, symbols);
    for (i = 0; i < 4; i++) {
        w.ne[i] = sp_program_evaluate(bytes, t->ne[i], symbols);
        if (i > 0) {
            w.nb[i] = t->nb[0] != SP_NONE ? (uint64_t)sp_program_evaluate(bytes, t->nb[i - 1], symbols)
                      : i == 1            ? (uint64_t)w.ne[0] / block * size
                                          : w.nb[i - 1] * (uint64_t)w.ne[i - 1];
        }
    }
    w.end = w.offset + (uint64_t)w.ne[0] / block * size;
    for (i = 1; i < 4; i++) {
        w.end += (uint64_t)(w.ne[i] - 1) * w.nb[i];
    }
    return w;
}

/* Bytes that a slot must be bound to: up to the last byte that a window reaches. 0 for a slot that nothing uses. */
static inline uint64_t sp_program_slot_size(const void *bytes, uint32_t slot, const uint64_t *symbols) {
    const sp_program_tensor *tensors = sp_program_tensor_table(bytes);
    uint64_t size = 0;
    uint32_t i;
    for (i = 0; i < ((const sp_program_header *)bytes)->n_tensors; i++) {
        if (tensors[i].kind == SP_TENSOR_MEMORY && tensors[i].slot == slot) {
            const uint64_t end = sp_program_window(bytes, i, symbols).end;
            size = end > size ? end : size;
        }
    }
    return size;
}

/*
 * ---- adding to a program ----
 *
 * A graph that begins as a finished program, as above: symbols, slots and tensors keep their numbers, and what is made next comes behind them. It is
 * a new program: flags of the header are not taken over.
 */
static inline void sp_graph_from(sp_graph *g, const void *bytes) {
    const sp_program_header *h = (const sp_program_header *)bytes;
    sp_graph_init(g);
#define SP_GRAPH_TAKE(name, table, count)                                                                                                            \
    if (sp_graph_grow(g, &g->name, count, &g->cap_##name, sizeof *g->name) && (count) > 0) {                                                         \
        memcpy(g->name, table, (count) * sizeof *g->name);                                                                                           \
        g->n_##name = count;                                                                                                                         \
    }
    SP_GRAPH_TAKE(symbols, sp_program_symbol_table(bytes), h->n_symbols)
    SP_GRAPH_TAKE(exprs, sp_program_expr_table(bytes), h->n_exprs)
    SP_GRAPH_TAKE(slots, sp_program_slot_table(bytes), h->n_slots)
    SP_GRAPH_TAKE(tensors, sp_program_tensor_table(bytes), h->n_tensors)
    SP_GRAPH_TAKE(strings, sp_program_text(bytes, 0), h->strings_size)
#undef SP_GRAPH_TAKE
}

/* The operation whose result goes into the only window of a slot, and that window; SP_NONE: there is none. */
static inline sp_tensor sp_graph_result_of(const sp_graph *g, uint32_t slot, sp_tensor *window) {
    uint32_t i;
    for (i = 0; i < g->n_tensors; i++) {
        *window = g->tensors[i].dst;
        if (g->tensors[i].kind == SP_TENSOR_OP && *window != SP_NONE && g->tensors[*window].slot == slot) {
            return i;
        }
    }
    return SP_NONE;
}

/* A dimension of a window. */
static inline sp_expr sp_graph_window_dim(const sp_graph *g, sp_tensor window, int dim) {
    const sp_program_expr *e = &g->exprs[g->tensors[window].ne[dim]];
    sp_expr r = {e->a, e->b, e->symbol};
    return r;
}

#endif
