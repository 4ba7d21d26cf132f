/* See llm_client.h. */
#include "cli/llm_client.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/cmd.h"
#include "cli/embedded.h"
#include "cli/open_device.h"
#include "cli/progress.h"
#include "program/program.h"
#include "samepage/abi.h"
#include "samepage/program.h"

const sp_llm_settings sp_llm_defaults = {.device = "cpu",
                                         .type_k = "f16",
                                         .type_v = "f16",
                                         .max_tokens = -1,
                                         .top_k = 40,
                                         .repeat_last_n = 64,
                                         .temperature = 0.8f,
                                         .top_p = 0.95f,
                                         .min_p = 0.05f,
                                         .repeat_penalty = 1,
                                         .n_top = -1,
                                         .kept_weights = SP_KEPT_WEIGHTS_BYTES};

size_t sp_llm_model_rows(sp_llm_settings *s, sp_option rows[SP_LLM_MODEL_ROWS]) {
    const sp_option table[SP_LLM_MODEL_ROWS] = {
        {'m', "model", SP_OPT_TEXT, &s->model, 0, 0, "FILE", "GGUF file (default: the embedded pocket model)"},
        {0, "lora", SP_OPT_LIST, &s->adapters, 0, 0, "FILE", "a LoRA adapter for the model, as a GGUF; may be repeated"},
        {0, "lora-scaled", SP_OPT_LIST, &s->scaled_adapters, 0, 0, "FILE:SCALE", "the same with a scale (--lora: 1); may be repeated"},
        {0, "device", SP_OPT_TEXT, &s->device, 0, 0, "NAME", "cpu, vulkan:N, discrete, ...: see samepage devices (default: cpu)"},
        {0, "keep-weights", SP_OPT_SIZE, &s->kept_weights, 0, 1e18, "SIZE",
         "converted weights of all models kept for the next start, at most; 0: none (default: 32G)"},
        {'b', "batch-size", SP_OPT_INT, &s->n_batch, 0, 512, "N", "tokens evaluated at once, 1 to 512 (default: 512)"},
        {'t', "threads", SP_OPT_INT, &s->threads, 0, 512, "N", "CPU threads (default: all cores)"},
    };
    memcpy(rows, table, sizeof table);
    return SP_LLM_MODEL_ROWS;
}

size_t sp_llm_option_rows(sp_llm_settings *s, sp_option rows[SP_LLM_OPTION_ROWS]) {
    const sp_option table[] = {
        {'c', "ctx-size", SP_OPT_INT, &s->n_ctx, 0, 1 << 24, "N", "tokens of context (default: the model's, at most 4096)"},
        {0, "cache-type-k", SP_OPT_TEXT, &s->type_k, 0, 0, "TYPE", "of the cache's keys: f16, bf16, q8_0, q4_0, ... (default: f16)"},
        {0, "cache-type-v", SP_OPT_TEXT, &s->type_v, 0, 0, "TYPE", "of its values (default: f16)"},
        {'n', "predict", SP_OPT_INT, &s->max_tokens, -1, 1e9, "N", "tokens of an answer at most (default: -1, until it ends)"},
        {0, "max-tokens", SP_OPT_INT, &s->max_tokens, -1, 1e9, "N", "the same"},
        {0, "temp", SP_OPT_FLOAT, &s->temperature, 0, 1e9, "X", "temperature; 0 takes the likeliest token (default: 0.8)"},
        {0, "top-k", SP_OPT_INT, &s->top_k, 0, 1e9, "N", "only the N likeliest tokens; 0: off (default: 40)"},
        {0, "top-p", SP_OPT_FLOAT, &s->top_p, 0, 1, "X", "only the likeliest with probability X together; 1: off (default: 0.95)"},
        {0, "min-p", SP_OPT_FLOAT, &s->min_p, 0, 1, "X", "only those X times as likely as the likeliest; 0: off (default: 0.05)"},
        {0, "repeat-penalty", SP_OPT_FLOAT, &s->repeat_penalty, 0.01, 100, "X", "penalty for repeated tokens; 1: off (default: 1)"},
        {0, "presence-penalty", SP_OPT_FLOAT, &s->presence_penalty, -100, 100, "X", "penalty for tokens that were there; 0: off (default: 0)"},
        {0, "frequency-penalty", SP_OPT_FLOAT, &s->frequency_penalty, -100, 100, "X", "penalty for each time they were there; 0: off (default: 0)"},
        {0, "repeat-last-n", SP_OPT_INT, &s->repeat_last_n, -1, 1e9, "N", "tokens that penalties look back; -1: all (default: 64)"},
        {'s', "seed", SP_OPT_SEED, &s->seed, 0, 0, "N", "seed of chance (default: -1, a random one)"},
        {'l', "logit-bias", SP_OPT_LIST, &s->biases, 0, 0, "ID(+/-)X", "add X to a token's logit, such as 15043+1; may be repeated"},
        {'r', "stop", SP_OPT_LIST, &s->stops, 0, 0, "TEXT", "end the answer before TEXT; may be repeated"},
        {0, "grammar", SP_OPT_TEXT, &s->grammar, 0, 0, "GBNF", "answers follow this grammar"},
        {0, "grammar-file", SP_OPT_TEXT, &s->grammar_file, 0, 0, "FILE", "answers follow the grammar in FILE"},
        {'j', "json-schema", SP_OPT_TEXT, &s->schema, 0, 0, "SCHEMA", "answers are JSON that this schema describes; {}: any object"},
        {0, "json-schema-file", SP_OPT_TEXT, &s->schema_file, 0, 0, "FILE", "answers are JSON that the schema in FILE describes"},
        {0, "prompt-lookup", SP_OPT_INT, &s->n_lookup, 0, 32, "N",
         "draft up to N tokens from what the context said before, where it saves time; the text stays the same; 0: off (default: 0)"},
        {0, "ignore-eos", SP_OPT_FLAG, &s->ignore_end, 0, 0, NULL, "go on after an end token"},
    };
    size_t n = sp_llm_model_rows(s, rows);
    memcpy(rows + n, table, sizeof table);
    n += sizeof table / sizeof table[0];
    return n + sp_limit_option_rows(&s->limits, rows + n);
}

