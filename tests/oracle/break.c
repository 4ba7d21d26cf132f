/* Breaks one rule of an operation that would be accepted, and says which words the refusal must have. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "oracle/generate.h"

/* An operation that is accepted, taken back, and about to be written down again with one thing wrong. */
typedef struct breaking {
    choices *c;
    const gen_options *options;
    generated *p;
    gen_plan plan;
    uint16_t result_type;
    int64_t result_ne[4];
    sp_tensor broken; /* the operation, where a break wrote it down itself; else SP_NONE */
} breaking;

#define WORDS(b, ...) snprintf((b)->p->words, sizeof(b)->p->words, __VA_ARGS__)

static bool is_float(uint32_t type) {
    return sp_type_class(type) & T_FLOAT;
}

/* A source that is a new window, so that its shape and type may be anything. */
static gen_source *loosen(breaking *b, uint32_t i) {
    gen_source *s = &b->plan.src[i];
    if (s->absent || (b->plan.rule->index.source && b->plan.rule->index.source == i)) {
        return NULL;
    }
    if (s->fixed) {
        const bool written = (b->plan.rule->view == V_WRITES_A && i == 0) || (b->plan.rule->view == V_WRITES_B && i == 1);
        s->fixed = s->weight = false;
        s->slot = written ? GEN_STATE : GEN_IN;
        s->form = FORM_PLAIN;
    }
    return s;
}

static gen_source *some_source(breaking *b, uint32_t *index) {
    *index = choose(b->c, b->plan.n_src);
    return loosen(b, *index);
}

static bool break_type(breaking *b) {
    uint32_t i;
    gen_source *s = some_source(b, &i);
    const uint32_t type = s ? gen_type_of(b->c, T_ANY & ~b->plan.rule->src[i].types) : SP_PROGRAM_NONE;
    if (type == SP_PROGRAM_NONE || !gen_row_fits(type, s->ne[0])) {
        return false;
    }
    s->type = type;
    s->form = FORM_PLAIN;
    s->clamped = false;
    WORDS(b, "%s has type %s, which the operation does not take", b->plan.rule->src[i].name, sp_type_get(type)->name);
    return true;
}

static bool break_layout(breaking *b) {
    uint32_t i;
    gen_source *s = some_source(b, &i);
    if (!s || b->plan.rule->src[i].layout == L_ANY || !is_float(s->type) || s->ne[0] < 2 || s->ne[1] < 2) {
        return false;
    }
    s->form = FORM_TRANSPOSED;
    s->clamped = false;
    WORDS(b, "%s must be laid out with", b->plan.rule->src[i].name);
    return true;
}

static bool break_condition(breaking *b) {
    const sp_rule *rule = b->plan.rule;
    uint32_t count = 0;
    while (rule->conds[count].relation != C_END) {
        count++;
    }
    if (count == 0) {
        return false;
    }
    const uint32_t k = choose(b->c, count);
    const sp_rule_cond *cond = &rule->conds[k];
    const bool left = cond->relation == C_CONST || chance(b->c, 2);
    const uint32_t side = left ? cond->left : cond->right;
    gen_source *s = side < b->plan.n_src && cond->left < b->plan.n_src ? &b->plan.src[side] : NULL;
    if (!s || s->absent || b->plan.src[cond->left].absent || (s->fixed && !loosen(b, side))) {
        return false;
    }
    int64_t *ne = &s->ne[left ? cond->left_dim : cond->right_dim];
    const int64_t was = *ne, block = sp_type_get(s->type)->block;
    bool broken = false;
    for (int attempt = 0; attempt < 6 && !broken; attempt++) {
        const int64_t step = (1 + (int64_t)choose(b->c, 3)) * ((left ? cond->left_dim : cond->right_dim) == 0 ? block : 1);
        *ne = chance(b->c, 2) ? was + step : was - step;
        /* Later conditions may be broken too: the first is what is said. */
        broken = *ne >= 1 && gen_broken_condition(&b->plan) == (int)k;
    }
    if (!broken) {
        return false;
    }
    WORDS(b, "%s.ne%d is %lld; it must be", rule->src[cond->left].name, cond->left_dim, (long long)b->plan.src[cond->left].ne[cond->left_dim]);
    return true;
}

