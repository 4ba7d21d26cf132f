/*
 * The language-model actor. One batch a step: between any two tokens it is at
 * rest, and everything that it is lies in this memory.
 *
 *              CONFIG, USER, COMPLETE, ...        more prompt
 *   IDLE ----------------------------------> PROMPT <-----+
 *    ^                                         |          |
 *    |             end, stop, full             | sampled  |
 *    +------------------------------------- ANSWER -------+ next token
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alone.h"
#include "conversation.h"
#include "engine.h"
#include "grammar.h"
#include "samepage/llm.h"
#include "settings.h"
#include "state.h"

actor_state actor;
text_stream answer;

/* ---- requests ---- */

static void to_idle(void) {
    actor.doing = IDLE;
    free(actor.todo);
    actor.todo = NULL;
    actor.n_todo = actor.at = actor.batch = 0;
    if (engine_is_open()) {
        engine_rest();
    }
}

int32_t finish(uint32_t reason) {
    if (actor.doing == ANSWER || actor.doing == PROMPT) {
        stream(-1, 0, true);
        if (actor.chatting && actor.doing == ANSWER) {
            conversation_add(ROLE_ASSISTANT, answer.bytes ? answer.bytes : "", answer.length);
        }
        if (actor.request) {
            bool whole = reason == SP_LLM_END_TOKEN || reason == SP_LLM_END_STOP_STRING;
            send_message(!whole);
        }
    }
    send_done(reason);
    to_idle();
    return SP_AGAIN;
}

int32_t fail(const char *why) {
    send_error(why);
    if (actor.chatting && n_turns && turns[n_turns - 1].role == ROLE_USER && actor.doing != ANSWER) {
        conversation_cut(n_turns - 1); /* as it was before the request */
    }
    to_idle();
    return SP_AGAIN;
}

static int32_t submit_batch(void) {
    uint32_t left = actor.n_todo - actor.at;
    actor.batch = left < engine_n_batch() ? left : engine_n_batch();
    uint32_t n_outputs = (actor.doing == EVAL && actor.each) || actor.doing == EMBED ? actor.batch : 1;
    if (actor.doing == SCORE && actor.at + actor.batch > actor.from) {
        n_outputs = actor.at > actor.from ? actor.batch : actor.at + actor.batch - actor.from;
    }
    const char *wrong = engine_submit(actor.todo + actor.at, actor.batch, actor.n_past, n_outputs);
    return wrong ? fail(wrong) : SP_AGAIN;
}

/* Keeps as much of the cache as the prompt begins with, and starts on the rest. The last token is always evaluated: its logits are wanted. */
static int32_t start_prompt(prompt p, bool chatting) {
    actor.chatting = chatting;
    actor.n_answer = actor.n_drafted = actor.n_draft_right = 0;
    actor.answer_started = 0;
    actor.started = sp_clock();
    settings_add_stops(format_stops, chatting || actor.request ? format_stops_length : 0);
    const char *refused = grammar_begin(actor.request, actor.request_length);
    if (refused) {
        free(p.tokens);
        return fail(refused);
    }
    if (p.n == 0) {
        free(p.tokens);
        return fail("the prompt has no tokens");
    }
    if (p.n > engine_n_ctx()) {
        char why[160];
        snprintf(why, sizeof why,
                 "the prompt has %u tokens; the context has room for %u (a larger "
                 "-c, if the model allows)",
                 p.n, engine_n_ctx());
        free(p.tokens);
        return fail(why);
    }
    allow_drafts();
    uint32_t same = 0;
    while (same < actor.n_past && same < p.n - 1 && actor.context[same] == p.tokens[same]) {
        same++;
    }
    same = engine_keep(actor.n_past, same);
    actor.n_past = actor.n_cached = same;
    memmove(p.tokens, p.tokens + same, (p.n - same) * sizeof *p.tokens);
    actor.todo = p.tokens;
    actor.n_todo = p.n - same;
    actor.at = 0;
    actor.doing = PROMPT;
    text_reset(&answer);
    return submit_batch();
}

static void forget_request(void) {
    free(actor.request);
    actor.request = NULL;
    actor.request_length = 0;
}

static int32_t start_request(void) {
    prompt p;
    const char *wrong = request_prompt(actor.request, actor.request_length, &p);
    actor.chatting = false;
    return wrong ? fail(wrong) : start_prompt(p, false);
}

