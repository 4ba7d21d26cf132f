/*
 * model: a GGUF file mapped once: its weights' table, vocabulary, chat template, and its graph as a program, traced from libllama.
 * May call: device (for the weights' table and progress types), program, base. Computing is never libllama's: it tells the graph and the vocabulary.
 */
#ifndef SP_MODEL_MODEL_H
#define SP_MODEL_MODEL_H

#include "device/device.h"
#include "program/program.h"
#include "samepage.h"
#include "samepage/abi.h" /* sp_model_info: what guests are told about a model */

/* sp_model_open with a folder for traced programs; NULL: none. */
sp_status sp_model_open_cached(const char *cache_folder, const char *path, const sp_model_options *options, sp_model **out, sp_error *err);
sp_status sp_model_open_bytes_cached(const char *cache_folder, const void *bytes, size_t size, const sp_model_options *options, sp_model **out,
                                     sp_error *err);
/* What it was opened with. */
sp_model_options sp_model_get_options(const sp_model *model);

/* The tensor table over the mapping; valid as long as the model. */
const sp_weight_table *sp_model_weight_table(const sp_model *model);

/* sp_weight_source.find for one model; context is the sp_model. model handles other than 0 are not found. */
bool sp_model_find_weight(void *model, uint32_t handle, const char *name, sp_weight_info *out);

void sp_model_get_info(const sp_model *model, sp_model_info *out);

/* A metadata value as text (strings as they are, numbers in decimal, arrays refused). SP_ERR_NOT_FOUND. *out belongs to the model. */
sp_status sp_model_meta(const sp_model *model, const char *key, const char **out, sp_error *err);

/*
 * The model's graph as a program (bytes belong to the model): traced at the first call on this machine (progress is told), then kept in the host's
 * cache folder by fingerprint, cache types and library version, and in memory. Thread-safe. A cached file is untrusted: it is verified like any
 * program; a bad one is traced again.
 *
 * Symbols: n_tokens (1 to 512), n_kv (1 to the model's context), n_outputs (1 to 512), n_ctx (size of the attention cache in cells); only those that
 * occur. Slots, by libllama's names: inputs (SP_SLOT_READ) inp_tokens, inp_pos, inp_out_ids, attn_inp_kq_mask, attn_inp_k_idxs, attn_inp_v_idxs;
 * state (SP_SLOT_STATE) cache_k_l0, cache_v_l0, ...; output (SP_SLOT_OUTPUT) logits, n_vocab x n_outputs F32, or embeddings, n_embd x n_tokens.
 * SP_ERR_UNSUPPORTED names the architecture and the input, state or operation that is not supported.
 */
typedef struct sp_program_wish {
    uint32_t type_k, type_v; /* of the cache */
    bool embeddings;         /* the graph ends in what the model's head or pooling would start from, for each token */
} sp_program_wish;
sp_status sp_model_get_program(sp_model *model, const sp_program_wish *wish, const void **bytes, uint64_t *size, sp_error *err);

/* ---- the vocabulary: pure functions of the file; thread-safe ---- */

/* Writes up to capacity token ids; *count is how many there are (nothing beyond capacity is written). flags: SP_TOKENIZE_*. */
sp_status sp_model_tokenize(const sp_model *model, const char *text, size_t length, uint32_t flags, int32_t *tokens, size_t capacity, size_t *count,
                            sp_error *err);
/* Bytes of the tokens' text, not necessarily whole UTF-8 characters; *length may exceed capacity. flags: SP_DETOKENIZE_*. SP_ERR_RANGE: no such
 * token. */
sp_status sp_model_detokenize(const sp_model *model, const int32_t *tokens, size_t count, uint32_t flags, char *text, size_t capacity, size_t *length,
                              sp_error *err);
bool sp_model_is_end(const sp_model *model, int32_t token);
/*
 * Renders a conversation with the model's own template (Jinja): an array of messages as OpenAI's API has them, or an object with "messages" and, as
 * far as wanted, "tools", "tool_choice", "parallel_tool_calls", "enable_thinking", "reasoning_effort", "reasoning_format", "chat_template_kwargs",
 * "response_format" or "json_schema". flags: SP_CHAT_*. *text is malloc'ed. SP_ERR_FORMAT: bad JSON or the template refused (its words);
 * SP_ERR_LIMIT: larger or deeper than is handled. A model without a template: ChatML, as llama.cpp does.
 */
sp_status sp_model_chat_format(const sp_model *model, const char *json, size_t length, uint32_t flags, char **text, size_t *size, sp_error *err);
/* The inverse: an answer to that conversation as a message, {"role", "content", "reasoning_content", "tool_calls"}; partial: more will come. */
sp_status sp_model_chat_parse(const sp_model *model, const char *json, size_t length, const char *answer, size_t answer_length, bool partial,
                              char **text, size_t *size, sp_error *err);

/* ---- grammars: what may come next. llama.cpp's; a state is a pure function of the text and the accepted tokens ---- */

typedef struct sp_grammar sp_grammar;

/* kind: SP_GRAMMAR_*. SP_ERR_FORMAT with the words of the parser; SP_ERR_NOT_FOUND: a conversation that constrains nothing. *out is NULL on failure.
 */
sp_status sp_grammar_open(const sp_model *model, uint32_t kind, const char *text, size_t length, sp_grammar **out, sp_error *err);
void sp_grammar_close(sp_grammar *grammar);
/* Goes on behind these tokens. SP_ERR_FORMAT: one does not fit, or it would take too much work; the grammar is of no use then. */
sp_status sp_grammar_accept(sp_grammar *grammar, const sp_model *model, const int32_t *tokens, size_t count, sp_error *err);
/* Whether a token may come next. */
sp_status sp_grammar_allows(const sp_grammar *grammar, const sp_model *model, int32_t token, bool *allows, sp_error *err);
/* Sets the logits of tokens that may not come next to minus infinity; those that have it already are not looked at. count: the vocabulary's size. */
sp_status sp_grammar_mask(const sp_grammar *grammar, const sp_model *model, float *logits, size_t count, sp_error *err);

#endif
