/*
 * The newest row of a cache. A token's keys and values are rows that streamed products write into the cache, and attention reads them together with
 * those of earlier tokens: that alone would ask for a barrier of the grid between the two. So such a product also hands its row on as a stamped
 * column (kernel_stamp.h), and attention takes it from there. All other rows were written in earlier runs.
 *
 * That holds where nothing else writes this cache in the run, the product ends in one row of it, of halves, and attention sees the cache as what the
 * product writes: position i is row i, and a head's elements are where they were made.
 */
#include "device/cuda/plan.h"

/* The one operation that writes this root; NULL: there are more, or none before `user`. */
static plan_op *only_writer(plan *p, uint32_t root, const plan_op *user) {
    plan_op *writer = NULL;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        plan_op *o = &p->ops[i];
        if (o->writes == root) {
            if (writer || o >= user) {
                return NULL;
            }
            writer = o;
        }
    }
    return writer;
}

/* Its row ids are where guests can't reach them, and the same during the run: in front of all temporaries. */
static bool are_row_ids(const k_tensor *ids) {
    return ids->data & PLAN_TEMPORARY && plan_root_of(ids->data) == PLAN_NONE && ids->ne[0] == 1;
}

/* Does it end in a row of this cache, as attention sees it? */
static bool makes_row(const plan_op *o, const k_tensor *cache) {
    const k_tensor *to = &o->op.dst;
    return o->op.op == K_OP_STREAM && o->op.after & K_AFTER_SET_ROW && to->type == SP_TYPE_F16 && to->data == cache->data &&
           to->nb[1] == cache->nb[1] && cache->nb[2] == 2ll * cache->ne[0] && cache->ne[0] * cache->ne[2] == to->ne[0] && cache->ne[3] == 1 &&
           are_row_ids(&o->op.src[K_SRC_IDS]);
}

static sp_status hand_on(plan *p, plan_op *product, k_tensor *row, k_tensor *id, sp_error *err) {
    k_tensor *newest = &product->op.extra[K_NEWEST];
    sp_status status = SP_OK;
    if (!newest->data) {
        const int32_t n = product->op.dst.ne[0];
        *newest = (k_tensor){.type = SP_TYPE_F32, .stamped = 1, .ne = {n, 1, 1, 1}, .nb = {4, 4ll * n, 4ll * n, 4ll * n}};
        status = sp_plan_new_table(p, (uint64_t)n, &newest->data, err);
    }
    *row = *newest, *id = product->op.src[K_SRC_IDS];
    return status;
}

sp_status sp_plan_newest(plan *p, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; i < p->n_ops && status == SP_OK; i++) {
        plan_op *o = &p->ops[i];
        if (o->op.op != K_OP_ATTEND_HALVES || o->op.src[0].ne[1] != 1 || o->op.src[0].ne[3] != 1) {
            continue;
        }
        plan_op *keys = only_writer(p, o->reads[1], o), *values = only_writer(p, o->reads[2], o);
        if (keys && values && makes_row(keys, &o->op.src[1]) && makes_row(values, &o->op.src[2])) {
            status = hand_on(p, keys, &o->op.extra[0], &o->op.src[K_SRC_KEY_ID], err);
            status = status == SP_OK ? hand_on(p, values, &o->op.extra[1], &o->op.src[K_SRC_VALUE_ID], err) : status;
        }
    }
    return status;
}

bool sp_plan_hands_newest(const plan_op *a, const plan_op *b) {
    uint64_t row = a->op.op == K_OP_STREAM ? a->op.extra[K_NEWEST].data : 0;
    return row && b->op.op == K_OP_ATTEND_HALVES && (b->op.extra[0].data == row || b->op.extra[1].data == row);
}
