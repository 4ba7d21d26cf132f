/*
 * What a guest can import from samepage. All functions live in the Wasm module "samepage".
 *
 * Conventions
 *   - Functions that return int32_t return 0 or a count on success and a negative SP_E_* on failure; sp_last_error then has one line about it.
 *   - Pointers and sizes refer to the guest's own linear memory; the host checks each against its current size.
 *   - Functions that fill a buffer return the length that there is to fill, and write at most `capacity`: call again with a larger buffer if it is
 * more.
 *   - Handles are small non-negative integers.
 *
 * Sharing memory: a region is a page-aligned range of linear memory that the device works on in place (or, where a device has memory of its own,
 * that sp_region_sync moves). Allocate it with alignment sp_page_size(). A region stays where it is; memory may grow beyond it.
 */
#ifndef SAMEPAGE_ABI_H
#define SAMEPAGE_ABI_H

#include <stdint.h>

/* The same numbers as sp_status in samepage.h. */
enum {
    SP_E_ARGUMENT = -1,
    SP_E_NO_MEMORY = -2,
    SP_E_IO = -3,
    SP_E_FORMAT = -4,
    SP_E_UNSUPPORTED = -5,
    SP_E_NOT_FOUND = -6,
    SP_E_LIMIT = -7,
    SP_E_DEVICE = -8,
    SP_E_RANGE = -12,
    SP_E_STATE = -13,
};

/* sp_step returns one of these (sp_step_result in samepage.h). */
enum { SP_IDLE = 0, SP_AGAIN = 1, SP_DONE = 2 };

/* Why sp_resumed is called. */
enum { SP_RESUMED_THAW = 1, SP_RESUMED_FORK = 2 };

enum { SP_TOKENIZE_ADD_SPECIAL = 1, SP_TOKENIZE_PARSE_SPECIAL = 2 };
enum { SP_DETOKENIZE_SPECIAL = 1 }; /* control tokens as text too; otherwise they are nothing */
/* SP_CHAT_STOPS: instead of the prompt, the texts that end an answer in this format beside the end tokens, each with a NUL behind it. */
enum { SP_CHAT_ADD_GENERATION_PROMPT = 1, SP_CHAT_STOPS = 2 };
enum { SP_CHAT_PARTIAL = 1 }; /* of sp_chat_parse: more of the answer will come */
/* A grammar in GBNF; a JSON schema; what the chat template wants of the answer to a conversation (JSON as for sp_chat_format). */
enum { SP_GRAMMAR_GBNF = 0, SP_GRAMMAR_JSON_SCHEMA = 1, SP_GRAMMAR_CHAT = 2 };

/* What guests are told about a model. */
typedef struct sp_model_info {
    uint32_t n_vocab;
    uint32_t n_ctx_train; /* context that it was trained for */
    uint32_t n_embd;
    uint32_t n_layer;
    int32_t token_bos, token_eos, token_eot; /* -1: none */
    uint32_t add_bos;                        /* 1: a text starts with token_bos */
    uint64_t n_params, weight_bytes;
    uint64_t fingerprint[2];
    char architecture[32];
    char name[64];
} sp_model_info;

#ifdef __wasm__
#define SP_IMPORT(name) __attribute__((import_module("samepage"), import_name(#name))) extern

/* ---- the device and regions ---- */

/* Bytes; regions start and end on multiples of it. */
SP_IMPORT(page_size) uint32_t sp_page_size(void);
/* 1: the device works on the guest's pages; 0: sp_region_sync moves bytes. */
SP_IMPORT(device_is_unified) int32_t sp_device_is_unified(void);
/* Shares [start, start + length). Regions may not overlap each other (SP_E_RANGE). Returns a handle. */
SP_IMPORT(region_open) int32_t sp_region_open(void *start, uint32_t length);
SP_IMPORT(region_close) int32_t sp_region_close(int32_t region);
enum { SP_TO_DEVICE = 0, SP_FROM_DEVICE = 1 };
/* Tells that bytes of a region changed here (SP_TO_DEVICE) or are wanted here (SP_FROM_DEVICE). Costs nothing where memory is unified. */
SP_IMPORT(region_sync) int32_t sp_region_sync(int32_t region, uint32_t offset, uint32_t length, int32_t direction);

/* ---- programs (samepage/graph.h builds them) ---- */

/* Copies and verifies a program. Returns a handle. */
SP_IMPORT(program_load) int32_t sp_program_load(const void *bytes, uint32_t size);
SP_IMPORT(program_close) int32_t sp_program_close(int32_t program);
/* Says where a slot lies: [offset, offset + length) of a region. Needed for each slot before the first run; may be changed between runs. */
SP_IMPORT(program_bind) int32_t sp_program_bind(int32_t program, uint32_t slot, int32_t region, uint32_t offset, uint32_t length);
/* Runs to completion. symbols: one value each, in the program's order. */
SP_IMPORT(program_run) int32_t sp_program_run(int32_t program, const uint64_t *symbols, uint32_t n_symbols);
/* Hands the run over: it is complete before the actor's next step. Checked now, as far as it can be; return SP_AGAIN from sp_step afterwards.
 * Nothing the program reads may change until then: the host decides when to read. At most 16 runs a step, executed in order.
 * SP_E_STATE in a command, which has no next step. */