static int32_t answer_request(const uint8_t *bytes, uint32_t size) {
    sp_llm_chat head;
    if (size < sizeof head) {
        return fail("the message is cut");
    }
    memcpy(&head, bytes, sizeof head);
    if (head.length == 0 || head.length > size - sizeof head) {
        return fail("the request is empty or cut");
    }
    char *json = malloc(head.length);
    if (!json) {
        return fail("out of memory");
    }
    memcpy(json, bytes + sizeof head, head.length);
    conversation_cut(0);
    forget_request();
    actor.request = json;
    actor.request_length = head.length;
    actor.partial = head.partial;
    return start_request();
}

static int32_t start_chat(void) {
    prompt p;
    forget_request();
    const char *wrong = conversation_prompt(&p);
    actor.chatting = true;
    return wrong ? fail(wrong) : start_prompt(p, true);
}

static int32_t answer_user(const char *text, uint32_t length) {
    if (!conversation_add(ROLE_USER, text, length)) {
        return fail("out of memory");
    }
    return start_chat();
}

static int32_t regenerate(void) {
    if (actor.request) {
        return start_request();
    }
    if (n_turns && turns[n_turns - 1].role == ROLE_ASSISTANT) {
        conversation_cut(n_turns - 1);
    }
    if (!n_turns || turns[n_turns - 1].role != ROLE_USER) {
        actor.chatting = false;
        return fail("there is no turn to answer again");
    }
    return start_chat();
}

static int32_t complete(const char *text, uint32_t length) {
    conversation_cut(0);
    forget_request();
    prompt p;
    const char *wrong = text_prompt(text, length, 0, &p);
    actor.chatting = false;
    actor.n_past = 0; /* the whole prompt is this request's */
    return wrong ? fail(wrong) : start_prompt(p, false);
}

static int32_t nothing_to_do(void) {
    actor.started = 0;
    actor.n_answer = actor.n_cached = actor.n_drafted = actor.n_draft_right = 0;
    send_done(SP_LLM_END_NOTHING);
    return SP_AGAIN;
}

static int32_t set_system(const char *text, uint32_t length) {
    conversation_cut(0);
    if (length && !conversation_add(ROLE_SYSTEM, text, length)) {
        return fail("out of memory");
    }
    return nothing_to_do();
}

static int32_t tell_history(void) {
    sampling.config.n_ctx = engine_n_ctx(); /* what was asked for may have been 0 */
    sampling.config.n_batch = engine_n_batch();
    uint32_t size;
    const uint8_t *config = settings_bytes(&size);
    sp_send(config, size);
    for (uint32_t i = 0; i < n_turns; i++) {
        sp_llm_turn head = {.kind = SP_LLM_TURN, .role = turns[i].role, .length = turns[i].length};
        send_with_text(&head, sizeof head, turns[i].text, turns[i].length);
    }
    return nothing_to_do();
}

/* Takes the tokens. */
static int32_t start_todo(int32_t *tokens, uint32_t n, int doing) {
    forget_request();
    actor.todo = tokens;
    actor.n_todo = n;
    actor.at = actor.n_cached = actor.n_answer = actor.n_drafted = actor.n_draft_right = 0;
    actor.started = sp_clock();
    actor.answer_started = 0;
    actor.doing = doing;
    return submit_batch();
}

static int32_t start_evaluation(const int32_t *tokens, uint32_t n, int doing) {
    int32_t *copy = malloc(n * sizeof *copy);
    if (!copy) {
        return fail("out of memory");
    }
    memcpy(copy, tokens, n * sizeof *copy);
    return start_todo(copy, n, doing);
}

static int32_t evaluate(const uint8_t *bytes, uint32_t size) {
    sp_llm_eval head;
    memcpy(&head, bytes, sizeof head);
    actor.chatting = false;
    if (head.n_tokens == 0 || head.n_tokens > (size - sizeof head) / sizeof(int32_t)) {
        return fail("the evaluation has no tokens, or fewer than it says");
    }
    if (head.n_tokens > engine_n_ctx() - actor.n_past) {
        return fail("the tokens do not fit the context");
    }
    if (head.assume) {
        memcpy(actor.context + actor.n_past, bytes + sizeof head, head.n_tokens * sizeof *actor.context);
        actor.n_past += head.n_tokens;
        return nothing_to_do();
    }
    actor.each = head.each;
    return start_evaluation((const int32_t *)(bytes + sizeof head), head.n_tokens, EVAL);
}

static int32_t score(const uint8_t *bytes, uint32_t size) {
    sp_llm_score head;
    memcpy(&head, bytes, sizeof head);
    actor.chatting = false;
    if (head.n_tokens < 2 || head.n_tokens > (size - sizeof head) / sizeof(int32_t)) {
        return fail("there are fewer than two tokens, or fewer than the message says");
    }
    if (head.n_tokens > engine_n_ctx()) {
        return fail("the tokens do not fit the context");
    }
    actor.n_past = 0;
    actor.from = head.from;
    return start_evaluation((const int32_t *)(bytes + sizeof head), head.n_tokens, SCORE);
}

