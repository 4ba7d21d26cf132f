/*
 * The language-model actor. One batch a step: between any two tokens it is at rest, and everything that it is lies in this memory.
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

#include "conversation.h"
#include "engine.h"
#include "samepage/llm.h"
#include "sampler.h"
#include "text.h"

enum { IDLE, PROMPT, ANSWER, EVAL };

/* A message that came in the middle of an answer. */
typedef struct waiting {
    struct waiting *next;
    uint32_t size;
    uint8_t bytes[];
} waiting;

static struct {
    int doing;
    int32_t *context; /* tokens in the cache */
    uint32_t n_past;
    int32_t *todo; /* tokens to evaluate */
    uint32_t n_todo, at, batch, each;
    uint32_t n_cached, n_answer;
    int32_t next; /* sampled, not evaluated yet */
    bool chatting, stop_asked, has_logits;
    uint64_t started, answer_started;
    waiting *queue;
} actor;

static sampler sampling;
static text_stream answer;
static uint8_t *config_bytes; /* the last CONFIG, with what follows it */
static uint32_t config_size;
static const char *stops[64];
static uint32_t stop_lengths[64];

/* ---- sending ---- */

static void send_with_text(void *head, uint32_t head_size, const char *text, uint32_t length) {
    uint8_t *bytes = malloc(head_size + length);
    if (bytes) {
        memcpy(bytes, head, head_size);
        memcpy(bytes + head_size, text, length);
        sp_send(bytes, head_size + length);
        free(bytes);
    }
}

static void send_error(const char *text) {
    sp_llm_text head = {.kind = SP_LLM_ERROR, .length = (uint32_t)strlen(text)};
    send_with_text(&head, sizeof head, text, head.length);
}

static void send_done(uint32_t reason) {
    uint64_t now = sp_clock();
    sp_llm_done done = {.kind = SP_LLM_DONE,
                        .reason = reason,
                        .n_prompt = actor.n_todo,
                        .n_cached = actor.n_cached,
                        .n_answer = actor.n_answer,
                        .n_past = actor.n_past};
    if (reason == SP_LLM_END_NOTHING && !actor.started) {
        sp_send(&done, sizeof done);
        return;
    }
    done.prompt_ns = (actor.answer_started ? actor.answer_started : now) - actor.started;
    done.answer_ns = actor.answer_started ? now - actor.answer_started : 0;
    sp_send(&done, sizeof done);
}

/* Streams what is ready of the answer. True: a stop string ended it. */
static bool stream(int32_t token, float logprob, bool last) {
    bool stopped;
    size_t ready = text_ready(&answer, stops, stop_lengths, sampling.config.n_stop, last, &stopped);
    ready = ready > answer.sent ? ready : answer.sent;
    sp_llm_token head = {.kind = SP_LLM_TOKEN, .token = token, .logprob = logprob, .length = (uint32_t)(ready - answer.sent)};
    if (!last || head.length) {
        send_with_text(&head, sizeof head, answer.bytes + answer.sent, head.length);
    }
    answer.sent = ready;
    return stopped;
}

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

static int32_t finish(uint32_t reason) {
    if (actor.doing == ANSWER || actor.doing == PROMPT) {
        stream(-1, 0, true);
        if (actor.chatting && actor.doing == ANSWER) {
            conversation_add(ROLE_ASSISTANT, answer.bytes ? answer.bytes : "", answer.length);
        }
    }
    send_done(reason);
    to_idle();
    return SP_AGAIN;
}

static int32_t fail(const char *why) {
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
    uint32_t n_outputs = actor.doing == EVAL && actor.each ? actor.batch : 1;
    const char *wrong = engine_submit(actor.todo + actor.at, actor.batch, actor.n_past, n_outputs);
    return wrong ? fail(wrong) : SP_AGAIN;
}

