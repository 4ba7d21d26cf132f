/*
 * Is a model's state memory of the guest, all of it? The language-model actor evaluates tokens and is stopped on the way: frozen in the middle and
 * thawed in a new process, and forked at 50 positions. Its logits must be, byte for byte, those of an actor that was never stopped.
 *
 *   check-state LLM.wasm MODEL SESSION      SESSION: a file that is made, and removed
 */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "samepage.h"
#include "samepage/llm.h"

enum { PROMPT = 64, DECODE = 60, FROZEN_AT = 20, FORKS = 50, FORK_TOKENS = 2, CONTEXT = 512, F16 = 1 };

extern char **environ;

typedef struct run {
    sp_host *host;
    sp_device *device;
    sp_model *model;
    sp_module *module;
} run;

/* An actor and what it said last. */
typedef struct talker {
    sp_actor *actor;
    float *logits;
    size_t size;
    bool finished;
} talker;

static void must(sp_status status, const sp_error *err) {
    if (status != SP_OK) {
        printf("failed %s\n", err->message);
        exit(1);
    }
}

static void hear(void *user, const void *bytes, size_t size) {
    talker *t = user;
    uint32_t kind;
    memcpy(&kind, bytes, sizeof kind);
    if (kind == SP_LLM_LOGITS) {
        t->size = size - sizeof(sp_llm_logits);
        free(t->logits);
        t->logits = malloc(t->size);
        if (!t->logits) {
            abort();
        }
        memcpy(t->logits, (const char *)bytes + sizeof(sp_llm_logits), t->size);
    } else if (kind == SP_LLM_ERROR) {
        printf("refused %.*s\n", (int)(size - sizeof(sp_llm_text)), (const char *)bytes + sizeof(sp_llm_text));
        exit(1);
    }
    t->finished |= kind == SP_LLM_DONE || kind == SP_LLM_READY;
}

static void ask(talker *t, const void *bytes, size_t size) {
    sp_error err = {0};
    sp_step_result result;
    t->finished = false;
    must(sp_actor_send(t->actor, bytes, size, &err), &err);
    while (!t->finished) {
        must(sp_actor_step(t->actor, &result, &err), &err);
    }
}

static void evaluate(talker *t, uint32_t from, uint32_t n) {
    struct {
        sp_llm_eval head;
        int32_t tokens[PROMPT];
    } message = {.head = {.kind = SP_LLM_EVAL, .n_tokens = n}};
    for (uint32_t i = 0; i < n; i++) {
        message.tokens[i] = (int32_t)(((from + i) * 2654435761u >> 7) % 128); /* the least vocabulary */
    }
    ask(t, &message, sizeof message.head + n * sizeof(int32_t));
}

static void open_run(run *r, const char *wasm, const char *model) {
    static unsigned char bytes[1 << 22];
    sp_error err = {0};
    FILE *file = fopen(wasm, "rb");
    size_t size = file ? fread(bytes, 1, sizeof bytes, file) : 0;
    must(sp_host_open(NULL, &r->host, &err), &err);
    must(sp_device_open("cpu", 1, &r->device, &err), &err);
    must(sp_model_open(r->host, model, NULL, &r->model, &err), &err);
    must(sp_module_load(r->host, bytes, size, &r->module, &err), &err);
    if (file) {
        fclose(file);
    }
}

static sp_actor_options options_of(run *r, talker *t) {
    return (sp_actor_options){.device = r->device, .models = &r->model, .n_models = 1, .on_message = hear, .on_message_user = t};
}

static void start(run *r, talker *t) {
    const sp_llm_config config = {
        .kind = SP_LLM_CONFIG, .n_ctx = CONTEXT, .n_batch = PROMPT, .type_k = F16, .type_v = F16, .top_p = 1, .repeat_penalty = 1};
    const sp_actor_options options = options_of(r, t);
    sp_error err = {0};
    must(sp_actor_spawn(r->host, r->module, &options, &t->actor, &err), &err);
    ask(t, &config, sizeof config);
    evaluate(t, 0, PROMPT);
}

static void expect(const talker *t, const float *wanted, const char *when, uint32_t at) {
    if (memcmp(t->logits, wanted, t->size) != 0) {
        printf("differs %s at position %u\n", when, at);
        exit(1);
    }
}

