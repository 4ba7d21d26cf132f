/*
 * Fusing. A product of few columns takes in what comes right before it
 * (rms_norm and its weight, a gated unit of two), since every block reads the
 * whole right side anyway, and the residual that is added to its result. What
 * is read later than the program says must be a temporary or a weight: those
 * are written once.
 */
#include "device/cuda/plan.h"

static bool is_op(const plan *p, uint32_t t, uint32_t op) {
    return t != SP_PROGRAM_NONE && p->spec->tensors[t].kind == SP_TENSOR_OP && p->spec->tensors[t].op == op;
}

/* Written once, before it is read: may be read later. */
static bool is_constant(const plan *p, uint32_t t) {
    const sp_spec_tensor *root = &p->spec->tensors[p->spec->tensors[t].alias];
    return root->kind == SP_TENSOR_WEIGHT || (root->kind == SP_TENSOR_OP && root->dst == SP_PROGRAM_NONE);
}

static bool is_contiguous_f32(const sp_spec_tensor *t) {
    return t->type == SP_TYPE_F32 && t->nb[0] == 4 && t->nb[1] == 4 * (uint64_t)t->ne[0] && t->nb[2] == t->nb[1] * (uint64_t)t->ne[1] &&
           t->nb[3] == t->nb[2] * (uint64_t)t->ne[2];
}

static bool same_shape(const sp_spec_tensor *a, const sp_spec_tensor *b) {
    return a->ne[0] == b->ne[0] && a->ne[1] == b->ne[1] && a->ne[2] == b->ne[2] && a->ne[3] == b->ne[3];
}

static uint32_t count_uses(const plan *p, uint32_t of) {
    uint32_t n = 0;
    for (uint32_t i = of + 1; i < p->spec->n_tensors; i++) {
        for (int s = 0; s < p->spec->tensors[i].n_src; s++) {
            n += p->spec->tensors[i].src[s] == of;
        }
    }
    return n;
}

/* A product of a weight and few columns. */
static bool is_small_product(const plan *p, uint32_t t) {
    const sp_spec_tensor *o = &p->spec->tensors[t];
    return is_op(p, t, SP_OP_MUL_MAT) && o->ne[1] * o->ne[2] * o->ne[3] <= K_COLUMNS && p->spec->tensors[o->src[0]].kind == SP_TENSOR_WEIGHT;
}

/* Every use of t is as the right side of a product that can take in what is
 * before. */
static bool only_products_read(const plan *p, uint32_t t) {
    uint32_t n = 0;
    for (uint32_t i = t + 1; i < p->spec->n_tensors; i++) {
        const sp_spec_tensor *user = &p->spec->tensors[i];
        for (int s = 0; s < user->n_src; s++) {
            if (user->src[s] == t) {
                if (s != 1 || !is_small_product(p, i)) {
                    return false;
                }
                n++;
            }
        }
    }
    return n > 0;
}

static void take_in(plan *p, uint32_t t, plan_fusion fusion) {
    for (uint32_t i = t + 1; i < p->spec->n_tensors; i++) {
        if (is_small_product(p, i) && p->spec->tensors[i].src[1] == t) {
            p->fusions[i].before = fusion.before;
            p->fusions[i].right = fusion.right;
            p->fusions[i].other = fusion.other;
            p->fusions[i].norm_weight = fusion.norm_weight;
            p->fusions[i].from = fusion.from;
        }
    }
    p->fusions[t].skip = true;
}

/* mul(rms_norm(x), weight) */
static void fuse_norm(plan *p, uint32_t t) {
    const sp_spec_tensor *mul = &p->spec->tensors[t];
    if (mul->dst != SP_PROGRAM_NONE || !is_op(p, mul->src[0], SP_OP_RMS_NORM)) {
        return;
    }
    const sp_spec_tensor *norm = &p->spec->tensors[mul->src[0]], *weight = &p->spec->tensors[mul->src[1]];
    bool one_row = weight->ne[0] == mul->ne[0] && weight->ne[1] * weight->ne[2] * weight->ne[3] == 1 && weight->type == SP_TYPE_F32;
    if (one_row && norm->dst == SP_PROGRAM_NONE && is_constant(p, norm->src[0]) && is_constant(p, mul->src[1]) && count_uses(p, mul->src[0]) == 1 &&
        only_products_read(p, t)) {
        take_in(p, t,
                (plan_fusion){.before = K_BEFORE_RMS_NORM, .right = norm->src[0], .other = PLAN_NONE, .norm_weight = mul->src[1], .from = norm});
        p->fusions[mul->src[0]].skip = true;
    }
}

/* A gated unit of two tensors. */
static void fuse_glu(plan *p, uint32_t t) {
    const sp_spec_tensor *glu = &p->spec->tensors[t];
    if (glu->n_src < 2 || glu->src[1] == SP_PROGRAM_NONE || glu->dst != SP_PROGRAM_NONE || glu->type != SP_TYPE_F32) {
        return;
    }
    if (is_constant(p, glu->src[0]) && is_constant(p, glu->src[1]) && only_products_read(p, t)) {
        take_in(p, t, (plan_fusion){.before = K_BEFORE_GLU, .right = glu->src[0], .other = glu->src[1], .norm_weight = PLAN_NONE, .from = glu});
    }
}

/* add(product, residual), either way round. */
static void fuse_add(plan *p, uint32_t t) {
    const sp_spec_tensor *add = &p->spec->tensors[t];
    for (int s = 0; s < 2; s++) {
        uint32_t product = add->src[s], residual = add->src[1 - s];
        const sp_spec_tensor *other = &p->spec->tensors[residual], *made = &p->spec->tensors[product];
        if (is_small_product(p, product) && product != residual && same_shape(made, other) && is_contiguous_f32(other) &&
            made->dst == SP_PROGRAM_NONE && count_uses(p, product) == 1 && is_constant(p, residual) &&
            (p->fusions[product].before || is_constant(p, made->src[1]))) {
            p->fusions[product].skip = true;
            p->fusions[t].product = product;
            p->fusions[t].residual = residual;
            return;
        }
    }
}

void sp_plan_fuse(plan *p) {
    for (uint32_t t = 0; t < p->spec->n_tensors; t++) {
        p->fusions[t] = (plan_fusion){.product = PLAN_NONE, .residual = PLAN_NONE, .norm_weight = PLAN_NONE, .right = PLAN_NONE, .other = PLAN_NONE};
    }
    for (uint32_t t = 0; t < p->spec->n_tensors; t++) {
        if (p->spec->tensors[t].kind != SP_TENSOR_OP) {
            continue;
        }
        switch (p->spec->tensors[t].op) {
        case SP_OP_MUL:
            fuse_norm(p, t);
            break;
        case SP_OP_REGLU:
        case SP_OP_GEGLU:
        case SP_OP_SWIGLU:
        case SP_OP_SWIGLU_OAI:
        case SP_OP_SWIGLU_CLAMP:
        case SP_OP_GEGLU_ERF:
        case SP_OP_GEGLU_QUICK:
            fuse_glu(p, t);
            break;
        case SP_OP_ADD:
            fuse_add(p, t);
            break;
        default:
            break;
        }
    }
}