/* Keeps as much of the cache as the prompt begins with, and starts on the rest. The last token is always evaluated: its logits are wanted. */
static int32_t start_prompt(prompt p, bool chatting) {
    actor.chatting = chatting;
    actor.n_answer = 0;
    actor.answer_started = 0;
    actor.started = sp_clock();
    if (p.n == 0) {
        free(p.tokens);
        return fail("the prompt has no tokens");
    }
    if (p.n > engine_n_ctx()) {
        char why[160];
        snprintf(why, sizeof why, "the prompt has %u tokens; the context has room for %u (a larger -c, if the model allows)", p.n, engine_n_ctx());
        free(p.tokens);
        return fail(why);
    }
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

static int32_t start_chat(void) {
    prompt p;
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
    prompt p;
    const char *wrong = text_prompt(text, length, &p);
    actor.chatting = false;
    actor.n_past = 0; /* the whole prompt is this request's */
    return wrong ? fail(wrong) : start_prompt(p, false);
}

static int32_t nothing_to_do(void) {
    actor.started = 0;
    actor.n_answer = actor.n_cached = 0;
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
    memcpy(config_bytes, &sampling.config, sizeof sampling.config);
    sp_send(config_bytes, config_size);
    for (uint32_t i = 0; i < n_turns; i++) {
        sp_llm_turn head = {.kind = SP_LLM_TURN, .role = turns[i].role, .length = turns[i].length};
        send_with_text(&head, sizeof head, turns[i].text, turns[i].length);
    }
    return nothing_to_do();
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
    actor.todo = malloc(head.n_tokens * sizeof *actor.todo);
    if (!actor.todo) {
        return fail("out of memory");
    }
    memcpy(actor.todo, bytes + sizeof head, head.n_tokens * sizeof *actor.todo);
    actor.n_todo = head.n_tokens;
    actor.at = actor.n_cached = actor.n_answer = 0;
    actor.each = head.each;
    actor.started = sp_clock();
    actor.answer_started = 0;
    actor.doing = EVAL;
    return submit_batch();
}

/* ---- configuration ---- */

static const char *take_stops(const uint8_t *at, const uint8_t *end) {
    if (sampling.config.n_stop > sizeof stops / sizeof stops[0]) {
        return "at most 64 stop strings";
    }
    for (uint32_t i = 0; i < sampling.config.n_stop; i++) {
        uint32_t length;
        if (end - at < (ptrdiff_t)sizeof length) {
            return "a stop string is missing";
        }
        memcpy(&length, at, sizeof length);
        at += sizeof length;
        if (length > (size_t)(end - at)) {
            return "a stop string is cut";
        }
        stops[i] = (const char *)at;
        stop_lengths[i] = length;
        at += length;
    }
    return NULL;
}

static int32_t configure(const uint8_t *bytes, uint32_t size) {
    sp_llm_config config;
    if (size < sizeof config) {
        return fail("the configuration is cut");
    }
    memcpy(&config, bytes, sizeof config);
    if (config.n_bias > (size - sizeof config) / sizeof(sp_llm_bias)) {
        return fail("a logit bias is missing");
    }
    uint8_t *kept = malloc(size);
    if (!kept) {
        return fail("out of memory");
    }
    memcpy(kept, bytes, size);
    free(config_bytes);
    config_bytes = kept;
    config_size = size;
    bool first = !engine_is_open(), reseed = first || config.has_seed;
    if (!reseed) { /* the seed that was given stays, and so does the generator */
        config.has_seed = sampling.config.has_seed;
        config.seed = sampling.config.seed;
    }
    sampling.config = config;
    sampling.biases = (const sp_llm_bias *)(config_bytes + sizeof config);
    const char *wrong = take_stops(config_bytes + sizeof config + config.n_bias * sizeof(sp_llm_bias), config_bytes + size);
    if (!wrong && first) {
        wrong = engine_open(config.n_ctx, config.n_batch, config.type_k, config.type_v);
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
        actor.n_past = 0;
        return nothing_to_do();
    case SP_LLM_EVAL:
        return size < sizeof(sp_llm_eval) ? fail("the message is cut") : evaluate(bytes, size);
    case SP_LLM_HISTORY:
        return tell_history();
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

/* ---- answering ---- */

static int32_t emit(int32_t token, float logprob) {
    char piece[512];
    int32_t n = sp_detokenize(0, &token, 1, 0, piece, sizeof piece);
    if (n > 0) {
        text_append(&answer, piece, (size_t)n < sizeof piece ? (size_t)n : sizeof piece);
    }
    actor.n_answer++;
    bool stopped = stream(token, logprob, false);
    if (stopped) {
        return finish(SP_LLM_END_STOP_STRING);
    }
    if (sampling.config.max_tokens >= 0 && actor.n_answer >= (uint32_t)sampling.config.max_tokens) {
        return finish(SP_LLM_END_MAX_TOKENS);
    }
    if (actor.n_past >= engine_n_ctx()) {
        return finish(SP_LLM_END_CONTEXT);
    }
    actor.next = token;
    const char *wrong = engine_submit(&actor.next, 1, actor.n_past, 1);
    return wrong ? fail(wrong) : SP_AGAIN;
}

static int32_t sample(void) {
    actor.doing = ANSWER;
    if (sampling.config.max_tokens == 0) {
        return finish(SP_LLM_END_MAX_TOKENS);
    }
    float logprob = 0;
    int32_t token =
        sampler_pick(&sampling, engine_logits(0), llm_model.n_vocab, actor.context, actor.n_past, sampling.config.logprobs ? &logprob : NULL);
    actor.answer_started = actor.answer_started ? actor.answer_started : sp_clock();
    if (!sampling.config.ignore_end && sp_token_is_end(0, token) == 1) {
        return finish(SP_LLM_END_TOKEN);
    }
    return emit(token, logprob);
}

static void send_logits(uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        sp_llm_logits head = {.kind = SP_LLM_LOGITS, .position = actor.n_past - n + i, .n_vocab = llm_model.n_vocab};
        send_with_text(&head, sizeof head, (const char *)engine_logits(i), llm_model.n_vocab * (uint32_t)sizeof(float));
    }
}

/* A batch of the prompt is done. */
static int32_t after_batch(void) {
    memcpy(actor.context + actor.n_past, actor.todo + actor.at, actor.batch * sizeof *actor.context);
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
        return actor.doing == EVAL ? finish(SP_LLM_END_NOTHING) : sample();
    }
    sp_llm_progress progress = {.kind = SP_LLM_PROGRESS, .done = actor.at, .total = actor.n_todo};
    sp_send(&progress, sizeof progress);
    return submit_batch();
}

static int32_t after_token(void) {
    actor.context[actor.n_past++] = actor.next;
    return actor.stop_asked ? finish(SP_LLM_END_INTERRUPTED) : sample();
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
    if (!sampling.config.has_seed) {
        sampler_seed(&sampling, seed);
    }
}
