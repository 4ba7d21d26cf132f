/* Inside preparing: a specialised program on its way to a schedule. */
#ifndef SP_DEVICE_CUDA_PLAN_H
#define SP_DEVICE_CUDA_PLAN_H

#include <string.h>

#include "device/cuda/cuda_impl.h"

/* Addresses that are not known before the temporaries have a place: an offset
 * into them, or into the schedule's own memory. */
#define PLAN_TEMPORARY (1ull << 62)
#define PLAN_TABLE (1ull << 61)

enum { PLAN_NONE = 0xffffffffu, PLAN_MAX_READS = 12 };

/* A piece of memory that operations write and read: a window, a temporary,
 * partial results. */
typedef struct plan_root {
    uint64_t bytes;        /* temporaries: needed */
    uint64_t at;           /* temporaries: offset, once placed */
    uint64_t table;        /* where it is instead if it is stamped; 0: it isn't */
    int32_t written, read; /* the last phase that did, -1: none */
    int32_t born, dies;    /* temporaries: the phases between which it holds something */
} plan_root;

typedef struct plan_op {
    k_op op;
    uint32_t reads[PLAN_MAX_READS], n_reads, writes; /* roots */
    uint32_t scratch;                                /* a root that it alone uses, or PLAN_NONE */
    uint32_t most_parts;
    uint32_t decodes; /* K_DOES_*: what decoding does with it */
    double work;
    int32_t phase;
} plan_op;

/* Which operations a product takes in. Of the product: what comes before it. Of the operation that it ends in: the product, and what comes after. */
typedef struct plan_fusion {
    bool skip;                    /* done by another operation */
    uint32_t before, norm_weight; /* K_BEFORE_*; the tensor that the norm is multiplied with */
    uint32_t right, other;        /* tensors: what the product reads instead of its right side; the gate */
    const sp_spec_tensor *from;   /* the operation that is fused before: its parameters */
    uint32_t after;               /* K_AFTER_* */
    uint32_t product, second;     /* that end here; PLAN_NONE: none */
    uint32_t end;                 /* where it ended before */
    uint32_t residual, rope;      /* what is added; the rotation */
    uint32_t tile_rows;           /* of all products by tiles that it is the right side of */
    uint32_t halves, left_halves; /* the roots in which its rows are as halves, for products' right and left sides; PLAN_NONE: none yet */
    uint32_t map, map_tokens;     /* likewise its map, as the mask of so many tokens */
} plan_fusion;

typedef struct plan {
    cuda_workspace *workspace;
    const sp_spec *spec;
    const sp_slot_binding *bindings;
    sp_device_weights *const *weights;
    plan_root *roots; /* the program's tensors, then what operations need beside */
    uint32_t n_roots;
    plan_op *ops;
    uint32_t n_ops;
    plan_fusion *fusions;     /* by tensor */
    uint32_t *uses, *used_by; /* by tensor: how often it is read; the last that does */
    uint64_t *ids;            /* by tensor: row ids: offset among the temporaries, + 1 */
    uint64_t temporary_bytes;
    float *tables; /* also counters, as zeros */
    uint32_t n_tables, max_tables;
    int32_t n_phases;
} plan;

/* Is this a product of weights that are streamed and one column? In how many slices of their rows (K_SLICES); 0: in none. */
bool sp_plan_streams(const plan *p, uint32_t t);
uint32_t sp_plan_slices(const sp_spec_tensor *weights);

static inline const sp_spec_tensor *plan_tensor(const plan *p, uint32_t t) {
    return &p->spec->tensors[t];
}
/* Where a root's bytes will be, until it has a place; the root of such an address, or PLAN_NONE (row ids, in front of all temporaries, have none);
 * how far behind its root's begin an address is. */
enum { PLAN_ROOT_SHIFT = 40 };
static inline uint64_t plan_at_root(uint32_t root) {
    return PLAN_TEMPORARY | (uint64_t)root << PLAN_ROOT_SHIFT;
}
static inline uint32_t plan_root_of(uint64_t address) {
    uint32_t root = address & PLAN_TEMPORARY ? (uint32_t)((address & ~PLAN_TEMPORARY) >> PLAN_ROOT_SHIFT) : 0;
    return root ? root : PLAN_NONE;
}
static inline uint64_t plan_behind_root(uint64_t address) {
    return address & ((1ull << PLAN_ROOT_SHIFT) - 1);
}

/* All tensors of an entry, one after the other. */
enum { PLAN_TENSORS = 1 + K_MAX_SRC + K_MAX_EXTRA };
static inline k_tensor *plan_tensor_of(k_op *op, uint32_t i) {
    return i == 0 ? &op->dst : i <= K_MAX_SRC ? &op->src[i - 1] : &op->extra[i - 1 - K_MAX_SRC];
}

