/* rope: what its angles are made of; turns that are worked out once for all that turn by them; rows of a cache that are turned on the way. */
#include <math.h>
#include <string.h>

#include "device/cuda/plan.h"

static float yarn_dim(int n_dims, int n_ctx, float rotations, float base) {
    return (float)n_dims * logf((float)n_ctx / (rotations * 2 * 3.14159265358979f)) / (2 * logf(base));
}

/* Which of the four rows of positions a pair of a rope with sections goes by. */
static int rope_row(const sp_spec_tensor *t, int pair) {
    int sections[4], all = 0;
    for (int i = 0; i < 4; i++) {
        sections[i] = (int)t->params[9 + i];
        all += sections[i];
    }
    if (t->params[1] != 8 && t->params[1] != 40) {
        return 0;
    }
    int at = pair % all;
    if (t->params[1] == 40) {
        return at < 3 * sections[at % 3] ? at % 3 : 3;
    }
    return at < sections[0] ? 0 : at < sections[0] + sections[1] ? 1 : at < sections[0] + sections[1] + sections[2] ? 2 : 3;
}

sp_status sp_plan_rope_table(plan *p, k_op *op, const sp_spec_tensor *t, sp_error *err) {
    int n_dims = (int)t->params[0], n_ctx = (int)t->params[2];
    float base = plan_float(t->params[3]), scale = plan_float(t->params[4]), ext = plan_float(t->params[5]), magnitude = plan_float(t->params[6]);
    uint32_t n = (uint32_t)n_dims / 2;
    sp_status status = sp_plan_new_table(p, 2ull * n, &op->table, err);
    if (status != SP_OK) {
        return status;
    }
    float *turns = p->tables + p->n_tables - 2ull * n, *rows = turns + n;
    float low = floorf(yarn_dim(n_dims, n_ctx, plan_float(t->params[7]), base)),
          high = ceilf(yarn_dim(n_dims, n_ctx, plan_float(t->params[8]), base));
    low = fmaxf(0, low);
    high = fminf((float)n_dims - 1, high);
    float step = powf(base, -2.0f / (float)n_dims), angle = 1;
    for (uint32_t i = 0; i < n; i++, angle *= step) {
        float mix = ext != 0 ? (1 - fminf(1, fmaxf(0, ((float)i - low) / fmaxf(0.001f, high - low)))) * ext : 0;
        turns[i] = angle * (scale * (1 - mix) + mix);
        rows[i] = (float)rope_row(t, (int)i);
    }
    magnitude = ext != 0 ? magnitude * (1 + 0.1f * logf(1 / scale)) : magnitude;
    memcpy(&op->params[K_ROPE_BY], &magnitude, sizeof magnitude);
    return SP_OK;
}

/* Turns by the same positions, parameters and factors, if some operation before works them out. */
static uint32_t same_turns(const plan *p, const k_op *op) {
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const k_op *o = &p->ops[i].op;
        if (o->op == K_OP_TURNS && !memcmp(o->params, op->params, K_ROPE_BY * sizeof *op->params) && o->src[0].ne[2] == op->src[0].ne[2] &&
            o->src[1].data == op->src[1].data && o->src[2].data == op->src[2].data) {
            return p->ops[i].writes;
        }
    }
    return PLAN_NONE;
}

sp_status sp_plan_turns(plan *p, const sp_spec_tensor *rope, uint32_t *root, sp_error *err) {
    plan_op *o = sp_plan_new_op(p, K_OP_TURNS);
    k_op *op = &o->op;
    int32_t pairs = (int32_t)rope->params[0] / 2, tokens = (int32_t)rope->ne[2];
    memcpy(op->params, rope->params, K_ROPE_BY * sizeof *op->params);
    op->src[0].ne[2] = tokens;
    sp_status status = sp_plan_set_src(p, o, 1, rope->src[1], false, err);
    status = status == SP_OK && rope->n_src > 2 ? sp_plan_set_src(p, o, 2, rope->src[2], false, err) : status;
    *root = status == SP_OK ? same_turns(p, op) : PLAN_NONE;
    if (status != SP_OK || *root != PLAN_NONE) {
        p->n_ops--;
        return status;
    }
    o->writes = *root = sp_plan_new_root(p, (uint64_t)pairs * 2 * (uint64_t)tokens * sizeof(float));
    op->dst = (k_tensor){.data = plan_at_root(*root), .type = SP_TYPE_F32, .ne = {pairs * 2, tokens, 1, 1}};
    o->work = (double)pairs * tokens * 64;
    o->most_parts = ((uint32_t)pairs * (uint32_t)tokens + K_CARD_THREADS - 1) / K_CARD_THREADS;
    return sp_plan_rope_table(p, op, rope, err);
}

sp_status sp_plan_lower_turned_rows(plan *p, uint32_t index, sp_error *err) {
    const sp_spec_tensor *rope = plan_tensor(p, p->fusions[index].rope);
    plan_op *o = sp_plan_new_op(p, K_OP_ROPE);
    k_op *op = &o->op;
    sp_status status = sp_plan_set_dst(p, o, index, err);
    for (int s = 0; status == SP_OK && s < rope->n_src && s < K_SRC_IDS; s++) {
        status = sp_plan_set_src(p, o, s, rope->src[s], false, err);
    }
    status = status == SP_OK ? sp_plan_set_src(p, o, K_SRC_IDS, plan_tensor(p, index)->src[2], false, err) : status;
    memcpy(op->params, rope->params, sizeof op->params);
    op->after = K_AFTER_SET_ROW;
    double elements = (double)op->src[0].ne[0] * op->src[0].ne[1] * op->src[0].ne[2];
    o->work = elements * 8;
    o->most_parts = elements < 65536.0 * K_CARD_THREADS ? (uint32_t)ceil(elements / K_CARD_THREADS) : 65536;
    return status == SP_OK ? sp_plan_rope_table(p, op, rope, err) : status;
}