struct sp_llm_client {
    sp_limits limits;
    sp_host *host;
    sp_device *device;
    sp_model *model;
    sp_module *module;
    sp_actor *actor;
    sp_llm_ready ready;
    const sp_llm_events *events;
    sp_llm_done done;
    bool finished, refused;
    bool beside; /* all but the actor is another client's */
    char problem[480];
    sp_progress_line progress;
};

volatile sig_atomic_t sp_llm_stop_asked;
static sp_actor *interruptible;

/* ---- events ---- */

static void on_message(void *user, const void *bytes, size_t size) {
    sp_llm_client *client = user;
    const sp_llm_events *events = client->events;
    uint32_t kind = 0;
    memcpy(&kind, bytes, size < sizeof kind ? size : sizeof kind);
    if (kind == SP_LLM_PROGRESS) {
        sp_llm_progress p;
        memcpy(&p, bytes, sizeof p);
        sp_progress_show(&client->progress, "reading the prompt", p.total ? (double)p.done / p.total : 0);
        return;
    }
    sp_progress_hide(&client->progress);
    if (kind == SP_LLM_READY) {
        memcpy(&client->ready, bytes, sizeof client->ready);
        client->finished = true;
    } else if (kind == SP_LLM_DONE) {
        memcpy(&client->done, bytes, sizeof client->done);
        client->finished = true;
    } else if (kind == SP_LLM_ERROR) {
        size_t length = size - sizeof(sp_llm_text);
        snprintf(client->problem, sizeof client->problem, "%.*s", (int)length, (const char *)bytes + sizeof(sp_llm_text));
        client->refused = true;
    } else if (kind == SP_LLM_TOKEN && events && events->on_token) {
        sp_llm_token token;
        memcpy(&token, bytes, sizeof token);
        events->on_token(events->user, &token, (const char *)bytes + sizeof token);
    } else if (kind != SP_LLM_TOKEN && events && events->on_other) {
        events->on_other(events->user, bytes, size);
    }
}

sp_status sp_llm_ask_bytes(sp_llm_client *client, const void *bytes, size_t size, const sp_llm_events *events, sp_llm_done *done, sp_error *err) {
    client->finished = client->refused = false;
    client->events = events;
    sp_progress_start(&client->progress);
    sp_llm_stop_asked = 0;
    bool told = false;
    sp_status status = sp_actor_send(client->actor, bytes, size, err);
    while (status == SP_OK && !client->finished && !client->refused) {
        if (sp_llm_stop_asked && !told) {
            sp_llm_simple stop = {.kind = SP_LLM_STOP};
            told = sp_actor_send(client->actor, &stop, sizeof stop, NULL) == SP_OK;
        }
        sp_step_result result;
        status = sp_actor_step(client->actor, &result, err);
        if (status == SP_OK && result != SP_STEP_AGAIN && !client->finished && !client->refused) {
            return sp_fail(err, SP_ERR_GUEST, "the language-model actor stopped without an answer");
        }
    }
    sp_progress_hide(&client->progress);
    client->events = NULL;
    if (status == SP_OK && client->refused) {
        return sp_fail(err, SP_ERR_GUEST, "%s", client->problem);
    }
    if (done) {
        *done = client->done;
    }
    return status;
}