static int32_t embed_text(const uint8_t *bytes, uint32_t size) {
    sp_llm_embed head;
    memcpy(&head, bytes, sizeof head);
    if (head.length > size - sizeof head) {
        return fail("the message is cut");
    }
    const char *wrong = embed_begin(&head);
    prompt p = {0};
    wrong = wrong ? wrong : text_prompt((const char *)(bytes + sizeof head), head.length, SP_TOKENIZE_PARSE_SPECIAL, &p);
    char why[160];
    if (!wrong && (p.n == 0 || p.n > engine_n_ctx())) {
        snprintf(why, sizeof why, p.n ? "the text has %u tokens; the context has room for %u" : "the text has no tokens", p.n, engine_n_ctx());
        wrong = why;
    }
    if (wrong) {
        free(p.tokens);
        return fail(wrong);
    }
    actor.chatting = false;
    actor.n_past = 0;
    return start_todo(p.tokens, p.n, EMBED);
}

static int32_t set_grammar(const uint8_t *bytes, uint32_t size) {
    sp_llm_grammar head;
    memcpy(&head, bytes, sizeof head);
    if (head.length > size - sizeof head || head.grammar > SP_GRAMMAR_JSON_SCHEMA) {
        return fail("the grammar is cut, or of a kind that is not known");
    }
    const char *wrong = grammar_set(head.grammar, (const char *)(bytes + sizeof head), head.length);
    return wrong ? fail(wrong) : nothing_to_do();
}

/* ---- configuration ---- */

static int32_t configure(const uint8_t *bytes, uint32_t size) {
    sampler before = sampling;
    const char *wrong = settings_take(bytes, size);
    if (wrong) {
        return fail(wrong);
    }
    sp_llm_config config = sampling.config;
    bool first = !engine_is_open(), reseed = first || config.has_seed;
    if (!reseed) { /* the seed that was given stays, and so does the generator */
        sampling.config.has_seed = before.config.has_seed;
        sampling.config.seed = before.config.seed;
    }
    if (!wrong && first) {
        wrong = engine_open(config.n_ctx, config.n_batch, config.type_k, config.type_v, config.embeddings);
    }
    if (!wrong && !actor.context) {
        actor.context = malloc(engine_n_ctx() * sizeof *actor.context);
        wrong = actor.context ? NULL : "out of memory";
    }
    if (wrong) {
        return fail(wrong);
    }
    if (reseed) {
        sampler_seed(&sampling, config.has_seed ? config.seed : sp_seed());
    }
    sp_llm_ready ready = {.kind = SP_LLM_READY, .n_ctx = engine_n_ctx(), .n_vocab = llm_model.n_vocab, .state_bytes = engine_state_bytes()};
    sp_send(&ready, sizeof ready);
    return SP_AGAIN;
}

/* ---- messages ---- */

static int32_t handle(const uint8_t *bytes, uint32_t size) {
    uint32_t kind = 0;
    memcpy(&kind, bytes, size < sizeof kind ? size : sizeof kind);
    if (kind == SP_LLM_CONFIG) {
        return configure(bytes, size);
    }
    if (!engine_is_open()) {
        return fail("the first message is SP_LLM_CONFIG");
    }
    if (engine_embeds() != (kind == SP_LLM_EMBED)) {
        return fail(engine_embeds() ? "this actor is configured for embeddings alone" : "this actor is not configured for embeddings");
    }
    const sp_llm_text *text = (const sp_llm_text *)bytes;
    bool has_text = size >= sizeof *text && text->length <= size - sizeof *text;
    const char *said = (const char *)(text + 1);
    if ((kind == SP_LLM_SYSTEM || kind == SP_LLM_USER || kind == SP_LLM_COMPLETE) && !has_text) {
        return fail("the message is cut");
    }
    switch (kind) {
    case SP_LLM_SYSTEM:
        return set_system(said, text->length);
    case SP_LLM_USER:
        return answer_user(said, text->length);
    case SP_LLM_COMPLETE:
        return complete(said, text->length);
    case SP_LLM_REGENERATE:
        return regenerate();
    case SP_LLM_RESET:
        conversation_cut(conversation_start());
        forget_request();
        actor.n_past = 0;
        return nothing_to_do();
    case SP_LLM_EVAL:
        return size < sizeof(sp_llm_eval) ? fail("the message is cut") : evaluate(bytes, size);
    case SP_LLM_HISTORY:
        return tell_history();
    case SP_LLM_CHAT:
        return answer_request(bytes, size);
    case SP_LLM_SCORE:
        return size < sizeof(sp_llm_score) ? fail("the message is cut") : score(bytes, size);
    case SP_LLM_EMBED:
        return size < sizeof(sp_llm_embed) ? fail("the message is cut") : embed_text(bytes, size);
    case SP_LLM_GRAMMAR:
        return size < sizeof(sp_llm_grammar) ? fail("the message is cut") : set_grammar(bytes, size);
    case SP_LLM_STOP:
        return SP_AGAIN; /* nothing to stop */
    default:
        return fail("a message of a kind that is not known");
    }
}

