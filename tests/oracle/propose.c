/* Proposes operations: sources, dimensions that meet the conditions, parameters. */
#include <math.h>
#include <string.h>

#include "oracle/generate.h"

bool gen_row_fits(uint32_t type, int64_t n) {
    return n % sp_type_get(type)->block == 0;
}

/* A type of this set; SP_PROGRAM_NONE if there is none. */
uint32_t gen_type_of(choices *c, unsigned types) {
    uint32_t found[64], count = 0;
    for (uint32_t type = 0; type < 64; type++) {
        /* Only weights have the other quantised types; F32 comes more often than the rest. */
        if (sp_type_get(type) && (sp_type_class(type) & types & ~(unsigned)T_WQ)) {
            found[count++] = type;
        }
    }
    if (count == 0) {
        return SP_PROGRAM_NONE;
    }
    return (types & T_F32) && chance(c, 2) ? SP_TYPE_F32 : found[choose(c, count)];
}

/* ---- conditions ---- */

typedef struct sides {
    gen_source *left, *right;
    int64_t *l, r;
} sides;

static bool holds(const sp_rule_cond *c, int64_t left, int64_t right) {
    return c->relation == C_GE ? left >= right : c->relation == C_MULTIPLE ? left % right == 0 : left == right;
}

static bool applies(const gen_plan *plan, const sp_rule_cond *c) {
    return c->left < plan->n_src && !plan->src[c->left].absent && (c->relation == C_CONST || (c->right < plan->n_src && !plan->src[c->right].absent));
}

int gen_broken_condition(const gen_plan *plan) {
    for (int i = 0; plan->rule->conds[i].relation != C_END; i++) {
        const sp_rule_cond *c = &plan->rule->conds[i];
        if (applies(plan, c) &&
            !holds(c, plan->src[c->left].ne[c->left_dim], c->relation == C_CONST ? c->right : plan->src[c->right].ne[c->right_dim])) {
            return i;
        }
    }
    return -1;
}

/* Changes one side so that the condition holds; false if neither may change. */
static bool mend(choices *c, gen_plan *plan, const sp_rule_cond *cond) {
    gen_source *left = &plan->src[cond->left], *right = cond->relation == C_CONST ? left : &plan->src[cond->right];
    int64_t *l = &left->ne[cond->left_dim], *r = &right->ne[cond->right_dim];
    const bool change_left = !left->fixed && (cond->relation == C_CONST || right->fixed || chance(c, 2));
    if (!change_left && (right->fixed || cond->relation == C_CONST)) {
        return false;
    }
    switch (cond->relation) {
    case C_CONST:
        *l = cond->right;
        return true;
    case C_EQ:
        *(change_left ? l : r) = change_left ? *r : *l;
        return true;
    case C_GE:
        *(change_left ? l : r) = change_left ? *r + choose(c, 3) : 1 + (int64_t)choose(c, (uint32_t)*l);
        return true;
    default: /* C_MULTIPLE */
        if (change_left) {
            *l = *r * (1 + (int64_t)choose(c, 3));
        } else {
            for (*r = 1 + (int64_t)choose(c, (uint32_t)*l); *l % *r; (*r)--) {
            }
        }
        return true;
    }
}

static bool solve(choices *c, gen_plan *plan) {
    for (int round = 0; round < 60; round++) {
        const int broken = gen_broken_condition(plan);
        if (broken < 0) {
            return true;
        }
        if (!mend(c, plan, &plan->rule->conds[broken])) {
            return false;
        }
    }
    return false;
}

/* ---- sources ---- */

static int64_t some_dim(choices *c, bool first) {
    static const int64_t rows[] = {32, 64, 32, 64, 1, 2, 3, 5, 8, 16, 31, 33, 96, 128, 40, 256, 512}, others[] = {1, 2, 1, 3, 4, 1, 2, 5, 8, 17};
    return first ? rows[choose(c, sizeof rows / sizeof rows[0])] : others[choose(c, sizeof others / sizeof others[0])];
}

static bool is_written(const sp_rule *rule, uint32_t i) {
    return (rule->view == V_WRITES_A && i == 0) || (rule->view == V_WRITES_B && i == 1);
}

