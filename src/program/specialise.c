/*
 * The second check: symbols get values, every expression is evaluated with overflow checks, and each tensor in turn is checked by its operation's
 * rule. What comes out holds numbers alone; ggml never sees anything that was not checked here.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "program/program_impl.h"

static sp_status broken(const spec_build *b, uint32_t index, const char *rule, sp_error *err) {
    const sp_spec_tensor *t = &b->spec->tensors[index];
    const char *op = t->kind == SP_TENSOR_OP ? sp_op_name(t->op) : t->kind == SP_TENSOR_WEIGHT ? "weight" : "window";
    return sp_fail(err, SP_ERR_FORMAT, "program: tensor %u, %s%s%s: %s", index, op, *t->name ? " " : "", t->name, rule);
}

static bool evaluate(const sp_spec *spec, uint32_t expr, int64_t *out) {
    if (expr == SP_PROGRAM_NONE) {
        *out = 0;
        return true;
    }
    const sp_program_expr *e = &spec->program->exprs[expr];
    if (e->symbol == SP_PROGRAM_NONE) {
        *out = e->b;
        return true;
    }
    int64_t product;
    return !__builtin_mul_overflow(e->a, (int64_t)spec->symbols[e->symbol], &product) && !__builtin_add_overflow(product, e->b, out);
}

static const char *evaluate_dims(spec_build *b) {
    const sp_program_tensor *w = b->wire;
    b->has_ne = w->ne[0] != SP_PROGRAM_NONE;
    b->has_nb = w->nb[0] != SP_PROGRAM_NONE;
    for (int i = 0; i < 4; i++) {
        if (!evaluate(b->spec, w->ne[i], &b->ne[i]) || (b->has_ne && (b->ne[i] < 1 || b->ne[i] > INT32_MAX))) {
            return "dimensions are 1 to 2^31 - 1";
        }
    }
    for (int i = 0; i < 3; i++) {
        if (!evaluate(b->spec, w->nb[i], &b->nb[i])) {
            return "strides fit 64 bits";
        }
    }
    return evaluate(b->spec, w->offset, &b->offset) ? NULL : "the offset fits 64 bits";
}

static const char *build_window(spec_build *b, sp_spec_tensor *t) {
    t->type = b->wire->type;
    t->slot = b->wire->slot;
    memcpy(t->ne, b->ne, sizeof t->ne);
    const char *reason = sp_check_shape(t);
    if (reason) {
        return reason;
    }
    sp_contiguous_strides(t);
    for (int i = 0; b->has_nb && i < 3; i++) {
        t->nb[i + 1] = (uint64_t)b->nb[i]; /* a negative one is too large for sp_check_strides */
    }
    return sp_place_leaf(b, t);
}

static const char *build_weight(spec_build *b, sp_spec_tensor *t, const sp_weight_info *info) {
    t->type = (uint16_t)info->type;
    t->slot = b->wire->slot;
    t->weight = info->index;
    memcpy(t->ne, info->ne, sizeof t->ne);
    const char *reason = sp_check_shape(t);
    if (reason) {
        return reason;
    }
    sp_contiguous_strides(t);
    return sp_place_leaf(b, t);
}

static const char *build_operation(spec_build *b, sp_spec_tensor *t) {
    const sp_rule *rule = sp_rule_get(t->op);
    const char *reason = sp_rule_apply(b, t);
    reason = reason ? reason : sp_place_operation(b, t);
    if (reason || !rule->index.source) {
        return reason;
    }
    const int64_t bound = b->spec->tensors[t->src[rule->index.of]].ne[rule->index.dim];
    return sp_index_note(b, t->src[rule->index.source], bound, rule->index.distinct);
}

/* ---- estimates: saturating, for they are compared with limits ---- */

static uint64_t saturating_add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return sp_add_u64(a, b, &sum) ? sum : UINT64_MAX;
}

static uint64_t saturating_mul(uint64_t a, uint64_t b) {
    uint64_t product;
    const bool fits = sp_mul_u64(a, b, &product);
    return product | ((uint64_t)fits - 1);
}

