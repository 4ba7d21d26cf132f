/* LoRA adapters with random values, for tests. */
#ifndef TESTS_ADAPTER_H
#define TESTS_ADAPTER_H

#include <ggml.h>
#include <gguf.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct adapter_settings {
    int64_t rank;
    float alpha; /* 0: the file does not say */
    uint64_t seed;
    float size;               /* of the values */
    const char *architecture; /* NULL: the model's */
    const char *without;      /* a tensor whose name ends so is left out; or NULL */
    enum ggml_type type;      /* of the matrices; F32 is 0 */
    int64_t wider;            /* added to the first dimension of the A matrices: they fit no more */
} adapter_settings;

static inline struct ggml_tensor *adapter_matrix(struct ggml_context *context, struct gguf_context *gguf, const struct ggml_tensor *of, int64_t ne0,
                                                 int64_t ne1, const char *end, const adapter_settings *s, uint64_t *state) {
    char name[GGML_MAX_NAME];
    snprintf(name, sizeof name, "%.54s%s", of->name, end);
    struct ggml_tensor *t = ggml_new_tensor_3d(context, s->type, ne0, ne1, of->ne[2]);
    const int64_t n = ggml_nelements(t);
    float *values = malloc((size_t)n * sizeof *values);
    for (int64_t i = 0; values && i < n; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
        values[i] = ((float)(*state >> 40) / (1 << 24) - 0.5f) * s->size;
    }
    ggml_quantize_chunk(s->type, values, t->data, 0, ggml_nrows(t), ne0, NULL);
    free(values);
    ggml_set_name(t, name);
    const size_t length = strlen(name), cut = s->without ? strlen(s->without) : 0;
    if (!cut || cut > length || strcmp(name + length - cut, s->without) != 0) {
        gguf_add_tensor(gguf, t);
    }
    return t;
}

/* For each product of the model's layers. False: it can't be read or written. */
static inline bool write_adapter(const char *model, const char *path, const adapter_settings *s) {
    struct ggml_context *tensors = NULL;
    struct gguf_context *from = gguf_init_from_file(model, (struct gguf_init_params){.no_alloc = true, .ctx = &tensors});
    if (!from) {
        return false;
    }
    struct ggml_context *context = ggml_init((struct ggml_init_params){.mem_size = 256u << 20});
    struct gguf_context *gguf = gguf_init_empty();
    uint64_t state = s->seed;
    gguf_set_val_str(gguf, "general.type", "adapter");
    gguf_set_val_str(gguf, "general.architecture",
                     s->architecture ? s->architecture : gguf_get_val_str(from, gguf_find_key(from, "general.architecture")));
    gguf_set_val_str(gguf, "adapter.type", "lora");
    if (s->alpha != 0) {
        gguf_set_val_f32(gguf, "adapter.lora.alpha", s->alpha);
    }
    for (struct ggml_tensor *t = ggml_get_first_tensor(tensors); t; t = ggml_get_next_tensor(tensors, t)) {
        if (strncmp(t->name, "blk.", 4) == 0 && ggml_n_dims(t) >= 2 && !strstr(t->name, "conv")) {
            adapter_matrix(context, gguf, t, t->ne[0] + s->wider, s->rank, ".lora_a", s, &state);
            adapter_matrix(context, gguf, t, s->rank, t->ne[1], ".lora_b", s, &state);
        }
    }
    const bool ok = gguf_write_to_file(gguf, path, false);
    gguf_free(gguf);
    ggml_free(context);
    gguf_free(from);
    ggml_free(tensors);
    return ok;
}

#endif
