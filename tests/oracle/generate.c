#include "oracle/generate.h"

#include <string.h>

#include "oracle/evaluate.h"

uint32_t choose(choices *c, uint32_t n) {
    if (n < 2) {
        return 0;
    }
    if (c->at < c->size) {
        uint32_t value = c->data[c->at++];
        if (n > 256 && c->at < c->size) {
            value = value << 8 | c->data[c->at++];
        }
        return value % n;
    }
    /* splitmix64 */
    uint64_t z = c->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ z >> 31) % n);
}

bool chance(choices *c, uint32_t n) {
    return choose(c, n) == 0;
}

gen_mark gen_set_mark(const generated *p) {
    gen_mark mark = {.tensors = p->g.n_tensors, .exprs = p->g.n_exprs, .strings = p->g.n_strings, .symbols = p->g.n_symbols};
    memcpy(mark.used, p->used, sizeof mark.used);
    return mark;
}

void gen_go_back(generated *p, gen_mark mark) {
    p->g.n_tensors = mark.tensors;
    p->g.n_exprs = mark.exprs;
    p->g.n_strings = mark.strings;
    p->g.n_symbols = mark.symbols;
    memcpy(p->used, mark.used, sizeof mark.used);
    while (p->n_hidden && p->hidden[p->n_hidden - 1] >= mark.tensors) {
        p->n_hidden--;
    }
}

static void drop_checked(generated *p) {
    sp_spec_free(p->spec);
    sp_program_free(p->program);
    p->spec = NULL;
    p->program = NULL;
}

bool gen_check(generated *p, sp_error *err) {
    const sp_spec_limits limits = {.flops = 4000000, .temporary_bytes = 16 << 20};
    uint32_t size;
    const void *bytes = sp_graph_bytes(&p->g, &size);
    sp_program *program = NULL;
    sp_spec *spec = NULL;
    sp_status status = bytes ? sp_program_load(bytes, size, &described_weights, &program, err) : SP_ERR_NO_MEMORY;
    if (status == SP_OK) {
        status = sp_program_specialise(program, p->symbols, p->g.n_symbols, &limits, &spec, err);
    }
    if (status != SP_OK) {
        sp_program_free(program);
        return false;
    }
    drop_checked(p);
    p->program = program;
    p->spec = spec;
    return true;
}

/* ---- writing down ---- */

/* A number as a constant, or by a symbol that has the right value. */
static sp_expr dim(choices *c, generated *p, int64_t value) {
    if (!chance(c, 6)) {
        return sp_dim(value);
    }
    if (p->g.n_symbols < 3 && (p->g.n_symbols == 0 || chance(c, 4))) {
        char name[2] = {(char)('k' + p->g.n_symbols), 0};
        p->symbols[p->g.n_symbols] = 1 + choose(c, 40);
        sp_symbol(&p->g, name, choose(c, 2), 40 + choose(c, 100));
    }
    const uint32_t symbol = choose(c, p->g.n_symbols);
    static const int64_t factors[] = {1, 2, -1, 4};
    const int64_t a = factors[choose(c, 4)];
    return (sp_expr){a, value - a * (int64_t)p->symbols[symbol], symbol};
}

static void pad(choices *c, const gen_options *options, uint64_t *at) {
    *at = (*at + options->alignment - 1) / options->alignment * options->alignment;
    *at += chance(c, 8) ? options->alignment * (1 + choose(c, 3)) : 0;
}

/* Strides of a window whose rows do not lie side by side: padded, with its outer dimensions in another order, or with all rows at one distance. */
static void make_strides(choices *c, uint32_t type, const int64_t ne[4], uint32_t form, uint64_t nb[4]) {
    const sp_type_traits *traits = sp_type_get(type);
    uint64_t next = (uint64_t)ne[0] / traits->block * traits->size;
    int order[3] = {1, 2, 3};
    if (form == FORM_SWAPPED) {
        const uint32_t i = choose(c, 3), j = choose(c, 3);
        const int kept = order[i];
        order[i] = order[j], order[j] = kept;
    }
    for (int i = 0; i < 3; i++) {
        next += (form == FORM_PADDED || (form == FORM_FLAT && i == 0)) ? choose(c, 4) * traits->size : 0;
        nb[order[i]] = next;
        next *= (uint64_t)ne[order[i]];
    }
}

