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

static char *default_cache_dir(void) {
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (base && *base == '/') {
        return join(base, "samepage");
    }
    char *dot = home && *home == '/' ? join(home, ".cache") : NULL;
    char *path = dot ? join(dot, "samepage") : NULL;
    free(dot);
    return path;
}

/* mkdir -p with mode 0700 for what is made. */
static bool make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        bool made = mkdir(path, 0700) == 0 || errno == EEXIST;
        *slash = '/';
        if (!made) {
            return false;
        }
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static bool is_ours_alone(const struct stat *info) {
    return S_ISDIR(info->st_mode) && info->st_uid == geteuid() && !(info->st_mode & (S_IWGRP | S_IWOTH));
}

/* Compiled code is loaded from there: nobody else may write to the folder, nor to the one that it stands in, where it could be exchanged. */
char *sp_host_cache_folder(const sp_host *host, const char *name) {
    char *path = host->cache_dir ? join(host->cache_dir, name) : NULL;
    struct stat outer, inner;
    if (path && make_folders(path) && stat(host->cache_dir, &outer) == 0 && is_ours_alone(&outer) && lstat(path, &inner) == 0 &&
        is_ours_alone(&inner)) {
        return path;
    }
    free(path);
    return NULL;
}

/* ---- does the library fit its headers? ---- */

static wasm_trap_t *check_values(void *env, wasmtime_caller_t *caller, const wasmtime_val_t *args, size_t n, wasmtime_val_t *results,
                                 size_t n_results) {
    (void)caller, (void)n_results;
    bool *fits = env;
    *fits = n == 5 && args[4].kind == WASMTIME_I64 && args[4].of.i64 == 0x123456789abcdefll;
    for (int i = 0; i < 4; i++) {
        *fits = *fits && args[i].kind == WASMTIME_I32 && args[i].of.i32 == 10 + i;
    }
    results[0] = (wasmtime_val_t){.kind = WASMTIME_I32, .of.i32 = 77};
    return NULL;
}

/* A header built with other features than the library gives values another size, and everything would be read wrongly. */
static bool values_fit(wasm_engine_t *engine) {
    wasmtime_store_t *store = wasmtime_store_new(engine, NULL, NULL);
    wasmtime_context_t *context = wasmtime_store_context(store);
    wasmtime_context_set_epoch_deadline(context, 1u << 20);
    wasm_valtype_t *params[5], *results[1] = {wasm_valtype_new(WASM_I32)};
    wasmtime_val_t args[5] = {0}, result = {0};
    for (int i = 0; i < 5; i++) {
        params[i] = wasm_valtype_new(i < 4 ? WASM_I32 : WASM_I64);
        args[i].kind = i < 4 ? WASMTIME_I32 : WASMTIME_I64;
        if (i < 4) {
            args[i].of.i32 = 10 + i;
        } else {
            args[i].of.i64 = 0x123456789abcdefll;
        }
    }
    wasm_valtype_vec_t in, out;
    wasm_valtype_vec_new(&in, 5, params);
    wasm_valtype_vec_new(&out, 1, results);
    wasm_functype_t *type = wasm_functype_new(&in, &out);
    bool fits = false;
    wasmtime_func_t function;
    wasm_trap_t *trap = NULL;
    wasmtime_func_new(context, type, check_values, &fits, NULL, &function);
    wasmtime_error_t *error = wasmtime_func_call(context, &function, args, 5, &result, 1, &trap);
    fits = fits && !error && !trap && result.kind == WASMTIME_I32 && result.of.i32 == 77;
    wasm_functype_delete(type);
    wasmtime_store_delete(store);
    return fits;
}

/* ---- opening and closing ---- */

static sp_status define_imports(wasmtime_linker_t *linker, sp_error *err) {
    wasmtime_error_t *error = wasmtime_linker_define_wasi(linker);
    if (error) {
        wasmtime_error_delete(error);
        return sp_fail(err, SP_ERR_NO_MEMORY, "can't define WASI");
    }
    return sp_imports_define(linker, err);
}

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
    if (!values_fit(host->engine)) {
        status =
            sp_fail(err, SP_ERR_UNSUPPORTED, "the Wasmtime library was built with other features than its headers say: build both from one source");
    }
    if (status == SP_OK) {
        status = define_imports(host->linker, err);
    }
    if (status == SP_OK) {
        status = define_imports(host->actor_linker, err);
    }
    if (status == SP_OK) {
        status = sp_imports_restrict(host->actor_linker, err);
    }
    if (status == SP_OK && pthread_create(&host->ticker, NULL, tick, host) != 0) {
        status = sp_fail(err, SP_ERR_NO_MEMORY, "can't start a thread");
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

sp_status sp_host_acquire_weights(sp_host *host, sp_device *device, sp_model *model, sp_shared_weights **out, sp_error *err) {
    sp_status status = SP_OK;
    pthread_mutex_lock(&host->lock);
    sp_shared_weights *it = host->weights;
    while (it && (it->device != device || it->model != model)) {
        it = it->next;
    }
    if (!it) {
        it = calloc(1, sizeof *it);
        if (!it) {
            status = sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
        } else {
            *it = (sp_shared_weights){.next = host->weights, .device = device, .model = model};
            sp_model_options options = sp_model_get_options(model);
            status = sp_device_weights_open(device, sp_model_weight_table(model), options.progress, options.progress_user, &it->weights, err);
        }
        if (status == SP_OK) {
            host->weights = it;
        } else {
            free(it);
            it = NULL;
        }
    }
    if (it) {
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

const char *sp_build_info(void) {
    static char info[200];
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (!info[0]) {
        snprintf(info, sizeof info, "wasmtime %s, ggml %s, devices %s", WASMTIME_VERSION, ggml_version(), sp_device_kinds());
    }
    pthread_mutex_unlock(&lock);
    return info;
}