static bool break_param(breaking *b) {
    const sp_rule *rule = b->plan.rule;
    if (rule->n_params == 0) {
        return false;
    }
    const uint32_t i = choose(b->c, rule->n_params);
    const sp_rule_param *param = &rule->params[i];
    uint32_t *word = &b->plan.params[i];
    switch (param->kind) {
    case P_FINITE:
        *word = sp_float_bits(chance(b->c, 2) ? NAN : -INFINITY);
        break;
    case P_NUMBER:
        *word = sp_float_bits(NAN);
        break;
    case P_NOT_NEGATIVE:
        *word = sp_float_bits(chance(b->c, 2) ? -0.5f : NAN);
        break;
    case P_POSITIVE:
        *word = sp_float_bits(chance(b->c, 2) ? 0 : -1);
        break;
    case P_RANGE:
        *word = param->max < INT32_MAX && chance(b->c, 2) ? (uint32_t)param->max + 1 : (uint32_t)param->min - 1;
        break;
    default:
        *word = 1 + choose(b->c, 9);
        break;
    }
    WORDS(b, "%s is ", param->name);
    return true;
}

/* ---- what the bytes must say ---- */

static sp_program_tensor *write_down(breaking *b) {
    b->broken = gen_emit(b->c, b->options, b->p, &b->plan);
    return b->p->g.error ? NULL : &b->p->g.tensors[b->broken];
}

static bool break_count(breaking *b) {
    sp_program_tensor *t = write_down(b);
    const bool more = chance(b->c, 2) || b->plan.rule->min_src == 0;
    if (!t || (more && b->plan.rule->max_src == SP_PROGRAM_MAX_SRC)) {
        return false;
    }
    t->n_src = (uint16_t)(more ? b->plan.rule->max_src + 1u : b->plan.rule->min_src - 1u);
    for (uint32_t i = t->n_src; i < SP_PROGRAM_MAX_SRC; i++) {
        t->src[i] = SP_PROGRAM_NONE;
    }
    WORDS(b, "wrong number of sources");
    return true;
}

static bool break_missing(breaking *b) {
    sp_program_tensor *t = write_down(b);
    if (!t) {
        return false;
    }
    t->src[choose(b->c, b->plan.rule->min_src)] = SP_PROGRAM_NONE;
    WORDS(b, "a source is missing");
    return true;
}

static bool break_order(breaking *b) {
    sp_program_tensor *t = write_down(b);
    if (!t) {
        return false;
    }
    t->src[choose(b->c, b->plan.rule->min_src)] = b->broken + choose(b->c, 3);
    WORDS(b, "a source is not a tensor before it");
    return true;
}

static bool break_extra_param(breaking *b) {
    sp_program_tensor *t = write_down(b);
    if (!t || b->plan.rule->n_params == SP_PROGRAM_MAX_PARAMS) {
        return false;
    }
    t->params[b->plan.rule->n_params + choose(b->c, SP_PROGRAM_MAX_PARAMS - b->plan.rule->n_params)] = 1 + choose(b->c, 255);
    WORDS(b, "it has parameters that its operation does not take");
    return true;
}

static bool break_field(breaking *b) {
    sp_program_tensor *t = write_down(b);
    if (!t) {
        return false;
    }
    switch (choose(b->c, 4)) {
    case 0:
        t->reserved = 1;
        WORDS(b, "reserved words are not zero");
        return true;
    case 1:
        t->ne[choose(b->c, 4)] ^= 1u << 31; /* absent becomes an expression that there is not, and one that there is too */
        WORDS(b, "a dimension names no expression");
        return true;
    case 2:
        t->type = (uint16_t)(b->plan.rule->op == SP_OP_CAST ? 31 : SP_TYPE_F16);
        WORDS(b, "its type is not one that its operation takes");
        return true;
    default:
        t->op = (uint16_t)(1000 + choose(b->c, 1000));
        WORDS(b, "there is no such operation");
        return true;
    }
}

/* ---- places ---- */

static bool break_destination(breaking *b) {
    const uint8_t view = b->plan.rule->view;
    const bool fits = view == V_NONE && chance(b->c, 2);
    int64_t ne[4];
    memcpy(ne, b->result_ne, sizeof ne);
    ne[1] += fits ? 0 : 1;
    const sp_tensor window = gen_window(b->c, b->options, b->p, fits ? GEN_IN : GEN_STATE, b->result_type, ne, FORM_PLAIN);
    sp_program_tensor *t = write_down(b);
    if (!t) {
        return false;
    }
    t->dst = window;
    WORDS(b, "%s",
          view == V_VIEW   ? "a view has no destination"
          : view != V_NONE ? "it has a destination already"
                           : "its destination must be a contiguous window of the result's type and shape, in a slot with WRITE");
    return true;
}