sp_status sp_llm_ask(sp_llm_client *client, uint32_t kind, const char *text, size_t length, const sp_llm_events *events, sp_llm_done *done,
                     sp_error *err) {
    json_t *utf8 = text ? json_stringn(text, length) : NULL;
    if (text && !utf8) {
        return sp_fail(err, SP_ERR_ARGUMENT, "the text is not UTF-8");
    }
    json_decref(utf8);
    sp_llm_text *message = malloc(sizeof *message + length);
    if (!message) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *message = (sp_llm_text){.kind = kind, .length = (uint32_t)length};
    if (length) {
        memcpy(message + 1, text, length);
    }
    sp_status status = sp_llm_ask_bytes(client, message, sizeof *message + length, events, done, err);
    free(message);
    return status;
}

/* ---- configuration ---- */

static sp_status parse_bias(const char *text, sp_llm_bias *out, sp_error *err) {
    char *end, *tail;
    long token = strtol(text, &end, 10);
    double bias = end != text && (*end == '+' || *end == '-') ? strtod(end, &tail) : NAN;
    if (isnan(bias) || *tail || token < 0 || token > INT32_MAX) {
        return sp_fail(err, SP_ERR_ARGUMENT, "--logit-bias %s: must be a token id, + or -, and a number, such as 15043+1 or 2-5", text);
    }
    *out = (sp_llm_bias){.token = (int32_t)token, .bias = (float)bias};
    return SP_OK;
}

/* The types that libllama lets a cache have. */
static sp_status parse_type(const char *option, const char *text, uint32_t *out, sp_error *err) {
    static const uint32_t types[] = {SP_TYPE_F16,  SP_TYPE_BF16, SP_TYPE_F32,  SP_TYPE_Q8_0,  SP_TYPE_Q4_0,
                                     SP_TYPE_Q4_1, SP_TYPE_Q5_0, SP_TYPE_Q5_1, SP_TYPE_IQ4_NL};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(sp_type_get(types[i])->name, text) == 0) {
            *out = types[i];
            return SP_OK;
        }
    }
    return sp_fail(err, SP_ERR_ARGUMENT, "--%s %s: must be f16, bf16, f32, q8_0, q4_0, q4_1, q5_0, q5_1 or iq4_nl", option, text);
}

/* Tells the grammar, if one is given. */
static sp_status set_grammar(sp_llm_client *client, const sp_llm_settings *s, sp_error *err) {
    const char *file = s->grammar_file ? s->grammar_file : s->schema_file, *text = s->grammar ? s->grammar : s->schema;
    int given = (s->grammar != NULL) + (s->grammar_file != NULL) + (s->schema != NULL) + (s->schema_file != NULL);
    if (given > 1) {
        return sp_fail(err, SP_ERR_ARGUMENT, "--grammar, --grammar-file, --json-schema and --json-schema-file exclude each other");
    }
    if (!given) {
        return SP_OK;
    }
    char *read = NULL;
    size_t length = text ? strlen(text) : 0;
    if (file && !(read = sp_read_file(file, &length, err))) {
        return err ? err->status : SP_ERR_IO;
    }
    sp_llm_grammar head = {.kind = SP_LLM_GRAMMAR, .grammar = s->schema || s->schema_file ? SP_GRAMMAR_JSON_SCHEMA : SP_GRAMMAR_GBNF};
    uint8_t *message = malloc(sizeof head + length);
    sp_status status = message ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    if (message) {
        head.length = (uint32_t)length;
        memcpy(message, &head, sizeof head);
        memcpy(message + sizeof head, read ? read : text, length);
        status = sp_llm_ask_bytes(client, message, sizeof head + length, NULL, NULL, err);
    }
    free(message);
    free(read);
    return status;
}

