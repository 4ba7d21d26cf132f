/* `samepage embed`: vectors of texts, as llama.cpp's embedding example makes them. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/cmd.h"
#include "cli/llm_client.h"
#include "model/model.h"

typedef struct embedding {
    sp_llm_client *client;
    bool json;
    int32_t pooling, normalise;
    int32_t done_pooling; /* what the model says, once the first has come */
    bool broken;          /* something came that is no number */
    json_t *vectors;      /* of the text under way */
    json_t *data;         /* of all texts; NULL: they are printed as they come */
} embedding;

static const char *const poolings[] = {"none", "mean", "cls", "last"};

static void on_embedding(void *user, const void *bytes, size_t size) {
    embedding *e = user;
    sp_llm_embedding head = {0};
    memcpy(&head, bytes, size < sizeof head ? size : sizeof head);
    if (head.kind != SP_LLM_EMBEDDING) {
        return;
    }
    e->done_pooling = head.pooling;
    json_t *vector = e->json ? json_array() : NULL;
    for (uint32_t i = 0; i < head.n_embd && !e->broken; i++) {
        float value;
        memcpy(&value, (const char *)bytes + sizeof head + i * sizeof value, sizeof value);
        e->broken = !isfinite(value);
        if (e->json) {
            json_array_append_new(vector, json_real((double)value));
        } else if (!e->broken) {
            printf("%s%.9g", i ? " " : "", (double)value);
        }
    }
    if (e->json) {
        json_array_append_new(e->vectors, vector);
    } else if (!e->broken) {
        putchar('\n');
    }
}

static sp_status embed(embedding *e, size_t index, const char *text, size_t length, sp_error *err) {
    json_t *utf8 = json_stringn(text, length);
    if (!utf8) {
        return sp_fail(err, SP_ERR_ARGUMENT, "text %zu is not UTF-8", index + 1);
    }
    json_decref(utf8);
    sp_llm_embed head = {.kind = SP_LLM_EMBED, .length = (uint32_t)length, .pooling = e->pooling, .normalise = e->normalise};
    uint8_t *message = malloc(sizeof head + length);
    if (!message) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    memcpy(message, &head, sizeof head);
    memcpy(message + sizeof head, text, length);
    e->vectors = e->json ? json_array() : NULL;
    const sp_llm_events events = {.on_other = on_embedding, .user = e};
    sp_llm_done done = {0};
    sp_status status = sp_llm_ask_bytes(e->client, message, sizeof head + length, &events, &done, err);
    free(message);
    if (status == SP_OK && done.reason == SP_LLM_END_INTERRUPTED) {
        status = sp_fail(err, SP_ERR_INTERRUPTED, "interrupted");
    }
    if (status == SP_OK && e->broken) {
        status = sp_fail(err, SP_ERR_FORMAT, "the model gives what are no numbers: its weights, or an adapter's, are damaged or do not fit it");
    }
    if (status != SP_OK) {
        json_decref(e->vectors);
        sp_fail_in(err, "text %zu", index + 1);
        return status;
    }
    if (e->json) { /* one vector for the text, or an array of them, one for each token */
        json_t *value = e->done_pooling == SP_LLM_POOLING_NONE ? json_incref(e->vectors) : json_incref(json_array_get(e->vectors, 0));
        json_array_append_new(e->data, json_pack("{s:I, s:i, s:o}", "index", (json_int_t)index, "tokens", (int)done.n_prompt, "embedding", value));
        json_decref(e->vectors);
    }
    return SP_OK;
}

/* The texts between separators; one at the very end ends the last text and begins none. Nothing at all is no text. */
static sp_status embed_all(embedding *e, const char *text, size_t length, const char *separator, sp_error *err) {
    const size_t width = strlen(separator);
    sp_status status = SP_OK;
    const char *at = text, *end = text + length;
    for (size_t index = 0; status == SP_OK && at < end; index++) {
        const char *next = width ? memmem(at, (size_t)(end - at), separator, width) : NULL;
        status = embed(e, index, at, (size_t)((next ? next : end) - at), err);
        at = next ? next + width : end;
    }
    return status;
}