static bool break_target(breaking *b) {
    const uint8_t view = b->plan.rule->view;
    if (view != V_WRITES_A && view != V_WRITES_B) {
        return false;
    }
    gen_source *s = loosen(b, view == V_WRITES_B);
    if (!s) {
        return false;
    }
    s->slot = GEN_IN;
    WORDS(b, "what it writes must be a window of a slot with WRITE");
    return true;
}

static bool break_index(breaking *b) {
    const uint8_t at = b->plan.rule->index.source;
    if (!at || b->plan.src[at].absent) {
        return false;
    }
    gen_source *s = &b->plan.src[at];
    if (chance(b->c, 2) && !s->fixed) {
        s->slot = GEN_STATE;
        WORDS(b, "row ids must lie in a slot without WRITE");
        return true;
    }
    /* Numbers that the guest computes: whatever it likes. */
    const sp_tensor made = gen_window(b->c, b->options, b->p, GEN_IN, SP_TYPE_F32, s->ne, FORM_PLAIN);
    const int64_t ne[4] = {s->ne[0], s->ne[1], s->ne[2], s->ne[3]};
    if (s->type != SP_TYPE_I32) {
        return false;
    }
    *s = (gen_source){.fixed = true, .type = SP_TYPE_I32, .tensor = sp_cast(&b->p->g, made, SP_TYPE_I32)};
    memcpy(s->ne, ne, sizeof s->ne);
    WORDS(b, "row ids must be a window of memory");
    return true;
}

static const struct {
    const char *kind;
    bool (*apply)(breaking *b);
} breaks[] = {
    {"condition", break_condition}, /* the first: what there is most of */
    {"type", break_type},
    {"layout", break_layout},
    {"parameter", break_param},
    {"source count", break_count},
    {"source missing", break_missing},
    {"source order", break_order},
    {"parameter beyond", break_extra_param},
    {"field", break_field},
    {"destination", break_destination},
    {"target", break_target},
    {"row ids", break_index},
};

/* An operation that would be accepted behind what there is; taken back again. */
static bool find_good(breaking *b) {
    uint32_t count = 0;
    while (sp_rule_get(count + 1)) {
        count++;
    }
    for (int attempt = 0; attempt < 60; attempt++) {
        const gen_mark mark = gen_set_mark(b->p);
        const sp_rule *rule = sp_rule_get(b->options->only_op ? b->options->only_op : 1 + choose(b->c, count));
        sp_error err;
        if (!gen_propose(b->c, b->options, b->p, rule, &b->plan)) {
            continue;
        }
        const sp_tensor t = gen_emit(b->c, b->options, b->p, &b->plan);
        const bool good = !b->p->g.error && gen_check(b->p, &err);
        if (good) {
            b->result_type = b->p->spec->tensors[t].type;
            memcpy(b->result_ne, b->p->spec->tensors[t].ne, sizeof b->result_ne);
            for (uint32_t i = 0; i < b->plan.n_src; i++) {
                b->plan.src[i].form = FORM_PLAIN; /* strides are made anew, and what is contiguous is accepted again */
            }
        }
        gen_go_back(b->p, mark);
        if (good) {
            return true;
        }
    }
    return false;
}

bool generate_broken(choices *c, const gen_options *options, generated *out) {
    breaking b = {.c = c, .options = options, .p = out, .broken = SP_NONE};
    if (!generate(c, options, out)) {
        return false;
    }
    for (int attempt = 0; attempt < 20; attempt++) {
        const gen_mark mark = gen_set_mark(out);
        if (!find_good(&b)) {
            break;
        }
        const bool conditions = b.plan.rule->conds[0].relation != C_END;
        const uint32_t kind = conditions && chance(c, 2) ? 0 : choose(c, sizeof breaks / sizeof breaks[0]);
        b.broken = SP_NONE;
        if (breaks[kind].apply(&b) && (b.broken != SP_NONE || write_down(&b))) {
            out->broken = breaks[kind].kind;
            out->last_op = b.plan.rule->op;
            sp_spec_free(out->spec);
            sp_program_free(out->program);
            out->spec = NULL;
            out->program = NULL;
            return true;
        }
        gen_go_back(out, mark);
    }
    generated_free(out);
    return false;
}
