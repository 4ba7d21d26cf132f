/* See victims.h. */
#include "hostile/victims.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "samepage/llm.h"

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void hear(void *user, const void *bytes, size_t size) {
    victim *v = user;
    uint32_t kind;
    memcpy(&kind, bytes, sizeof kind);
    if (kind == SP_LLM_TOKEN) {
        const sp_llm_token *token = bytes;
        uint64_t now = now_ns();
        if (v->n_tokens > 0 && v->n_times < VICTIM_TIMES) { /* the first waits for the prompt */
            v->times[v->n_times++] = now - v->last_ns;
        }
        v->last_ns = now;
        if (v->n_tokens < VICTIM_TOKENS) {
            v->tokens[v->n_tokens++] = token->token;
        }
    } else if (kind == SP_LLM_ERROR) {
        snprintf(v->problem, sizeof v->problem, "%.*s", (int)(size - sizeof(sp_llm_text)), (const char *)bytes + sizeof(sp_llm_text));
    }
    v->finished |= kind == SP_LLM_ERROR || kind == SP_LLM_DONE || kind == SP_LLM_READY;
}

static bool ask(victim *v, const void *bytes, size_t size) {
    sp_error err;
    v->finished = false;
    sp_status status = sp_actor_send(v->actor, bytes, size, &err);
    while (status == SP_OK && !v->finished) {
        sp_step_result result;
        status = sp_actor_step(v->actor, &result, &err);
    }
    if (status != SP_OK) {
        snprintf(v->problem, sizeof v->problem, "%s", err.message);
    }
    return !v->problem[0];
}

static bool say(victim *v, uint32_t kind, const char *text) {
    uint8_t bytes[sizeof(sp_llm_text) + 100];
    sp_llm_text head = {.kind = kind, .length = (uint32_t)strlen(text)};
    memcpy(bytes, &head, sizeof head);
    memcpy(bytes + sizeof head, text, head.length);
    return ask(v, bytes, sizeof head + head.length);
}

/* The same each time: greedy, from an empty context. */
static bool generate(victim *v) {
    static const char *const prompts[VICTIMS] = {"Once upon a time", "The sea is", "One, two, three"};
    v->n_tokens = 0;
    return say(v, SP_LLM_RESET, "") && say(v, SP_LLM_COMPLETE, prompts[v->number]);
}

static bool open_one(victim *v) {
    sp_error err;
    sp_actor_options options = {
        .device = v->with->device, .models = &v->with->model, .n_models = 1, .on_message = hear, .on_message_user = v, .inherit_stderr = true};
    if (sp_actor_spawn(v->with->host, v->with->llm, &options, &v->actor, &err) != SP_OK) {
        snprintf(v->problem, sizeof v->problem, "%s", err.message);
        return false;
    }
    sp_llm_config config = {
        .kind = SP_LLM_CONFIG, .n_ctx = 256, .max_tokens = VICTIM_TOKENS, .type_k = 1, .type_v = 1, .top_p = 1, .repeat_penalty = 1};
    bool ok = ask(v, &config, sizeof config) && generate(v);
    memcpy(v->alone, v->tokens, sizeof v->alone);
    return ok;
}

bool victims_open(victim victims[VICTIMS], const shared *with) {
    bool ok = true;
    for (int i = 0; i < VICTIMS; i++) {
        victims[i] = (victim){.with = with, .number = i, .times = calloc(VICTIM_TIMES, sizeof(uint64_t))};
        ok = open_one(&victims[i]) && ok;
    }
    return ok;
}

void victims_close(victim victims[VICTIMS]) {
    for (int i = 0; i < VICTIMS; i++) {
        sp_actor_close(victims[i].actor);
        free(victims[i].times);
    }
}

static void *run(void *user) {
    victim *v = user;
    do {
        memset(v->tokens, 0, sizeof v->tokens);
        bool ok = generate(v);
        v->passes++;
        v->differences += !ok || memcmp(v->tokens, v->alone, sizeof v->alone) != 0;
    } while (!v->problem[0] && !atomic_load(v->stop));
    return NULL;
}

void victims_start(victim victims[VICTIMS], atomic_bool *stop) {
    for (int i = 0; i < VICTIMS; i++) {
        victims[i].stop = stop;
        pthread_create(&victims[i].thread, NULL, run, &victims[i]);
    }
}

void victims_join(victim victims[VICTIMS]) {
    for (int i = 0; i < VICTIMS; i++) {
        pthread_join(victims[i].thread, NULL);
    }
}

static int ascending(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

uint64_t victims_p99(victim victims[VICTIMS]) {
    uint64_t *all = calloc(VICTIMS * VICTIM_TIMES, sizeof *all);
    size_t n = 0;
    for (int i = 0; i < VICTIMS; i++) {
        memcpy(all + n, victims[i].times, victims[i].n_times * sizeof *all);
        n += victims[i].n_times;
        victims[i].n_times = 0;
    }
    qsort(all, n, sizeof *all, ascending);
    uint64_t p99 = n ? all[(n * 99) / 100] : 0;
    free(all);
    return p99;
}