static bool is_index(const sp_rule *rule, uint32_t i) {
    return rule->index.source && rule->index.source == i;
}

static bool is_hidden(const generated *p, uint32_t tensor) {
    for (uint32_t i = 0; i < p->n_hidden; i++) {
        if (p->hidden[i] == tensor) {
            return true;
        }
    }
    return false;
}

static bool take_chained(const generated *p, const sp_rule *rule, uint32_t i, gen_source *s) {
    const sp_spec_tensor *t = &p->spec->tensors[p->chained];
    *s = (gen_source){.fixed = true, .tensor = p->chained, .type = t->type};
    memcpy(s->ne, t->ne, sizeof s->ne);
    return (sp_type_class(t->type) & rule->src[i].types) && sp_has_layout(t, rule->src[i].layout);
}

/* A tensor that there is and that could be this source. */
static bool take_existing(choices *c, const generated *p, const sp_rule *rule, uint32_t i, gen_source *s) {
    if (!p->spec) {
        return false;
    }
    for (int attempt = 0; attempt < 4; attempt++) {
        const uint32_t n = choose(c, p->spec->n_tensors < p->g.n_tensors ? p->spec->n_tensors : p->g.n_tensors); /* some may have been taken back */
        const sp_spec_tensor *t = &p->spec->tensors[n];
        const sp_spec_tensor *root = &p->spec->tensors[t->alias];
        const bool seen = root->kind == SP_TENSOR_MEMORY && root->slot == GEN_SEEN;
        const bool computed = root->kind == SP_TENSOR_OP && (root->op == SP_OP_ARGSORT || root->op == SP_OP_TOP_K);
        const bool state = root->kind == SP_TENSOR_MEMORY && root->slot == GEN_STATE;
        if (seen || is_hidden(p, n) || !(sp_type_class(t->type) & rule->src[i].types) || !sp_has_layout(t, rule->src[i].layout) ||
            (is_written(rule, i) && !state) || (is_index(rule, i) && !computed && !root->index)) {
            continue;
        }
        *s = (gen_source){.fixed = true, .tensor = n, .type = t->type};
        memcpy(s->ne, t->ne, sizeof s->ne);
        return true;
    }
    return false;
}

static bool take_weight(choices *c, const gen_options *options, const sp_rule *rule, uint32_t i, gen_source *s) {
    for (int attempt = 0; attempt < 4 && options->n_weights; attempt++) {
        const gen_weight *w = &options->weights[choose(c, options->n_weights)];
        if (sp_type_class(w->type) & rule->src[i].types) {
            *s = (gen_source){.fixed = true, .weight = true, .type = w->type};
            memcpy(s->ne, w->ne, sizeof s->ne);
            return true;
        }
    }
    return false;
}

static bool propose_source(choices *c, const gen_options *options, const generated *p, gen_plan *plan, uint32_t i) {
    const sp_rule *rule = plan->rule;
    gen_source *s = &plan->src[i];
    const bool written = is_written(rule, i), index = is_index(rule, i);
    if (p->chained != SP_PROGRAM_NONE && p->chained_at == i) {
        return take_chained(p, rule, i, s);
    }
    if (chance(c, 2) && take_existing(c, p, rule, i, s)) {
        return true;
    }
    if (!written && !index && (i == 0 ? chance(c, 3) : chance(c, 12)) && take_weight(c, options, rule, i, s)) {
        return true;
    }
    *s = (gen_source){.slot = written ? GEN_STATE : index || !chance(c, 4) ? GEN_IN : GEN_STATE};
    const bool like_first = i > 0 && (sp_type_class(plan->src[0].type) & rule->src[i].types & ~(unsigned)T_WQ) && chance(c, 2);
    s->type = like_first ? plan->src[0].type : gen_type_of(c, rule->src[i].types);
    if (s->type == SP_PROGRAM_NONE) {
        return false;
    }
    for (int d = 0; d < 4; d++) {
        s->ne[d] = i > 0 && chance(c, 2) ? plan->src[0].ne[d] : some_dim(c, d == 0);
    }
    const uint32_t block = sp_type_get(s->type)->block;
    s->ne[0] = s->ne[0] % block ? block * (1 + (int64_t)choose(c, 2)) : s->ne[0];
    if (rule->src[i].layout == L_ANY && chance(c, 4)) {
        s->form = 1 + choose(c, FORM_COUNT - 1);
    } else if (rule->src[i].layout == L_ROWS && !index && chance(c, 3)) {
        s->form = 1 + choose(c, 3);
    } else if (rule->src[i].layout == L_FLAT && chance(c, 3)) {
        s->form = FORM_FLAT;
    }
    return true;
}