static uint64_t estimate_flops(const sp_spec *spec, const sp_spec_tensor *t) {
    const sp_spec_tensor *a = &spec->tensors[t->src[0]];
    const uint64_t in = (uint64_t)sp_elements(a), out = (uint64_t)sp_elements(t);
    switch (t->op) {
    case SP_OP_MUL_MAT:
    case SP_OP_MUL_MAT_ID:
        return saturating_mul(2 * (uint64_t)a->ne[0], out);
    case SP_OP_FLASH_ATTN_EXT: /* q k^T and its product with v, for each row of each head */
        return saturating_mul(2 * (uint64_t)(a->ne[0] + t->ne[0]),
                              saturating_mul(out / (uint64_t)t->ne[0], (uint64_t)spec->tensors[t->src[1]].ne[1]));
    case SP_OP_SET_ROWS:
        return (uint64_t)sp_elements(&spec->tensors[t->src[1]]);
    case SP_OP_SSM_CONV:
        return saturating_mul(2 * (uint64_t)spec->tensors[t->src[1]].ne[0], out);
    case SP_OP_SSM_SCAN: /* each element of the state, for each token */
        return saturating_mul(8 * (uint64_t)a->ne[0], (uint64_t)sp_elements(&spec->tensors[t->src[1]]));
    case SP_OP_GATED_DELTA_NET:
        return saturating_mul(8 * (uint64_t)a->ne[0], (uint64_t)sp_elements(&spec->tensors[t->src[2]]));
    case SP_OP_RWKV_WKV6:
    case SP_OP_RWKV_WKV7:
        return saturating_mul(8 * (uint64_t)a->ne[0], in);
    case SP_OP_LIGHTNING_INDEXER:
        return saturating_mul(2 * (uint64_t)a->ne[0] * (uint64_t)a->ne[1], out);
    case SP_OP_ARGSORT:
    case SP_OP_TOP_K:
        return saturating_mul(32, in);
    default:
        return in > out ? in : out;
    }
}

/* What ggml's CPU code takes beside the tensors: b converted to the type that a is multiplied with, and the lists of rows by expert. */
static uint64_t estimate_scratch(const sp_spec *spec, const sp_spec_tensor *t) {
    if (t->op == SP_OP_GATED_DELTA_NET || t->op == SP_OP_LIGHTNING_INDEXER) { /* a row for each thread */
        return saturating_mul(4 * 512, (uint64_t)spec->tensors[t->src[0]].ne[0]);
    }
    if (t->op != SP_OP_MUL_MAT && t->op != SP_OP_MUL_MAT_ID) {
        return 0;
    }
    const uint64_t converted = 4 * (uint64_t)sp_elements(&spec->tensors[t->src[1]]);
    if (t->op == SP_OP_MUL_MAT) {
        return converted;
    }
    const uint64_t ids = (uint64_t)sp_elements(&spec->tensors[t->src[2]]);
    return saturating_add(converted, saturating_mul((uint64_t)spec->tensors[t->src[0]].ne[2], saturating_add(128, saturating_mul(8, ids))));
}

static void charge(spec_build *b, const sp_spec_tensor *t, uint64_t *scratch) {
    sp_spec *spec = b->spec;
    const sp_rule *rule = sp_rule_get(t->op);
    if (rule->view == V_VIEW) {
        return;
    }
    const uint64_t needed = estimate_scratch(spec, t);
    *scratch = needed > *scratch ? needed : *scratch;
    spec->flops = saturating_add(spec->flops, estimate_flops(spec, t));
}

