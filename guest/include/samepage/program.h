/*
 * The wire format of programs, version 1: a tensor graph as data. Shared by guests and host; docs/program.md specifies every byte.
 *
 * A program is read in place: little-endian, naturally aligned, position-independent. Its sections follow the header in this order, without
 * gaps: symbols, expressions, slots, tensors, strings (padded with zeros to a multiple of 8 bytes).
 *
 * A tensor is a weight (a named tensor of a model), a memory window (a typed part of a slot, which the guest binds to a range of a region) or
 * the result of an operation. Operations are ggml's: same names, argument order and shape rules. The shape of a result follows from its
 * sources by ggml's rule, so it is not stored; what ggml's function takes beside tensors is stored as dims (expressions) or params (words).
 */
#ifndef SAMEPAGE_PROGRAM_H
#define SAMEPAGE_PROGRAM_H

#include <stdint.h>

#define SP_PROGRAM_MAGIC 0x47525053u /* "SPRG" */
#define SP_PROGRAM_VERSION 1u
#define SP_PROGRAM_NONE 0xffffffffu /* no name, no expression, no destination, no symbol */
#define SP_PROGRAM_MAX_SRC 10
#define SP_PROGRAM_MAX_PARAMS 16

typedef struct sp_program_header {
    uint32_t magic;
    uint32_t version;
    uint32_t size; /* of the whole program in bytes, a multiple of 8 */
    uint32_t n_symbols;
    uint32_t n_exprs;
    uint32_t n_slots;
    uint32_t n_tensors;
    uint32_t strings_size; /* bytes, a multiple of 8; names end in NUL */
    uint32_t flags;
    uint32_t reserved[7]; /* zeros */
} sp_program_header;      /* 64 bytes */

/* Flags of a program. */
enum {
    SP_PROGRAM_ROWS_ALONE = 1, /* where a device has a choice, each row of a batch is to get the bytes that it would get alone */
};

/* A dimension that gets its value at each run, min <= value <= max. */
typedef struct sp_program_symbol {
    uint32_t name; /* offset into the strings */
    uint32_t reserved;
    uint64_t min, max;
} sp_program_symbol; /* 24 bytes */

/* a * symbol + b; symbol SP_PROGRAM_NONE (and a 0): the constant b. */
typedef struct sp_program_expr {
    int64_t a, b;
    uint32_t symbol;
    uint32_t reserved;
} sp_program_expr; /* 24 bytes */

/* A part of guest memory that a run reads or writes. The guest binds each slot to [offset, offset + length) of a region. */
enum {
    SP_SLOT_READ = 1,   /* the program reads it before it writes it: its content matters */
    SP_SLOT_WRITE = 2,  /* the program may write it */
    SP_SLOT_STATE = 4,  /* its content is carried from run to run (a KV cache); implies READ and WRITE */
    SP_SLOT_OUTPUT = 8, /* the reason to run the program (logits) */
};
typedef struct sp_program_slot {
    uint32_t name;
    uint32_t flags;
} sp_program_slot; /* 8 bytes */

enum { SP_TENSOR_WEIGHT = 1, SP_TENSOR_MEMORY = 2, SP_TENSOR_OP = 3 };

typedef struct sp_program_tensor {
    uint16_t kind;
    uint16_t op;   /* SP_OP_*; 0 unless kind is SP_TENSOR_OP */
    uint16_t type; /* SP_TYPE_*: of a memory window, or of the result where the operation takes a type (cast, cpy into nothing); else 0 */
    uint16_t n_src;
    uint32_t name; /* weights: the model's tensor; else for listings, or SP_PROGRAM_NONE */
    uint32_t slot; /* memory windows: the slot; weights: the model handle, 0 for the first; else 0 */
    uint32_t dst;  /* operations: the memory window that receives the result instead of a temporary, or SP_PROGRAM_NONE */
    uint32_t reserved;
    uint32_t src[SP_PROGRAM_MAX_SRC]; /* tensors before this one; an optional source that is absent is SP_PROGRAM_NONE; unused ones too */
    /* Expressions, or SP_PROGRAM_NONE. ne: memory windows, view, reshape, repeat, fill (others unused). nb[1..3] and offset in bytes: memory windows
     * and views; nb all absent: contiguous. */
    uint32_t ne[4];
    uint32_t nb[3];
    uint32_t offset;
    uint32_t params[SP_PROGRAM_MAX_PARAMS]; /* see the operation; floats by their bits; unused ones zero */
    uint32_t reserved2[2];
} sp_program_tensor; /* 168 bytes */

