/* The host: Wasmtime's engine on memories of ours, the imports, the caches, and the weights that actors share. */
#include <errno.h>
#include <ggml.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "abi/abi.h"
#include "abi/memory_creator.h"
#include "memory/os.h"

enum { TICK_MS = 10 };

uint64_t sp_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *tick(void *user) {
    sp_host *host = user;
    const struct timespec pause = {.tv_nsec = TICK_MS * 1000000};
    while (!atomic_load(&host->stop)) {
        nanosleep(&pause, NULL);
        if (atomic_load(&host->running) > 0) {
            wasmtime_engine_increment_epoch(host->engine);
        }
    }
    return NULL;
}

static wasm_engine_t *new_engine(size_t wasm_stack_bytes) {
    wasm_config_t *config = wasm_config_new();
    wasmtime_memory_creator_t creator = {.new_memory = sp_memory_creator_new};
    wasmtime_config_host_memory_creator_set(config, &creator);
    /* With a creator of our own, Wasmtime panics at instantiation if it may map initial data copy-on-write. */
    wasmtime_config_memory_init_cow_set(config, false);
    wasmtime_config_memory_may_move_set(config, false);
    wasmtime_config_memory_reservation_set(config, 4ull << 30);
    wasmtime_config_memory_guard_size_set(config, 32ull << 20);
    wasmtime_config_epoch_interruption_set(config, true);
    wasmtime_config_cranelift_opt_level_set(config, WASMTIME_OPT_LEVEL_SPEED);
    wasmtime_config_max_wasm_stack_set(config, wasm_stack_bytes ? wasm_stack_bytes : 1u << 20);
    /* What guests don't need is not there to be attacked. */
    wasmtime_config_wasm_memory64_set(config, false);
    wasmtime_config_wasm_multi_memory_set(config, false);
    wasmtime_config_wasm_relaxed_simd_set(config, false);
    wasmtime_config_wasm_tail_call_set(config, false);
    return wasm_engine_new_with_config(config);
}

static char *join(const char *a, const char *b) {
    char *path = malloc(strlen(a) + strlen(b) + 2);
    if (path) {
        sprintf(path, "%s/%s", a, b);
    }
    return path;
}

/* NULL: no folder can be told, or no memory. */
static char *default_cache_dir(void) {
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (base && *base == '/') {
        return join(base, "samepage");
    }
    return home && *home == '/' ? join(home, ".cache/samepage") : NULL;
}