SP_IMPORT(program_submit) int32_t sp_program_submit(int32_t program, const uint64_t *symbols, uint32_t n_symbols);

/* ---- models: handles 0 to sp_model_count() - 1, as the host granted them ---- */

SP_IMPORT(model_count) uint32_t sp_model_count(void);
SP_IMPORT(model_info) int32_t sp_model_get_info(int32_t model, sp_model_info *out);
/* A metadata value as text. */
SP_IMPORT(model_meta) int32_t sp_model_get_meta(int32_t model, const char *key, uint32_t key_length, char *out, uint32_t capacity);
/* The model's graph as a program, to be given to sp_program_load; cache types are SP_TYPE_*. Slots and symbols: see docs/models.md. */
SP_IMPORT(model_program) int32_t sp_model_get_program(int32_t model, uint32_t type_k, uint32_t type_v, void *out, uint32_t capacity);
/* The same graph up to where the head or the pooling begins: its output is the slot embeddings, a row of F32 for each token of the batch. */
SP_IMPORT(embeddings_program)
int32_t sp_model_get_embeddings_program(int32_t model, uint32_t type_k, uint32_t type_v, void *out, uint32_t capacity);
SP_IMPORT(tokenize) int32_t sp_tokenize(int32_t model, const char *text, uint32_t length, uint32_t flags, int32_t *out, uint32_t capacity);
SP_IMPORT(detokenize) int32_t sp_detokenize(int32_t model, const int32_t *tokens, uint32_t count, uint32_t flags, char *out, uint32_t capacity);
/* 1: the token ends a turn or a text. */
SP_IMPORT(token_is_end) int32_t sp_token_is_end(int32_t model, int32_t token);
/* Renders a conversation with the model's chat template: a JSON array of messages as in OpenAI's API, or an object with "messages", "tools" and more
 * (docs/guests.md). flags: SP_CHAT_*. */
SP_IMPORT(chat_format) int32_t sp_chat_format(int32_t model, const char *json, uint32_t length, uint32_t flags, char *out, uint32_t capacity);
/* The inverse: the text of an answer to that conversation becomes a JSON message with content, reasoning_content and tool_calls. */
SP_IMPORT(chat_parse)
int32_t sp_chat_parse(int32_t model, const char *json, uint32_t length, const char *answer, uint32_t answer_length, uint32_t flags, char *out,
                      uint32_t capacity);

/*
 * Grammars constrain what may come next. A handle does not survive a thaw or a fork (SP_E_NOT_FOUND): its state follows from the text and the
 * accepted tokens, so open it anew and accept them again. At most 16 at once.
 */
/* Returns a handle. kind: SP_GRAMMAR_*. SP_E_NOT_FOUND: the conversation constrains nothing. */
SP_IMPORT(grammar_open) int32_t sp_grammar_open(int32_t model, uint32_t kind, const char *text, uint32_t length);
SP_IMPORT(grammar_close) int32_t sp_grammar_close(int32_t grammar);
/* These tokens came. SP_E_FORMAT: one does not fit. */
SP_IMPORT(grammar_accept) int32_t sp_grammar_accept(int32_t grammar, const int32_t *tokens, uint32_t count);
/* 1: the token may come next; 0: it may not. Much cheaper than a mask. */
SP_IMPORT(grammar_allows) int32_t sp_grammar_allows(int32_t grammar, int32_t token);
/* The logits of tokens that may not come next become minus infinity. count: the vocabulary's size. */
SP_IMPORT(grammar_mask) int32_t sp_grammar_mask(int32_t grammar, float *logits, uint32_t count);

/* ---- messages, errors, chance ---- */

/* The next message: its length; SP_E_NOT_FOUND when there is none. A message longer than capacity stays queued. */
SP_IMPORT(receive) int32_t sp_receive(void *out, uint32_t capacity);
/* Sends a message to whoever drives the actor. */
SP_IMPORT(send) int32_t sp_send(const void *bytes, uint32_t size);
/* One line about the last failure of a function above. */
SP_IMPORT(last_error) int32_t sp_last_error(char *out, uint32_t capacity);
/* The seed that the actor was spawned, thawed or forked with. */
SP_IMPORT(seed) uint64_t sp_seed(void);
/* Monotonic nanoseconds since the actor was spawned, those that it was frozen for left out. */
SP_IMPORT(clock) uint64_t sp_clock(void);

/* ---- what a guest exports ---- */

/* Actors: does one piece of work and returns SP_IDLE (call me when there is a message), SP_AGAIN (call me when what I submitted is done), SP_DONE. */
__attribute__((export_name("sp_step"))) int32_t sp_step(void);

/*
 * Optional: called once, before the next step, in an actor that was thawed or forked: memory and globals are as they were at the freeze, but there
 * are siblings now that are the same to the byte. seed is fresh (or what the host was told to give): whoever draws random numbers starts from it
 * anew, or all siblings draw the same. reason is SP_RESUMED_*. Nothing else of the outside is restored: no descriptors. sp_clock and
 * WASI's monotonic clock go on where they were; the time of day is the host's.
 */
__attribute__((export_name("sp_resumed"))) void sp_resumed(uint64_t seed, int32_t reason);
#endif

#endif
