/*
 * Fusing. A product of few columns takes in what comes right before it (rms_norm and its weight, a gated unit of two), since every block reads the
 * whole right side anyway, and the residual that is added to its result; so does a product by tiles, whose right side is made halves in any case. A
 * product of one column, whose weights are streamed, ends also in the gate of a second product, in a rotation by position, or in a row of a cache.
 * What is read later than the program says must be a temporary, a weight, or a window that nothing writes.
 */
#include "device/cuda/plan.h"

static bool is_op(const plan *p, uint32_t t, uint32_t op) {
    return t != SP_PROGRAM_NONE && plan_tensor(p, t)->kind == SP_TENSOR_OP && plan_tensor(p, t)->op == op;
}

bool sp_plan_is_constant(const plan *p, uint32_t t) {
    const sp_spec_tensor *root = plan_tensor(p, plan_tensor(p, t)->alias);
    return root->kind == SP_TENSOR_WEIGHT || (root->kind == SP_TENSOR_OP && root->dst == SP_PROGRAM_NONE) ||
           (root->kind == SP_TENSOR_MEMORY && !(p->spec->slots[root->slot].flags & SP_SLOT_WRITE));
}

static bool is_contiguous_f32(const sp_spec_tensor *t) {
    uint64_t size = 4;
    for (int i = 0; i < 4; i++) {
        if (t->ne[i] != 1 && t->nb[i] != size) {
            return false;
        }
        size *= (uint64_t)t->ne[i];
    }
    return t->type == SP_TYPE_F32;
}

static int64_t elements_of(const sp_spec_tensor *t) {
    return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
}

static bool same_shape(const sp_spec_tensor *a, const sp_spec_tensor *b) {
    return a->ne[0] == b->ne[0] && a->ne[1] == b->ne[1] && a->ne[2] == b->ne[2] && a->ne[3] == b->ne[3];
}

/* A product of a weight and few columns. */
static bool is_small_product(const plan *p, uint32_t t) {
    const sp_spec_tensor *o = plan_tensor(p, t);
    return is_op(p, t, SP_OP_MUL_MAT) && o->ne[1] * o->ne[2] * o->ne[3] <= K_COLUMNS && plan_tensor(p, o->src[0])->kind == SP_TENSOR_WEIGHT;
}

/* Floats that lie together, from a multiple of 16 bytes on. */
static bool is_column(const plan *p, uint32_t t) {
    return is_contiguous_f32(plan_tensor(p, t)) && plan_tensor(p, t)->start % 16 == 0;
}

uint32_t sp_plan_slices(const sp_spec_tensor *weights) {
    enum { MOST = 4, EACH = 128 };
    uint32_t slices = 1;
    while (slices <= MOST && (weights->nb[1] > (uint64_t)K_LONGEST_ROW * slices || weights->ne[0] % (EACH * slices))) {
        slices++;
    }
    return slices > MOST || weights->ne[0] % 256 || (slices > 1 && weights->type != SP_TYPE_F16) ? 0 : slices;
}

bool sp_plan_streams(const plan *p, uint32_t t) {
    if (!is_small_product(p, t)) {
        return false;
    }
    const sp_spec_tensor *o = plan_tensor(p, t), *a = plan_tensor(p, o->src[0]), *b = plan_tensor(p, o->src[1]);
    bool type = a->type == SP_TYPE_Q4_0 || a->type == SP_TYPE_Q8_0 || a->type == SP_TYPE_F16;
    return type && sp_plan_slices(a) && a->ne[2] * a->ne[3] == 1 && o->ne[1] * o->ne[2] * o->ne[3] == 1 && is_column(p, o->src[1]) &&
           is_contiguous_f32(o) && b->ne[0] == a->ne[0];
}

/* The one operation that reads t, through views that keep its elements in order; SP_PROGRAM_NONE: there is not exactly one. */
static uint32_t only_user(const plan *p, uint32_t t) {
    int64_t n = elements_of(plan_tensor(p, t));
    while (p->uses[t] == 1) {
        const sp_spec_tensor *user = plan_tensor(p, p->used_by[t]);
        bool view = user->op == SP_OP_RESHAPE || (user->op == SP_OP_VIEW && user->offset == 0);
        if (!view || !is_contiguous_f32(user) || elements_of(user) != n) {
            return user->op == SP_OP_VIEW || user->op == SP_OP_PERMUTE || user->op == SP_OP_TRANSPOSE ? SP_PROGRAM_NONE : p->used_by[t];
        }
        t = p->used_by[t];
    }
    return SP_PROGRAM_NONE;
}

