/*
 * Several threads over one host, device and model: each loads modules, makes actors and generates; one is interrupted from another thread. What
 * they generate is what they generate alone. Run it under ThreadSanitizer: make tsan.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "folders.h"
#include "hostile/victims.h"

enum { THREADS = 4, ROUNDS = 3 };

static int failures;

#define CHECK(condition)                                                                                                                             \
    do {                                                                                                                                             \
        if (!(condition)) {                                                                                                                          \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                                                  \
            __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);                                                                                      \
        }                                                                                                                                            \
    } while (0)

typedef struct file {
    void *data;
    size_t size;
} file;

static file read_file(const char *variable, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder_of(variable), name);
    FILE *in = fopen(path, "rb");
    file f = {.data = malloc(1 << 20)};
    f.size = in ? fread(f.data, 1, 1 << 20, in) : 0;
    if (in) {
        fclose(in);
    }
    return f;
}

static shared with;
static file counter, loop, pocket;

static void *come_and_go(void *user) {
    (void)user;
    for (int i = 0; i < ROUNDS; i++) {
        sp_error err = {0};
        sp_module *module = NULL;
        sp_model *model = NULL;
        sp_actor *actor = NULL;
        sp_step_result result;
        CHECK(sp_module_load(with.host, counter.data, counter.size, &module, &err) == SP_OK);
        CHECK(sp_model_open(with.host, (const char *)pocket.data, NULL, &model, &err) == SP_OK);
        sp_actor_options options = {.device = with.device, .models = &model, .n_models = 1};
        CHECK(sp_actor_spawn(with.host, module, &options, &actor, &err) == SP_OK);
        CHECK(sp_actor_send(actor, "1", 1, &err) == SP_OK);
        CHECK(sp_actor_run(actor, &result, &err) == SP_OK);
        sp_actor_close(actor);
        sp_model_close(model);
        sp_module_close(module);
    }
    return NULL;
}

static void *never_end(void *user) {
    sp_error err = {0};
    sp_step_result result;
    CHECK(sp_actor_step(user, &result, &err) == SP_ERR_INTERRUPTED);
    return NULL;
}

static void interrupt_one(void) {
    sp_error err = {0};
    sp_module *module = NULL;
    sp_actor *actor = NULL;
    sp_actor_options options = {.device = with.device, .limits = {.step_ms = 600000}};
    CHECK(sp_module_load(with.host, loop.data, loop.size, &module, &err) == SP_OK);
    CHECK(sp_actor_spawn(with.host, module, &options, &actor, &err) == SP_OK);
    pthread_t thread;
    pthread_create(&thread, NULL, never_end, actor);
    usleep(30000);
    sp_actor_interrupt(actor);
    pthread_join(thread, NULL);
    sp_step_result result;
    CHECK(sp_actor_step(actor, &result, &err) == SP_ERR_STATE);
    sp_actor_close(actor);
    sp_module_close(module);
}

int main(void) {
    sp_error err = {0};
    file llm = read_file("BUILD_DIR", "guest/llm.wasm");
    counter = read_file("BUILD_DIR", "guest/counter.wasm");
    loop = read_file("BUILD_DIR", "guest/hostile-loop.wasm");
    pocket.data = malloc(4096);
    snprintf(pocket.data, 4096, "%s/models/pocket/pocket-q8_0.gguf", folder_of("SOURCE_DIR"));
    sp_status status = sp_host_open(NULL, &with.host, &err);
    status = status ? status : sp_device_open("cpu", 1, &with.device, &err);
    status = status ? status : sp_model_open(with.host, pocket.data, NULL, &with.model, &err);
    status = status ? status : sp_module_load(with.host, llm.data, llm.size, &with.llm, &err);
    static victim victims[VICTIMS];
    if (status != SP_OK || !victims_open(victims, &with)) {
        fprintf(stderr, "%s%s\n", err.message, victims[0].problem);
        return 1;
    }
    atomic_bool stop = false;
    pthread_t threads[THREADS];
    victims_start(victims, &stop);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, come_and_go, NULL);
    }
    for (int i = 0; i < ROUNDS; i++) {
        interrupt_one();
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    atomic_store(&stop, true);
    victims_join(victims);
    for (int i = 0; i < VICTIMS; i++) {
        CHECK(victims[i].passes > 0 && victims[i].differences == 0 && !victims[i].problem[0]);
    }
    victims_close(victims);
    sp_module_close(with.llm);
    sp_model_close(with.model);
    sp_device_close(with.device);
    sp_host_close(with.host);
    free(llm.data);
    free(counter.data);
    free(loop.data);
    free(pocket.data);
    return failures != 0;
}