/* ---- parameters ---- */

static uint32_t propose_param(choices *c, const gen_plan *plan, const sp_rule_param *param) {
    static const float finite[] = {1, 0.125f, 0, -1, 0.5f, 2, 32, -0.25f}, not_negative[] = {0, 1e-5f, 1e-6f, 0.5f, 1, 8},
                       positive[] = {1, 10000, 500000, 0.5f, 4}, numbers[] = {-INFINITY, INFINITY, 0, 1, -1, 6, -0.5f};
    const int64_t n = plan->src[0].ne[0];
    float value;
    switch (param->kind) {
    case P_FINITE:
        value = finite[choose(c, 8)];
        break;
    case P_NOT_NEGATIVE:
        value = not_negative[choose(c, 6)];
        break;
    case P_POSITIVE:
        value = positive[choose(c, 5)];
        break;
    case P_NUMBER:
        value = numbers[choose(c, 7)];
        break;
    case P_RANGE:
        if (param->max - param->min < 1 << 20) {
            return (uint32_t)(param->min + (int32_t)choose(c, (uint32_t)(param->max - param->min) + 1));
        }
        return (uint32_t)param->min + (chance(c, 2) ? (uint32_t)(n > param->min ? n - param->min : 0) : choose(c, n < 2 ? 2 : (uint32_t)n));
    default:
        return chance(c, 2) ? 0 : 10;
    }
    return sp_float_bits(value);
}

/* ---- dimensions that the operation is told ---- */

static void split_elements(choices *c, int64_t elements, uint32_t block, int64_t ne[4]) {
    int64_t rest = elements / block;
    for (int i = 3; i > 0; i--) {
        for (ne[i] = 1 + (int64_t)choose(c, (uint32_t)(rest < 12 ? rest : 12)); rest % ne[i]; ne[i]--) {
        }
        rest /= ne[i];
    }
    ne[0] = rest * block;
}

/* Part of source 0, by its own strides; sometimes with strides that are nonsense. */
static void propose_view(choices *c, const generated *p, gen_plan *plan) {
    const gen_source *s = &plan->src[0];
    const sp_type_traits *traits = sp_type_get(s->type);
    uint64_t nb[4] = {traits->size, (uint64_t)s->ne[0] / traits->block * traits->size, 0, 0};
    nb[2] = nb[1] * (uint64_t)s->ne[1], nb[3] = nb[2] * (uint64_t)s->ne[2];
    if (s->fixed && !s->weight) {
        memcpy(nb, p->spec->tensors[s->tensor].nb, sizeof nb);
    }
    plan->has_ne = true;
    plan->has_nb = !chance(c, 4);
    for (int i = 0; i < 4; i++) {
        const int64_t unit = i == 0 ? traits->block : 1, whole = s->ne[i] / unit, first = chance(c, 2) ? 0 : (int64_t)choose(c, (uint32_t)whole);
        plan->ne[i] = unit * (1 + (int64_t)choose(c, (uint32_t)(whole - first)));
        plan->offset += first * (int64_t)nb[i];
        if (i > 0) {
            plan->nb[i - 1] = (int64_t)(chance(c, 12) ? nb[i] * 2 : nb[i]);
        }
    }
}

static void propose_dims(choices *c, const generated *p, gen_plan *plan) {
    const gen_source *s = &plan->src[0];
    switch (plan->rule->op) {
    case SP_OP_VIEW:
        propose_view(c, p, plan);
        return;
    case SP_OP_REPEAT:
        plan->has_ne = true;
        for (int i = 0; i < 4; i++) {
            plan->ne[i] = s->ne[i] * (1 + (int64_t)choose(c, 3));
        }
        return;
    case SP_OP_CONT:
        plan->has_ne = chance(c, 2);
        break;
    case SP_OP_RESHAPE:
        plan->has_ne = true;
        break;
    default:
        return;
    }
    if (plan->has_ne) {
        split_elements(c, s->ne[0] * s->ne[1] * s->ne[2] * s->ne[3], sp_type_get(s->type)->block, plan->ne);
    }
}