uint32_t sp_plan_only_source(const plan *p, uint32_t t, uint32_t user) {
    uint32_t root = plan_tensor(p, t)->alias;
    return root != SP_PROGRAM_NONE && plan_tensor(p, root)->dst == SP_PROGRAM_NONE && only_user(p, root) == user ? root : SP_PROGRAM_NONE;
}

/* ---- before ---- */

/* mul(rms_norm(x), weight): what the norm reads and is multiplied with may be read later. */
static bool is_norm(const plan *p, uint32_t t) {
    const sp_spec_tensor *mul = plan_tensor(p, t);
    if (!is_op(p, t, SP_OP_MUL) || mul->dst != SP_PROGRAM_NONE || !is_op(p, mul->src[0], SP_OP_RMS_NORM)) {
        return false;
    }
    const sp_spec_tensor *norm = plan_tensor(p, mul->src[0]), *weight = plan_tensor(p, mul->src[1]);
    bool one_row = weight->ne[0] == mul->ne[0] && elements_of(weight) == mul->ne[0] && weight->type == SP_TYPE_F32;
    return one_row && norm->dst == SP_PROGRAM_NONE && sp_plan_is_constant(p, norm->src[0]) && sp_plan_is_constant(p, mul->src[1]) &&
           p->uses[mul->src[0]] == 1;
}

bool sp_plan_is_gated(uint32_t op) {
    return op == SP_OP_REGLU || op == SP_OP_GEGLU || op == SP_OP_SWIGLU || op == SP_OP_SWIGLU_OAI || op == SP_OP_SWIGLU_CLAMP ||
           op == SP_OP_GEGLU_ERF || op == SP_OP_GEGLU_QUICK;
}

static bool is_gate(const plan *p, uint32_t t) {
    const sp_spec_tensor *glu = plan_tensor(p, t);
    return glu->kind == SP_TENSOR_OP && sp_plan_is_gated(glu->op) && glu->n_src >= 2 && glu->src[1] != SP_PROGRAM_NONE && glu->type == SP_TYPE_F32;
}

static bool is_gate_before(const plan *p, uint32_t t) {
    const sp_spec_tensor *glu = plan_tensor(p, t);
    return is_gate(p, t) && glu->dst == SP_PROGRAM_NONE && sp_plan_is_constant(p, glu->src[0]) && sp_plan_is_constant(p, glu->src[1]) &&
           p->fusions[t].product == PLAN_NONE;
}

/* Every product whose right side is t takes it in; t itself is left out if nothing else reads it. */
static void take_in(plan *p, uint32_t product) {
    plan_fusion *f = &p->fusions[product];
    uint32_t t = plan_tensor(p, product)->src[1];
    bool sliced = sp_plan_streams(p, product) && sp_plan_slices(plan_tensor(p, plan_tensor(p, product)->src[0])) > 1; /* sees no whole column */
    if (is_norm(p, t) && !sliced &&
        (!sp_plan_streams(p, product) ||
         (is_column(p, plan_tensor(p, plan_tensor(p, t)->src[0])->src[0]) && plan_tensor(p, plan_tensor(p, t)->src[1])->start % 16 == 0))) {
        const sp_spec_tensor *mul = plan_tensor(p, t), *norm = plan_tensor(p, mul->src[0]);
        f->before = K_BEFORE_RMS_NORM, f->right = norm->src[0], f->norm_weight = mul->src[1], f->from = norm;
    } else if (is_gate_before(p, t) && !sp_plan_streams(p, product)) {
        const sp_spec_tensor *glu = plan_tensor(p, t);
        f->before = K_BEFORE_GLU, f->right = glu->src[0], f->other = glu->src[1], f->from = glu;
    } else {
        return;
    }
    if (--p->uses[t] == 0) {
        p->fusions[t].skip = true;
        if (f->before == K_BEFORE_RMS_NORM) {
            p->fusions[plan_tensor(p, t)->src[0]].skip = true;
        }
    }
}

/* ---- after ---- */

static bool may_end_later(const plan *p, uint32_t product) {
    const sp_spec_tensor *made = plan_tensor(p, product);
    return made->dst == SP_PROGRAM_NONE && sp_plan_is_constant(p, made->src[1]);
}

