/*
 * program: tensor graphs as data: load (check the bytes), specialise (give symbols values and check everything else), list.
 * Pure functions from bytes to data: no device, no I/O. May call: base. The wire format is samepage/program.h and docs/program.md.
 * Every input gets an answer; none gets an abort, undefined behaviour or unbounded work.
 */
#ifndef SP_PROGRAM_PROGRAM_H
#define SP_PROGRAM_PROGRAM_H

#include <stdio.h>

#include "samepage.h"
#include "samepage/program.h"

enum {
    SP_PROGRAM_MAX_TENSORS = 65536,
    SP_PROGRAM_MAX_SLOTS = 1024,
    SP_PROGRAM_MAX_SYMBOLS = 16,
    SP_PROGRAM_MAX_NAME = 64, /* with the NUL, as ggml's */
};

/* What a weight is; filled by whoever knows the model. */
typedef struct sp_weight_info {
    uint32_t type;  /* SP_TYPE_* */
    int64_t ne[4];  /* contiguous */
    uint32_t index; /* in the model's table, for the device */
} sp_weight_info;

/* The models that a program may name: finds a weight, or returns false. Must be pure. */
typedef struct sp_weight_source {
    bool (*find)(void *context, uint32_t model, const char *name, sp_weight_info *out);
    void *context;
} sp_weight_source;

/* A program whose bytes were checked: counts, enums, references only backward, names, symbols. Owns a copy of the bytes. Immutable, thread-safe. */
typedef struct sp_program sp_program;

/* weights may be NULL for a program without weights; it is used in this call alone. *out is NULL on failure; SP_ERR_FORMAT, SP_ERR_LIMIT,
 * SP_ERR_NOT_FOUND (a weight). */
sp_status sp_program_load(const void *bytes, uint64_t size, const sp_weight_source *weights, sp_program **out, sp_error *err);
void sp_program_free(sp_program *program);

/* The checked bytes, for readers; valid as long as the program. */
const sp_program_header *sp_program_get_header(const sp_program *program);
const sp_program_symbol *sp_program_symbols(const sp_program *program);
const sp_program_expr *sp_program_exprs(const sp_program *program);
const sp_program_slot *sp_program_slots(const sp_program *program);
const sp_program_tensor *sp_program_tensors(const sp_program *program);
/* A name by its offset; "" for SP_PROGRAM_NONE. */
const char *sp_program_name(const sp_program *program, uint32_t name);

/* Size in bytes of ne0 elements of a type in a row; element and block size. False: not an allowed type. */
typedef struct sp_type_traits {
    const char *name;
    uint32_t block; /* elements a block */
    uint32_t size;  /* bytes a block */
    bool quantised;
} sp_type_traits;
const sp_type_traits *sp_type_get(uint32_t type); /* NULL: not an allowed type */
const char *sp_op_name(uint32_t op);              /* NULL: no such operation */

/* ---- specialised programs ---- */

/* A tensor with numbers in place of expressions. */
typedef struct sp_spec_tensor {
    uint16_t kind, op, type, n_src;
    const char *name;
    int64_t ne[4];
    uint64_t nb[4];
    uint32_t src[SP_PROGRAM_MAX_SRC]; /* SP_PROGRAM_NONE: absent */
    uint32_t params[SP_PROGRAM_MAX_PARAMS];
    uint32_t dst;    /* operations: memory window that receives the result, or SP_PROGRAM_NONE */
    uint32_t slot;   /* memory windows: slot; weights: model */
    uint64_t offset; /* memory windows: bytes from the slot's start; view: bytes from the source's start */
    uint32_t weight; /* weights: sp_weight_info.index */
    uint32_t alias;  /* the tensor whose bytes this one is a view of, transitively (itself if none); set_rows and cpy alias their destination */
    uint64_t start;  /* bytes from the first of alias's; 0 where that is the tensor itself */
    bool index;      /* memory windows: holds row ids; the device binds a checked copy (see sp_spec_index) */
} sp_spec_tensor;

/* Row ids that must be copied out of guest memory and checked before each run: every element in [0, bound). */
typedef struct sp_spec_index {
    uint32_t tensor; /* a memory window of type I32 or I64, contiguous */
    int64_t bound;
    bool distinct_rows; /* ids within a row of ne[0] must differ (mul_mat_id) */
} sp_spec_index;

/* What a run needs of each slot. */
typedef struct sp_spec_slot {
    const char *name;
    uint32_t flags;
    uint64_t size; /* bytes that must be bound: the last byte any window reaches, plus one */
} sp_spec_slot;

typedef struct sp_spec {
    uint32_t n_tensors, n_slots, n_indices, n_symbols;
    sp_spec_tensor *tensors;
    sp_spec_slot *slots;
    sp_spec_index *indices;
    uint64_t symbols[SP_PROGRAM_MAX_SYMBOLS];
    uint64_t flops;           /* estimated work */
    uint64_t temporary_bytes; /* results that are held at once, at most, and work space; devices round up, and may leave gaps */
    bool rows_alone;          /* SP_PROGRAM_ROWS_ALONE */
    const sp_program *program;
} sp_spec;

typedef struct sp_spec_limits {
    uint64_t flops, temporary_bytes;
} sp_spec_limits;

/*
 * Gives the symbols values (in the program's order) and checks every shape, stride, overflow, alignment, type pairing, alias and operation's rule.
 * Names point into program, which must outlive *out. SP_ERR_FORMAT names the tensor, its operation and the rule; SP_ERR_LIMIT; SP_ERR_RANGE for a
 * symbol's value.
 */
sp_status sp_program_specialise(const sp_program *program, const uint64_t *symbols, uint32_t n_symbols, const sp_spec_limits *limits, sp_spec **out,
                                sp_error *err);
void sp_spec_free(sp_spec *spec);

/*
 * Checks count ids at data against an index rule (row of ne0 ids at a time for distinct_rows). SP_ERR_RANGE with the first bad one.
 */
sp_status sp_spec_check_index(const sp_spec *spec, const sp_spec_index *index, const void *data, sp_error *err);

/* Bytes of a slot that a run may write: all of the range; or, of it, the rows that ids choose. */
typedef struct sp_spec_write {
    uint32_t slot;
    uint64_t offset, length;
    uint64_t row_bytes, row_stride; /* rows in the range, whose ids lie in the host's pages; row_bytes 0: all of it */
    uint32_t ids_slot, n_ids;
    uint64_t ids_offset;
    bool wide; /* ids are i64, else i32 */
} sp_spec_write;

/* Everything that a run may write, *n of them, to be freed. */
sp_status sp_spec_get_writes(const sp_spec *spec, sp_spec_write **out, uint32_t *n, sp_error *err);
/* Calls on_range with the bytes [from, to) of the slot that one of them writes, given its ids; with an id that can not be, all of the range. */
typedef void (*sp_on_range)(void *user, uint64_t from, uint64_t to);
void sp_spec_each_write(const sp_spec_write *write, const void *ids, sp_on_range on_range, void *user);

/* Do the bound ranges overlap where they must not? binds[i] is slot i's host address range. Ranges of slots may touch, and overlap only where neither
 * is written. */
typedef struct sp_slot_range {
    uint64_t start, length;
} sp_slot_range;
sp_status sp_spec_check_ranges(const sp_spec *spec, const sp_slot_range *ranges, sp_error *err);

/* Writes a listing for people, or a Graphviz graph. */
sp_status sp_program_print(const sp_program *program, FILE *out, sp_error *err);
sp_status sp_program_print_dot(const sp_program *program, FILE *out, sp_error *err);

#endif