static void print_json(const embedding *e, const sp_llm_settings *s) {
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:i, s:O}", "model", s->model ? s->model : "pocket", "fingerprint", sp_model_fingerprint(sp_llm_model(e->client)),
                  "pooling", poolings[e->done_pooling], "normalize", e->normalise, "data", e->data);
    json_dumpf(root, stdout, JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(root);
}

static int run(embedding *e, const sp_llm_settings *settings, const char *text, size_t length, const char *separator) {
    sp_error err;
    sp_status status = sp_llm_open(settings, &e->client, &err);
    int exit_code = status == SP_ERR_ARGUMENT ? SP_EXIT_USAGE : SP_EXIT_FAILED;
    if (status == SP_OK) {
        sp_llm_catch_interrupts(e->client);
        e->data = e->json ? json_array() : NULL;
        status = embed_all(e, text, length, separator, &err);
        if (status == SP_OK && e->json) {
            print_json(e, settings);
        }
        json_decref(e->data);
        sp_llm_close(e->client);
        exit_code = SP_EXIT_FAILED;
    }
    return status == SP_OK ? SP_EXIT_OK : (sp_failed(&err), exit_code);
}

static bool find_pooling(const char *name, int32_t *out) {
    for (int32_t i = 0; name && i < (int32_t)(sizeof poolings / sizeof poolings[0]); i++) {
        if (strcmp(poolings[i], name) == 0) {
            *out = i;
            return true;
        }
    }
    return !name;
}

int sp_cmd_embed(int argc, char **argv) {
    embedding e = {.pooling = SP_LLM_POOLING_MODEL, .normalise = 2};
    sp_llm_settings settings = sp_llm_defaults;
    settings.embeddings = true;
    const char *prompt = NULL, *file = NULL, *pooling = NULL, *separator = "\n";
    const sp_option own[] = {
        {'p', "prompt", SP_OPT_TEXT, &prompt, 0, 0, "TEXT", "the texts (default: standard input)"},
        {'f', "file", SP_OPT_TEXT, &file, 0, 0, "FILE", "a file with the texts"},
        {0, "embd-separator", SP_OPT_TEXT, &separator, 0, 0, "TEXT", "stands between texts; empty: there is one (default: a newline)"},
        {0, "pooling", SP_OPT_TEXT, &pooling, 0, 0, "KIND", "none (a vector for each token), mean, cls or last (default: as the model says)"},
        {0, "embd-normalize", SP_OPT_INT, &e.normalise, -1, 100, "N",
         "2: Euclidean; 1: taxicab; N: p-norm; 0: the largest becomes 32760; -1: none (default: 2)"},
        {'c', "ctx-size", SP_OPT_INT, &settings.n_ctx, 0, 1 << 24, "N", "tokens of the longest text (default: the model's context, at most 4096)"},
        {0, "json", SP_OPT_FLAG, &e.json, 0, 0, NULL, "the vectors as JSON, with the number of tokens of each text"},
        {0}};
    sp_option table[SP_LLM_MODEL_ROWS + sizeof own / sizeof own[0]];
    memcpy(table + sp_llm_model_rows(&settings, table), own, sizeof own);
    int at = sp_options_parse(
        table, "embed", "[OPTION...]",
        "Turns texts, a line each, into vectors: one line of numbers for each text. Texts that mean the like point the same way.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc || (prompt && file)) {
        return sp_usage_error("embed", at < argc ? "%s: the text goes behind --prompt" : "%s and --file exclude each other",
                              at < argc ? argv[at] : "--prompt");
    }
    if (!find_pooling(pooling, &e.pooling)) {
        return sp_usage_error("embed", "--pooling %s: must be none, mean, cls or last", pooling);
    }
    sp_error err;
    size_t length = prompt ? strlen(prompt) : 0;
    char *read = prompt ? NULL : sp_read_file(file ? file : "-", &length, &err);
    if (!prompt && !read) {
        return sp_failed(&err);
    }
    int exit_code = run(&e, &settings, prompt ? prompt : read, length, separator);
    free(read);
    return exit_code;
}