/* add(product, residual), either way round. */
static bool ends_in_add(plan *p, uint32_t t, plan_fusion *f) {
    const sp_spec_tensor *add = plan_tensor(p, t);
    for (int s = 0; s < 2 && is_op(p, t, SP_OP_ADD); s++) {
        uint32_t product = add->src[s], residual = add->src[1 - s];
        const sp_spec_tensor *other = plan_tensor(p, residual), *made = plan_tensor(p, product);
        if ((is_small_product(p, product) || sp_plan_tiles(p, product)) && product != residual && same_shape(made, other) &&
            is_contiguous_f32(other) && p->uses[product] == 1 && sp_plan_is_constant(p, residual) && may_end_later(p, product)) {
            f->product = product, f->residual = residual, f->after = K_AFTER_ADD;
            return true;
        }
    }
    return false;
}

/* The gate of two products of the same column, of the same shape and type. */
static bool ends_in_gate(plan *p, uint32_t t, plan_fusion *f) {
    const sp_spec_tensor *glu = plan_tensor(p, t);
    if (!is_gate(p, t) || glu->src[0] == glu->src[1]) {
        return false;
    }
    bool streams = sp_plan_streams(p, glu->src[0]) && sp_plan_streams(p, glu->src[1]);
    bool tiles = glu->op == SP_OP_SWIGLU && is_op(p, glu->src[0], SP_OP_MUL_MAT) && is_op(p, glu->src[1], SP_OP_MUL_MAT) &&
                 sp_plan_tiles_gate(p, glu->src[0]) && sp_plan_tiles_gate(p, glu->src[1]);
    if (!streams && !tiles) {
        return false;
    }
    const sp_spec_tensor *a = plan_tensor(p, glu->src[0]), *b = plan_tensor(p, glu->src[1]), *left = plan_tensor(p, a->src[0]);
    const sp_spec_tensor *other = plan_tensor(p, b->src[0]);
    bool alike = a->src[1] == b->src[1] && left->type == other->type && same_shape(left, other);
    if (!alike || p->uses[glu->src[0]] != 1 || p->uses[glu->src[1]] != 1 || !may_end_later(p, glu->src[0]) || !may_end_later(p, glu->src[1])) {
        return false;
    }
    f->product = glu->src[0], f->second = glu->src[1], f->after = K_AFTER_GLU;
    return true;
}

/* What is fused so far ends in t: a streamed product, or one that was joined with what follows it. */
static bool joins(const plan *p, uint32_t t, plan_fusion *f) {
    if (t == SP_PROGRAM_NONE) {
        return false;
    }
    if (p->fusions[t].product != PLAN_NONE) {
        *f = p->fusions[t];
        f->end = t;
        return !(f->after & (K_AFTER_GLU | K_AFTER_SET_ROW)) && sp_plan_streams(p, f->product);
    }
    f->product = t;
    return sp_plan_streams(p, t) && may_end_later(p, t);
}

/* rope of neighbours, at one position. */
static bool ends_in_rope(plan *p, uint32_t t, plan_fusion *f) {
    const sp_spec_tensor *rope = plan_tensor(p, t);
    if (!is_op(p, t, SP_OP_ROPE_EXT) || rope->params[1] != 0 || rope->params[13] != 0 || rope->ne[0] % 2 || rope->ne[2] != 1 || rope->ne[3] != 1 ||
        rope->params[0] > rope->ne[0] || !sp_plan_is_constant(p, rope->src[1]) ||
        (rope->n_src > 2 && rope->src[2] != SP_PROGRAM_NONE && !sp_plan_is_constant(p, rope->src[2]))) {
        return false;
    }
    uint32_t source = sp_plan_only_source(p, rope->src[0], t);
    if (!joins(p, source, f) || f->after & K_AFTER_ROPE) {
        return false;
    }
    f->after |= K_AFTER_ROPE, f->rope = t;
    return is_contiguous_f32(plan_tensor(p, rope->src[0])) && is_contiguous_f32(rope);
}

/* One row of a cache of floats or halves. */
static bool ends_in_set_row(plan *p, uint32_t t, plan_fusion *f) {
    const sp_spec_tensor *set = plan_tensor(p, t);
    if (!is_op(p, t, SP_OP_SET_ROWS) || (set->type != SP_TYPE_F16 && set->type != SP_TYPE_F32) || set->ne[2] * set->ne[3] != 1) {
        return false;
    }
    const sp_spec_tensor *rows = plan_tensor(p, set->src[1]), *ids = plan_tensor(p, set->src[2]);
    return elements_of(rows) == rows->ne[0] && elements_of(ids) == 1 && is_contiguous_f32(rows) &&
           joins(p, sp_plan_only_source(p, set->src[1], t), f) && (f->after |= K_AFTER_SET_ROW);
}