static sp_status build_tensor(spec_build *b, uint32_t index, uint64_t *scratch, sp_error *err) {
    sp_spec_tensor *t = &b->spec->tensors[index];
    b->wire = &b->program->tensors[index];
    b->index = index;
    t->kind = b->wire->kind, t->op = b->wire->op, t->n_src = b->wire->n_src;
    t->name = sp_program_name(b->program, b->wire->name);
    t->dst = b->wire->dst;
    memcpy(t->src, b->wire->src, sizeof t->src);
    memcpy(t->params, b->wire->params, sizeof t->params);
    const char *reason = evaluate_dims(b);
    if (!reason) {
        reason = t->kind == SP_TENSOR_MEMORY   ? build_window(b, t)
                 : t->kind == SP_TENSOR_WEIGHT ? build_weight(b, t, &b->program->weights[index])
                                               : build_operation(b, t);
    }
    if (reason) {
        return broken(b, index, reason, err);
    }
    t->start = b->places[index].start;
    if (t->kind == SP_TENSOR_OP) {
        charge(b, t, scratch);
    }
    return SP_OK;
}

/* ---- windows of writable slots ---- */

typedef struct window {
    uint32_t slot, tensor;
    uint64_t start, end;
} window;

static int by_place(const void *a, const void *b) {
    const window *x = a, *y = b;
    return x->slot != y->slot ? (x->slot < y->slot ? -1 : 1) : x->start < y->start ? -1 : x->start > y->start;
}

/* Else who reads what would depend on the device's order. Windows that are only read may overlap. */
static sp_status check_windows(const spec_build *b, sp_error *err) {
    const sp_spec *spec = b->spec;
    window *windows = malloc(spec->n_tensors * sizeof *windows);
    if (!windows) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < spec->n_tensors; i++) {
        const sp_spec_tensor *t = &spec->tensors[i];
        if (t->kind == SP_TENSOR_MEMORY && (spec->slots[t->slot].flags & SP_SLOT_WRITE)) {
            windows[n++] = (window){.slot = t->slot, .tensor = i, .start = t->offset, .end = t->offset + b->places[i].extent};
        }
    }
    qsort(windows, n, sizeof *windows, by_place);
    sp_status status = SP_OK;
    for (uint32_t i = 1; i < n && status == SP_OK; i++) {
        if (windows[i].slot == windows[i - 1].slot && windows[i].start < windows[i - 1].end) {
            status =
                sp_fail(err, SP_ERR_FORMAT, "program: windows %u and %u of slot %s overlap, and the slot has WRITE: use one window and views of it",
                        windows[i - 1].tensor, windows[i].tensor, spec->slots[windows[i].slot].name);
        }
    }
    free(windows);
    return status;
}

/* ---- the whole ---- */

static sp_status take_symbols(sp_spec *spec, const uint64_t *symbols, uint32_t n_symbols, sp_error *err) {
    const sp_program *program = spec->program;
    if (n_symbols != program->header->n_symbols) {
        return sp_fail(err, SP_ERR_ARGUMENT, "the program has %u symbols; %u values were given", program->header->n_symbols, n_symbols);
    }
    for (uint32_t i = 0; i < n_symbols; i++) {
        const sp_program_symbol *s = &program->symbols[i];
        if (symbols[i] < s->min || symbols[i] > s->max) {
            return sp_fail(err, SP_ERR_RANGE, "symbol %s is %llu; it must be %llu to %llu", sp_program_name(program, s->name),
                           (unsigned long long)symbols[i], (unsigned long long)s->min, (unsigned long long)s->max);
        }
        spec->symbols[i] = symbols[i];
    }
    return SP_OK;
}

static sp_status check_limits(const sp_spec *spec, const sp_spec_limits *limits, sp_error *err) {
    if (limits && spec->flops > limits->flops) {
        return sp_fail(err, SP_ERR_LIMIT, "the run is estimated at %.3g operations; the limit is %.3g", (double)spec->flops, (double)limits->flops);
    }
    if (limits && spec->temporary_bytes > limits->temporary_bytes) {
        return sp_fail(err, SP_ERR_LIMIT, "the run's temporaries are %llu bytes and more; the limit is %llu",
                       (unsigned long long)spec->temporary_bytes, (unsigned long long)limits->temporary_bytes);
    }
    return SP_OK;
}

static bool is_temporary(const sp_spec *spec, uint32_t t) {
    const sp_spec_tensor *s = &spec->tensors[t];
    return s->kind == SP_TENSOR_OP && s->alias == t && s->dst == SP_PROGRAM_NONE; /* a view's alias is what it is one of */
}

