/* See bench_guest.h. */
#include "cli/bench_guest.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "cli/embedded.h"

struct sp_bench_guest {
    sp_host *host;
    sp_device *device;
    sp_model *model;
    sp_module *module;
    sp_actor *actor;
    uint64_t first_token, last_token; /* monotonic nanoseconds */
    sp_llm_done done;
    bool finished;
    char problem[400];
};

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void on_message(void *user, const void *bytes, size_t size) {
    sp_bench_guest *guest = user;
    uint32_t kind = 0;
    memcpy(&kind, bytes, size < sizeof kind ? size : sizeof kind);
    if (kind == SP_LLM_TOKEN) {
        guest->last_token = now_ns();
        guest->first_token = guest->first_token ? guest->first_token : guest->last_token;
    } else if (kind == SP_LLM_DONE && size >= sizeof guest->done) {
        memcpy(&guest->done, bytes, sizeof guest->done);
        guest->finished = true;
    } else if (kind == SP_LLM_READY) {
        guest->finished = true;
    } else if (kind == SP_LLM_ERROR && size >= sizeof(sp_llm_text)) {
        size_t length = size - sizeof(sp_llm_text), room = sizeof guest->problem - 1;
        memcpy(guest->problem, (const char *)bytes + sizeof(sp_llm_text), length < room ? length : room);
        guest->problem[length < room ? length : room] = 0;
    }
}

/* Sends a request and steps until it is done. */
static sp_status ask(sp_bench_guest *guest, const void *bytes, size_t size, sp_error *err) {
    guest->finished = false;
    guest->problem[0] = 0;
    guest->first_token = guest->last_token = 0;
    sp_status status = sp_actor_send(guest->actor, bytes, size, err);
    while (status == SP_OK && !guest->finished && !guest->problem[0]) {
        sp_step_result result;
        status = sp_actor_step(guest->actor, &result, err);
        if (status == SP_OK && result != SP_STEP_AGAIN && !guest->finished && !guest->problem[0]) {
            return sp_fail(err, SP_ERR_GUEST, "the language-model actor stopped without an answer");
        }
    }
    return status == SP_OK && guest->problem[0] ? sp_fail(err, SP_ERR_GUEST, "%s", guest->problem) : status;
}

static sp_status configure(sp_bench_guest *guest, uint32_t n_ctx, int32_t max_tokens, sp_error *err) {
    sp_llm_config config = {
        .kind = SP_LLM_CONFIG, .n_ctx = n_ctx, .max_tokens = max_tokens, .type_k = 1, .type_v = 1, .top_p = 1, .repeat_penalty = 1, .ignore_end = 1};
    return ask(guest, &config, sizeof config, err);
}

sp_status sp_bench_guest_open(const char *path, const char *device_name, uint32_t n_ctx, int threads, sp_bench_guest **out, sp_error *err) {
    *out = NULL;
    sp_bench_guest *guest = calloc(1, sizeof *guest);
    if (!guest) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_status status = sp_host_open(NULL, &guest->host, err);
    if (status == SP_OK) {
        status = sp_device_open(device_name, threads, &guest->device, err);
    }
    if (status == SP_OK) {
        status = sp_model_open(guest->host, path, NULL, &guest->model, err);
    }
    if (status == SP_OK) {
        status = sp_module_load(guest->host, sp_embedded_llm, sp_embedded_llm_size, &guest->module, err);
    }
    if (status == SP_OK) {
        sp_actor_options options = {.device = guest->device, .models = &guest->model, .n_models = 1, .on_message = on_message, .on_message_user = guest};
        status = sp_actor_spawn(guest->host, guest->module, &options, &guest->actor, err);
    }
    if (status == SP_OK) {
        status = configure(guest, n_ctx, 1, err);
    }
    if (status != SP_OK) {
        sp_bench_guest_close(guest);
        return status;
    }
    *out = guest;
    return SP_OK;
}

void sp_bench_guest_close(sp_bench_guest *guest) {
    if (guest) {
        sp_actor_close(guest->actor);
        sp_module_close(guest->module);
        sp_model_close(guest->model);
        sp_device_close(guest->device);
        sp_host_close(guest->host);
        free(guest);
    }
}

sp_model *sp_bench_guest_model(sp_bench_guest *guest) {
    return guest->model;
}

sp_actor *sp_bench_guest_actor(sp_bench_guest *guest) {
    return guest->actor;
}

sp_status sp_bench_guest_complete(sp_bench_guest *guest, const char *text, int32_t n, sp_bench_answer *out, sp_error *err) {
    sp_status status = configure(guest, 0, n, err);
    if (status != SP_OK) {
        return status;
    }
    size_t length = strlen(text);
    sp_llm_text *request = malloc(sizeof *request + length);
    if (!request) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *request = (sp_llm_text){.kind = SP_LLM_COMPLETE, .length = (uint32_t)length};
    memcpy(request + 1, text, length);
    sp_actor_get_stats(guest->actor, &out->before);
    uint64_t start = now_ns();
    status = ask(guest, request, sizeof *request + length, err);
    free(request);
    if (status != SP_OK) {
        return status;
    }
    sp_actor_get_stats(guest->actor, &out->after);
    out->n_prompt = guest->done.n_prompt;
    out->n_answer = guest->done.n_answer;
    out->prompt_ns = guest->first_token - start;
    out->answer_ns = guest->last_token - guest->first_token;
    return SP_OK;
}