/* Can turning put its rows there, all heads of a token in one (k_rope_by_pairs)? It reads later then. */
static bool turns_into(const plan *p, const sp_spec_tensor *rope, const sp_spec_tensor *set) {
    const sp_spec_tensor *from = plan_tensor(p, rope->src[0]), *rows = plan_tensor(p, set->src[1]);
    bool pairs = rope->params[1] == 0 && rope->params[13] == 0 && rope->params[0] == rope->ne[0];
    bool shape = rope->ne[3] == 1 && rows->ne[0] == rope->ne[0] * rope->ne[1] && rows->ne[1] == rope->ne[2];
    uint64_t places = set->nb[1] | set->nb[2] | set->nb[3] | set->start | from->nb[1] | from->nb[2] | from->nb[3] | from->start;
    for (int s = 0; s < rope->n_src; s++) {
        pairs &= rope->src[s] == SP_PROGRAM_NONE || sp_plan_is_constant(p, rope->src[s]);
    }
    return pairs && shape && places % 8 == 0 && from->type == SP_TYPE_F32 && from->nb[0] == 4 && is_contiguous_f32(rope) && is_contiguous_f32(rows);
}

/* Rows of a cache of halves that are turned before. */
static void take_rope(plan *p, uint32_t t) {
    const sp_spec_tensor *set = plan_tensor(p, t);
    if (!is_op(p, t, SP_OP_SET_ROWS) || set->type != SP_TYPE_F16 || set->nb[0] != 2 || set->ne[2] * set->ne[3] != 1) {
        return;
    }
    uint32_t source = sp_plan_only_source(p, set->src[1], t);
    if (is_op(p, source, SP_OP_ROPE_EXT) && p->fusions[source].product == PLAN_NONE && turns_into(p, plan_tensor(p, source), set)) {
        p->fusions[t].rope = source;
        p->fusions[source].skip = true;
    }
}

/* t now does what the operations from the product on did. */
static void end_in(plan *p, uint32_t t, const plan_fusion *f) {
    plan_fusion *end = &p->fusions[t];
    p->fusions[f->product].skip = true;
    if (f->second != PLAN_NONE) {
        p->fusions[f->second].skip = true;
    }
    if (f->end != PLAN_NONE) {
        p->fusions[f->end].product = PLAN_NONE;
        p->fusions[f->end].skip = true;
    }
    end->product = f->product, end->second = f->second, end->residual = f->residual, end->rope = f->rope, end->after = f->after;
}

/* Nothing is fused yet; uses. */
static void look_over(plan *p) {
    for (uint32_t i = 0; i < p->spec->n_tensors; i++) {
        const sp_spec_tensor *t = plan_tensor(p, i);
        p->fusions[i] = (plan_fusion){.product = PLAN_NONE,
                                      .second = PLAN_NONE,
                                      .end = PLAN_NONE,
                                      .residual = PLAN_NONE,
                                      .rope = PLAN_NONE,
                                      .norm_weight = PLAN_NONE,
                                      .right = PLAN_NONE,
                                      .other = PLAN_NONE,
                                      .halves = PLAN_NONE,
                                      .left_halves = PLAN_NONE,
                                      .map = PLAN_NONE};
        for (int s = 0; s < t->n_src; s++) {
            if (t->src[s] != SP_PROGRAM_NONE) {
                p->uses[t->src[s]]++;
                p->used_by[t->src[s]] = i;
            }
        }
    }
}

void sp_plan_fuse(plan *p) {
    look_over(p);
    for (uint32_t t = 0; t < p->spec->n_tensors; t++) {
        plan_fusion f = p->fusions[t];
        if (ends_in_add(p, t, &f) || ends_in_gate(p, t, &f) || ends_in_rope(p, t, &f) || ends_in_set_row(p, t, &f)) {
            end_in(p, t, &f);
        } else {
            take_rope(p, t);
        }
    }
    for (uint32_t t = 0; t < p->spec->n_tensors; t++) {
        if (sp_plan_tiles(p, t)) {
            p->fusions[plan_tensor(p, t)->src[1]].tile_rows += (uint32_t)plan_tensor(p, t)->ne[0];
        }
        if (is_small_product(p, t) || sp_plan_tiles(p, t)) {
            take_in(p, t);
        }
    }
}