sp_tensor gen_window(choices *c, const gen_options *options, generated *p, uint32_t slot, uint32_t type, const int64_t ne[4], uint32_t form) {
    const sp_type_traits *traits = sp_type_get(type);
    int64_t shape[4] = {ne[0], ne[1], ne[2], ne[3]};
    if (form == FORM_TRANSPOSED) {
        shape[0] = ne[1], shape[1] = ne[0];
    }
    pad(c, options, &p->used[slot]);
    const sp_expr n[4] = {dim(c, p, shape[0]), dim(c, p, shape[1]), dim(c, p, shape[2]), dim(c, p, shape[3])};
    const sp_expr offset = dim(c, p, (int64_t)p->used[slot]);
    uint64_t nb[4] = {traits->size, 0, 0, 0}, extent = (uint64_t)shape[0] / traits->block * traits->size;
    make_strides(c, type, shape, form == FORM_TRANSPOSED ? FORM_PLAIN : form, nb);
    for (int i = 1; i < 4; i++) {
        extent += ((uint64_t)shape[i] - 1) * nb[i];
    }
    const sp_expr strides[3] = {dim(c, p, (int64_t)nb[1]), dim(c, p, (int64_t)nb[2]), dim(c, p, (int64_t)nb[3])};
    const bool plain = form == FORM_PLAIN || form == FORM_TRANSPOSED;
    const sp_tensor t = sp_graph_memory(&p->g, NULL, slot, type, n, plain && chance(c, 2) ? NULL : strides, offset);
    p->used[slot] += extent;
    return form == FORM_TRANSPOSED ? sp_transpose(&p->g, t) : t;
}

static sp_tensor emit_source(choices *c, const gen_options *options, generated *p, const gen_source *s) {
    sp_tensor t = s->tensor;
    if (s->absent) {
        return SP_NONE;
    }
    if (s->weight) {
        char name[64];
        snprintf(name, sizeof name, "%u %lld %lld %lld %lld", s->type, (long long)s->ne[0], (long long)s->ne[1], (long long)s->ne[2],
                 (long long)s->ne[3]);
        t = sp_graph_weight(&p->g, name);
    } else if (!s->fixed) {
        t = gen_window(c, options, p, s->slot, s->type, s->ne, s->form);
    }
    return s->clamped ? sp_clamp(&p->g, t, -1.0f / 0.0f, 1.0f / 0.0f) : t;
}

sp_tensor gen_emit(choices *c, const gen_options *options, generated *p, const gen_plan *plan) {
    sp_tensor src[GEN_MAX_SRC];
    for (uint32_t i = 0; i < plan->n_src; i++) {
        src[i] = emit_source(c, options, p, &plan->src[i]);
    }
    const sp_tensor t = sp_graph_op(&p->g, plan->rule->op, plan->n_src, src, plan->rule->n_params, plan->params);
    if (p->g.error) {
        return SP_NONE;
    }
    if (plan->has_ne) {
        sp_graph_with_dims(&p->g, t, dim(c, p, plan->ne[0]), dim(c, p, plan->ne[1]), dim(c, p, plan->ne[2]), dim(c, p, plan->ne[3]));
    }
    for (int i = 0; plan->has_nb && i < 3; i++) {
        const uint32_t expr = sp_graph_expr(&p->g, dim(c, p, plan->nb[i]));
        p->g.tensors[t].nb[i] = expr;
    }
    if (plan->has_nb || plan->offset) {
        const uint32_t expr = sp_graph_expr(&p->g, dim(c, p, plan->offset));
        p->g.tensors[t].offset = expr;
    }
    p->g.tensors[t].type = (uint16_t)plan->type;
    return t;
}

/* ---- whole programs ---- */

static void show(choices *c, const gen_options *options, generated *p, sp_tensor t) {
    const sp_spec_tensor *result = &p->spec->tensors[t];
    const uint32_t type = result->type;
    const int64_t ne[4] = {result->ne[0], result->ne[1], result->ne[2], result->ne[3]};
    sp_cpy(&p->g, t, gen_window(c, options, p, GEN_SEEN, type, ne, FORM_PLAIN));
}

/* Puts the result of the last operation, which was accepted, into a window: a new one, or where its source lies. */
static void place(choices *c, const gen_options *options, generated *p, gen_mark mark, const gen_plan *plan, sp_tensor t) {
    const sp_spec_tensor result = p->spec->tensors[t];
    const gen_mark after = gen_set_mark(p);
    const gen_source *first = &plan->src[0];
    const bool there = plan->rule->in_place && first->fixed && !first->weight && p->spec->tensors[first->tensor].kind == SP_TENSOR_MEMORY;
    (void)after;
    gen_go_back(p, mark);
    const sp_tensor window = there ? first->tensor : gen_window(c, options, p, GEN_STATE, result.type, result.ne, FORM_PLAIN);
    const sp_tensor again = gen_emit(c, options, p, plan);
    sp_graph_into(&p->g, again, window);
}

/* One more operation; false if it was not accepted, and the program is as before. hide: nobody but the next one is to see its result. */
static bool add_operation(choices *c, const gen_options *options, generated *p, const sp_rule *rule, bool hide) {
    const gen_mark mark = gen_set_mark(p);
    gen_plan plan;
    sp_error err;
    if (!gen_propose(c, options, p, rule, &plan)) {
        return false;
    }
    sp_tensor t = gen_emit(c, options, p, &plan);
    const bool accepted = !p->g.error && gen_check(p, &err) && sp_elements(&p->spec->tensors[t]) <= 1 << 15;
    if (!accepted) {
        gen_go_back(p, mark);
        return false;
    }
    if (hide) {
        p->hidden[p->n_hidden++] = t;
        p->n_ops++;
        return true;
    }
    if (rule->view == V_NONE && chance(c, 3)) {
        place(c, options, p, mark, &plan, t);
        if (!gen_check(p, &err)) { /* as before, without a destination */
            gen_go_back(p, mark);
            gen_emit(c, options, p, &plan);
            if (!gen_check(p, &err)) {
                gen_go_back(p, mark);
                return false;
            }
        }
        t = p->g.n_tensors - 1;
    }
    p->last_op = rule->op;
    if (rule->view == V_VIEW) {
        return true;
    }
    p->n_ops++;
    show(c, options, p, t);
    if (plan.src[0].clamped) {
        show(c, options, p, t - 1);
    }
    if (!gen_check(p, &err)) { /* the copy is refused: types that nothing copies */
        gen_go_back(p, mark);
        p->n_ops--;
        return false;
    }
    return true;
}

