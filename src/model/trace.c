/*
 * libllama builds its graph for a few small batches; its evaluation callback shows every node before anything computes, and its abort callback then
 * stops the computation after the first. So a trace costs no arithmetic, and the weights, memory that nobody touches, are not there at all.
 */
#include "model/trace.h"

#include <ggml-backend.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

const char *const sp_trace_symbols[N_SYMS] = {"n_tokens", "n_kv", "n_outputs", "n_ctx", "n_kv_swa", "n_ctx_swa"};

/*
 * Sizes of the traces. Every symbol takes two values while the others differ otherwise, and the last trace checks the fit. No trace is of a
 * sequence's first batch: libllama clears state there. Contexts come on top of a large window's cells.
 */
static const struct {
    uint32_t n_ctx, n_batch, n_past, n_tokens, n_outputs;
} sizes[N_TRACES] = {{1024, 150, 1, 7, 3}, {1024, 150, 1, 33, 5}, {1024, 320, 1, 300, 5}, {1536, 150, 300, 33, 5}, {1536, 600, 1, 290, 9}};

enum { MOST_WINDOW = 1 << 20 }; /* libllama keeps a few words for each of a window's cells, whatever it reserves */

/* State for a thousand tokens, and results for hundreds: a vocabulary of 262,144 makes logits of 600 MiB, whatever the weights are. */
#define MOST_RESERVED (UINT64_C(2) << 30)

/* The trace that is being taken, with what maps ggml's tensors to its nodes. */
typedef struct watcher {
    trace *trace;
    const struct ggml_tensor **seen; /* by node */
    const sp_model *model;
    bool failed;
    bool passing; /* the batch only moves the sequence on: it is neither watched nor computed */
} watcher;

static int find_seen(const watcher *w, const struct ggml_tensor *t) {
    for (int i = w->trace->n - 1; i >= 0; i--) { /* sources are mostly recent */
        if (w->seen[i] == t) {
            return i;
        }
    }
    return NO_NODE;
}

static trace_node *append(watcher *w, const struct ggml_tensor *t) {
    trace *tr = w->trace;
    if (tr->n == tr->capacity) {
        int capacity = tr->capacity ? tr->capacity * 2 : 1024;
        trace_node *nodes = realloc(tr->nodes, (size_t)capacity * sizeof *nodes);
        tr->nodes = nodes ? nodes : tr->nodes;
        const struct ggml_tensor **seen = nodes ? realloc(w->seen, (size_t)capacity * sizeof *seen) : NULL;
        w->seen = seen ? seen : w->seen;
        if (!seen) {
            w->failed = true;
            return NULL;
        }
        tr->capacity = capacity;
    }
    w->seen[tr->n] = t;
    trace_node *node = &tr->nodes[tr->n++];
    *node = (trace_node){.op = t->op, .type = t->type, .contiguous = ggml_is_contiguous(t), .empty = ggml_nelements(t) == 0};
    memcpy(node->name, t->name, sizeof node->name);
    memcpy(node->ne, t->ne, sizeof node->ne);
    memcpy(node->nb, t->nb, sizeof node->nb);
    memcpy(node->params, t->op_params, sizeof node->params);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        node->src[i] = NO_NODE;
    }
    return node;
}

/* Inputs are filled before the first node, and nothing has been computed over them. */
static void keep_content(watcher *w, trace_node *node, const struct ggml_tensor *t) {
    node->input = t->flags & GGML_TENSOR_FLAG_INPUT;
    if (node->input && t->data && t->buffer && ggml_backend_buffer_is_host(t->buffer)) {
        node->content = malloc(ggml_nbytes(t) + 1);
        w->failed |= !node->content;
        if (node->content) {
            memcpy(node->content, t->data, ggml_nbytes(t));
        }
    }
}

static int index_of(watcher *w, const struct ggml_tensor *t) {
    int found = find_seen(w, t);
    trace_node *node = found == NO_NODE ? append(w, t) : NULL; /* a leaf: weight, input or state */
    if (node) {
        snprintf(node->name, sizeof node->name, "%s", sp_model_adapter_tensor(w->model, t));
        keep_content(w, node, t);
        found = w->trace->n - 1;
    }
    return found;
}

static void see(watcher *w, const struct ggml_tensor *t) {
    int src[GGML_MAX_SRC];
    for (int i = 0; i < GGML_MAX_SRC && !w->failed; i++) {
        src[i] = t->src[i] && t->src[i] != t ? index_of(w, t->src[i]) : NO_NODE;
    }
    trace_node *node = w->failed ? NULL : append(w, t);
    if (!node) {
        return;
    }
    memcpy(node->src, src, sizeof src);
    node->whole_row = t->op == GGML_OP_TOP_K && t->ne[0] == t->src[0]->ne[0];
    node->self_source = t->src[1] == t;
    node->is_view = t->view_src != NULL;
    if (t->op == GGML_OP_VIEW && t->src[0]) {
        node->view_offset = t->view_offs - (t->src[0]->view_src ? t->src[0]->view_offs : 0);
    }
}

