/* Several traces, alike but for their sizes, become one program. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/trace.h"

enum { LEAF_WEIGHT, LEAF_INPUT, LEAF_STATE };

typedef struct emitter {
    const sp_model *model;
    const trace *traces;
    const trace_window *window;
    const char *output; /* the slot of the result */
    sp_graph graph;
    sp_expr symbols[N_SYMS];
    sp_tensor *tensors;     /* by node */
    sp_tensor minus_tokens; /* an input: minus n_tokens; SP_NONE: not needed yet */
    uint32_t n_scratch;
    char **slots; /* by node: the name of the slot that it was the first to have */
} emitter;

/* The leaf that a node writes to, or NO_NODE. */
static int written_leaf(const trace *t, const trace_node *node) {
    if (node->empty || (node->op != GGML_OP_SET_ROWS && (node->op != GGML_OP_CPY || node->self_source))) {
        return NO_NODE;
    }
    int at = node->op == GGML_OP_SET_ROWS ? node->src[2] : node->src[1];
    while (at != NO_NODE && t->nodes[at].is_view) {
        at = t->nodes[at].src[0];
    }
    return at != NO_NODE && t->nodes[at].op == GGML_OP_NONE ? at : NO_NODE;
}

/* Caches of keys and values (cache_k, cache_v), and recurrent state (cache_r, cache_s). */
static bool is_state(const char *name) {
    return strncmp(name, "cache_", 6) == 0 && name[6] && strchr("kvrs", name[6]) && strncmp(name + 7, "_l", 2) == 0;
}

/*
 * Recurrent state under a name of the model's own: no weight, no input, and an operation writes it. Its slot is called cache_r_ and that name.
 */
static bool is_named_state(const emitter *e, int index) {
    const trace *t = &e->traces[0];
    if (t->nodes[index].input || t->nodes[index].type != GGML_TYPE_F32 || !sp_trace_is_sized(e->traces, index, 1, NO_NODE)) {
        return false;
    }
    for (int i = 0; i < t->n; i++) {
        if (written_leaf(t, &t->nodes[i]) == index) {
            return true;
        }
    }
    return false;
}

/* As many cells as a cache has; recurrent state is of one size whatever the context's. */
static bool is_state_sized(const emitter *e, int index) {
    const char kind = e->traces[0].nodes[index].name[6];
    const bool cells = sp_trace_is_sized(e->traces, index, 1, SYM_CTX) || sp_trace_is_sized(e->traces, index, 1, SYM_CTX_SWA);
    return sp_trace_is_sized(e->traces, index, 2, NO_NODE) && (kind == 'k' || kind == 'v' ? cells : sp_trace_is_sized(e->traces, index, 1, NO_NODE));
}

static sp_status leaf_kind(const emitter *e, int index, int *kind, char slot[GGML_MAX_NAME], sp_error *err) {
    const trace_node *node = &e->traces[0].nodes[index];
    const char *name = *node->name ? node->name : "(without a name)";
    char why[96] = "is of a size that is not known";
    sp_weight_info info;
    if (sp_model_find_weight((void *)(uintptr_t)e->model, 0, node->name, &info)) {
        *kind = LEAF_WEIGHT;
        return SP_OK;
    }
    if (is_state(node->name) && is_state_sized(e, index)) {
        snprintf(slot, GGML_MAX_NAME, "%s", node->name);
        *kind = LEAF_STATE;
        return SP_OK;
    }
    if (!is_state(node->name) && is_named_state(e, index)) {
        snprintf(slot, GGML_MAX_NAME, "cache_r_%.54s", node->name);
        *kind = LEAF_STATE;
        return SP_OK;
    }
    if (!is_state(node->name) && sp_trace_input(e->traces, index, e->window, slot, why, sizeof why)) {
        *kind = LEAF_INPUT;
        return SP_OK;
    }
    if (strstr(name, ".weight") || strstr(name, ".bias")) {
        return sp_fail(err, SP_ERR_FORMAT, "the file lacks the tensor %s", name);
    }
    return sp_fail(err, SP_ERR_UNSUPPORTED, "it wants the input or state \"%s\" (%s [%lld, %lld]), which %s", name, ggml_type_name(node->type),
                   (long long)node->ne[0], (long long)node->ne[1], why);
}