static bool make_folder(const char *path) {
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

/* mkdir -p with mode 0700 for what is made. */
static bool make_folders(char *path) {
    bool made = true;
    for (char *slash = strchr(path + 1, '/'); made && slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        made = make_folder(path);
        *slash = '/';
    }
    return made && make_folder(path);
}

bool sp_host_is_ours_alone(const struct stat *info, mode_t kind) {
    return (info->st_mode & (S_IFMT | S_IWGRP | S_IWOTH)) == kind && info->st_uid == geteuid();
}

/* Compiled code is loaded from there: nobody else may write to the folder, nor to the one that it stands in, where it could be exchanged. */
char *sp_host_cache_folder(const sp_host *host, const char *name) {
    char *path = host->cache_dir ? join(host->cache_dir, name) : NULL;
    struct stat outer, inner;
    if (path && make_folders(path) && stat(host->cache_dir, &outer) == 0 && sp_host_is_ours_alone(&outer, S_IFDIR) && lstat(path, &inner) == 0 &&
        sp_host_is_ours_alone(&inner, S_IFDIR)) {
        return path;
    }
    free(path);
    return NULL;
}

/* ---- does the library fit its headers? ---- */

enum { N_VALUES = 5 };
static const struct {
    wasm_valkind_t type;
    wasmtime_valkind_t kind;
    int64_t value;
} values[N_VALUES] = {{WASM_I32, WASMTIME_I32, 10},
                      {WASM_I32, WASMTIME_I32, 11},
                      {WASM_I32, WASMTIME_I32, 12},
                      {WASM_I32, WASMTIME_I32, 13},
                      {WASM_I64, WASMTIME_I64, 0x123456789abcdefll}};

static bool is_value(const wasmtime_val_t *value, int i) {
    return (value->kind == values[i].kind) & ((values[i].kind == WASMTIME_I64 ? value->of.i64 : value->of.i32) == values[i].value);
}

static wasm_trap_t *check_values(void *env, wasmtime_caller_t *caller, const wasmtime_val_t *args, size_t n, wasmtime_val_t *results,
                                 size_t n_results) {
    (void)caller, (void)n_results;
    bool fit = n == N_VALUES;
    for (int i = 0; i < N_VALUES; i++) {
        fit &= is_value(&args[i], i);
    }
    *(bool *)env = fit;
    results[0] = args[0];
    return NULL;
}

/* A header built with other features than the library gives values another size, and everything would be read wrongly. */
static bool values_fit(wasm_engine_t *engine) {
    wasmtime_store_t *store = wasmtime_store_new(engine, NULL, NULL);
    wasmtime_context_t *context = wasmtime_store_context(store);
    wasmtime_context_set_epoch_deadline(context, 1u << 20);
    wasm_valtype_t *params[N_VALUES], *results[1] = {wasm_valtype_new(values[0].type)};
    wasmtime_val_t args[N_VALUES] = {0}, result = {0};
    for (int i = 0; i < N_VALUES; i++) {
        params[i] = wasm_valtype_new(values[i].type);
        args[i].kind = values[i].kind;
        args[i].of.i64 = values[i].value; /* little-endian: an i32 is its low half */
    }
    wasm_valtype_vec_t in, out;
    wasm_valtype_vec_new(&in, N_VALUES, params);
    wasm_valtype_vec_new(&out, 1, results);
    wasm_functype_t *type = wasm_functype_new(&in, &out);
    bool fit = false;
    wasmtime_func_t function;
    wasm_trap_t *trap = NULL;
    wasmtime_func_new(context, type, check_values, &fit, NULL, &function);
    wasmtime_error_t *error = wasmtime_func_call(context, &function, args, N_VALUES, &result, 1, &trap);
    fit &= (error == NULL) & (trap == NULL) & is_value(&result, 0);
    wasm_functype_delete(type);
    wasmtime_store_delete(store);
    return fit;
}

/* ---- opening and closing ---- */

static sp_status check_library(sp_host *host, sp_error *err) {
    return values_fit(host->engine) ? SP_OK
                                    : sp_fail(err, SP_ERR_UNSUPPORTED,
                                              "the Wasmtime library was built with other features than its headers say: build both from one source");
}

static sp_status start_ticker(sp_host *host, sp_error *err) {
    return pthread_create(&host->ticker, NULL, tick, host) == 0 ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "can't start a thread");
}

static sp_status give_commands_wasi(sp_host *host, sp_error *err) {
    return sp_abi_take_error(wasmtime_linker_define_wasi(host->linker), SP_ERR_STATE, "WASI can't be defined", err);
}

static sp_status give_actors_wasi(sp_host *host, sp_error *err) {
    return sp_abi_take_error(wasmtime_linker_define_wasi(host->actor_linker), SP_ERR_STATE, "WASI can't be defined", err);
}

static sp_status restrict_wasi(sp_host *host, sp_error *err) {
    return sp_imports_restrict(host->actor_linker, err);
}

static sp_status give_commands_imports(sp_host *host, sp_error *err) {
    return sp_imports_define(host->linker, err);
}

static sp_status give_actors_imports(sp_host *host, sp_error *err) {
    return sp_imports_define(host->actor_linker, err);
}

/* What can fail, in order; the last one starts what must be joined. */
static sp_status (*const opening[])(sp_host *host, sp_error *err) = {check_library, give_commands_wasi,  give_commands_imports, give_actors_wasi,
                                                                     restrict_wasi, give_actors_imports, start_ticker};

static void free_host(sp_host *host) {
    wasmtime_linker_delete(host->linker);
    wasmtime_linker_delete(host->actor_linker);
    wasm_engine_delete(host->engine);
    pthread_mutex_destroy(&host->lock);
    free(host->cache_dir);
    free(host);
}