static bool on_node(struct ggml_tensor *t, bool ask, void *user) {
    watcher *w = user;
    if (w->passing) {
        return ask; /* compute the first node, and then no more */
    }
    if (ask) {
        see(w, t);
    }
    return false; /* go on to the next node without computing */
}

static bool on_abort(void *user) {
    return !((watcher *)user)->passing;
}

/* Cells for the trace's size beyond those that it has: none, but for windows that libllama doesn't let one make smaller. */
static uint32_t more_cells(uint32_t window) {
    return window > MOST_TRACED_WINDOW ? sp_inputs_padded(window) : 0;
}

static struct llama_context *new_context(struct llama_model *model, uint32_t n_ctx, uint32_t n_batch, const sp_program_wish *wish, watcher *w) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = n_ctx;
    params.n_batch = params.n_ubatch = n_batch;
    params.n_seq_max = 1;
    params.n_threads = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.offload_kqv = params.op_offload = false;
    params.swa_full = false;
    params.type_k = (enum ggml_type)wish->type_k;
    params.type_v = (enum ggml_type)wish->type_v;
    params.embeddings = wish->embeddings;
    params.pooling_type = wish->embeddings ? LLAMA_POOLING_TYPE_LAST : LLAMA_POOLING_TYPE_NONE; /* what is pooled is what is looked for */
    params.cb_eval = on_node;
    params.cb_eval_user_data = w;
    params.abort_callback = on_abort;
    params.abort_callback_data = w;
    return sp_llama_new_context(model, &params);
}

static bool decode(struct llama_context *context, uint32_t n_past, uint32_t n, uint32_t n_outputs) {
    struct llama_batch batch = llama_batch_init((int32_t)n, 0, 1);
    for (uint32_t i = 0; i < n; i++) {
        batch.token[i] = 0;
        batch.pos[i] = (llama_pos)(n_past + i);
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = i >= n - n_outputs;
    }
    batch.n_tokens = (int32_t)n;
    bool decoded = sp_llama_decode(context, &batch);
    llama_batch_free(batch);
    return decoded;
}

static void set_symbols(trace *out, int which, uint32_t n_ctx, const trace_window *window) {
    const sp_inputs_batch batch = {
        .n_tokens = sizes[which].n_tokens, .n_past = out->n_past, .n_outputs = window->all_outputs ? sizes[which].n_tokens : sizes[which].n_outputs};
    uint32_t swa = sp_inputs_padded(window->traced + sizes[which].n_batch);
    const sp_inputs in = {.n_ctx = n_ctx, .n_ctx_swa = swa < n_ctx ? swa : n_ctx};
    for (int s = 0; s < N_SYMS; s++) {
        sp_inputs_symbol(&in, sp_trace_symbols[s], &batch, &out->symbols[s]);
    }
}

/* libllama's model without weights, and what is asked of it. */
typedef struct subject {
    const sp_model *model;
    struct llama_model *llama;
    struct llama_adapter_lora *adapters[SP_MAX_ADAPTERS];
    const sp_program_wish *wish;
} subject;

static sp_status take_one(subject *s, trace_window *window, int which, trace *out, sp_error *err) {
    watcher w = {.trace = out, .model = s->model, .passing = true};
    const uint32_t more = more_cells(window->traced), n_ctx = sizes[which].n_ctx + more;
    struct llama_context *context = new_context(s->llama, n_ctx, sizes[which].n_batch, s->wish, &w);
    if (!context) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "libllama makes no context of %u cells with these cache types: %s", n_ctx, sp_model_complaint());
    }
    window->no_cache = !llama_get_memory(context);
    window->all_outputs = window->no_cache || s->wish->embeddings;
    out->n_past = sizes[which].n_past > 1 ? sizes[which].n_past + more : sizes[which].n_past;
    bool decoded = sp_model_set_adapters(s->model, context, s->adapters);
    for (uint32_t past = 0; decoded && past < out->n_past;) {
        uint32_t left = out->n_past - past, n = left < sizes[which].n_batch ? left : sizes[which].n_batch;
        decoded = decode(context, past, n, 0);
        past += n;
    }
    w.passing = false;
    decoded = decoded && decode(context, out->n_past, sizes[which].n_tokens, sizes[which].n_outputs);
    llama_free(context);
    free(w.seen);
    set_symbols(out, which, n_ctx, window);
    if (w.failed) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    return decoded && out->n ? SP_OK : sp_fail(err, SP_ERR_UNSUPPORTED, "libllama showed no graph: %s", sp_model_complaint());
}