static sp_status fit(const emitter *e, const int64_t values[N_TRACES], const trace_node *node, const char *what, sp_expr *out, sp_error *err) {
    int symbol;
    int64_t a, b;
    if (!sp_trace_fit(e->traces, values, &symbol, &a, &b)) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "%s of %s (%s) is no multiple of one symbol plus a constant: %lld %lld %lld %lld %lld", what,
                       node->name, ggml_op_name(node->op), (long long)values[0], (long long)values[1], (long long)values[2], (long long)values[3],
                       (long long)values[4]);
    }
    *out = symbol == NO_NODE ? sp_dim(b) : sp_affine(a, e->symbols[symbol], b);
    return SP_OK;
}

static sp_status fit_ne(const emitter *e, int index, sp_expr out[4], sp_error *err) {
    sp_status status = SP_OK;
    for (int d = 0; status == SP_OK && d < 4; d++) {
        int64_t values[N_TRACES];
        for (int t = 0; t < N_TRACES; t++) {
            values[t] = e->traces[t].nodes[index].ne[d];
        }
        status = fit(e, values, &e->traces[0].nodes[index], "a dimension", &out[d], err);
    }
    return status;
}

/* A leaf before this one that has the slot already. */
static int same_slot(const emitter *e, int index, const char *slot) {
    for (int i = 0; i < index; i++) {
        if (e->slots[i] && strcmp(e->slots[i], slot) == 0) {
            return i;
        }
    }
    return NO_NODE;
}

static bool same_window(const emitter *e, int a, int b) {
    for (int t = 0; t < N_TRACES; t++) {
        const trace_node *x = &e->traces[t].nodes[a], *y = &e->traces[t].nodes[b];
        if (x->type != y->type || memcmp(x->ne, y->ne, sizeof x->ne) != 0) {
            return false;
        }
    }
    return true;
}