sp_status sp_llm_configure(sp_llm_client *client, const sp_llm_settings *s, sp_error *err) {
    sp_llm_config config = {.kind = SP_LLM_CONFIG,
                            .n_ctx = (uint32_t)s->n_ctx,
                            .n_batch = (uint32_t)s->n_batch,
                            .max_tokens = s->max_tokens,
                            .temperature = s->temperature,
                            .top_k = s->top_k,
                            .top_p = s->top_p,
                            .min_p = s->min_p,
                            .repeat_penalty = s->repeat_penalty,
                            .presence_penalty = s->presence_penalty,
                            .frequency_penalty = s->frequency_penalty,
                            .repeat_last_n = s->repeat_last_n,
                            .has_seed = s->seed.given,
                            .seed = s->seed.value,
                            .ignore_end = s->ignore_end,
                            .n_bias = (uint32_t)s->biases.n,
                            .n_stop = (uint32_t)s->stops.n,
                            .logprobs = s->n_top >= 0,
                            .n_top = s->n_top > 0 ? (uint32_t)s->n_top : 0,
                            .n_lookup = (uint32_t)s->n_lookup,
                            .lookup_always = s->lookup_always,
                            .embeddings = s->embeddings};
    if (parse_type("cache-type-k", s->type_k ? s->type_k : "f16", &config.type_k, err) != SP_OK ||
        parse_type("cache-type-v", s->type_v ? s->type_v : "f16", &config.type_v, err) != SP_OK) {
        return SP_ERR_ARGUMENT;
    }
    size_t size = sizeof config + s->biases.n * sizeof(sp_llm_bias);
    for (size_t i = 0; i < s->stops.n; i++) {
        size += sizeof(uint32_t) + strlen(s->stops.items[i]);
    }
    uint8_t *bytes = malloc(size), *at = bytes;
    if (!bytes) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    memcpy(at, &config, sizeof config);
    at += sizeof config;
    sp_status status = SP_OK;
    for (size_t i = 0; status == SP_OK && i < s->biases.n; i++, at += sizeof(sp_llm_bias)) {
        sp_llm_bias bias = {0};
        status = parse_bias(s->biases.items[i], &bias, err);
        memcpy(at, &bias, sizeof bias);
    }
    for (size_t i = 0; i < s->stops.n; i++) {
        uint32_t length = (uint32_t)strlen(s->stops.items[i]);
        memcpy(at, &length, sizeof length);
        memcpy(at + sizeof length, s->stops.items[i], length);
        at += sizeof length + length;
    }
    if (status == SP_OK) {
        status = sp_llm_ask_bytes(client, bytes, size, NULL, NULL, err);
    }
    free(bytes);
    return status == SP_OK ? set_grammar(client, s, err) : status;
}

/* ---- opening ---- */

static sp_status parse_adapter(const char *text, sp_adapter *out, char **path, sp_error *err) {
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    const double scale = colon ? strtod(colon + 1, &end) : 0;
    if (!colon || end == colon + 1 || *end || !isfinite(scale) || colon == text) {
        return sp_fail(err, SP_ERR_ARGUMENT, "--lora-scaled %s: must be a file, a colon and a number, such as adapter.gguf:0.5", text);
    }
    *path = strndup(text, (size_t)(colon - text));
    *out = (sp_adapter){.path = *path, .scale = (float)scale};
    return *path ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
}

static sp_status open_file(sp_llm_client *client, const sp_llm_settings *s, sp_model_options *options, sp_error *err) {
    sp_adapter adapters[SP_MAX_ADAPTERS];
    char *paths[SP_MAX_ADAPTERS] = {0};
    sp_status status = SP_OK;
    const size_t n = s->adapters.n;
    if (n + s->scaled_adapters.n > SP_MAX_ADAPTERS) {
        return sp_fail(err, SP_ERR_ARGUMENT, "at most %d LoRA adapters", SP_MAX_ADAPTERS);
    }
    for (size_t i = 0; i < n; i++) {
        adapters[i] = (sp_adapter){.path = s->adapters.items[i], .scale = 1};
    }
    for (size_t i = 0; status == SP_OK && i < s->scaled_adapters.n; i++) {
        status = parse_adapter(s->scaled_adapters.items[i], &adapters[n + i], &paths[i], err);
    }
    options->adapters = adapters;
    options->n_adapters = n + s->scaled_adapters.n;
    if (status == SP_OK) {
        status = s->model ? sp_model_open(client->host, s->model, options, &client->model, err)
                          : sp_model_open_bytes(client->host, sp_embedded_pocket, sp_embedded_pocket_size, options, &client->model, err);
    }
    options->adapters = NULL, options->n_adapters = 0;
    for (size_t i = 0; i < s->scaled_adapters.n; i++) {
        free(paths[i]);
    }
    return status;
}

static void tell(void *user, const char *line) {
    sp_progress_hide(user);
    fprintf(stderr, "samepage: %s\n", line);
}

