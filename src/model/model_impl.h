/* Inside the model layer. */
#ifndef SP_MODEL_MODEL_IMPL_H
#define SP_MODEL_MODEL_IMPL_H

#include <gguf.h>
#include <llama.h>
#include <pthread.h>

#include "model/model.h"

struct sp_model {
    int fd;
    const void *mapping;
    uint64_t size;
    struct gguf_context *gguf;
    struct ggml_context *tensors; /* the tensor table as ggml parsed it; no data */
    struct sp_weight_entry *entries;
    sp_weight_table table;
    struct llama_model *vocab_model;
    const struct llama_vocab *vocab;
    struct sp_chat_templates *chat; /* made at first use */
    sp_model_info info;
    char fingerprint[33];
    char *cache_folder; /* NULL: none */
    sp_model_options options;
    struct sp_cached_program *programs; /* by cache types */
    char *meta_text;                    /* the last number that sp_model_meta gave */
    pthread_mutex_t lock;               /* chat, programs, meta_text */
};

/* A program of the model, in memory. */
typedef struct sp_cached_program {
    struct sp_cached_program *next;
    uint32_t type_k, type_v;
    void *bytes;
    uint64_t size;
} sp_cached_program;

/* Traces libllama's graph; *bytes is malloc'ed. */
sp_status sp_model_trace(sp_model *model, uint32_t type_k, uint32_t type_v, void **bytes, uint64_t *size, sp_error *err);

/* ---- chat_shim.cpp ---- */
#ifdef __cplusplus
extern "C" {
#endif
typedef struct sp_chat_templates sp_chat_templates;
/* NULL on failure, with the reason. */
sp_chat_templates *sp_shim_chat_open(const struct llama_model *model, char *why, size_t capacity);
void sp_shim_chat_close(sp_chat_templates *templates);
/* Renders messages; malloc'ed, or NULL with the reason. */
char *sp_shim_chat_apply(const sp_chat_templates *templates, const char *const *roles, const char *const *contents, size_t count,
                         bool add_generation_prompt, char *why, size_t capacity);
#ifdef __cplusplus
}
#endif

#endif