/* Source i as a new window of this shape. */
static void fresh(gen_plan *plan, uint32_t i, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    const uint32_t type = plan->rule->src[i].types & T_F32 ? SP_TYPE_F32 : plan->src[i].type;
    plan->src[i] = (gen_source){.slot = GEN_IN, .type = type, .ne = {n0, n1, n2, n3}};
}

/* Operations on state: so many dimensions must fit that chance alone finds none. */
static void nudge_recurrent(choices *c, gen_plan *plan) {
    const int64_t n = 1 + choose(c, 20), heads = 1 + choose(c, 3), tokens = 1 + choose(c, 5), seqs = 1 + choose(c, 2), width = 1 + choose(c, 20);
    const int64_t groups = chance(c, 2) ? heads : 1;
    switch (plan->rule->op) {
    case SP_OP_SSM_CONV:
        fresh(plan, 1, 1 + choose(c, 4), width, 1, 1);
        fresh(plan, 0, plan->src[1].ne[0] - 1 + tokens, width, seqs, 1);
        break;
    case SP_OP_SSM_SCAN:
        fresh(plan, 0, n, width, heads, seqs + choose(c, 2));
        fresh(plan, 1, width, heads, tokens, seqs);
        fresh(plan, 2, heads, tokens, seqs, 1);
        fresh(plan, 3, chance(c, 2) ? 1 : n, heads, 1, 1);
        fresh(plan, 4, n, groups, tokens, seqs);
        fresh(plan, 5, n, groups, tokens, seqs);
        fresh(plan, 6, seqs, 1, 1, 1);
        break;
    case SP_OP_GATED_DELTA_NET:
        fresh(plan, 0, n, groups, tokens, chance(c, 2) ? seqs : 1);
        fresh(plan, 1, n, groups, tokens, chance(c, 2) ? seqs : 1);
        fresh(plan, 2, n, heads, tokens, seqs);
        fresh(plan, 3, chance(c, 2) ? 1 : n, heads, tokens, seqs);
        fresh(plan, 4, 1, heads, tokens, seqs);
        fresh(plan, 5, n, n, heads, seqs);
        break;
    case SP_OP_LIGHTNING_INDEXER:
        fresh(plan, 0, 32, heads, tokens, seqs);
        fresh(plan, 2, heads, tokens, 1, seqs);
        fresh(plan, 3, 8 * width, tokens, 1, chance(c, 2) ? seqs : 1);
        plan->src[1] = (gen_source){.slot = GEN_IN, .type = gen_type_of(c, plan->rule->src[1].types), .ne = {32, 1, 8 * width, seqs}};
        break;
    case SP_OP_DSV4_HC_PRE:
        fresh(plan, 0, width, heads, tokens, 1);
        fresh(plan, 1, heads, tokens, 1, 1);
        break;
    case SP_OP_RWKV_WKV6:
    case SP_OP_RWKV_WKV7: {
        const int64_t size = plan->rule->op == SP_OP_RWKV_WKV7 ? 64 : n;
        for (uint32_t i = 0; i + 1 < plan->n_src; i++) {
            fresh(plan, i, size, heads, tokens * seqs, 1);
        }
        fresh(plan, plan->n_src - 1, size * size * heads, seqs, 1, 1);
        if (plan->rule->op == SP_OP_RWKV_WKV6) {
            fresh(plan, 3, size, heads, 1, 1);
        }
        break;
    }
    default:
        break;
    }
}

