/*
 * Each hostile guest of this folder has the outcome that its source names, while three well-behaved actors of the same host, on the same device,
 * generate what they generate alone. Prints their p99 time per token beside one hostile actor against without.
 *
 * No cmocka here: it puts its handlers of signals in place of those that Wasmtime makes traps of.
 *
 * HOSTILE_SECONDS=N in the environment measures for so long instead of one second each; `make hostile` does.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wasmtime.h>

#include "folders.h"
#include "hostile/expectation.h"
#include "hostile/victims.h"

#define CHECK(condition)                                                                                                                             \
    do {                                                                                                                                             \
        if (!(condition)) {                                                                                                                          \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                                                  \
            failures++;                                                                                                                              \
        }                                                                                                                                            \
    } while (0)

static int failures;

typedef struct bytes {
    uint8_t *data;
    size_t size;
} bytes;

static bytes read_file(const char *path) {
    bytes b = {0};
    FILE *file = fopen(path, "rb");
    if (file) {
        b.data = calloc(1, 1 << 20);
        b.size = fread(b.data, 1, (1 << 20) - 1, file);
        fclose(file);
    }
    return b;
}

static bytes assemble(const char *name, const bytes *text) {
    wasm_byte_vec_t wasm;
    wasmtime_error_t *error = wasmtime_wat2wasm((const char *)text->data, text->size, &wasm);
    if (error) {
        wasm_name_t message;
        wasmtime_error_message(error, &message);
        fprintf(stderr, "%s: %.*s\n", name, (int)message.size, message.data);
        wasm_name_delete(&message);
        wasmtime_error_delete(error);
        return (bytes){0};
    }
    bytes b = {.data = malloc(wasm.size), .size = wasm.size};
    memcpy(b.data, wasm.data, wasm.size);
    wasm_byte_vec_delete(&wasm);
    return b;
}

static char *path_of(const char *variable, const char *folder, const char *name, const char *suffix) {
    char *path = malloc(4096);
    snprintf(path, 4096, "%s/%s%s%s", folder_of(variable), folder, name, suffix);
    return path;
}

/* The guest's Wasm: a C source was compiled by the build. */
static bytes load_wasm(const char *file, const bytes *source) {
    const char *dot = strrchr(file, '.');
    if (strcmp(dot, ".wat") == 0) {
        return assemble(file, source);
    }
    char stem[100];
    snprintf(stem, sizeof stem, "%.*s", (int)(dot - file), file);
    char *path = path_of("BUILD_DIR", "guest/hostile-", stem, ".wasm");
    bytes b = read_file(path);
    free(path);
    return b;
}

/* ---- one guest ---- */

static void drop_message(void *user, const void *data, size_t size) {
    (void)user, (void)data, (void)size;
}

/* A fork fails, and harms nobody but the child. */
static phase drive_fork(sp_actor *actor, const sp_actor_options *options, sp_status *status, sp_error *err) {
    sp_actor *child = NULL;
    sp_step_result result = SP_STEP_DONE;
    *status = sp_actor_step(actor, &result, err);
    if (*status != SP_OK) {
        return PHASE_STEP;
    }
    *status = sp_actor_fork(actor, options, &child, err);
    CHECK((child == NULL) == (*status != SP_OK));
    sp_actor_close(child);
    sp_error again;
    CHECK(sp_actor_step(actor, &result, &again) == SP_OK);
    return PHASE_FORK;
}

/* Where it came to, and why. */
static phase drive(const shared *s, const bytes *wasm, const expectation *wanted, sp_status *status, sp_error *err) {
    sp_module *module = NULL;
    sp_actor *actor = NULL;
    phase where = PHASE_LOAD;
    sp_actor_options options = {.device = s->device,
                                .models = &s->model,
                                .n_models = 1,
                                .limits = wanted->limits,
                                .on_message = drop_message,
                                .inherit_stdout = true,
                                .inherit_stderr = true};
    *status = sp_module_load(s->host, wasm->data, wasm->size, &module, err);
    if (*status == SP_OK) {
        where = PHASE_SPAWN;
        *status = sp_actor_spawn(s->host, module, &options, &actor, err);
    }
    const bool forks = *status == SP_OK && wanted->where == PHASE_FORK;
    if (forks) {
        where = drive_fork(actor, &options, status, err);
    }
    sp_step_result result = SP_STEP_AGAIN;
    for (int i = 0; !forks && *status == SP_OK && result != SP_STEP_DONE && i < 10; i++) {
        where = PHASE_STEP;
        *status = sp_actor_step(actor, &result, err);
    }
    if (!forks && *status == SP_OK && result == SP_STEP_DONE) {
        where = PHASE_DONE;
    }
    if (actor && !forks && *status != SP_OK) { /* it is dead and says so, however often it is asked */
        sp_error again;
        CHECK(sp_actor_step(actor, &result, &again) == SP_ERR_STATE);
    }
    sp_actor_close(actor);
    sp_module_close(module);
    return where;
}