/* Two caches of one name are two slots; two inputs of one name, type and shape hold the same, and are one. */
static sp_status emit_slot(emitter *e, int index, int kind, char slot[GGML_MAX_NAME], sp_error *err) {
    const trace_node *node = &e->traces[0].nodes[index];
    int same = same_slot(e, index, slot);
    if (same != NO_NODE && kind == LEAF_INPUT && same_window(e, same, index)) {
        e->tensors[index] = e->tensors[same];
        return SP_OK;
    }
    char first[GGML_MAX_NAME];
    snprintf(first, sizeof first, "%s", slot);
    for (int n = 2; same != NO_NODE; n++) {
        snprintf(slot, GGML_MAX_NAME, "%.50s.%d", first, n);
        same = same_slot(e, index, slot);
    }
    sp_expr ne[4];
    sp_status status = fit_ne(e, index, ne, err);
    if (status == SP_OK) {
        uint32_t at = sp_graph_slot(&e->graph, slot, kind == LEAF_STATE ? SP_SLOT_READ | SP_SLOT_WRITE | SP_SLOT_STATE : SP_SLOT_READ);
        e->tensors[index] = sp_graph_memory(&e->graph, slot, at, (uint32_t)node->type, ne, NULL, sp_dim(0));
        e->slots[index] = strdup(slot);
        status = e->slots[index] ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    return status;
}

static sp_status emit_leaf(emitter *e, int index, sp_error *err) {
    const trace_node *node = &e->traces[0].nodes[index];
    char slot[GGML_MAX_NAME];
    int kind = 0;
    sp_status status = leaf_kind(e, index, &kind, slot, err);
    if (status == SP_OK && kind == LEAF_WEIGHT) {
        e->tensors[index] = sp_graph_weight(&e->graph, node->name);
        return SP_OK;
    }
    return status == SP_OK ? emit_slot(e, index, kind, slot, err) : status;
}

/* Views say their strides and offset. */
static sp_status emit_view(emitter *e, int index, sp_error *err) {
    const trace_node *node = &e->traces[0].nodes[index];
    sp_expr ne[4], nb[3], offset;
    sp_status status = fit_ne(e, index, ne, err);
    int64_t values[N_TRACES];
    for (int d = 0; status == SP_OK && d < 3; d++) {
        for (int t = 0; t < N_TRACES; t++) {
            const trace_node *at = &e->traces[t].nodes[index];
            /* The stride of a dimension of size 1 moves nothing; ggml derives it from products that are no expression of ours. */
            values[t] = at->ne[d + 1] == 1 ? (int64_t)at->nb[1] : (int64_t)at->nb[d + 1];
        }
        status = fit(e, values, node, "a stride", &nb[d], err);
    }
    for (int t = 0; t < N_TRACES; t++) {
        values[t] = (int64_t)e->traces[t].nodes[index].view_offset;
    }
    if (status == SP_OK) {
        status = fit(e, values, node, "the offset", &offset, err);
    }
    if (status == SP_OK) {
        e->tensors[index] = sp_view_4d(&e->graph, e->tensors[node->src[0]], ne[0], ne[1], ne[2], ne[3], nb[0], nb[1], nb[2], offset);
    }
    return status;
}

/* A window of the node's shape in a slot of its own: memory that a run writes before it reads it. */
static sp_status emit_scratch(emitter *e, int index, sp_tensor *out, sp_error *err) {
    sp_expr ne[4];
    char slot[GGML_MAX_NAME];
    sp_status status = fit_ne(e, index, ne, err);
    if (status == SP_OK) {
        snprintf(slot, sizeof slot, "scratch_%u", e->n_scratch++);
        uint32_t at = sp_graph_slot(&e->graph, slot, SP_SLOT_READ | SP_SLOT_WRITE);
        *out = sp_graph_memory(&e->graph, slot, at, (uint32_t)e->traces[0].nodes[index].type, ne, NULL, sp_dim(0));
    }
    return status;
}

/* ggml fills a tensor like its source; a program's window can be filled in its place, and then rows of it be set. */
static sp_status emit_fill(emitter *e, int index, sp_error *err) {
    const trace_node *node = &e->traces[0].nodes[index];
    sp_tensor window = SP_NONE;
    sp_status status = emit_scratch(e, index, &window, err);
    if (status == SP_OK) {
        uint32_t value;
        memcpy(&value, node->params, sizeof value);
        sp_tensor like = e->tensors[node->src[0]];
        sp_tensor filled = sp_graph_op(&e->graph, SP_OP_FILL, 1, like == SP_NONE ? &window : &like, 1, &value);
        sp_graph_into(&e->graph, filled, window);
        e->tensors[index] = window;
    }
    return status;
}

/*
 * Operations that step through rows by one stride want those of dimensions of size 1 in order too; a permuted view of a single token does not have
 * them, and reshaped into its own shape it has.
 */
static sp_status emit_packed(emitter *e, int index, sp_tensor *out, sp_error *err) {
    const trace_node *node = &e->traces[0].nodes[index];
    sp_expr ne[4];
    if (!node->is_view || !node->contiguous) {
        return SP_OK;
    }
    sp_status status = fit_ne(e, index, ne, err);
    if (status == SP_OK) {
        *out = sp_reshape_4d(&e->graph, *out, ne[0], ne[1], ne[2], ne[3]);
    }
    return status;
}

/* Scaling by minus the number of tokens, which is a parameter in ggml: here it is a product with an input. */
static bool scales_by_tokens(const trace *traces, int index) {
    for (int t = 0; t < N_TRACES; t++) {
        const trace_node *node = &traces[t].nodes[index];
        float by[2]; /* and what is added */
        memcpy(by, node->params, sizeof by);
        if (node->op != GGML_OP_SCALE || by[0] != -(float)traces[t].symbols[SYM_TOKENS] || by[1] != 0) {
            return false;
        }
    }
    return true;
}

static void emit_scale_by_tokens(emitter *e, int index) {
    if (e->minus_tokens == SP_NONE) {
        const sp_expr ne[4] = {sp_dim(1), sp_dim(1), sp_dim(1), sp_dim(1)};
        const uint32_t slot = sp_graph_slot(&e->graph, "minus_n_tokens", SP_SLOT_READ);
        e->minus_tokens = sp_graph_memory(&e->graph, "minus_n_tokens", slot, SP_TYPE_F32, ne, NULL, sp_dim(0));
    }
    e->tensors[index] = sp_mul(&e->graph, e->tensors[e->traces[0].nodes[index].src[0]], e->minus_tokens);
}

/* One of two sources may be empty where a model has none of what is joined. */
static bool joins_nothing(const emitter *e, const trace_node *node, sp_tensor *other) {
    const trace_node *nodes = e->traces[0].nodes;
    for (int i = 0; node->op == GGML_OP_CONCAT && i < 2; i++) {
        if (nodes[node->src[i]].empty) {
            *other = e->tensors[node->src[1 - i]];
            return true;
        }
    }
    return false;
}

static sp_status emit_operation(emitter *e, int index, sp_error *err) {
    const trace_node *node = &e->traces[0].nodes[index];
    if (joins_nothing(e, node, &e->tensors[index])) {
        return SP_OK;
    }
    if (node->op == GGML_OP_FILL) {
        return emit_fill(e, index, err);
    }
    if (scales_by_tokens(e->traces, index)) {
        emit_scale_by_tokens(e, index);
        return SP_OK;
    }
    uint32_t params[SP_PROGRAM_MAX_PARAMS];
    uint16_t op = sp_trace_operation(node, params);
    if (!op) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "it uses the operation %s (%s), which is not supported yet", ggml_op_name(node->op), node->name);
    }
    if (op == SP_OP_VIEW) {
        return emit_view(e, index, err);
    }
    sp_tensor src[SP_PROGRAM_MAX_SRC];
    uint32_t n = 0;
    for (uint32_t i = 0; i < SP_PROGRAM_MAX_SRC && i < GGML_MAX_SRC; i++) {
        src[i] = node->src[i] == NO_NODE ? SP_PROGRAM_NONE : e->tensors[node->src[i]];
        n = node->src[i] == NO_NODE ? n : i + 1;
    }
    if (op == SP_OP_SCALE || op == SP_OP_CLAMP || op == SP_OP_ARGSORT || op == SP_OP_TOP_K) {
        sp_status status = emit_packed(e, node->src[0], &src[0], err);
        if (status != SP_OK) {
            return status;
        }
    }
    if (op == SP_OP_SET_ROWS) { /* ggml keeps rows, ids, destination */
        sp_tensor rows = src[0], ids = src[1];
        src[0] = src[2], src[1] = rows, src[2] = ids;
    }
    if (op == SP_OP_ARGSORT || op == SP_OP_TOP_K) { /* what is sorted must be free of NaN; this changes nothing else */
        src[0] = sp_clamp(&e->graph, src[0], -INFINITY, INFINITY);
    }
    n = op == SP_OP_REPEAT || op == SP_OP_RESHAPE || op == SP_OP_CONT ? 1 : n;
    uint32_t n_params = 0;
    for (uint32_t i = 0; i < SP_PROGRAM_MAX_PARAMS; i++) {
        n_params = params[i] ? i + 1 : n_params;
    }
    sp_tensor tensor = sp_graph_op(&e->graph, op, n, src, n_params, params);
    if (op == SP_OP_RESHAPE || op == SP_OP_REPEAT || op == SP_OP_CONT) {
        sp_expr ne[4];
        sp_status status = fit_ne(e, index, ne, err);
        if (status != SP_OK) {
            return status;
        }
        sp_graph_with_dims(&e->graph, tensor, ne[0], ne[1], ne[2], ne[3]);
    }
    if (op == SP_OP_CAST) {
        e->graph.tensors[tensor].type = (uint16_t)node->type;
    }
    e->tensors[index] = *node->name ? sp_set_name(&e->graph, tensor, node->name) : tensor;
    return SP_OK;
}