/* The most bytes of results that are held at once: from where one is made to where it, or a view of it, is read last; to the end, if it never is. */
static sp_status count_temporaries(const spec_build *b, uint64_t *most, sp_error *err) {
    const sp_spec *spec = b->spec;
    const uint32_t n = spec->n_tensors;
    uint32_t *last = calloc(n, sizeof *last); /* the reader, + 1 */
    uint64_t *ends = calloc(n, sizeof *ends); /* bytes that are read last here */
    uint64_t held = 0;
    for (uint32_t i = 0; last && ends && i < n; i++) {
        for (int s = 0; spec->tensors[i].kind == SP_TENSOR_OP && s < spec->tensors[i].n_src; s++) {
            if (spec->tensors[i].src[s] != SP_PROGRAM_NONE) {
                last[spec->tensors[spec->tensors[i].src[s]].alias] = i + 1;
            }
        }
    }
    *most = 0;
    for (uint32_t i = 0; last && ends && i < n; i++) { /* sums of at most 65,536 tensors of at most 2^40 bytes */
        if (is_temporary(spec, i)) {
            held += b->places[i].extent;
            ends[last[i] ? last[i] - 1 : n - 1] += b->places[i].extent;
        }
        *most = held > *most ? held : *most;
        held -= ends[i];
    }
    sp_status status = last && ends ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    free(last);
    free(ends);
    return status;
}

static sp_status build_all(spec_build *b, const uint64_t *symbols, uint32_t n_symbols, const sp_spec_limits *limits, sp_error *err) {
    sp_spec *spec = b->spec;
    sp_status status = take_symbols(spec, symbols, n_symbols, err);
    uint64_t scratch = 0;
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        spec->slots[i] = (sp_spec_slot){.name = sp_program_name(b->program, b->program->slots[i].name), .flags = b->program->slots[i].flags};
    }
    for (uint32_t i = 0; status == SP_OK && i < spec->n_tensors; i++) {
        status = build_tensor(b, i, &scratch, err);
    }
    status = status == SP_OK ? count_temporaries(b, &spec->temporary_bytes, err) : status;
    spec->temporary_bytes = saturating_add(spec->temporary_bytes, scratch);
    if (status == SP_OK) {
        status = check_windows(b, err);
    }
    return status == SP_OK ? check_limits(spec, limits, err) : status;
}

sp_status sp_program_specialise(const sp_program *program, const uint64_t *symbols, uint32_t n_symbols, const sp_spec_limits *limits, sp_spec **out,
                                sp_error *err) {
    *out = NULL;
    sp_spec *spec = calloc(1, sizeof *spec);
    if (!spec) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    const uint32_t n = program->header->n_tensors, n_slots = program->header->n_slots;
    *spec = (sp_spec){.program = program, .n_tensors = n, .n_slots = n_slots, .n_symbols = program->header->n_symbols};
    spec->rows_alone = program->header->flags & SP_PROGRAM_ROWS_ALONE;
    spec->tensors = calloc(n, sizeof *spec->tensors);
    spec->slots = calloc(n_slots + 1, sizeof *spec->slots);
    spec->indices = calloc(n, sizeof *spec->indices);
    spec_build build = {.program = program,
                        .spec = spec,
                        .places = calloc(n, sizeof *build.places),
                        .written = calloc(n_slots + 1, sizeof *build.written),
                        .index_of = calloc(n, sizeof *build.index_of)};
    sp_status status = SP_ERR_NO_MEMORY;
    if (spec->tensors && spec->slots && spec->indices && build.places && build.written && build.index_of) {
        status = build_all(&build, symbols, n_symbols, limits, err);
    } else {
        sp_fail(err, status, "out of memory");
    }
    free(build.places);
    free(build.written);
    free(build.index_of);
    if (status != SP_OK) {
        sp_spec_free(spec);
        return status;
    }
    *out = spec;
    return SP_OK;
}

void sp_spec_free(sp_spec *spec) {
    if (spec) {
        free(spec->tensors);
        free(spec->slots);
        free(spec->indices);
        free(spec);
    }
}