/* Types, numbered as ggml and GGUF number them. */
enum {
    SP_TYPE_F32 = 0,
    SP_TYPE_F16 = 1,
    SP_TYPE_Q4_0 = 2,
    SP_TYPE_Q4_1 = 3,
    SP_TYPE_Q5_0 = 6,
    SP_TYPE_Q5_1 = 7,
    SP_TYPE_Q8_0 = 8,
    SP_TYPE_Q2_K = 10,
    SP_TYPE_Q3_K = 11,
    SP_TYPE_Q4_K = 12,
    SP_TYPE_Q5_K = 13,
    SP_TYPE_Q6_K = 14,
    SP_TYPE_IQ2_XXS = 16,
    SP_TYPE_IQ2_XS = 17,
    SP_TYPE_IQ3_XXS = 18,
    SP_TYPE_IQ1_S = 19,
    SP_TYPE_IQ4_NL = 20,
    SP_TYPE_IQ3_S = 21,
    SP_TYPE_IQ2_S = 22,
    SP_TYPE_IQ4_XS = 23,
    SP_TYPE_I32 = 26,
    SP_TYPE_I64 = 27,
    SP_TYPE_IQ1_M = 29,
    SP_TYPE_BF16 = 30,
    SP_TYPE_MXFP4 = 39,
};

/*
 * Operations: X(id, NAME, name, sources at least, sources at most, params words).
 * Ids never change meaning; new ones are added at the end. Params are in the order of ggml's function:
 *   mul_mat: prec, hint (1: a is a Hadamard matrix); mul_mat_id: prec (0 default, 10 f32)         norm, rms_norm, l2_norm: eps (float)
 *   scale: scale, bias (floats)                          clamp: min, max (floats)
 *   soft_max_ext(a, mask?, sinks?): scale, max_bias (floats)
 *   flash_attn_ext(q, k, v, mask?, sinks?): scale, max_bias, logit_softcap (floats), prec
 *   rope_ext(a, positions, freq_factors?): n_dims, mode, n_ctx_orig (ints), freq_base, freq_scale, ext_factor, attn_factor, beta_fast, beta_slow
 *     (floats), sections[4] (ints, zeros unless mode says so), offset of what is turned in a row
 *   permute: axis0..3                                    concat: dim
 *   argsort: order (0 ascending, 1 descending)           top_k: k
 *   glu family (reglu ... geglu_quick; a, b?): swapped (0 or 1; only without b)
 *   swiglu_oai (a, b?): swapped, alpha, limit            fill: value (float)
 *   swiglu_clamp (a, b?): swapped, limit                 ssm_scan, gated_delta_net: K, states kept of the last tokens: 1
 *   cpy(a, b): writes a into b, whose shape and place it takes     cast(a): to `type`, contiguous
 *   cont(a): ne optional (cont_1d to cont_4d)            get_rows(a, ids); set_rows(a destination, b rows, c ids); add_id(a, b, ids)
 */