/* The result goes straight into the guest's memory. */
static sp_status emit_output(emitter *e, int index, sp_error *err) {
    sp_expr ne[4];
    sp_status status = fit_ne(e, index, ne, err);
    if (status != SP_OK) {
        return status;
    }
    uint32_t slot = sp_graph_slot(&e->graph, e->output, SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor window = sp_graph_memory(&e->graph, e->output, slot, SP_TYPE_F32, ne, NULL, sp_dim(0));
    status = emit_operation(e, index, err);
    if (status == SP_OK) {
        sp_graph_into(&e->graph, e->tensors[index], window);
    }
    return status;
}

/* Parameters that differ from batch to batch and mean nothing here: a view's offset, which is fitted, and attention's hint of how much is masked. */
static bool same_params(const trace_node *a, const trace_node *b) {
    enum { SCALE_TO_PREC = 4 };
    return a->op == GGML_OP_VIEW ||
           memcmp(a->params, b->params, a->op == GGML_OP_FLASH_ATTN_EXT ? SCALE_TO_PREC * sizeof *a->params : sizeof a->params) == 0;
}

static bool alike(const trace *traces, int t, int index) {
    const trace_node *a = &traces[0].nodes[index], *b = &traces[t].nodes[index];
    return a->op == b->op && a->type == b->type && strcmp(a->name, b->name) == 0 && a->whole_row == b->whole_row &&
           memcmp(a->src, b->src, sizeof a->src) == 0 && (same_params(a, b) || scales_by_tokens(traces, index));
}

static sp_status check_alike(const trace *traces, sp_error *err) {
    for (int t = 1; t < N_TRACES; t++) {
        if (traces[t].n != traces[0].n) {
            return sp_fail(err, SP_ERR_UNSUPPORTED, "its graph has %d nodes for %d tokens and %d for %d", traces[0].n,
                           (int)traces[0].symbols[SYM_TOKENS], traces[t].n, (int)traces[t].symbols[SYM_TOKENS]);
        }
        for (int i = 0; i < traces[0].n; i++) {
            if (!alike(traces, t, i)) {
                return sp_fail(err, SP_ERR_UNSUPPORTED, "its graph changes with the batch at %s (%s)", traces[0].nodes[i].name,
                               ggml_op_name(traces[0].nodes[i].op));
            }
        }
    }
    return SP_OK;
}

/* What libllama pools: the source of the rows that it picks. NO_NODE too where more is computed of what is pooled. */
static int find_embeddings(const trace *traces) {
    int pooled = NO_NODE, n = 0;
    for (int i = 0; i < traces[0].n; i++) {
        if (strcmp(traces[0].nodes[i].name, "result_embd_pooled") == 0) {
            pooled = traces[0].nodes[i].op == GGML_OP_GET_ROWS ? traces[0].nodes[i].src[0] : NO_NODE;
            n++;
        }
    }
    return n == 1 && pooled != NO_NODE && sp_trace_is_sized(traces, pooled, 1, SYM_TOKENS) ? pooled : NO_NODE;
}

/* The logits: by their name, or else the last result with a number for each token of the vocabulary and each output. */
static int find_logits(const sp_model *model, const trace *traces) {
    for (int i = traces[0].n - 1; i >= 0; i--) {
        if (strcmp(traces[0].nodes[i].name, "result_output") == 0) {
            return i;
        }
    }
    for (int i = traces[0].n - 1; i >= 0; i--) {
        const trace_node *node = &traces[0].nodes[i];
        if (node->op != GGML_OP_NONE && node->type == GGML_TYPE_F32 && node->ne[0] == (int64_t)model->info.n_vocab &&
            sp_trace_is_sized(traces, i, 1, SYM_OUTPUTS)) {
            return i;
        }
    }
    return NO_NODE;
}

/* Marks what the output and the writes of state need. */
static void mark_used(trace *t, int output) {
    for (int i = t->n - 1; i >= 0; i--) {
        trace_node *node = &t->nodes[i];
        node->used |= i == output;
        node->used |= written_leaf(t, node) != NO_NODE;
        for (int s = 0; node->used && s < GGML_MAX_SRC; s++) {
            if (node->src[s] != NO_NODE) {
                t->nodes[node->src[s]].used = true;
            }
        }
    }
}

/* A leaf that nothing reads: tensors like it are filled. */
static bool is_shape_alone(const trace *t, int index) {
    if (t->nodes[index].op != GGML_OP_NONE || t->nodes[index].input) {
        return false;
    }
    bool filled = false;
    for (int i = index + 1; i < t->n; i++) {
        for (int s = 0; s < GGML_MAX_SRC; s++) {
            if (t->nodes[i].src[s] == index && t->nodes[i].op != GGML_OP_FILL) {
                return false;
            }
            filled |= t->nodes[i].src[s] == index;
        }
    }
    return filled;
}

static sp_status emit_nodes(emitter *e, trace *first, int output, sp_error *err) {
    sp_status status = SP_OK;
    for (int i = 0; status == SP_OK && i < first->n; i++) {
        e->tensors[i] = SP_PROGRAM_NONE;
        if (!first->nodes[i].used || first->nodes[i].empty || is_shape_alone(first, i)) {
            continue;
        }
        status = first->nodes[i].op == GGML_OP_NONE ? emit_leaf(e, i, err) : i == output ? emit_output(e, i, err) : emit_operation(e, i, err);
    }
    return status;
}

/*
 * The most cells that the program is for. A LongRoPE model turns positions by other factors once the context is longer than what it was first trained
 * for, and libllama chooses them when it builds the graph: the program is for contexts on the side on which all traced ones were.
 */
static sp_status cells_in_reach(const emitter *e, uint64_t *least, uint64_t *most, sp_error *err) {
    *least = 1, *most = 1u << 24;
    if (gguf_find_tensor(e->model->gguf, "rope_factors_long.weight") < 0) {
        return SP_OK;
    }
    uint64_t original = sp_model_number(e->model, "rope.scaling.original_context_length");
    original = original ? original : e->model->info.n_ctx_train;
    uint32_t longer = 0;
    for (int t = 0; t < N_TRACES; t++) {
        longer += e->traces[t].symbols[SYM_CTX] > original;
    }
    if (longer != 0 && longer != N_TRACES) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "LongRoPE of a model first trained for %llu tokens is not supported", (unsigned long long)original);
    }
    *least = longer ? original + 1 : 1;
    *most = !longer && original < *most ? original : *most;
    return SP_OK;
}

