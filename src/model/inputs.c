/* Inputs: which leaf is which, and that the guest will fill it as libllama does. */
#include <ggml.h>
#include <stdlib.h>
#include <string.h>

#include "model/trace.h"

bool sp_trace_is_sized(const trace *traces, int index, int d, int symbol) {
    for (int t = 0; t < N_TRACES; t++) {
        if (traces[t].nodes[index].ne[d] != (symbol == NO_NODE ? 1 : (int64_t)traces[t].symbols[symbol])) {
            return false;
        }
    }
    return true;
}

/* The leaf that a node is a view of, or is computed in the place of. */
static int root_of(const trace *t, int at) {
    while (at != NO_NODE && t->nodes[at].is_view) {
        at = t->nodes[at].src[0];
    }
    return at;
}

/* Indices of cells serve the cache that they say the rows of. */
static bool serves_window(const trace *traces, int index) {
    for (int i = 0; i < traces[0].n; i++) {
        const trace_node *node = &traces[0].nodes[i];
        if (node->op == GGML_OP_SET_ROWS && node->src[1] == index) {
            int cache = root_of(&traces[0], node->src[2]);
            return cache != NO_NODE && sp_trace_is_sized(traces, cache, 1, SYM_CTX_SWA);
        }
    }
    return false;
}

static bool is_window_input(const trace *traces, int index) {
    const char *name = traces[0].nodes[index].name;
    if (strncmp(name, "attn_inp_kq_mask", 16) == 0) {
        return sp_trace_is_sized(traces, index, 0, SYM_KV_SWA);
    }
    return strstr(name, "_idxs") && serves_window(traces, index);
}

/* The mask of a window over a batch that stands alone: libllama gives it no name. */
static bool is_batch_window(const trace *traces, int index) {
    return traces[0].nodes[index].input && strncmp(traces[0].nodes[index].name, "leaf_", 5) == 0 && sp_trace_is_sized(traces, index, 0, SYM_TOKENS) &&
           sp_trace_is_sized(traces, index, 1, SYM_TOKENS);
}

static sp_inputs inputs_of(const trace *t, const trace_window *window) {
    return (sp_inputs){.n_ctx = (uint32_t)t->symbols[SYM_CTX],
                       .n_ctx_swa = window->traced ? (uint32_t)t->symbols[SYM_CTX_SWA] : 0,
                       .window = window->traced,
                       .window_kind = window->kind,
                       .alibi = window->alibi,
                       .no_cache = window->no_cache,
                       .temperature_length = window->temperature_length,
                       .temperature_scale = window->temperature_scale,
                       .temperature_offset = window->temperature_offset,
                       .token_scale = window->token_scale};
}

/* Filled by our rule, is it what libllama filled it with? NULL, or what is wrong. */
static const char *check_content(const trace *t, int index, const trace_window *window, const char *name) {
    const trace_node *node = &t->nodes[index];
    const size_t size = ggml_row_size(node->type, node->ne[0]) * (size_t)(node->ne[1] * node->ne[2] * node->ne[3]);
    const sp_inputs in = inputs_of(t, window);
    int32_t tokens[512] = {0};
    const sp_inputs_batch batch = {
        .tokens = tokens, .n_tokens = (uint32_t)t->symbols[SYM_TOKENS], .n_past = t->n_past, .n_outputs = (uint32_t)t->symbols[SYM_OUTPUTS]};
    if (!node->content) {
        return "is not filled";
    }
    void *ours = calloc(size + 8, 1);
    if (!ours) {
        return "is too large";
    }
    const char *wrong = !sp_inputs_fill_named(&in, name, (uint32_t)node->type, node->ne, &batch, ours) ? "is not known"
                        : memcmp(ours, node->content, size) != 0                                       ? "is filled in a way that is not known"
                                                                                                       : NULL;
    free(ours);
    return wrong;
}

static bool fixed_size(const trace *traces, int index, int d) {
    for (int t = 1; t < N_TRACES; t++) {
        if (traces[t].nodes[index].ne[d] != traces[0].nodes[index].ne[d]) {
            return false;
        }
    }
    return true;
}