/* Takes every message that has come: a stop counts at once, the others wait for their turn. */
static void take_messages(void) {
    waiting **end = &actor.queue;
    while (*end) {
        end = &(*end)->next;
    }
    for (int32_t size = sp_receive(NULL, 0); size >= 0; size = sp_receive(NULL, 0)) {
        waiting *w = malloc(sizeof *w + (uint32_t)size + 8);
        if (!w) {
            return;
        }
        w->next = NULL;
        w->size = (uint32_t)size;
        /* An empty message is consumed by the call that asked for its size. */
        if (size > 0) {
            sp_receive(w->bytes, (uint32_t)size);
        }
        uint32_t kind = 0;
        memcpy(&kind, w->bytes, w->size < sizeof kind ? w->size : sizeof kind);
        if (kind == SP_LLM_STOP && actor.doing != IDLE) {
            actor.stop_asked = true;
            free(w);
        } else {
            *end = w;
            end = &w->next;
        }
    }
}

static int32_t next_message(void) {
    waiting *w = actor.queue;
    if (!w) {
        return SP_IDLE;
    }
    actor.queue = w->next;
    actor.stop_asked = false;
    int32_t result = handle(w->bytes, w->size);
    free(w);
    return result;
}

static void send_logits(uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        sp_llm_logits head = {.kind = SP_LLM_LOGITS, .position = actor.n_past - n + i, .n_vocab = llm_model.n_vocab};
        send_with_text(&head, sizeof head, (const char *)engine_output(i), llm_model.n_vocab * (uint32_t)sizeof(float));
    }
}

/* The logprob of each token behind those whose logits there are. */
static void send_logprobs(void) {
    uint32_t first = actor.at > actor.from ? actor.at : actor.from, end = actor.at + actor.batch;
    uint32_t last = end < actor.n_todo ? end : actor.n_todo - 1; /* nothing comes behind the last token */
    static float values[MAX_BATCH];
    sp_llm_logprobs head = {.kind = SP_LLM_LOGPROBS, .position = first, .n = last > first ? last - first : 0};
    for (uint32_t i = 0; i < head.n; i++) {
        values[i] = sampler_logprob(engine_output(i), llm_model.n_vocab, actor.todo[first + i + 1]);
    }
    if (head.n) {
        send_with_text(&head, sizeof head, (const char *)values, head.n * (uint32_t)sizeof *values);
    }
}

/* A batch of the prompt is done. */
static int32_t after_batch(void) {
    memcpy(actor.context + actor.n_past, actor.todo + actor.at, actor.batch * sizeof *actor.context);
    if (actor.doing == SCORE) {
        send_logprobs();
    } else if (actor.doing == EMBED) {
        embed_batch(actor.at + actor.batch == actor.n_todo);
    }
    actor.n_past += actor.batch;
    actor.at += actor.batch;
    bool whole = actor.at == actor.n_todo;
    if (actor.doing == EVAL && (actor.each || whole)) {
        send_logits(actor.each ? actor.batch : 1);
    }
    if (actor.stop_asked) {
        return finish(SP_LLM_END_INTERRUPTED);
    }
    if (whole) {
        return actor.doing == PROMPT ? first_token() : finish(SP_LLM_END_NOTHING);
    }
    sp_llm_progress progress = {.kind = SP_LLM_PROGRESS, .done = actor.at, .total = actor.n_todo};
    sp_send(&progress, sizeof progress);
    return submit_batch();
}

int32_t sp_step(void) {
    take_messages();
    switch (actor.doing) {
    case IDLE:
        return next_message();
    case ANSWER:
        return after_token();
    default:
        return after_batch();
    }
}

/* Siblings draw different numbers, unless a seed was asked for: then the answer goes on as it would have. */
void sp_resumed(uint64_t seed, int32_t reason) {
    (void)reason;
    alone_forget(); /* it may be another device, with other kernels */
    if (!sampling.config.has_seed) {
        sampler_seed(&sampling, seed);
    }
}