/*
 * Sparse attention looks at the best so many cells, which an indexer picks: at all of them as long as there are no more. The program is for that
 * many.
 */
static uint64_t sparse_cells(const emitter *e, uint64_t most) {
    const uint32_t top_k = sp_model_number(e->model, "attention.indexer.top_k");
    for (int i = 0; top_k && i < e->traces[0].n; i++) {
        if (e->traces[0].nodes[i].whole_row) {
            return top_k < most ? top_k : most;
        }
    }
    return most;
}

/* The symbols, and the facts that the guest fills inputs by: symbols of a single value. */
static void emit_symbols(emitter *e, uint64_t least, uint64_t most) {
    const trace_window *w = e->window;
    const uint64_t cells = sparse_cells(e, most), max[N_SYMS] = {512, cells, 512, most, most, most};
    for (int s = 0; s < N_SYMS && (w->real || s < SYM_KV_SWA); s++) {
        e->symbols[s] = sp_symbol(&e->graph, sp_trace_symbols[s], s == SYM_CTX ? least : 1, max[s]);
    }
    const struct {
        const char *name;
        uint32_t value;
    } facts[] = {{"swa_window", w->real},
                 {"swa_kind", w->real ? w->kind : 0},
                 {"alibi", w->alibi},
                 {"no_cache", w->no_cache},
                 {"temperature_length", w->temperature_scale != 0 ? w->temperature_length : 0},
                 {"temperature_scale", sp_float_bits(w->temperature_scale)},
                 {"temperature_offset", sp_float_bits(w->temperature_offset)},
                 {"token_scale", sp_float_bits(w->token_scale)}};
    for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++) {
        if (facts[i].value && facts[i].value <= INT32_MAX) {
            sp_symbol(&e->graph, facts[i].name, facts[i].value, facts[i].value);
        }
    }
}

