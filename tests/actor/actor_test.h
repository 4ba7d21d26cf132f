/* What the tests of freezing share: actors of the language model and of small guests, a folder for sessions, and the logits of each token as a hash.
 */
#ifndef SP_TESTS_ACTOR_TEST_H
#define SP_TESTS_ACTOR_TEST_H

#include "support.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "actor/actor.h"
#include "memory/os.h"

static char folder[256];

/* A store of this test's own. */
static inline int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "%s/freeze-XXXXXX", folder_of("BUILD_DIR"));
    return mkdtemp(folder) ? 0 : -1;
}

static inline void empty_folder(void) {
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            unlinkat(dirfd(dir), e->d_name, 0);
        }
    }
    closedir(dir);
}

static inline int remove_folder(void **state) {
    (void)state;
    empty_folder();
    return rmdir(folder);
}

static inline const char *in_store(const char *name) {
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, 512, "%s/%s", folder, name);
    return path;
}

static inline void ok(sp_status status, const sp_error *err) {
    if (status != SP_OK) {
        fail_msg("%s: %s", sp_status_name(status), err->message);
    }
}

/* A number from the environment: how often something that takes long is done; the suite does it less. */
static inline int times(const char *name, int usual) {
    const char *text = getenv(name);
    return text ? atoi(text) : usual;
}

static inline double now_ms(void) {
    return (double)sp_now_ns() / 1e6;
}

static inline char *pocket_path(void) {
    return in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf");
}

static inline sp_actor_options options_of(session *s) {
    return (sp_actor_options){.device = s->device,
                              .models = &s->model,
                              .n_models = 1,
                              .on_message = session_hear,
                              .on_message_user = s,
                              .inherit_stderr = true,
                              .limits = {.run_ms = 600000}}; /* lavapipe under ThreadSanitizer */
}

/* Puts another actor into the session; the one before is closed. */
static inline void replace_actor(session *s, sp_actor *actor) {
    sp_actor_close(s->actor);
    s->actor = actor;
}

static inline void respawn(session *s) {
    sp_error err = {0};
    sp_actor_options options = options_of(s);
    sp_actor *actor;
    ok(sp_actor_spawn(s->host, s->module, &options, &actor, &err), &err);
    replace_actor(s, actor);
}

static inline sp_session *create_session(session *s, const char *name) {
    sp_error err = {0};
    sp_session *file;
    ok(sp_session_create(in_store(name), s->module, &s->model, 1, &file, &err), &err);
    return file;
}

static inline sp_session *open_session(const char *name) {
    sp_error err = {0};
    sp_session *file;
    ok(sp_session_open(in_store(name), false, &file, &err), &err);
    return file;
}

static inline uint64_t freeze(session *s, sp_session *file) {
    sp_error err = {0};
    uint64_t number;
    ok(sp_actor_freeze(s->actor, file, NULL, &number, &err), &err);
    return number;
}

static inline void thaw(session *s, sp_session *file, uint64_t number) {
    sp_error err = {0};
    sp_actor_options options = options_of(s);
    sp_actor *actor;
    ok(sp_actor_thaw(s->host, s->module, &options, file, number, &actor, &err), &err);
    replace_actor(s, actor);
}

static inline void configure(session *s, uint32_t n_ctx, int32_t max_tokens, bool seeded, uint64_t seed) {
    sp_llm_config config = {.kind = SP_LLM_CONFIG,
                            .n_ctx = n_ctx,
                            .max_tokens = max_tokens,
                            .type_k = 1,
                            .type_v = 1,
                            .temperature = seeded ? 0.9f : 0,
                            .top_p = 1,
                            .repeat_penalty = 1,
                            .has_seed = seeded,
                            .seed = seed,
                            .ignore_end = 1};
    session_ask(s, &config, sizeof config);
    assert_string_equal(s->problem, "");
}

static inline void ask(session *s, uint32_t kind, const char *text) {
    sp_error err = {0};
    size_t length = strlen(text);
    sp_llm_text *message = malloc(sizeof *message + length);
    *message = (sp_llm_text){.kind = kind, .length = (uint32_t)length};
    memcpy(message + 1, text, length);
    s->finished = false;
    s->n_tokens = 0;
    s->text[0] = s->problem[0] = 0;
    ok(sp_actor_send(s->actor, message, sizeof *message + length, &err), &err);
    free(message);
}

/* The logits of the last run. */
static inline uint64_t hash_logits(const sp_actor *actor) {
    sp_error err = {0};
    for (uint32_t p = 0; p < actor->limits.programs; p++) {
        const sp_program *program = actor->programs[p].program;
        for (uint32_t i = 0; program && i < sp_program_get_header(program)->n_slots; i++) {
            const sp_bound_slot *slot = &actor->programs[p].slots[i];
            if (strcmp(sp_program_name(program, sp_program_slots(program)[i].name), "logits") == 0 && slot->region >= 0) {
                const sp_region *region = &actor->regions[slot->region];
                if (region->memory) { /* the guest may have left them on the device */
                    ok(sp_device_memory_sync(region->memory, slot->offset, slot->length, SP_SYNC_FROM_DEVICE, &err), &err);
                }
                return XXH3_64bits(sp_memory_base(actor->memory) + actor->regions[slot->region].start + slot->offset, slot->length);
            }
        }
    }
    fail_msg("the actor has no logits");
    return 0;
}

/* Steps until the answer ends, or has that many tokens (-1: any number). hashes[i], where it isn't NULL, is that of the logits after token i. */
static inline void answer(session *s, int most, uint64_t *hashes) {
    sp_error err = {0};
    sp_step_result result;
    while (!s->finished && (most < 0 || (int)s->n_tokens < most)) {
        ok(sp_actor_step(s->actor, &result, &err), &err);
        if (hashes && s->n_tokens) {
            hashes[s->n_tokens - 1] = hash_logits(s->actor);
        }
    }
}

#endif