/* What devices compute at once where nothing else uses what lies between: ggml's Vulkan backend all of them, its CPU backend the first. */
static const struct chain {
    uint16_t ops[3];
    uint8_t at[3]; /* as which source the result before comes */
} chains[] = {
    {{SP_OP_RMS_NORM, SP_OP_MUL}, {0, 0}},
    {{SP_OP_RMS_NORM, SP_OP_MUL, SP_OP_ROPE_EXT}, {0, 0, 0}},
    {{SP_OP_RMS_NORM, SP_OP_MUL, SP_OP_ADD}, {0, 0, 0}},
    {{SP_OP_MUL_MAT, SP_OP_ADD}, {0, 0}},
    {{SP_OP_MUL_MAT, SP_OP_ADD}, {0, 1}},
    {{SP_OP_MUL_MAT, SP_OP_ADD, SP_OP_ADD}, {0, 0, 0}},
    {{SP_OP_MUL_MAT_ID, SP_OP_ADD_ID}, {0, 0}},
    {{SP_OP_MUL_MAT_ID, SP_OP_MUL}, {0, 0}},
    {{SP_OP_MUL_MAT_ID, SP_OP_ADD_ID, SP_OP_MUL}, {0, 0, 0}},
    {{SP_OP_ADD, SP_OP_ADD, SP_OP_ADD}, {0, 0, 0}},
    {{SP_OP_ADD, SP_OP_RMS_NORM}, {0, 0}},
    {{SP_OP_SILU, SP_OP_MUL}, {0, 0}},
    {{SP_OP_SIGMOID, SP_OP_MUL}, {0, 1}},
    {{SP_OP_SOFTPLUS, SP_OP_MUL}, {0, 0}},
    {{SP_OP_SSM_CONV, SP_OP_SILU}, {0, 0}},
    {{SP_OP_MUL, SP_OP_ADD}, {0, 0}},
    {{SP_OP_GET_ROWS, SP_OP_SCALE}, {0, 0}},
};

/* Operations of which each has the result of the one before, and nobody else has; false if that led nowhere. */
static bool add_chain(choices *c, const gen_options *options, generated *p) {
    const struct chain *chain = &chains[choose(c, sizeof chains / sizeof chains[0])];
    const gen_mark mark = gen_set_mark(p);
    const uint32_t n_ops = p->n_ops, length = chain->ops[2] ? 3 : 2;
    bool added = p->n_hidden + length <= GEN_MAX_HIDDEN;
    for (uint32_t i = 0; added && i < length; i++) {
        added = false;
        p->chained_at = chain->at[i];
        for (int attempt = 0; !added && attempt < 8; attempt++) {
            added = add_operation(c, options, p, sp_rule_get(chain->ops[i]), i + 1 < length);
        }
        p->chained = p->g.n_tensors - 1;
    }
    p->chained = SP_PROGRAM_NONE;
    if (!added) {
        gen_go_back(p, mark);
        p->n_ops = n_ops;
    }
    return added;
}

static void begin(generated *p) {
    memset(p, 0, sizeof *p);
    p->chained = SP_PROGRAM_NONE;
    sp_graph_init(&p->g);
    sp_graph_slot(&p->g, "in", SP_SLOT_READ);
    sp_graph_slot(&p->g, "state", SP_SLOT_STATE);
    sp_graph_slot(&p->g, EVAL_SEEN, SP_SLOT_WRITE | SP_SLOT_OUTPUT);
}

static const sp_rule *pick_rule(choices *c, const gen_options *options) {
    uint32_t count = 0;
    while (sp_rule_get(count + 1)) {
        count++;
    }
    return sp_rule_get(options->only_op ? options->only_op : 1 + choose(c, count));
}

bool generate(choices *c, const gen_options *options, generated *out) {
    begin(out);
    const uint32_t wanted = 1 + choose(c, options->ops);
    for (uint32_t attempt = 0; attempt < 40 * wanted && out->n_ops < wanted; attempt++) {
        if (options->chains && chance(c, 2)) {
            add_chain(c, options, out);
        } else {
            add_operation(c, options, out, pick_rule(c, options), false);
        }
    }
    sp_error err;
    if (out->n_ops == 0 || out->g.error || !gen_check(out, &err)) {
        generated_free(out);
        return false;
    }
    return true;
}

void generated_free(generated *p) {
    drop_checked(p);
    sp_graph_free(&p->g);
}