sp_status sp_trace_emit(const sp_model *model, bool embeddings, trace traces[N_TRACES], const trace_window *window, void **bytes, uint64_t *size,
                        sp_error *err) {
    *bytes = NULL;
    sp_status status = check_alike(traces, err);
    if (status != SP_OK) {
        return status;
    }
    int output = embeddings ? find_embeddings(traces) : find_logits(model, traces);
    if (output == NO_NODE) {
        return sp_fail(err, SP_ERR_UNSUPPORTED,
                       embeddings ? "its graph has no embeddings of tokens that are pooled as they are" : "its graph has no logits");
    }
    mark_used(&traces[0], output);
    emitter e = {.model = model,
                 .traces = traces,
                 .window = window,
                 .output = embeddings ? "embeddings" : "logits",
                 .minus_tokens = SP_NONE,
                 .tensors = calloc((size_t)traces[0].n, sizeof *e.tensors),
                 .slots = calloc((size_t)traces[0].n, sizeof *e.slots)};
    if (!e.tensors || !e.slots) {
        free(e.tensors);
        free((void *)e.slots);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_graph_init(&e.graph);
    uint64_t least, most;
    status = cells_in_reach(&e, &least, &most, err);
    if (status == SP_OK) {
        emit_symbols(&e, least, most);
        status = emit_nodes(&e, &traces[0], output, err);
    }
    uint32_t length = 0;
    const void *built = status == SP_OK ? sp_graph_bytes(&e.graph, &length) : NULL;
    if (status == SP_OK && !built) {
        status = sp_fail(err, SP_ERR_UNSUPPORTED, "its graph is no program: %s", e.graph.error);
    }
    if (status == SP_OK) {
        *bytes = malloc(length);
        *size = length;
        status = *bytes ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    if (*bytes) {
        memcpy(*bytes, built, length);
    }
    sp_graph_free(&e.graph);
    for (int i = 0; i < traces[0].n; i++) {
        free(e.slots[i]);
    }
    free((void *)e.slots);
    free(e.tensors);
    return status;
}
