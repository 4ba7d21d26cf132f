/* Inside the model layer. */
#ifndef SP_MODEL_MODEL_IMPL_H
#define SP_MODEL_MODEL_IMPL_H

#include <gguf.h>
#include <llama.h>
#include <pthread.h>

#include "model/model.h"

/* One LoRA adapter. */
typedef struct sp_model_adapter {
    int fd;
    uint64_t size, at; /* where it lies in the model's mapping */
    float scale;
    struct gguf_context *gguf;
    struct ggml_context *tensors; /* its tensors, with the names that programs know them by */
    uint32_t first;               /* of its entries in the model's table; they are in its file's order */
} sp_model_adapter;

struct sp_model {
    int fd;
    const void *mapping; /* the file, and adapters behind it */
    uint64_t size, mapped;
    struct gguf_context *gguf;
    struct ggml_context *tensors; /* the tensor table as ggml parsed it; no data */
    struct sp_weight_entry *entries;
    const struct sp_weight_entry **by_name; /* all of the table's, in the order of their names, then of the table */
    sp_weight_table table;
    struct llama_model *vocab_model;
    const struct llama_vocab *vocab;
    struct sp_chat_templates *chat; /* made at first use */
    sp_model_info info;
    char fingerprint[33];
    char *cache_folder;       /* NULL: none */
    char *kept;               /* where devices keep converted weights (sp_weight_table); NULL: nowhere */
    bool anonymous;           /* the file has no name */
    sp_model_options options; /* without adapters */
    sp_model_adapter *adapters;
    size_t n_adapters;
    struct sp_cached_program *programs; /* by wish */
    char **meta_texts;                  /* numbers that sp_model_meta gave as text, by key; they stay as long as the model */
    pthread_mutex_t lock;               /* chat, programs, meta_texts */
};

/* A program of the model, in memory. */
typedef struct sp_cached_program {
    struct sp_cached_program *next;
    sp_program_wish wish;
    void *bytes;
    uint64_t size;
} sp_cached_program;

/* Traces libllama's graph; *bytes is malloc'ed. */
sp_status sp_model_trace(sp_model *model, const sp_program_wish *wish, void **bytes, uint64_t *size, sp_error *err);

/* The unsigned number at ARCHITECTURE.suffix; 0: none. */
uint32_t sp_model_number(const sp_model *model, const char *suffix);

/* Refuses a file whose layers libllama would crash on. */
sp_status sp_model_check_layers(const sp_model *model, sp_error *err);

/* ggml's parse of an open file; NULL: damaged, or out of memory. */
struct gguf_context *sp_model_parse(int fd, struct ggml_context **tensors);

/* ---- adapters.c ---- */
/* Maps adapters behind the model, whose table has been made, and adds their tensors to it. What failed is left for sp_model_close_adapters. */
sp_status sp_model_open_adapters(sp_model *model, const sp_adapter *adapters, size_t n, sp_error *err);
void sp_model_close_adapters(sp_model *model);
/* Loads them for a trace; they go with the libllama model. */
sp_status sp_model_load_adapters(const sp_model *model, struct llama_model *llama, struct llama_adapter_lora *loaded[SP_MAX_ADAPTERS], sp_error *err);
bool sp_model_set_adapters(const sp_model *model, struct llama_context *context, struct llama_adapter_lora **loaded);
/* The name that programs know a leaf of a trace by: its own, unless it is an adapter's. */
const char *sp_model_adapter_tensor(const sp_model *model, const struct ggml_tensor *t);

/*
 * guard.c: libllama's functions for files that nobody trusts: NULL or false where libllama refuses, asserts or throws; sp_model_complaint then has
 * its words, until this thread's next call.
 */
struct llama_model *sp_llama_load_vocabulary(int fd);
/* The file's model with its tensors' sizes, compared with what the header implies, and no memory behind them; overrides: not NULL. */
struct llama_model *sp_llama_load_sizes(int fd, const struct llama_model_kv_override *overrides);
struct llama_model *sp_llama_init_without_weights(struct gguf_context *gguf);
struct llama_adapter_lora *sp_llama_load_adapter(struct llama_model *model, int fd);
struct llama_context *sp_llama_new_context(struct llama_model *model, const struct llama_context_params *params);
/* What a context of a model without memory would take for its state and for computing. */
bool sp_llama_context_bytes(const struct llama_context *context, uint64_t *bytes);
bool sp_llama_decode(struct llama_context *context, const struct llama_batch *batch);

typedef struct sp_tokenize_call {
    const struct llama_vocab *vocab;
    const char *text;
    size_t length;
    bool add_special, parse_special;
    int32_t *tokens;
    size_t capacity;
    int32_t count; /* as llama_tokenize returns it */
} sp_tokenize_call;
bool sp_llama_tokenize(sp_tokenize_call *call);

typedef struct sp_piece_call {
    const struct llama_vocab *vocab;
    int32_t token;
    bool special;
    char *text;
    size_t capacity;
    int32_t length; /* as llama_token_to_piece returns it */
} sp_piece_call;
bool sp_llama_to_piece(sp_piece_call *call);

#ifdef __cplusplus
extern "C" {
#endif
/* ---- guard.c ---- */
void sp_model_quiet(void); /* keeps libllama and ggml from writing to standard error; forgets complaints */
const char *sp_model_complaint(void);

/* ---- memory_shim.cpp; may throw ---- */
uint64_t sp_shim_context_bytes(const struct llama_context *context);

/* ---- chat_shim.cpp ---- */
typedef struct sp_chat_templates sp_chat_templates;
/* NULL on failure, with the reason. */
sp_chat_templates *sp_shim_chat_open(const struct llama_model *model, char *why, size_t capacity);
void sp_shim_chat_close(sp_chat_templates *templates);
/* As sp_model_chat_format and sp_model_chat_parse; malloc'ed, or NULL with the reason. */
char *sp_shim_chat_apply(sp_chat_templates *templates, const char *json, size_t length, uint32_t flags, size_t *size, char *why, size_t capacity);
char *sp_shim_chat_parse(sp_chat_templates *templates, const char *json, size_t length, const char *text, size_t text_length, bool partial,
                         size_t *size, char *why, size_t capacity);

/* ---- grammar_shim.cpp; false or NULL: the reason, or *none: the conversation constrains nothing. templates: for SP_GRAMMAR_CHAT. ---- */
sp_grammar *sp_shim_grammar_open(const struct llama_vocab *vocab, sp_chat_templates *templates, uint32_t kind, const char *text, size_t length,
                                 bool *none, char *why, size_t capacity);
void sp_shim_grammar_close(sp_grammar *grammar);
bool sp_shim_grammar_accept(sp_grammar *grammar, const int32_t *tokens, size_t count, char *why, size_t capacity);
bool sp_shim_grammar_allows(const sp_grammar *grammar, int32_t token, bool *allows, char *why, size_t capacity);
bool sp_shim_grammar_mask(const sp_grammar *grammar, float *logits, size_t count, char *why, size_t capacity);
#ifdef __cplusplus
}
#endif

#endif
