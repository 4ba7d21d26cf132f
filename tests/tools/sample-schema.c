/*
 * sample-schema SCHEMA.json SAMPLES FROZEN: answers of a model with random weights, each another seed, constrained by the schema; a line of JSON
 * each. The first FROZEN of them are frozen at a random token and go on in another actor, thawed from the file.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/synthetic.h"
#include "samepage.h"
#include "samepage/abi.h"
#include "samepage/llm.h"
#include "samepage/program.h"

typedef struct bench {
    sp_host *host;
    sp_device *device;
    sp_model *model;
    sp_module *module;
    sp_actor *actor;
    char text[1 << 16];
    size_t length;
    uint32_t tokens, reason;
    bool finished;
} bench;

static void must(sp_status status, const sp_error *err) {
    if (status != SP_OK) {
        fprintf(stderr, "sample-schema: %s\n", err->message);
        exit(1);
    }
}

static void hear(void *user, const void *bytes, size_t size) {
    bench *b = user;
    uint32_t kind;
    memcpy(&kind, bytes, sizeof kind);
    if (kind == SP_LLM_TOKEN) {
        const sp_llm_token *token = bytes;
        size_t n = token->length < sizeof b->text - 1 - b->length ? token->length : sizeof b->text - 1 - b->length;
        memcpy(b->text + b->length, token + 1, n);
        b->length += n;
        b->tokens++;
    } else if (kind == SP_LLM_ERROR) {
        fprintf(stderr, "sample-schema: %.*s\n", (int)(size - sizeof(sp_llm_text)), (const char *)bytes + sizeof(sp_llm_text));
        exit(1);
    } else if (kind == SP_LLM_DONE || kind == SP_LLM_READY) {
        b->reason = kind == SP_LLM_DONE ? ((const sp_llm_done *)bytes)->reason : 0;
        b->finished = true;
    }
}

/* Freezes the actor into a file and goes on in another one. */
static void freeze_and_thaw(bench *b, const sp_actor_options *options, const char *path) {
    sp_error err = {0};
    sp_session *session;
    unlink(path);
    must(sp_session_create(path, b->module, &b->model, 1, &session, &err), &err);
    must(sp_actor_freeze(b->actor, session, NULL, NULL, &err), &err);
    sp_actor_close(b->actor);
    must(sp_actor_thaw(b->host, b->module, options, session, 0, &b->actor, &err), &err);
    sp_session_close(session);
    unlink(path);
}

static void ask(bench *b, const void *bytes, size_t size, uint32_t freeze_at, const sp_actor_options *options, const char *path) {
    sp_error err = {0};
    b->finished = false;
    b->length = b->tokens = 0;
    must(sp_actor_send(b->actor, bytes, size, &err), &err);
    while (!b->finished) {
        sp_step_result result;
        must(sp_actor_step(b->actor, &result, &err), &err);
        if (freeze_at && b->tokens >= freeze_at && !b->finished) {
            freeze_and_thaw(b, options, path);
            freeze_at = 0;
        }
    }
}

static void configure(bench *b, uint64_t seed) {
    sp_llm_config config = {.kind = SP_LLM_CONFIG,
                            .n_ctx = 2048,
                            .max_tokens = -1,
                            .type_k = SP_TYPE_F16,
                            .type_v = SP_TYPE_F16,
                            .temperature = 1,
                            .top_k = 40,
                            .top_p = 1,
                            .repeat_penalty = 1,
                            .has_seed = 1,
                            .seed = seed};
    ask(b, &config, sizeof config, 0, NULL, NULL);
}

static void *read_whole(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    unsigned char *bytes = malloc(1 << 20);
    if (!file || !bytes) {
        fprintf(stderr, "sample-schema: can't read %s\n", path);
        exit(1);
    }
    *size = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    return bytes;
}

