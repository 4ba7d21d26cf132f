/* The language-model actor, driven from this side: opened with a model, given requests, its events handed on. */
#ifndef SP_CLI_LLM_CLIENT_H
#define SP_CLI_LLM_CLIENT_H

#include <signal.h>

#include "cli/limit_options.h"
#include "cli/options.h"
#include "samepage.h"
#include "samepage/llm.h"

/* What a person can set; see sp_llm_options_table. */
typedef struct sp_llm_settings {
    const char *model, *device, *type_k, *type_v;
    int32_t n_ctx, n_batch, threads, max_tokens, top_k, repeat_last_n;
    float temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    sp_seed_option seed;
    sp_option_list biases, stops, adapters, scaled_adapters; /* FILE; FILE:SCALE */
    bool ignore_end, embeddings;                             /* embeddings: the actor is for SP_LLM_EMBED alone */
    bool lookup_always;                                      /* not only where it saves time */
    int32_t n_lookup, n_top;                                 /* n_top: -1: no logprobs */
    const char *grammar, *grammar_file, *schema, *schema_file;
    uint64_t kept_weights; /* bytes; 0: none */
    sp_limit_settings limits;
} sp_llm_settings;

/* llama.cpp's defaults. */
extern const sp_llm_settings sp_llm_defaults;

/* Rows of a table of options for what model is opened and how. */
enum { SP_LLM_MODEL_ROWS = 7 };
size_t sp_llm_model_rows(sp_llm_settings *settings, sp_option rows[SP_LLM_MODEL_ROWS]);

/* Rows of a table of options for all of these settings, to be put before a command's own: fills `rows` and returns how many. */
enum { SP_LLM_OPTION_ROWS = 30 + SP_LIMIT_OPTION_ROWS };
size_t sp_llm_option_rows(sp_llm_settings *settings, sp_option rows[SP_LLM_OPTION_ROWS]);

typedef struct sp_llm_client sp_llm_client;

/* Hears of events while a request runs; either may be NULL. text is not terminated. */
typedef struct sp_llm_events {
    void (*on_token)(void *user, const sp_llm_token *token, const char *text);
    void (*on_other)(void *user, const void *bytes, size_t size); /* logits, turns, settings */
    void *user;
} sp_llm_events;

/* *out is NULL on failure. SP_ERR_ARGUMENT: a setting can't be meant (a bias that is no TOKEN+NUMBER). */
sp_status sp_llm_open(const sp_llm_settings *settings, sp_llm_client **out, sp_error *err);
void sp_llm_close(sp_llm_client *client);

/* The two halves of opening: everything but the actor, and a new actor that is configured. */
sp_status sp_llm_prepare(const sp_llm_settings *settings, sp_llm_client **out, sp_error *err);
/* The same for another actor beside that of `other`, which must outlive it: host, device, model and module are other's. */
sp_status sp_llm_prepare_beside(const sp_llm_client *other, sp_llm_client **out, sp_error *err);
sp_status sp_llm_spawn(sp_llm_client *client, const sp_llm_settings *settings, sp_error *err);
/* An actor as it was at a commit (0: the head), in place of the client's own, which stays on failure. It is not configured anew. */
sp_status sp_llm_thaw(sp_llm_client *client, sp_session *session, uint64_t number, sp_error *err);

sp_model *sp_llm_model(sp_llm_client *client);
sp_module *sp_llm_module(sp_llm_client *client);
sp_actor *sp_llm_actor(sp_llm_client *client);
const sp_llm_ready *sp_llm_ready_info(const sp_llm_client *client);

/* New sampling settings (the context's size stays). */
sp_status sp_llm_configure(sp_llm_client *client, const sp_llm_settings *settings, sp_error *err);

/* Sends a request of a kind that has text, or is simple (text NULL), and runs it to its end. SP_ERR_GUEST with the actor's words if it refuses. */
sp_status sp_llm_ask(sp_llm_client *client, uint32_t kind, const char *text, size_t length, const sp_llm_events *events, sp_llm_done *done,
                     sp_error *err);
/* The same for a message that is built already. */
sp_status sp_llm_ask_bytes(sp_llm_client *client, const void *bytes, size_t size, const sp_llm_events *events, sp_llm_done *done, sp_error *err);

/* Set by the handler of SIGINT: the answer ends at the next token; asked for three times, the guest is interrupted where it is. */
extern volatile sig_atomic_t sp_llm_stop_asked;
void sp_llm_catch_interrupts(sp_llm_client *client);

#endif
