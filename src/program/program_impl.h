/* Inside the program layer: a checked program, the table of rules per operation, and what specialising keeps by the way. */
#ifndef SP_PROGRAM_PROGRAM_IMPL_H
#define SP_PROGRAM_PROGRAM_IMPL_H

#include "program/program.h"

struct sp_program {
    sp_program_header *header; /* the copied bytes; the pointers below lie inside */
    const sp_program_symbol *symbols;
    const sp_program_expr *exprs;
    const sp_program_slot *slots;
    const sp_program_tensor *tensors;
    const char *strings;
    sp_weight_info *weights; /* by tensor; only those of kind SP_TENSOR_WEIGHT are filled */
};

/*
 * Bounds on every tensor. ggml counts rows in an int and adds the number of threads to it, and counts blocks in an int where it copies.
 */
#define SP_MAX_NE INT32_MAX
#define SP_MAX_ROWS ((int64_t)INT32_MAX - (1 << 20))
#define SP_MAX_BYTES (UINT64_C(1) << 40)
/* Of a slot's first byte: the largest element's. Devices may want more. */
#define SP_SLOT_ALIGNMENT 8
/* Ids in a row that must differ are compared pair by pair. */
#define SP_MAX_DISTINCT 256

/* Sets of types, for the rules. */
enum {
    T_F32 = 1,
    T_F16 = 2,
    T_BF16 = 4,
    T_I32 = 8,
    T_I64 = 16,
    T_Q = 32,  /* quantised types that ggml's CPU code can write row by row and read in attention: q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl */
    T_WQ = 64, /* the other quantised types: only weights have them */
    T_QUANT = T_Q | T_WQ,
    T_FLOAT = T_F32 | T_F16 | T_BF16,
    T_MATRIX = T_FLOAT | T_QUANT,
    T_ANY = T_MATRIX | T_I32 | T_I64,
};
unsigned sp_type_class(uint32_t type);

/* What an operation wants of a source's strides; each but L_ANY and L_DENSE includes L_ROWS. */
enum {
    L_ANY,        /* elements of a row may lie apart */
    L_ROWS,       /* elements of a row lie side by side */
    L_FLAT,       /* and rows lie at one distance through all dimensions: the operation steps by nb1 alone */
    L_CONTIGUOUS, /* no gaps, whatever the strides of dimensions of size 1 */
    L_PACKED,     /* every stride is a contiguous tensor's: dimensions of size 1 count too */
    L_DENSE,      /* contiguous as ggml sees it: a row of one element may have any stride */
};

/* left RELATION right, between dimensions of sources; skipped where one of the sources is absent. */
enum { C_END, C_EQ, C_GE, C_MULTIPLE, C_CONST };
typedef struct sp_rule_cond {
    uint8_t relation;
    uint8_t left, left_dim;
    uint8_t right, right_dim; /* C_CONST: left.ne[left_dim] == right */
} sp_rule_cond;

/* What a parameter may be. No parameter is ever NaN. */
enum {
    P_FINITE,       /* float */
    P_NUMBER,       /* float, infinities too */
    P_NOT_NEGATIVE, /* finite float >= 0 */
    P_POSITIVE,     /* finite float > 0 */
    P_RANGE,        /* int, min to max */
    P_PREC,         /* 0 or 10 */
};
typedef struct sp_rule_param {
    const char *name;
    uint8_t kind;
    int32_t min, max;
} sp_rule_param;

typedef struct sp_rule_source {
    const char *name;
    uint8_t types, layout;
} sp_rule_source;

enum { R_A, R_B, R_F32, R_I32, R_FIELD, R_ROWS }; /* the result's type: a source's, a constant, the tensor's field, or i32 if a is, else f32 */
#define R_ONE 0xff                                /* a dimension of size 1 */

/* Does the result lie in a source's memory? */
enum {
    V_NONE,
    V_VIEW,     /* it is another view of source 0, and nothing is computed */
    V_WRITES_A, /* it is source 0, some rows of it overwritten */
    V_WRITES_B, /* it is source 1, overwritten */
};