static void open_all(bench *b, const char *build, const char *sources, sp_actor_options *options) {
    char model[512], vocabulary[512], wasm[512];
    sp_error err = {0};
    snprintf(model, sizeof model, "%s/scratch-%ld-random.gguf", build, (long)getpid());
    snprintf(vocabulary, sizeof vocabulary, "%s/models/pocket/pocket-q8_0.gguf", sources);
    snprintf(wasm, sizeof wasm, "%s/guest/llm.wasm", build);
    sp_synthetic what = {.architecture = "llama", .vocabulary = vocabulary, .n_layer = 1, .n_embd = 64, .n_head = 2, .n_head_kv = 1};
    what.n_ff = 128, what.n_ctx = 2048, what.type = SP_TYPE_F16, what.seed = 5;
    must(sp_synthetic_write(&what, model, &err), &err);
    size_t size;
    void *bytes = read_whole(wasm, &size);
    must(sp_host_open(NULL, &b->host, &err), &err);
    must(sp_device_open("cpu", 1, &b->device, &err), &err);
    must(sp_model_open(b->host, model, NULL, &b->model, &err), &err);
    unlink(model);
    must(sp_module_load(b->host, bytes, size, &b->module, &err), &err);
    free(bytes);
    *options =
        (sp_actor_options){.device = b->device, .models = &b->model, .n_models = 1, .on_message = hear, .on_message_user = b, .inherit_stderr = true};
    must(sp_actor_spawn(b->host, b->module, options, &b->actor, &err), &err);
}

static void set_schema(bench *b, const char *path) {
    size_t length;
    void *schema = read_whole(path, &length);
    sp_llm_grammar head = {.kind = SP_LLM_GRAMMAR, .grammar = SP_GRAMMAR_JSON_SCHEMA, .length = (uint32_t)length};
    unsigned char *message = malloc(sizeof head + length);
    memcpy(message, &head, sizeof head);
    memcpy(message + sizeof head, schema, length);
    ask(b, message, sizeof head + length, 0, NULL, NULL);
    free(message);
    free(schema);
}

int main(int argc, char **argv) {
    const char *build = getenv("BUILD_DIR"), *sources = getenv("SOURCE_DIR");
    if (argc != 4 || !build || !sources) {
        fprintf(stderr, "usage: BUILD_DIR=... SOURCE_DIR=... sample-schema SCHEMA.json SAMPLES FROZEN\n");
        return 2;
    }
    static bench b;
    sp_actor_options options;
    char session[512];
    snprintf(session, sizeof session, "%s/scratch-%ld-schema.session", build, (long)getpid());
    open_all(&b, build, sources, &options);
    configure(&b, 1);
    set_schema(&b, argv[1]);
    struct {
        sp_llm_text head;
        char text[8];
    } prompt = {{.kind = SP_LLM_COMPLETE, .length = 6}, "JSON: "};
    int samples = atoi(argv[2]), frozen = atoi(argv[3]);
    srand(11);
    for (int i = 0; i < samples; i++) {
        configure(&b, (uint64_t)i + 1);
        uint32_t at = i < frozen ? 1 + (uint32_t)rand() % 40 : 0;
        ask(&b, &prompt, sizeof prompt.head + prompt.head.length, at, &options, session);
        if (b.reason != SP_LLM_END_TOKEN) {
            fprintf(stderr, "sample-schema: sample %d did not end by itself (reason %u) after %u tokens: %.*s\n", i, b.reason, b.tokens, 200, b.text);
            return 1;
        }
        /* A line each: newlines outside of strings are space, and inside of strings they are escaped. */
        for (size_t c = 0; c < b.length; c++) {
            putchar(b.text[c] == '\n' ? ' ' : b.text[c]);
        }
        putchar('\n');
    }
    sp_actor_close(b.actor);
    sp_module_close(b.module);
    sp_model_close(b.model);
    sp_device_close(b.device);
    sp_host_close(b.host);
    return 0;
}
