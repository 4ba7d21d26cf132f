/*
 * Stamps (kernel_stamp.h). A column that a streamed product or attention makes, and that only such operations read, where they wait for stamps, is
 * stamped: it has memory of its own in the schedule. A phase whose operations need nothing else of those since the last barrier begins without one.
 */
#include <stdlib.h>

#include "base/error.h"
#include "device/cuda/plan.h"

enum {
    MOST_BYTES = 1 << 16,  /* of a stamped column: every block reads all of it */
    MOST_IN_ALL = 4 << 20, /* of a schedule */
};

/* Floats that fill the whole temporary. */
static bool fills(const plan *p, const k_tensor *t, uint32_t root) {
    uint64_t n = (uint64_t)t->ne[0] * (uint64_t)t->ne[1] * (uint64_t)t->ne[2] * (uint64_t)t->ne[3], size = 4;
    bool flat = t->type == SP_TYPE_F32 && t->data == plan_at_root(root);
    for (int i = 0; i < 4; i++) {
        flat &= t->ne[i] == 1 || (uint64_t)t->nb[i] == size;
        size *= (uint64_t)t->ne[i];
    }
    return flat && n * 4 == p->roots[root].bytes && n * 4 <= MOST_BYTES;
}

/* May this operation stamp its result, and wait for this tensor of its sources? */
static bool can_stamp(const k_op *op) {
    return (op->op == K_OP_STREAM && !(op->after & (K_AFTER_SET_ROW | K_AFTER_LARGEST))) || op->op == K_OP_ATTEND_HALVES;
}
static bool can_wait(const k_op *op, const k_tensor *t) {
    return op->op == K_OP_STREAM ? t == &op->src[K_SRC_RIGHT] || t == &op->extra[2] : op->op == K_OP_ATTEND_HALVES && t == &op->src[0];
}

typedef void (*each_fn)(plan *p, k_op *op, k_tensor *t, uint32_t root, uint8_t *fit);

static void each_tensor(plan *p, each_fn fn, uint8_t *fit) {
    for (uint32_t i = 0; i < p->n_ops; i++) {
        for (uint32_t j = 0; j < PLAN_TENSORS; j++) {
            k_tensor *t = plan_tensor_of(&p->ops[i].op, j);
            uint32_t root = plan_root_of(t->data);
            if (root != PLAN_NONE) {
                fn(p, &p->ops[i].op, t, root, fit);
            }
        }
    }
}

enum { UNSEEN, FIT, UNFIT };

/* Written as a whole, once, by one that stamps; read by those alone that wait. */
static void judge(plan *p, k_op *op, k_tensor *t, uint32_t root, uint8_t *fit) {
    if (t == &op->dst) {
        fit[root] = fit[root] == UNSEEN && can_stamp(op) && fills(p, t, root) ? FIT : UNFIT;
    } else if (!can_wait(op, t)) {
        fit[root] = UNFIT;
    }
}

static void stamp(plan *p, k_op *op, k_tensor *t, uint32_t root, uint8_t *fit) {
    (void)p, (void)op;
    t->stamped = fit[root] == FIT;
}

sp_status sp_plan_stamp(plan *p, sp_error *err) {
    uint8_t *fit = calloc((size_t)p->n_roots + 1, 1);
    uint64_t bytes = 0;
    sp_status status = fit ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    if (fit) {
        each_tensor(p, judge, fit);
    }
    for (uint32_t i = 0; status == SP_OK && i < p->n_roots; i++) {
        bytes += fit[i] == FIT ? p->roots[i].bytes : 0;
        fit[i] = bytes <= MOST_IN_ALL ? fit[i] : UNFIT;
        if (fit[i] == FIT) {
            status = sp_plan_new_table(p, p->roots[i].bytes / sizeof(float), &p->roots[i].table, err);
            p->roots[i].bytes = 0;
        }
    }
    if (status == SP_OK) {
        each_tensor(p, stamp, fit);
    }
    for (uint32_t i = 0; status == SP_OK && i < p->n_ops; i++) { /* pieces of attention are stamped always */
        plan_root *scratch = p->ops[i].op.op == K_OP_ATTEND_HALVES && p->ops[i].scratch != PLAN_NONE ? &p->roots[p->ops[i].scratch] : NULL;
        if (scratch) {
            status = sp_plan_new_table(p, scratch->bytes / sizeof(float), &scratch->table, err);
            scratch->bytes = 0;
        }
    }
    free(fit);
    return status;
}

/* ---- phases that flow ---- */

static bool overlap(const plan *p, uint32_t a, uint32_t b) {
    const plan_root *x = a == PLAN_NONE ? NULL : &p->roots[a], *y = b == PLAN_NONE ? NULL : &p->roots[b];
    if (!x || !y || x->table || y->table) {
        return false;
    }
    return a == b || (x->bytes && y->bytes && x->at < y->at + y->bytes && y->at < x->at + x->bytes);
}

/* Does b touch what a writes? A cache's newest row, which it has from a by its stamps, doesn't count. */
static bool touches(const plan *p, const plan_op *a, const plan_op *b) {
    bool any = false;
    for (int w = 0; w < 2; w++) {
        uint32_t root = w ? a->scratch : a->writes;
        any |= overlap(p, root, b->writes) || overlap(p, root, b->scratch);
        for (uint32_t i = 0; i < b->n_reads && !(w == 0 && sp_plan_hands_newest(a, b)); i++) {
            any |= overlap(p, root, b->reads[i]);
        }
    }
    return any;
}

void sp_plan_flow(const plan *p, k_phase *phases) {
    uint32_t since = 0; /* the first operation behind the last barrier */
    for (int32_t i = 1; i < p->n_phases; i++) {
        k_phase *phase = &phases[i];
        phase->flows = 1;
        for (uint32_t later = phase->first_op; later < phase->first_op + phase->n_ops; later++) {
            for (uint32_t earlier = since; phase->flows && earlier < phase->first_op; earlier++) {
                phase->flows = !touches(p, &p->ops[earlier], &p->ops[later]) && !touches(p, &p->ops[later], &p->ops[earlier]);
            }
        }
        since = phase->flows ? since : phase->first_op;
    }
}