struct spec_build;

/* The rule of one operation: everything that is checked, and that docs/program.md says, follows from it. */
typedef struct sp_rule {
    uint16_t op;
    uint8_t min_src, max_src;
    sp_rule_source src[7];
    sp_rule_cond conds[25]; /* the last is C_END */
    uint8_t n_params;
    sp_rule_param params[14];
    uint8_t result_type;
    uint8_t result_ne[4]; /* source * 4 + dimension, or R_ONE; unless shape is set */
    uint8_t view;
    bool in_place; /* its destination may be exactly source 0: element by element, no element read after it was written */
    struct {
        uint8_t source; /* 0: none. Holds row ids of */
        uint8_t of, dim;
        bool distinct; /* its ids have two dimensions, and differ within a row */
    } index;
    /* Computes type, ne, nb and offset where the fields above do not say it; NULL on success, else the broken rule in words. */
    const char *(*shape)(struct spec_build *build, sp_spec_tensor *t);
    const char *shape_text;
    /* What is special; run last. NULL on success, else the broken rule in words. */
    const char *(*extra)(struct spec_build *build, const sp_spec_tensor *t);
    const char *extra_text;
} sp_rule;

/* NULL: no such operation. */
const sp_rule *sp_rule_get(uint32_t op);

/* Where a tensor's bytes lie: in the memory of another (itself, if it is no view), from the first to one past the last. */
typedef struct spec_place {
    uint32_t root;
    uint64_t start, extent; /* from the root's first byte */
    bool no_nan;            /* no input can make an element NaN */
} spec_place;

/* What is at hand while tensor `index` is specialised. */
typedef struct spec_build {
    const sp_program *program;
    sp_spec *spec;
    spec_place *places;
    bool *written;      /* by slot: by a tensor before this one */
    uint32_t *index_of; /* by tensor: its place among the spec's indices, plus one; 0: none */
    const sp_program_tensor *wire;
    uint32_t index;
    /* The tensor's expressions with values. */
    bool has_ne, has_nb;
    int64_t ne[4], nb[3], offset;
    char reason[192]; /* for reasons with numbers */
} spec_build;

/* The n-th source, or NULL if it is absent. */
static inline const sp_spec_tensor *sp_build_source(const spec_build *build, const sp_spec_tensor *t, uint32_t n) {
    return n < t->n_src && t->src[n] != SP_PROGRAM_NONE ? &build->spec->tensors[t->src[n]] : NULL;
}

/* Applies the operation's rule to build->wire: fills type, ne, nb (and offset, for a view) of *t. NULL, or the broken rule in words. */
const char *sp_rule_apply(spec_build *build, sp_spec_tensor *t);
/* Where the result lies, what it reads and writes. NULL, or the broken rule in words. */
const char *sp_place_operation(spec_build *build, sp_spec_tensor *t);
const char *sp_place_leaf(spec_build *build, sp_spec_tensor *t);
/* Checks a source of row ids and notes what a run must check. NULL, or the broken rule in words. */
const char *sp_index_note(spec_build *build, uint32_t tensor, int64_t bound, bool distinct);

/* Fills nb for a contiguous tensor, whose shape was checked. */
void sp_contiguous_strides(sp_spec_tensor *t);
bool sp_has_layout(const sp_spec_tensor *t, unsigned layout);
bool sp_same_shape(const sp_spec_tensor *a, const sp_spec_tensor *b);
/* ne within bounds, rows of whole blocks, bytes within bounds. NULL, or the broken rule in words. */
const char *sp_check_shape(const sp_spec_tensor *t);
/* nb multiples of the type's size, no two elements in one place. NULL, or the broken rule in words. */
const char *sp_check_strides(const sp_spec_tensor *t);
/* Number of elements; ne was checked, so it fits. */
int64_t sp_elements(const sp_spec_tensor *t);
/* Bytes from the first to one past the last; false if they are more than SP_MAX_BYTES. */
bool sp_extent(const sp_spec_tensor *t, uint64_t *out);

#endif