sp_status sp_host_open(const sp_host_options *options, sp_host **out, sp_error *err) {
    *out = NULL;
    sp_host *host = sodium_init() < 0 ? NULL : calloc(1, sizeof *host);
    if (!host) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    pthread_mutex_init(&host->lock, NULL);
    const char *dir = options ? options->cache_dir : NULL;
    host->cache_dir = !dir ? default_cache_dir() : *dir ? strdup(dir) : NULL;
    host->engine = new_engine(options ? options->wasm_stack_bytes : 0);
    host->linker = wasmtime_linker_new(host->engine);
    host->actor_linker = wasmtime_linker_new(host->engine);
    sp_status status = SP_OK;
    for (size_t i = 0; status == SP_OK && i < sizeof opening / sizeof opening[0]; i++) {
        status = opening[i](host, err);
    }
    if (status != SP_OK) {
        free_host(host); /* there is no ticker to join */
        return status;
    }
    *out = host;
    return SP_OK;
}

void sp_host_close(sp_host *host) {
    if (!host) {
        return;
    }
    atomic_store(&host->stop, true);
    pthread_join(host->ticker, NULL);
    free_host(host);
}

/* ---- weights, shared ---- */

static sp_status open_weights(sp_host *host, sp_device *device, sp_model *model, sp_shared_weights **out, sp_error *err) {
    sp_shared_weights *it = calloc(1, sizeof *it);
    if (!it) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *it = (sp_shared_weights){.next = host->weights, .device = device, .model = model};
    sp_model_options options = sp_model_get_options(model);
    sp_status status = sp_device_weights_open(device, sp_model_weight_table(model), options.progress, options.progress_user, &it->weights, err);
    if (status != SP_OK) {
        free(it);
        return status;
    }
    *out = host->weights = it;
    return SP_OK;
}

sp_status sp_host_acquire_weights(sp_host *host, sp_device *device, sp_model *model, sp_shared_weights **out, sp_error *err) {
    pthread_mutex_lock(&host->lock);
    sp_shared_weights *it = host->weights;
    while (it && (it->device != device || it->model != model)) {
        it = it->next;
    }
    sp_status status = it ? SP_OK : open_weights(host, device, model, &it, err);
    if (status == SP_OK) {
        it->users++;
    }
    *out = it;
    pthread_mutex_unlock(&host->lock);
    return status;
}

void sp_host_release_weights(sp_host *host, sp_shared_weights *weights) {
    if (!weights) {
        return;
    }
    pthread_mutex_lock(&host->lock);
    if (--weights->users == 0) {
        sp_shared_weights **at = &host->weights;
        while (*at != weights) {
            at = &(*at)->next;
        }
        *at = weights->next;
        sp_device_weights_close(weights->weights);
        free(weights);
    }
    pthread_mutex_unlock(&host->lock);
}

/* ---- models with the host's cache; the library's name ---- */

sp_status sp_model_open(sp_host *host, const char *path, const sp_model_options *options, sp_model **out, sp_error *err) {
    char *folder = sp_host_cache_folder(host, "programs");
    sp_status status = sp_model_open_cached(folder, path, options, out, err);
    free(folder);
    return status;
}

sp_status sp_model_open_bytes(sp_host *host, const void *bytes, size_t size, const sp_model_options *options, sp_model **out, sp_error *err) {
    char *folder = sp_host_cache_folder(host, "programs");
    sp_status status = sp_model_open_bytes_cached(folder, bytes, size, options, out, err);
    free(folder);
    return status;
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *sp_version(void) {
    return TEXT(SP_VERSION_MAJOR) "." TEXT(SP_VERSION_MINOR) "." TEXT(SP_VERSION_PATCH);
}

static char build_info[200];

static void say_build_info(void) {
    snprintf(build_info, sizeof build_info, "wasmtime %s, ggml %s, devices %s", WASMTIME_VERSION, ggml_version(), sp_device_kinds());
}

const char *sp_build_info(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, say_build_info);
    return build_info;
}