static bool is_clean(const char *text) {
    for (; *text; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f) {
            return false;
        }
    }
    return true;
}

static bool check_guest(const shared *s, const char *file) {
    static const char *const names[] = {"load", "spawn", "step", "fork", "done"};
    char *path = path_of("SOURCE_DIR", "tests/hostile/", file, "");
    bytes source = read_file(path);
    bytes wasm = load_wasm(file, &source);
    expectation wanted;
    bool ok = source.data && wasm.data && expectation_parse(file, (const char *)source.data, &wanted);
    if (ok) {
        sp_error err = {0};
        sp_status status;
        phase where = drive(s, &wasm, &wanted, &status, &err);
        ok =
            where == wanted.where && (where == PHASE_DONE || (status == wanted.status && strstr(err.message, wanted.words))) && is_clean(err.message);
        printf("%s %-24s %-5s %s\n", ok ? "as stated:" : "NOT so:   ", file, names[where], err.message);
    } else {
        printf("NOT so:    %s can't be read or built\n", file);
    }
    free(source.data);
    free(wasm.data);
    free(path);
    return ok;
}

/* Every source of the folder; how many there were, and how many were not as stated. */
static void check_folder(const shared *s, int *count, int *wrong) {
    char *folder = path_of("SOURCE_DIR", "tests/hostile", "", "");
    DIR *dir = opendir(folder);
    CHECK(dir);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        bool guest = dot && (strcmp(dot, ".c") == 0 || strcmp(dot, ".wat") == 0) && strncmp(entry->d_name, "test_", 5) != 0;
        if (guest) {
            *wrong += !check_guest(s, entry->d_name);
            ++*count;
        }
    }
    if (dir) {
        closedir(dir);
    }
    free(folder);
}

/* ---- the tests ---- */

static shared with;
static victim victims[VICTIMS];

static bool open_all(void) {
    sp_error err = {0};
    char *llm = path_of("BUILD_DIR", "guest/", "llm", ".wasm"), *model = path_of("SOURCE_DIR", "models/pocket/", "pocket-q8_0", ".gguf");
    bytes wasm = read_file(llm);
    sp_status status = sp_host_open(NULL, &with.host, &err);
    status = status ? status : sp_device_open("cpu", 1, &with.device, &err);
    status = status ? status : sp_model_open(with.host, model, NULL, &with.model, &err);
    status = status ? status : sp_module_load(with.host, wasm.data, wasm.size, &with.llm, &err);
    free(llm);
    free(model);
    free(wasm.data);
    bool ok = status == SP_OK && victims_open(victims, &with);
    if (!ok) {
        fprintf(stderr, "%s%s%s%s\n", err.message, victims[0].problem, victims[1].problem, victims[2].problem);
    }
    return ok;
}

static void close_all(void) {
    victims_close(victims);
    sp_module_close(with.llm);
    sp_model_close(with.model);
    sp_device_close(with.device);
    sp_host_close(with.host);
}

static void expect_unharmed(void) {
    for (int i = 0; i < VICTIMS; i++) {
        CHECK(!victims[i].problem[0]);
        CHECK(victims[i].passes > 0);
        CHECK(victims[i].differences == 0);
    }
}

static void test_outcomes(void) {
    atomic_bool stop = false;
    int count = 0, wrong = 0;
    victims_start(victims, &stop);
    check_folder(&with, &count, &wrong);
    atomic_store(&stop, true);
    victims_join(victims);
    printf("%d hostile guests, %d not as stated; the others generated %u times, %u times something else than alone\n", count, wrong,
           victims[0].passes + victims[1].passes + victims[2].passes, victims[0].differences + victims[1].differences + victims[2].differences);
    CHECK(count > 40);
    CHECK(wrong == 0);
    expect_unharmed();
}

typedef struct neighbour {
    const char *file;
    atomic_bool *stop;
    bool ok;
} neighbour;

static void *run_neighbour(void *user) {
    neighbour *n = user;
    n->ok = true;
    char *path = path_of("SOURCE_DIR", "tests/hostile/", n->file, "");
    bytes source = read_file(path), wasm = load_wasm(n->file, &source);
    expectation wanted;
    n->ok = wasm.data && expectation_parse(n->file, (const char *)source.data, &wanted);
    while (n->ok && !atomic_load(n->stop)) {
        sp_error err;
        sp_status status;
        n->ok = drive(&with, &wasm, &wanted, &status, &err) == wanted.where;
    }
    free(source.data);
    free(wasm.data);
    free(path);
    return NULL;
}

