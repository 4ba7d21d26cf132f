/*
 * What is traced is not quite the file's metadata: a sliding window of thousands of tokens makes caches of thousands of cells, which libllama clears,
 * and batches that long to fill. The graph is the same for a small window.
 */
#include <llama.h>
#include <stdio.h>
#include <string.h>

#include "model/trace.h"

static bool window_key(const sp_model *model, char key[96], int64_t *id) {
    snprintf(key, 96, "%s.attention.sliding_window", model->info.architecture);
    *id = gguf_find_key(model->gguf, key);
    return *id >= 0 && gguf_get_kv_type(model->gguf, *id) == GGUF_TYPE_UINT32;
}

struct gguf_context *sp_trace_metadata(const sp_model *model, trace_window *window) {
    struct gguf_context *copy = gguf_init_empty();
    char key[96];
    int64_t id;
    if (!copy) {
        return NULL;
    }
    gguf_set_kv(copy, model->gguf);
    for (struct ggml_tensor *t = ggml_get_first_tensor(model->tensors); t; t = ggml_get_next_tensor(model->tensors, t)) {
        gguf_add_tensor(copy, t);
    }
    if (window_key(model, key, &id)) {
        window->real = gguf_get_val_u32(model->gguf, id);
        if (window->real > MOST_TRACED_WINDOW) {
            gguf_set_val_u32(copy, key, MOST_TRACED_WINDOW);
        }
    }
    return copy;
}

static void set_text(struct llama_model_kv_override *to, const char *key, const char *text) {
    to->tag = LLAMA_KV_OVERRIDE_TYPE_STR;
    snprintf(to->key, sizeof to->key, "%s", key);
    snprintf(to->val_str, sizeof to->val_str, "%s", text);
}

static void set_number(struct llama_model_kv_override *to, const char *key, int64_t number) {
    to->tag = LLAMA_KV_OVERRIDE_TYPE_INT;
    snprintf(to->key, sizeof to->key, "%s", key);
    to->val_i64 = number;
}

/* Of the vocabulary the number of tokens is enough; reading it would take longer than all the rest. */
struct llama_model *sp_trace_load_sizes(const sp_model *model) {
    struct llama_model_kv_override overrides[4] = {0};
    char key[96];
    int64_t id;
    set_text(&overrides[0], "tokenizer.ggml.model", "no_vocab");
    snprintf(key, sizeof key, "%s.vocab_size", model->info.architecture);
    set_number(&overrides[1], key, model->info.n_vocab);
    if (window_key(model, key, &id) && gguf_get_val_u32(model->gguf, id) > MOST_TRACED_WINDOW) {
        set_number(&overrides[2], key, MOST_TRACED_WINDOW);
    }
    return sp_llama_load_sizes(model->fd, overrides);
}

static float number(const sp_model *model, const char *suffix) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", model->info.architecture, suffix);
    int64_t id = gguf_find_key(model->gguf, key);
    return id >= 0 && gguf_get_kv_type(model->gguf, id) == GGUF_TYPE_FLOAT32 ? gguf_get_val_f32(model->gguf, id) : 0;
}

/* Scaling of attention by position: a formula of libllama's whose numbers are in the metadata, or, for Llama 4, in libllama. */
static void learn_temperature(const sp_model *model, trace_window *window) {
    window->temperature_scale = number(model, "attention.temperature_scale");
    window->temperature_length = sp_model_number(model, "attention.temperature_length");
    if (!window->temperature_length) {
        window->temperature_length = sp_model_number(model, "rope.scaling.original_context_length");
    }
    if (!window->temperature_length) {
        window->temperature_length = model->info.n_ctx_train;
    }
    if (strcmp(model->info.architecture, "llama4") == 0) {
        window->temperature_length = 8192, window->temperature_scale = 0.1f, window->temperature_offset = 1;
    }
}

void sp_trace_learn(const sp_model *model, const struct llama_model *llama, trace_window *window) {
    int32_t traced = llama_model_n_swa(llama);
    window->traced = traced > 0 ? (uint32_t)traced : 0;
    if (window->traced != MOST_TRACED_WINDOW || window->real < MOST_TRACED_WINDOW) {
        window->real = window->traced; /* the file does not say, or libllama does not listen */
    }
    learn_temperature(model, window);
}
