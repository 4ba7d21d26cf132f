/*
 * libllama builds its graph for a few small batches; its evaluation callback shows every node before anything computes, and its abort callback then
 * stops the computation after the first. So a trace costs no arithmetic, and the weights, memory that nobody touches, are not there at all.
 */
#include "model/trace.h"

#include <ggml-backend.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

const char *const sp_trace_symbols[N_SYMS] = {"n_tokens", "n_kv", "n_outputs", "n_ctx"};

/* Sizes of the traces. Every symbol takes two values while the others differ otherwise, and the last trace checks the fit. */
static const struct {
    uint32_t n_ctx, n_tokens, n_outputs, n_kv;
} sizes[N_TRACES] = {{1024, 7, 3, 256}, {1024, 33, 5, 256}, {1024, 300, 5, 512}, {1536, 33, 5, 256}, {1536, 290, 9, 512}};

/* The trace that is being taken, with what maps ggml's tensors to its nodes. */
typedef struct watcher {
    trace *trace;
    const struct ggml_tensor **seen; /* by node */
    bool failed;
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
    *node = (trace_node){.op = t->op, .type = t->type, .contiguous = ggml_is_contiguous(t)};
    memcpy(node->name, t->name, sizeof node->name);
    memcpy(node->ne, t->ne, sizeof node->ne);
    memcpy(node->nb, t->nb, sizeof node->nb);
    memcpy(node->params, t->op_params, sizeof node->params);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        node->src[i] = NO_NODE;
    }
    return node;
}

static int index_of(watcher *w, const struct ggml_tensor *t) {
    int found = find_seen(w, t);
    if (found == NO_NODE && append(w, t)) { /* a leaf: weight, input or state */
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
    node->self_source = t->src[1] == t;
    node->is_view = t->view_src != NULL;
    if (t->op == GGML_OP_VIEW && t->src[0]) {
        node->view_offset = t->view_offs - (t->src[0]->view_src ? t->src[0]->view_offs : 0);
    }
}

static bool on_node(struct ggml_tensor *t, bool ask, void *user) {
    if (ask) {
        see(user, t);
    }
    return false; /* go on to the next node without computing */
}

static bool on_abort(void *user) {
    (void)user;
    return true;
}

static struct llama_context *new_context(struct llama_model *model, uint32_t n_ctx, uint32_t type_k, uint32_t type_v, watcher *w) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = n_ctx;
    params.n_batch = params.n_ubatch = 320;
    params.n_seq_max = 1;
    params.n_threads = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.offload_kqv = params.op_offload = false;
    params.type_k = (enum ggml_type)type_k;
    params.type_v = (enum ggml_type)type_v;
    params.cb_eval = on_node;
    params.cb_eval_user_data = w;
    params.abort_callback = on_abort;
    return sp_llama_new_context(model, &params);
}

static sp_status take_one(struct llama_model *llama, uint32_t type_k, uint32_t type_v, int which, trace *out, sp_error *err) {
    watcher w = {.trace = out};
    struct llama_context *context = new_context(llama, sizes[which].n_ctx, type_k, type_v, &w);
    if (!context) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "libllama makes no context of %u cells with these cache types: %s", sizes[which].n_ctx,
                       sp_model_complaint());
    }
    uint32_t n = sizes[which].n_tokens;
    struct llama_batch batch = llama_batch_init((int32_t)n, 0, 1);
    for (uint32_t i = 0; i < n; i++) {
        batch.token[i] = 0;
        batch.pos[i] = (llama_pos)i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = i >= n - sizes[which].n_outputs;
    }
    batch.n_tokens = (int32_t)n;
    bool decoded = sp_llama_decode(context, &batch);
    llama_batch_free(batch);
    llama_free(context);
    free(w.seen);
    out->symbols[SYM_TOKENS] = n;
    out->symbols[SYM_KV] = sizes[which].n_kv;
    out->symbols[SYM_OUTPUTS] = sizes[which].n_outputs;
    out->symbols[SYM_CTX] = sizes[which].n_ctx;
    if (w.failed) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    return decoded && out->n ? SP_OK : sp_fail(err, SP_ERR_UNSUPPORTED, "libllama showed no graph: %s", sp_model_complaint());
}

/* Kinds of state and attention whose inputs are named and shaped like those of a plain cache, and mean something else. */
static sp_status check_kind(const struct llama_model *llama, sp_error *err) {
    const char *kind = llama_model_is_hybrid(llama)      ? "recurrent state beside attention"
                       : llama_model_is_recurrent(llama) ? "recurrent state"
                       : llama_model_has_encoder(llama)  ? "an encoder"
                       : llama_model_is_diffusion(llama) ? "diffusion"
                       : llama_model_n_swa(llama) > 0    ? "a sliding window"
                                                         : NULL;
    return kind ? sp_fail(err, SP_ERR_UNSUPPORTED, "%s, which it has, is not supported yet", kind) : SP_OK;
}

sp_status sp_model_trace(sp_model *model, uint32_t type_k, uint32_t type_v, void **bytes, uint64_t *size, sp_error *err) {
    sp_status status = sp_model_check_layers(model, err);
    if (status != SP_OK) {
        sp_fail_in(err, "architecture %s", model->info.architecture);
        return status;
    }
    sp_model_quiet();
    struct llama_model *llama = sp_llama_init_without_weights(model->gguf);
    if (!llama) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "architecture %s: libllama can't make a model of it: %s", model->info.architecture,
                       sp_model_complaint());
    }
    trace traces[N_TRACES] = {0};
    status = check_kind(llama, err);
    for (int i = 0; status == SP_OK && i < N_TRACES; i++) {
        if (model->options.progress) {
            model->options.progress(model->options.progress_user, "tracing the model's graph", (double)i / N_TRACES);
        }
        status = take_one(llama, type_k, type_v, i, &traces[i], err);
    }
    llama_model_free(llama);
    if (status == SP_OK) {
        status = sp_trace_emit(model, traces, bytes, size, err);
    }
    for (int i = 0; i < N_TRACES; i++) {
        free(traces[i].nodes);
    }
    if (status != SP_OK) {
        sp_fail_in(err, "architecture %s", model->info.architecture);
    }
    return status;
}
