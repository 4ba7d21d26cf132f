/* state: what the actor is doing, and what its parts share: main.c takes messages, answer.c samples, send.c tells. */
#ifndef LLM_STATE_H
#define LLM_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "lookup.h"
#include "samepage/llm.h"
#include "text.h"

enum { IDLE, PROMPT, ANSWER, EVAL, SCORE, EMBED };

/* A message that came in the middle of an answer. */
typedef struct waiting {
    struct waiting *next;
    uint32_t size;
    uint8_t bytes[];
} waiting;

typedef struct actor_state {
    int doing;
    int32_t *context; /* tokens in the cache */
    uint32_t n_past;
    int32_t *todo; /* tokens to evaluate */
    uint32_t n_todo, at, batch, each, from;
    uint32_t n_cached, n_answer;
    int32_t next[1 + MAX_DRAFT]; /* sampled, not evaluated yet; behind it what may follow */
    uint32_t match, n_draft;     /* what may follow was found by so many tokens (0: not at all), and as many of it are evaluated */
    bool drafting;               /* in this answer */
    uint32_t n_drafted, n_draft_right;
    char *request; /* SP_LLM_CHAT's JSON; NULL: the answer is to turns or to a raw text */
    uint32_t request_length;
    bool partial; /* tell the message after each token */
    bool chatting, stop_asked, has_logits;
    uint64_t started, answer_started;
    waiting *queue;
} actor_state;
extern actor_state actor;
/* The text of the answer. */
extern text_stream answer;

/* ---- send.c ---- */
/* Sends a message that is a struct and bytes behind it. */
void send_with_text(void *head, uint32_t head_size, const char *text, uint32_t length);
void send_error(const char *text);
void send_done(uint32_t reason);
/* The answer so far, as a message (SP_LLM_CHAT). */
void send_message(bool partial);
/* Streams what is ready of the answer. True: a stop string ended it. */
bool stream(int32_t token, float logprob, bool last);

/* ---- main.c; each returns what the step returns ---- */
int32_t fail(const char *why);
int32_t finish(uint32_t reason);

/* ---- embed.c ---- */
/* Takes SP_LLM_EMBED's settings; NULL, or what is wrong. */
const char *embed_begin(const sp_llm_embed *settings);
/* A batch is evaluated: its rows are sent, or pooled and sent in the end. whole: it was the last. */
void embed_batch(bool whole);

/* ---- answer.c; what returns something returns what the step returns ---- */
/* Before the prompt is evaluated. */
void allow_drafts(void);
/* The prompt is evaluated. */
int32_t first_token(void);
/* The token that was sampled last, and a draft behind it, are evaluated. */
int32_t after_token(void);

#endif