#define SP_OPS(X)                                                                                                                                    \
    X(1, MUL_MAT, mul_mat, 2, 2, 2)                                                                                                                  \
    X(2, MUL_MAT_ID, mul_mat_id, 3, 3, 1)                                                                                                            \
    X(3, ADD, add, 2, 2, 0)                                                                                                                          \
    X(4, SUB, sub, 2, 2, 0)                                                                                                                          \
    X(5, MUL, mul, 2, 2, 0)                                                                                                                          \
    X(6, DIV, div, 2, 2, 0)                                                                                                                          \
    X(7, NORM, norm, 1, 1, 1)                                                                                                                        \
    X(8, RMS_NORM, rms_norm, 1, 1, 1)                                                                                                                \
    X(9, L2_NORM, l2_norm, 1, 1, 1)                                                                                                                  \
    X(10, SUM_ROWS, sum_rows, 1, 1, 0)                                                                                                               \
    X(11, ROPE_EXT, rope_ext, 2, 3, 14)                                                                                                              \
    X(12, SOFT_MAX_EXT, soft_max_ext, 1, 3, 2)                                                                                                       \
    X(13, FLASH_ATTN_EXT, flash_attn_ext, 3, 5, 4)                                                                                                   \
    X(14, GET_ROWS, get_rows, 2, 2, 0)                                                                                                               \
    X(15, SET_ROWS, set_rows, 3, 3, 0)                                                                                                               \
    X(16, CPY, cpy, 2, 2, 0)                                                                                                                         \
    X(17, CAST, cast, 1, 1, 0)                                                                                                                       \
    X(18, CONT, cont, 1, 1, 0)                                                                                                                       \
    X(19, RESHAPE, reshape, 1, 1, 0)                                                                                                                 \
    X(20, VIEW, view, 1, 1, 0)                                                                                                                       \
    X(21, PERMUTE, permute, 1, 1, 4)                                                                                                                 \
    X(22, TRANSPOSE, transpose, 1, 1, 0)                                                                                                             \
    X(23, REPEAT, repeat, 1, 1, 0)                                                                                                                   \
    X(24, CONCAT, concat, 2, 2, 1)                                                                                                                   \
    X(25, SCALE, scale, 1, 1, 2)                                                                                                                     \
    X(26, CLAMP, clamp, 1, 1, 2)                                                                                                                     \
    X(27, ARGSORT, argsort, 1, 1, 1)                                                                                                                 \
    X(28, TOP_K, top_k, 1, 1, 1)                                                                                                                     \
    X(29, ARGMAX, argmax, 1, 1, 0)                                                                                                                   \
    X(30, SQR, sqr, 1, 1, 0)                                                                                                                         \
    X(31, SQRT, sqrt, 1, 1, 0)                                                                                                                       \
    X(32, SILU, silu, 1, 1, 0)                                                                                                                       \
    X(33, GELU, gelu, 1, 1, 0)                                                                                                                       \
    X(34, GELU_ERF, gelu_erf, 1, 1, 0)                                                                                                               \
    X(35, GELU_QUICK, gelu_quick, 1, 1, 0)                                                                                                           \
    X(36, TANH, tanh, 1, 1, 0)                                                                                                                       \
    X(37, SIGMOID, sigmoid, 1, 1, 0)                                                                                                                 \
    X(38, RELU, relu, 1, 1, 0)                                                                                                                       \
    X(39, SOFTPLUS, softplus, 1, 1, 0)                                                                                                               \
    X(40, EXP, exp, 1, 1, 0)                                                                                                                         \
    X(41, NEG, neg, 1, 1, 0)                                                                                                                         \
    X(42, REGLU, reglu, 1, 2, 1)                                                                                                                     \
    X(43, GEGLU, geglu, 1, 2, 1)                                                                                                                     \
    X(44, SWIGLU, swiglu, 1, 2, 1)                                                                                                                   \
    X(45, SWIGLU_OAI, swiglu_oai, 1, 2, 3)                                                                                                           \
    X(46, GEGLU_ERF, geglu_erf, 1, 2, 1)                                                                                                             \
    X(47, GEGLU_QUICK, geglu_quick, 1, 2, 1)                                                                                                         \
    X(48, ADD_ID, add_id, 3, 3, 0)                                                                                                                   \
    X(49, FILL, fill, 1, 1, 1)                                                                                                                       \
    X(50, SSM_CONV, ssm_conv, 2, 2, 0)                                                                                                               \
    X(51, SSM_SCAN, ssm_scan, 7, 7, 1)                                                                                                               \
    X(52, GATED_DELTA_NET, gated_delta_net, 6, 6, 1)                                                                                                 \
    X(53, LIGHTNING_INDEXER, lightning_indexer, 4, 4, 0)                                                                                             \
    X(54, SWIGLU_CLAMP, swiglu_clamp, 1, 2, 2)                                                                                                       \
    X(55, RWKV_WKV6, rwkv_wkv6, 6, 6, 0)                                                                                                             \
    X(56, RWKV_WKV7, rwkv_wkv7, 7, 7, 0)                                                                                                             \
    X(57, DSV4_HC_PRE, dsv4_hc_pre, 2, 2, 0)

typedef enum sp_op {
#define X(id, NAME, name, min_src, max_src, n_params) SP_OP_##NAME = id,
    SP_OPS(X)
#undef X
} sp_op;

#endif