/* What has no state that text could be continued from, though its inputs may be named like those of what has. */
static sp_status check_kind(const struct llama_model *llama, sp_error *err) {
    return llama_model_has_encoder(llama) ? sp_fail(err, SP_ERR_UNSUPPORTED, "an encoder, which it has, is not supported") : SP_OK;
}

static void free_trace(trace *t) {
    for (int i = 0; i < t->n; i++) {
        free(t->nodes[i].content);
    }
    free(t->nodes);
}

static sp_status trace_all(subject *s, trace_window *window, void **bytes, uint64_t *size, sp_error *err) {
    trace traces[N_TRACES] = {0};
    const sp_model *model = s->model;
    sp_status status = sp_model_load_adapters(model, s->llama, s->adapters, err);
    for (int i = 0; status == SP_OK && i < N_TRACES; i++) {
        if (model->options.progress) {
            model->options.progress(model->options.progress_user, "tracing the model's graph", (double)i / N_TRACES);
        }
        status = take_one(s, window, i, &traces[i], err);
    }
    if (status == SP_OK) {
        sp_trace_learn_masks(traces, window);
        status = sp_trace_emit(model, s->wish->embeddings, traces, window, bytes, size, err);
    }
    for (int i = 0; i < N_TRACES; i++) {
        free_trace(&traces[i]);
    }
    return status;
}

/* The bytes that a context for the largest trace takes, counted without taking them. */
static bool count_reservation(struct llama_model *llama, const sp_program_wish *wish, uint64_t *bytes) {
    const int32_t window = llama_model_n_swa(llama);
    const uint32_t last = N_TRACES - 1, n_ctx = sizes[last].n_ctx + more_cells(window > 0 ? (uint32_t)window : 0);
    watcher nobody = {0};
    struct llama_context *context = new_context(llama, n_ctx, sizes[last].n_batch, wish, &nobody);
    const bool counted = context && sp_llama_context_bytes(context, bytes);
    llama_free(context);
    return counted;
}

sp_status sp_trace_check_bytes(uint64_t bytes, uint64_t weight_bytes, sp_error *err) {
    const uint64_t most = MOST_RESERVED + weight_bytes;
    return bytes <= most ? SP_OK
                         : sp_fail(err, SP_ERR_UNSUPPORTED,
                                   "the header's sizes want %" PRIu64 " MiB of memory for its graph; with weights of %" PRIu64 " MiB, %" PRIu64
                                   " MiB are possible",
                                   bytes >> 20, weight_bytes >> 20, most >> 20);
}

/*
 * The header says how much libllama reserves, and what it clears of that: so it is looked at before. What the file's tensors are compared with can't
 * be far off; a few numbers stand for themselves.
 */
static sp_status check_sizes(const sp_model *model, const sp_program_wish *wish, sp_error *err) {
    struct llama_model *llama = sp_trace_load_sizes(model);
    if (!llama) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "libllama can't make a model of it: %s", sp_model_complaint());
    }
    const int32_t window = llama_model_n_swa(llama);
    uint64_t bytes = 0;
    sp_status status = check_kind(llama, err);
    if (status == SP_OK && window > MOST_WINDOW) {
        status = sp_fail(err, SP_ERR_UNSUPPORTED, "its window of %d tokens is wider than %d", (int)window, MOST_WINDOW);
    }
    if (status == SP_OK) {
        status = count_reservation(llama, wish, &bytes) ? sp_trace_check_bytes(bytes, model->info.weight_bytes, err)
                                                        : sp_fail(err, SP_ERR_UNSUPPORTED, "libllama makes no context: %s", sp_model_complaint());
    }
    llama_model_free(llama);
    return status;
}

static sp_status trace_model(const sp_model *model, const sp_program_wish *wish, void **bytes, uint64_t *size, sp_error *err) {
    sp_status status = check_sizes(model, wish, err);
    if (status != SP_OK) {
        return status;
    }
    trace_window window = {0};
    struct gguf_context *metadata = sp_trace_metadata(model, &window);
    struct llama_model *llama = metadata ? sp_llama_init_without_weights(metadata) : NULL;
    if (llama) {
        sp_trace_learn(model, llama, &window);
        subject s = {.model = model, .llama = llama, .wish = wish};
        status = trace_all(&s, &window, bytes, size, err);
        llama_model_free(llama);
    } else {
        status = metadata ? sp_fail(err, SP_ERR_UNSUPPORTED, "libllama can't make a model of it: %s", sp_model_complaint())
                          : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    gguf_free(metadata);
    return status;
}

sp_status sp_model_trace(sp_model *model, const sp_program_wish *wish, void **bytes, uint64_t *size, sp_error *err) {
    sp_model_quiet();
    sp_status status = sp_model_check_layers(model, err);
    status = status == SP_OK ? trace_model(model, wish, bytes, size, err) : status;
    if (status != SP_OK) {
        sp_fail_in(err, "architecture %s", model->info.architecture);
    }
    return status;
}