sp_status sp_llm_prepare(const sp_llm_settings *settings, sp_llm_client **out, sp_error *err) {
    *out = NULL;
    sp_llm_client *client = calloc(1, sizeof *client);
    if (!client) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_progress_start(&client->progress);
    sp_model_options model_options = {.progress = sp_progress_show,
                                      .progress_user = &client->progress,
                                      .kept_weights_bytes = settings->kept_weights ? settings->kept_weights : 1,
                                      .notice = settings->kept_weights ? tell : NULL,
                                      .notice_user = &client->progress};
    const sp_host_options host_options = {.wasm_stack_bytes = settings->limits.wasm_stack_bytes};
    client->limits = settings->limits.limits;
    sp_status status = sp_host_open(&host_options, &client->host, err);
    if (status == SP_OK) {
        status = sp_cli_open_device(settings->device, settings->threads, &client->device, err);
    }
    if (status == SP_OK) {
        status = open_file(client, settings, &model_options, err);
    }
    if (status == SP_OK) {
        status = sp_module_load(client->host, sp_embedded_llm, sp_embedded_llm_size, &client->module, err);
    }
    if (status != SP_OK) {
        sp_progress_hide(&client->progress);
        sp_llm_close(client);
        return status;
    }
    *out = client;
    return SP_OK;
}

sp_status sp_llm_prepare_beside(const sp_llm_client *other, sp_llm_client **out, sp_error *err) {
    *out = calloc(1, sizeof **out);
    if (!*out) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    **out = *other;
    (*out)->actor = NULL;
    (*out)->beside = true;
    return SP_OK;
}

static sp_actor_options actor_options(sp_llm_client *client) {
    return (sp_actor_options){.device = client->device,
                              .models = &client->model,
                              .n_models = 1,
                              .limits = client->limits,
                              .on_message = on_message,
                              .on_message_user = client,
                              .inherit_stderr = true};
}

/* Ctrl-C means the actor that there is. */
static void replace_actor(sp_llm_client *client, sp_actor *actor) {
    sp_actor *old = client->actor;
    bool moved = interruptible && interruptible == old;
    interruptible = moved ? actor : interruptible;
    client->actor = actor;
    sp_actor_close(old);
}

sp_status sp_llm_spawn(sp_llm_client *client, const sp_llm_settings *settings, sp_error *err) {
    sp_actor_options options = actor_options(client);
    sp_actor *actor;
    sp_status status = sp_actor_spawn(client->host, client->module, &options, &actor, err);
    if (status == SP_OK) {
        replace_actor(client, actor);
        status = sp_llm_configure(client, settings, err);
    }
    sp_progress_hide(&client->progress);
    return status;
}

sp_status sp_llm_thaw(sp_llm_client *client, sp_session *session, uint64_t number, sp_error *err) {
    sp_actor_options options = actor_options(client);
    sp_actor *actor;
    sp_status status = sp_actor_thaw(client->host, client->module, &options, session, number, &actor, err);
    if (status == SP_OK) {
        replace_actor(client, actor);
    }
    return status;
}

sp_status sp_llm_open(const sp_llm_settings *settings, sp_llm_client **out, sp_error *err) {
    sp_status status = sp_llm_prepare(settings, out, err);
    if (status == SP_OK) {
        status = sp_llm_spawn(*out, settings, err);
        if (status != SP_OK) {
            sp_llm_close(*out);
            *out = NULL;
        }
    }
    return status;
}

void sp_llm_close(sp_llm_client *client) {
    if (client) {
        interruptible = interruptible == client->actor ? NULL : interruptible;
        sp_actor_close(client->actor);
        if (!client->beside) {
            sp_module_close(client->module);
            sp_model_close(client->model);
            sp_device_close(client->device);
            sp_host_close(client->host);
        }
        free(client);
    }
}

sp_model *sp_llm_model(sp_llm_client *client) {
    return client->model;
}

sp_module *sp_llm_module(sp_llm_client *client) {
    return client->module;
}

sp_actor *sp_llm_actor(sp_llm_client *client) {
    return client->actor;
}

const sp_llm_ready *sp_llm_ready_info(const sp_llm_client *client) {
    return &client->ready;
}

/* ---- Ctrl-C ---- */

static void on_interrupt(int signal) {
    (void)signal;
    sp_llm_stop_asked = sp_llm_stop_asked + 1;
    if (sp_llm_stop_asked >= 3 && interruptible) {
        sp_actor_interrupt(interruptible);
    }
}

void sp_llm_catch_interrupts(sp_llm_client *client) {
    interruptible = client->actor;
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL); /* no SA_RESTART: a line that is being read ends as well */
}
