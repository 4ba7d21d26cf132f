/* argmax: of long rows by pieces, or together with the product that writes the row. */
#include "device/cuda/plan.h"

/* A table of keys and counters by row (k_argmax_arrive). */
static sp_status argmax_table(plan *p, uint32_t rows, uint64_t *out, sp_error *err) {
    enum { KEY = sizeof(uint64_t) / sizeof(float) };
    return sp_plan_new_table(p, (uint64_t)rows * (KEY + 1), out, err);
}

/* Does anything but `by` write the window, or read it or what `by` computes? */
static bool is_used_elsewhere(const plan *p, uint32_t window, uint32_t by) {
    for (uint32_t i = 0; i < p->spec->n_tensors; i++) {
        const sp_spec_tensor *t = plan_tensor(p, i);
        for (int s = 0; t->kind == SP_TENSOR_OP && s < t->n_src; s++) {
            if (t->src[s] == window || t->src[s] == by) {
                return true;
            }
        }
        if (i != by && t->kind == SP_TENSOR_OP && t->dst == window) {
            return true;
        }
    }
    return false;
}

/* The streamed product that writes a tensor, and alone does, if it can also say which of its results is the largest; NULL: there is none. */
static plan_op *product_before(const plan *p, uint32_t t) {
    plan_op *found = NULL;
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        bool writes = p->ops[i].writes == sp_plan_written_root(p, t);
        found = writes ? &p->ops[i] : found;
        n += writes;
    }
    if (n != 1 || found->op.op != K_OP_STREAM || plan_tensor(p, t)->alias != t) {
        return NULL;
    }
    const k_tensor *d = &found->op.dst;
    bool plain = !(found->op.after & (K_AFTER_ROPE | K_AFTER_SET_ROW | K_AFTER_LARGEST)) && found->op.params[K_UNIT] == 1;
    return plain && d->type == SP_TYPE_F32 && d->nb[0] == sizeof(float) && d->ne[1] == 1 ? found : NULL;
}

bool sp_plan_join_argmax(plan *p, uint32_t index, sp_status *status, sp_error *err) {
    const sp_spec_tensor *t = plan_tensor(p, index);
    plan_op *o = t->dst != SP_PROGRAM_NONE && !is_used_elsewhere(p, t->dst, index) ? product_before(p, t->src[0]) : NULL;
    if (!o) {
        return false;
    }
    o->op.after |= K_AFTER_LARGEST;
    *status = sp_plan_window_address(p, t->dst, &o->op.scratch, err);
    *status = *status == SP_OK ? argmax_table(p, 1, &o->op.table, err) : *status;
    return true;
}

sp_status sp_plan_lower_argmax(plan *p, plan_op *o, sp_error *err) {
    enum { PIECE = 512, MOST = 65536 };
    k_op *op = &o->op;
    uint32_t rows = (uint32_t)op->src[0].ne[1], blocks = p->workspace->device->driver->blocks;
    op->split = ((uint32_t)op->src[0].ne[0] + PIECE - 1) / PIECE;
    op->split = op->split < blocks ? op->split : blocks;
    o->work = (double)op->src[0].ne[0] * rows * 16;
    o->most_parts = rows < MOST / op->split ? rows * op->split : MOST;
    return op->split == 1 ? SP_OK : argmax_table(p, rows, &op->table, err);
}