/* The rest, in another process: it writes the logits to standard output. */
static int go_on(const char *wasm, const char *model, const char *path) {
    run r = {0};
    talker t = {0};
    sp_error err = {0};
    sp_session *session;
    open_run(&r, wasm, model);
    const sp_actor_options options = options_of(&r, &t);
    must(sp_session_open(path, true, &session, &err), &err);
    must(sp_actor_thaw(r.host, r.module, &options, session, 0, &t.actor, &err), &err);
    for (uint32_t i = FROZEN_AT; i < DECODE; i++) {
        evaluate(&t, PROMPT + i, 1);
        fwrite(t.logits, 1, t.size, stdout);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}

static void freeze(run *r, const char *path) {
    talker t = {0};
    sp_error err = {0};
    sp_session *session;
    start(r, &t);
    for (uint32_t i = 0; i < FROZEN_AT; i++) {
        evaluate(&t, PROMPT + i, 1);
    }
    must(sp_session_create(path, r->module, &r->model, 1, &session, &err), &err);
    must(sp_actor_freeze(t.actor, session, NULL, NULL, &err), &err);
    sp_session_close(session);
    sp_actor_close(t.actor);
    free(t.logits);
}

static void compare_thawed(char **argv, const float *wanted, size_t size) {
    char *arguments[] = {argv[0], argv[1], argv[2], argv[3], "go-on", NULL};
    int ends[2], status = 1;
    pid_t child;
    posix_spawn_file_actions_t actions;
    if (pipe(ends) != 0) {
        exit(1);
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    if (posix_spawn(&child, "/proc/self/exe", &actions, NULL, arguments, environ) != 0) {
        exit(1);
    }
    close(ends[1]);
    FILE *in = fdopen(ends[0], "rb");
    float *got = malloc(size);
    for (uint32_t i = FROZEN_AT; i < DECODE; i++) {
        if (!got || fread(got, 1, size, in) != size || memcmp(got, (const char *)wanted + i * size, size) != 0) {
            printf("differs thawed, at position %u\n", PROMPT + i);
            exit(1);
        }
    }
    fclose(in);
    free(got);
    waitpid(child, &status, 0);
    if (status != 0) {
        printf("failed the thawed process ended with status %d\n", status);
        exit(1);
    }
}

static void compare_forks(run *r, const float *wanted, size_t size) {
    talker parent = {0};
    sp_error err = {0};
    start(r, &parent);
    for (uint32_t i = 0; i < FORKS; i++) {
        talker child = {0};
        const sp_actor_options options = options_of(r, &child);
        must(sp_actor_fork(parent.actor, &options, &child.actor, &err), &err);
        for (uint32_t k = 0; k < FORK_TOKENS; k++) {
            evaluate(&child, PROMPT + i + k, 1);
            expect(&child, (const float *)(const void *)((const char *)wanted + (i + k) * size), "in a fork", PROMPT + i + k);
        }
        sp_actor_close(child.actor);
        free(child.logits);
        evaluate(&parent, PROMPT + i, 1);
        expect(&parent, (const float *)(const void *)((const char *)wanted + i * size), "in a parent", PROMPT + i);
    }
    sp_actor_close(parent.actor);
    free(parent.logits);
}

int main(int argc, char **argv) {
    run r = {0};
    talker t = {0};
    if (argc == 5) {
        return go_on(argv[1], argv[2], argv[3]);
    }
    if (argc != 4) {
        fprintf(stderr, "usage: check-state LLM.wasm MODEL SESSION\n");
        return 2;
    }
    open_run(&r, argv[1], argv[2]);
    start(&r, &t);
    const size_t size = t.size;
    float *wanted = malloc(size * DECODE);
    for (uint32_t i = 0; wanted && i < DECODE; i++) {
        evaluate(&t, PROMPT + i, 1);
        memcpy((char *)wanted + i * size, t.logits, size);
    }
    freeze(&r, argv[3]);
    compare_thawed(argv, wanted, size);
    unlink(argv[3]);
    compare_forks(&r, wanted, size);
    printf("the same bytes: thawed in a new process, %d positions; forked at %d positions\n", DECODE - FROZEN_AT, FORKS);
    free(wanted);
    free(t.logits);
    sp_actor_close(t.actor);
    sp_module_close(r.module);
    sp_model_close(r.model);
    sp_device_close(r.device);
    sp_host_close(r.host);
    return 0;
}
