/*
 * oracle/evaluate: an independent evaluation of specialised programs: slow, in double precision, one function an operation, sharing nothing with
 * ggml's kernels. It judges what a device computed: every operation is evaluated from the values that the device itself had for its sources, so that
 * errors don't grow along the program and each operation answers for its own.
 *
 * For that the device's program must show its work: behind each operation that is no view, a `cpy` of its result into a window of the slot called
 * "seen" (generate.h makes such programs). Everything that a program writes is then known, in order, and at its end every byte of every slot is. A
 * result that is not shown, so that devices may compute it together with what uses it, is taken for what it should be; how far off it may be counts
 * where it is used. Only operations may use it, not views.
 */
#ifndef SP_TESTS_ORACLE_EVALUATE_H
#define SP_TESTS_ORACLE_EVALUATE_H

#include "program/program.h"

#define EVAL_SEEN "seen"

/* One operation under evaluation. Elements are dense, ne0 innermost. */
typedef struct eval_call {
    const sp_spec_tensor *t;                     /* the result */
    const sp_spec_tensor *s[SP_PROGRAM_MAX_SRC]; /* NULL: absent */
    double *x[SP_PROGRAM_MAX_SRC];               /* the sources' elements */
    const double *before;                        /* set_rows and cpy: the destination's elements before */
    double *out;                                 /* to fill: the result */
    double *tolerance; /* to fill: how far off an exact device may be, apart from the result's own rounding; zeros at first. NaN: any answer stands */
    bool loose;        /* the device computes products with halves (GPUs) */
} eval_call;

/* How one operation is evaluated. */
typedef struct eval_op {
    void (*run)(const eval_call *call);
    /* Instead of comparing with out: is `got` a right answer (an order of equals is not defined)? NULL: it is; else what is wrong. */
    const char *(*check)(const eval_call *call, const double *got);
} eval_op;

/* Does the operation compute nothing, so that it needs no evaluator? */
bool eval_is_view(uint16_t op);
/* NULL: no evaluator. */
const eval_op *eval_op_get(uint32_t op);

/* Element (i0, i1, i2, i3) of source s, dimensions taken modulo its size: what "repeats" means. */
double eval_at(const eval_call *call, int s, int64_t i0, int64_t i1, int64_t i2, int64_t i3);
float eval_float(const eval_call *call, int param);

/* The weights' bytes, by sp_weight_info.index. */
typedef const uint8_t *(*eval_weight)(void *context, uint32_t index);

typedef struct eval_input {
    const sp_spec *spec;
    const uint8_t *const *before; /* by slot: its bytes before the run */
    const uint8_t *const *after;  /* by slot: its bytes after the run */
    eval_weight weight;
    void *context;
    bool loose;
    bool wild; /* the data may be anything, NaN too: only what is moved or counted is compared */
} eval_input;

/* What was found. */
typedef struct eval_result {
    bool ok;
    uint32_t tensor;
    uint16_t op;
    char reason[200];
    uint64_t elements;  /* that were looked at */
    uint64_t undefined; /* of those: their answer is beyond what a type on the way holds, or not defined, so that any stands */
    double worst;       /* the largest error as a share of its tolerance */
    uint16_t worst_op;
} eval_result;

/* Judges a run. */
eval_result eval_judge(const eval_input *input);

/* ---- ops_*.c ---- */
void eval_unary(const eval_call *call);
void eval_binary(const eval_call *call);
void eval_glu(const eval_call *call);
void eval_scale(const eval_call *call);
void eval_clamp(const eval_call *call);
void eval_fill(const eval_call *call);
void eval_add_id(const eval_call *call);
void eval_norm(const eval_call *call);
void eval_sum_rows(const eval_call *call);
void eval_rope(const eval_call *call);
void eval_soft_max(const eval_call *call);
void eval_nothing(const eval_call *call);
const char *eval_check_argsort(const eval_call *call, const double *got);
const char *eval_check_top_k(const eval_call *call, const double *got);
const char *eval_check_argmax(const eval_call *call, const double *got);
void eval_ssm_conv(const eval_call *call);
void eval_ssm_scan(const eval_call *call);
void eval_gated_delta_net(const eval_call *call);
void eval_wkv(const eval_call *call);
void eval_lightning_indexer(const eval_call *call);
void eval_dsv4_hc_pre(const eval_call *call);
void eval_mul_mat(const eval_call *call);
void eval_mul_mat_id(const eval_call *call);
void eval_flash_attn(const eval_call *call);
void eval_move(const eval_call *call);
void eval_get_rows(const eval_call *call);
void eval_set_rows(const eval_call *call);
void eval_repeat(const eval_call *call);
void eval_concat(const eval_call *call);

/* What attention and soft_max share: ALiBi's slope of a head. */
double eval_alibi_slope(double max_bias, int64_t head, int64_t n_heads);
/* The error that a product of n terms has because one side is rounded to what the other's type is multiplied with: see ops_products.c. */
double eval_product_tolerance(uint32_t type, const double *a, const double *b, int64_t n, bool loose);

#endif