static void nudge_rope(choices *c, gen_plan *plan) {
    static const uint32_t modes[] = {0, 2, 8, 40};
    gen_source *a = &plan->src[0], *positions = &plan->src[1];
    const bool sections = (plan->params[1] = modes[choose(c, 4)]) >= 8;
    for (uint32_t i = 9; i < 13; i++) {
        plan->params[i] = sections ? 1 + choose(c, (uint32_t)(a->ne[0] / 4 + 1)) : 0;
    }
    plan->params[0] &= ~1u;
    plan->params[13] = chance(c, 3) ? 2 * choose(c, (uint32_t)(a->ne[0] / 4 + 1)) : 0;
    if (!positions->fixed) {
        positions->ne[0] = (sections ? 4 : 1) * a->ne[2];
    }
}

/* Equal shapes and pairings that the table says in words: likelier than chance would have them. */
static void nudge(choices *c, gen_plan *plan) {
    gen_source *a = &plan->src[0], *b = &plan->src[1];
    const uint16_t op = plan->rule->op;
    if (op == SP_OP_ROPE_EXT) {
        nudge_rope(c, plan);
    }
    if (op == SP_OP_MUL_MAT && (plan->params[1] = chance(c, 12))) {
        const int64_t n = 1 << choose(c, 8);
        fresh(plan, 0, n, n, 1, 1);
        fresh(plan, 1, n, some_dim(c, false), some_dim(c, false), some_dim(c, false));
    }
    nudge_recurrent(c, plan);
    if (plan->rule->shape && op != SP_OP_SSM_CONV && plan->n_src == 2 && !b->absent && !b->fixed) { /* the gated units, concat */
        memcpy(b->ne, a->ne, sizeof b->ne);
        b->type = sp_type_class(a->type) == T_WQ ? b->type : a->type;
    }
    if (op == SP_OP_CONCAT && !b->fixed) {
        const int d = (int)choose(c, 4);
        plan->params[0] = (uint32_t)d;
        b->ne[d] = some_dim(c, d == 0);
    }
    if (op == SP_OP_CPY && !b->fixed) {
        memcpy(b->ne, a->ne, sizeof b->ne);
        if (chance(c, 3) && !sp_type_get(a->type)->quantised && !sp_type_get(b->type)->quantised) {
            split_elements(c, a->ne[0] * a->ne[1] * a->ne[2] * a->ne[3], 1, b->ne);
        }
    }
    if ((op == SP_OP_ARGSORT || op == SP_OP_TOP_K) && !a->fixed) {
        a->clamped = true;
    }
    if (op == SP_OP_CAST) {
        plan->type = gen_type_of(c, T_ANY);
    }
    if (op == SP_OP_PERMUTE) {
        uint32_t axes[4] = {0, 1, 2, 3};
        for (uint32_t i = 3; i > 0; i--) {
            const uint32_t j = choose(c, i + 1), kept = axes[i];
            axes[i] = axes[j], axes[j] = kept;
        }
        memcpy(plan->params, axes, sizeof axes);
    }
}

bool gen_propose(choices *c, const gen_options *options, const generated *p, const sp_rule *rule, gen_plan *plan) {
    memset(plan, 0, sizeof *plan);
    plan->rule = rule;
    plan->n_src = rule->min_src + choose(c, rule->max_src - rule->min_src + 1u);
    for (uint32_t i = 0; i < plan->n_src; i++) {
        plan->src[i].absent = i >= rule->min_src && i + 1 < plan->n_src && chance(c, 2);
        if (!plan->src[i].absent && !propose_source(c, options, p, plan, i)) {
            return false;
        }
    }
    for (int i = 0; i < rule->n_params; i++) {
        plan->params[i] = propose_param(c, plan, &rule->params[i]);
    }
    nudge(c, plan);
    if (!solve(c, plan)) {
        return false;
    }
    for (uint32_t i = 0; i < plan->n_src; i++) {
        const gen_source *s = &plan->src[i];
        const bool large = s->ne[0] > (plan->rule->op == SP_OP_RWKV_WKV7 ? 64 * 64 * 3 : 1024) || s->ne[1] > 256 || s->ne[2] > 64 || s->ne[3] > 64;
        if (!s->absent && (!gen_row_fits(s->type, s->ne[0]) || large || (s->form == FORM_TRANSPOSED && sp_type_get(s->type)->quantised))) {
            return false;
        }
    }
    propose_dims(c, p, plan);
    return true;
}