static uint64_t measure(const char *file, unsigned seconds) {
    atomic_bool stop = false;
    pthread_t thread;
    neighbour n = {.file = file, .stop = &stop, .ok = true};
    victims_p99(victims);
    victims_start(victims, &stop);
    if (file) {
        pthread_create(&thread, NULL, run_neighbour, &n);
    }
    sleep(seconds);
    atomic_store(&stop, true);
    victims_join(victims);
    if (file) {
        pthread_join(thread, NULL);
    }
    CHECK(n.ok);
    expect_unharmed();
    return victims_p99(victims);
}

static void test_neighbours(void) {
    static const char *const files[] = {"flood.c", "loop.c", "loop_of_calls.c", "memory.c"};
    const char *wanted = getenv("HOSTILE_SECONDS");
    unsigned seconds = wanted ? (unsigned)strtoul(wanted, NULL, 10) : 1;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        uint64_t alone = measure(NULL, seconds), beside = measure(files[i], seconds);
        printf("p99 time per token of three actors: %.2f ms without, %.2f ms beside %s: %.2f times\n", (double)alone * 1e-6, (double)beside * 1e-6,
               files[i], (double)beside / (double)alone);
    }
}

/* A callback that steps the actor which is calling it. */
static sp_status stepped, sent;
static sp_actor *reentrant;

static void step_again(void *user, const void *data, size_t size) {
    (void)user, (void)size;
    sp_error err;
    sp_step_result result;
    int code;
    if (reentrant) {
        stepped = sp_actor_step(reentrant, &result, &err);
        CHECK(sp_actor_run_command(reentrant, &code, &err) == SP_ERR_STATE);
        sent = sp_actor_send(reentrant, data, size, &err);
    }
}

static void test_reentrance(void) {
    static const char text[] = "(module (import \"samepage\" \"send\" (func $send (param i32 i32) (result i32))) (memory (export \"memory\") 1)"
                               "(func (export \"sp_step\") (result i32) (drop (call $send (i32.const 0) (i32.const 8))) (i32.const 2)))";
    bytes source = {.data = (uint8_t *)(uintptr_t)text, .size = sizeof text - 1}, wasm = assemble("reentrance", &source);
    sp_error err;
    sp_module *module;
    CHECK(sp_module_load(with.host, wasm.data, wasm.size, &module, &err) == SP_OK);
    sp_actor_options options = {.device = with.device, .on_message = step_again};
    CHECK(sp_actor_spawn(with.host, module, &options, &reentrant, &err) == SP_OK);
    sp_step_result result;
    stepped = SP_OK;
    CHECK(sp_actor_step(reentrant, &result, &err) == SP_OK);
    CHECK(result == SP_STEP_DONE);
    CHECK(stepped == SP_ERR_STATE);
    CHECK(sent == SP_OK);
    sp_actor_close(reentrant);
    sp_module_close(module);
    free(wasm.data);
}

/* A function with more locals than a module may have, and with as many: (module (memory ..) (func (local i64 x n))). */
static void test_locals(void) {
    const uint32_t counts[] = {40000, 60000, UINT32_MAX};
    for (int i = 0; i < 3; i++) {
        uint8_t wasm[] = {0,   'a', 's', 'm', 1, 0,  0,  0,  1,   5,   1,   0x60, 0,   1,   0x7f, 3, 2,    1,    0,   5,
                          3,   1,   0,   1,   7, 20, 2,  6,  'm', 'e', 'm', 'o',  'r', 'y', 2,    0, 7,    's',  'p', '_',
                          's', 't', 'e', 'p', 0, 0,  10, 12, 1,   10,  1,   0,    0,   0,   0,    0, 0x7e, 0x41, 2,   0x0b};
        for (int b = 0; b < 5; b++) { /* LEB128, five bytes */
            wasm[sizeof wasm - 9 + b] = (uint8_t)((counts[i] >> (7 * b)) & 0x7f) | (b < 4 ? 0x80 : 0);
        }
        bytes module = {.data = wasm, .size = sizeof wasm};
        const expectation wanted = {.where = PHASE_DONE};
        sp_error err = {0};
        sp_status status;
        phase where = drive(&with, &module, &wanted, &status, &err);
        if (i == 0) {
            CHECK(where == PHASE_DONE || (where == PHASE_STEP && status == SP_ERR_GUEST)); /* or its frame is larger than the stack */
        } else {
            CHECK(where == PHASE_LOAD);
            CHECK(status == SP_ERR_FORMAT);
        }
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!open_all()) {
        return 1;
    }
    test_outcomes();
    test_reentrance();
    test_locals();
    test_neighbours();
    close_all();
    return failures != 0;
}
