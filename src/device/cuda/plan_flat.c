/* Operations element by element on floats that lie one behind the other: no place of an element must be worked out, and four go at once. */
#include <string.h>

#include "device/cuda/plan.h"

/* Floats, one behind the other. */
static bool is_flat(const k_tensor *t) {
    bool flat = t->type == SP_TYPE_F32 && t->data % 16 == 0;
    for (int64_t i = 0, below = 4; i < 4; below *= t->ne[i++]) {
        flat &= t->ne[i] == 1 || t->nb[i] == below;
    }
    return flat;
}

static bool can_be_one(const k_op *op) {
    bool one = op->op == SP_OP_SCALE || op->op == SP_OP_CLAMP || (op->op >= SP_OP_SQR && op->op <= SP_OP_NEG);
    return one && is_flat(&op->src[0]) && is_flat(&op->dst);
}

/* Two sides by four elements, none left over. The right one may be a row that is repeated. */
static bool can_be_two(const k_op *op, uint32_t *row) {
    const k_tensor *a = &op->src[0], *b = &op->src[1], *d = &op->dst;
    bool binary = op->op == SP_OP_ADD || op->op == SP_OP_SUB || op->op == SP_OP_MUL || op->op == SP_OP_DIV;
    bool repeated = b->ne[0] == d->ne[0] && b->ne[1] == 1 && b->ne[2] == 1 && b->ne[3] == 1;
    bool same = memcmp(a->ne, d->ne, sizeof a->ne) == 0, equal = memcmp(b->ne, d->ne, sizeof b->ne) == 0;
    *row = equal ? 0 : (uint32_t)d->ne[0] / 4;
    return (binary || sp_plan_is_gated(op->op)) && op->n_src >= 2 && d->ne[0] % 4 == 0 && same && (equal || (repeated && binary)) && is_flat(a) &&
           is_flat(b) && is_flat(d);
}

void sp_plan_choose_flat(k_op *op) {
    uint32_t row = 0;
    bool one = can_be_one(op);
    if (one || can_be_two(op, &row)) {
        op->params[K_FLAT_OP] = op->op;
        op->params[K_FLAT_ROW] = row;
        op->op = one ? K_OP_FLAT_ONE : K_OP_FLAT;
    }
}