static inline uint64_t plan_elements(const k_tensor *t) {
    return (uint64_t)t->ne[0] * (uint64_t)t->ne[1] * (uint64_t)t->ne[2] * (uint64_t)t->ne[3];
}
/* A parameter that is a float. */
static inline float plan_float(uint32_t word) {
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* Is this operation a gated unit, of one side or two? */
bool sp_plan_is_gated(uint32_t op);

/* The program without get_rows of the only row that there is. out->tensors is the caller's to free, whatever comes of it. */
sp_status sp_plan_only_rows(const sp_spec *spec, sp_spec *out, sp_error *err);

/* Is it written once at most, before it is read? Then it may be read later. */
bool sp_plan_is_constant(const plan *p, uint32_t t);

/* The operation that t is a view of, if nothing but `user` reads it; SP_PROGRAM_NONE: there is none. */
uint32_t sp_plan_only_source(const plan *p, uint32_t t, uint32_t user);

/* Does this product go by tiles over tensor cores? May it do so together with another, whose result it gates? */
bool sp_plan_tiles(const plan *p, uint32_t t);
bool sp_plan_tiles_gate(const plan *p, uint32_t t);

/* fuse.c: marks what a product can take in. Work linear in the program's size. */
void sp_plan_fuse(plan *p);

/* lower.c: turns every operation into entries of p->ops. */
sp_status sp_plan_lower(plan *p, sp_error *err);

/* Of an entry: a new one; what it writes (a tensor), reads, reads as a source, reads beside its sources; memory that it alone needs. */
plan_op *sp_plan_new_op(plan *p, uint32_t kind);
sp_status sp_plan_set_dst(plan *p, plan_op *o, uint32_t t, sp_error *err);
void sp_plan_reads(const plan *p, plan_op *o, uint32_t t);
sp_status sp_plan_set_src(plan *p, plan_op *o, int at, uint32_t t, bool split, sp_error *err);
sp_status sp_plan_set_extra(plan *p, plan_op *o, k_tensor *out, uint32_t t, sp_error *err);
/* What a product takes in before it (op->before, extra); into params from `at` on: a norm's epsilon, a gate's kind, alpha and limit. */
sp_status sp_plan_take_before(plan *p, plan_op *o, const plan_fusion *f, int at, sp_error *err);
uint32_t sp_plan_new_root(plan *p, uint64_t bytes);
/* Room for n numbers in the schedule's own memory, zeros; their address, a multiple of 128 bytes. */
sp_status sp_plan_new_table(plan *p, uint64_t n, uint64_t *out, sp_error *err);

/* rope.c: the table of angles of a rope, and its magnitude in params[K_ROPE_BY]; the root of its turns (K_OP_TURNS), which stand in p->ops before
 * what is made next. */
sp_status sp_plan_rope_table(plan *p, k_op *op, const sp_spec_tensor *t, sp_error *err);
sp_status sp_plan_turns(plan *p, const sp_spec_tensor *rope, uint32_t *root, sp_error *err);
/* A set_rows that puts rows of halves where a rotation does it (fusions[].rope). */
sp_status sp_plan_lower_turned_rows(plan *p, uint32_t index, sp_error *err);

/* Where a window lies; the root that what writes a tensor writes. */
sp_status sp_plan_window_address(const plan *p, uint32_t t, uint64_t *out, sp_error *err);
uint32_t sp_plan_written_root(const plan *p, uint32_t t);

/* flat.c: an operation element by element becomes one of a kind that is faster, where its tensors allow it. */
void sp_plan_choose_flat(k_op *op);

/* argmax.c. Long rows are cut into pieces, so that all blocks have some. */
sp_status sp_plan_lower_argmax(plan *p, plan_op *o, sp_error *err);
/* argmax of what a product writes joins it, where nobody waits for it: it costs no phase then. False: it can't. */
bool sp_plan_join_argmax(plan *p, uint32_t index, sp_status *status, sp_error *err);

/* tiles.c: the product, with what is fused before it, that ends in `end` (itself, or the addition of the residual). */
sp_status sp_plan_lower_tiles(plan *p, uint32_t product, uint32_t end, sp_error *err);

/* Are matrices that this reads brought by maps, where the driver has them (driver->maps)? Its K_MAPS maps, once all addresses are final. */
bool sp_plan_has_maps(const k_op *op);
sp_status sp_plan_map(sp_cuda_driver *driver, const k_op *op, uint8_t *maps, sp_error *err);

/* newest.c: attention of one token takes the newest row of its cache from the products that make it, where they are known. */
sp_status sp_plan_newest(plan *p, sp_error *err);
/* Does b read no more of a's result than the row that a hands on to it? */
bool sp_plan_hands_newest(const plan_op *a, const plan_op *b);

/* stamps.c: which columns say by themselves when they are there, before they have their places; and which phases begin without a barrier, after. */
sp_status sp_plan_stamp(plan *p, sp_error *err);
void sp_plan_flow(const plan *p, k_phase *phases);

/* phases.c: gives every operation its phase and parts and every temporary a
 * place; sorts p->ops by phase. phases: n_phases of them, to be freed. */
sp_status sp_plan_schedule(plan *p, k_phase **phases, sp_error *err);

#endif