/* Dimensions that samepage/inputs.h relies on: it fills as many elements as these say. */
static bool has_known_shape(const trace *traces, int index) {
    const char *name = traces[0].nodes[index].name;
    const bool one = sp_trace_is_sized(traces, index, 2, NO_NODE) && sp_trace_is_sized(traces, index, 3, NO_NODE);
    const bool row = one && sp_trace_is_sized(traces, index, 1, NO_NODE);
    if (strncmp(name, "attn_inp_kq_mask", 16) == 0) {
        return one && sp_trace_is_sized(traces, index, 1, SYM_TOKENS) &&
               (sp_trace_is_sized(traces, index, 0, SYM_KV) || sp_trace_is_sized(traces, index, 0, SYM_KV_SWA));
    }
    if (strcmp(name, "self_kq_mask") == 0 || is_batch_window(traces, index)) {
        return one && sp_trace_is_sized(traces, index, 0, SYM_TOKENS) && sp_trace_is_sized(traces, index, 1, SYM_TOKENS);
    }
    if (strcmp(name, "inp_attn_scale") == 0) {
        return sp_trace_is_sized(traces, index, 2, SYM_TOKENS) && sp_trace_is_sized(traces, index, 0, NO_NODE) &&
               sp_trace_is_sized(traces, index, 1, NO_NODE) && sp_trace_is_sized(traces, index, 3, NO_NODE);
    }
    if (strcmp(name, "inp_scale_rows") == 0) {
        return one && sp_trace_is_sized(traces, index, 0, NO_NODE) && sp_trace_is_sized(traces, index, 1, SYM_TOKENS);
    }
    if (strcmp(name, "slopes") == 0) {
        return row && fixed_size(traces, index, 0);
    }
    if (strcmp(name, "q_decay_exp") == 0 || strcmp(name, "k_decay_exp") == 0) {
        return sp_trace_is_sized(traces, index, 0, NO_NODE) && fixed_size(traces, index, 1) && sp_trace_is_sized(traces, index, 2, SYM_TOKENS) &&
               sp_trace_is_sized(traces, index, 3, NO_NODE);
    }
    if (strcmp(name, "diag_decay_exp") == 0) {
        return sp_trace_is_sized(traces, index, 0, SYM_TOKENS) && sp_trace_is_sized(traces, index, 1, SYM_TOKENS) && fixed_size(traces, index, 2) &&
               sp_trace_is_sized(traces, index, 3, NO_NODE);
    }
    if (strcmp(name, "out_ids") == 0) {
        return row && sp_trace_is_sized(traces, index, 0, SYM_OUTPUTS);
    }
    if (strcmp(name, "rs_s_copy") == 0) {
        return row && sp_trace_is_sized(traces, index, 0, NO_NODE);
    }
    if (strstr(name, "_rot")) {
        return one;
    }
    for (int t = 0; row && t < N_TRACES; t++) { /* positions may come several times over, and values be stored element by element */
        const int64_t n = (int64_t)traces[t].symbols[SYM_TOKENS], ne = traces[t].nodes[index].ne[0];
        const bool several = (strcmp(name, "inp_pos") == 0 && ne == 4 * n) || (strcmp(name, "attn_inp_v_idxs") == 0 && ne % n == 0);
        if (ne != n && !several) {
            return false;
        }
    }
    return row;
}

bool sp_trace_input(const trace *traces, int index, const trace_window *window, char name[GGML_MAX_NAME], char *why, size_t capacity) {
    const trace_node *node = &traces[0].nodes[index];
    if (window->no_cache && window->traced && is_batch_window(traces, index)) {
        snprintf(name, GGML_MAX_NAME, "self_kq_mask_swa");
    } else {
        snprintf(name, GGML_MAX_NAME, "%.50s%s", node->name, window->traced && is_window_input(traces, index) ? "_swa" : "");
    }
    if (!has_known_shape(traces, index)) {
        snprintf(why, capacity, "has a shape that is not known");
        return false;
    }
    for (int t = 0; t < N_TRACES; t++) {
        const char *wrong = check_content(&traces[t], index, window, name);
        if (wrong) {
            snprintf(why, capacity, "%s", wrong);
            return false;
        }
    }
    return true;
}

static bool mask_fits(const trace *traces, int index, const trace_window *window) {
    for (int t = 0; t < N_TRACES; t++) {
        if (check_content(&traces[t], index, window, "attn_inp_kq_mask_swa")) {
            return false;
        }
    }
    return true;
}

void sp_trace_learn_masks(const trace *traces, trace_window *window) {
    for (int i = 0; i < traces[0].n; i++) {
        const trace_node *node = &traces[0].nodes[i];
        if (node->op == GGML_OP_FLASH_ATTN_EXT || node->op == GGML_OP_SOFT_MAX) {
            window->alibi |= node->params[1] != 0;
        }
    }
    for (int i = 0; i < traces[0].n; i++) {
        const trace_node *node = &traces[0].nodes[i];
        if (strcmp(node->name, "inp_scale_rows") == 0 && node->content && node->type == GGML_TYPE_F32) {
            memcpy(&window->token_scale, node->content, sizeof window->token_scale);
        }
    }
    window->kind = window->no_cache ? SP_WINDOW_SYMMETRIC : SP_WINDOW_STANDARD;
    for (int i = 0; window->traced && i < traces[0].n; i++) {
        if (traces[0].nodes[i].op == GGML_OP_NONE && strcmp(traces[0].nodes[i].name, "attn_inp_kq_mask") == 0 && is_window_input(traces, i)) {
            for (window->kind = SP_WINDOW_STANDARD; window->kind < SP_WINDOW_SYMMETRIC && !mask_fits(traces, i, window);) {
                window->kind++;
            }
        }
    }
}
