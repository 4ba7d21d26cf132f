/* The table of imports: names and types for Wasmtime, and the way from raw values to functions of ours. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "abi/abi.h"
#include "abi/limits.h"
#include "abi/memory_creator.h"
#include "base/checked.h"

void *sp_guest_range(sp_actor *actor, uint32_t pointer, uint64_t size, sp_error *err) {
    uint64_t total = sp_memory_size(actor->memory);
    if (!sp_range_within(pointer, size, total)) {
        sp_fail(err, SP_ERR_RANGE, "[%u, +%llu) is not inside the guest's memory of %llu bytes", pointer, (unsigned long long)size,
                (unsigned long long)total);
        return NULL;
    }
    return sp_memory_base(actor->memory) + pointer;
}

typedef const wasmtime_val_raw_t *raw;

static uint32_t u(raw v, int i) {
    return (uint32_t)v[i].i32;
}

/* Copies `length` bytes into a guest's buffer as far as they fit; the length that there is to copy, which is what the guest gets. */
static int64_t give(sp_actor *actor, const void *bytes, size_t length, uint32_t out, uint32_t capacity, sp_error *err) {
    if (length > INT32_MAX) {
        return sp_fail(err, SP_ERR_LIMIT, "%zu bytes are more than a guest can be given", length);
    }
    size_t n = length < capacity ? length : capacity;
    void *to = sp_guest_range(actor, out, capacity, err);
    if (!to) {
        return SP_ERR_RANGE;
    }
    memcpy(to, bytes, n);
    return (int64_t)length;
}

static sp_model *model_of(sp_actor *actor, raw v, sp_error *err) {
    if (u(v, 0) >= actor->n_models) {
        sp_fail(err, SP_ERR_NOT_FOUND, "there is no model %d; the actor was given %u", v[0].i32, actor->n_models);
        return NULL;
    }
    return actor->models[u(v, 0)];
}

static int64_t page_size(sp_actor *actor, raw v, sp_error *err) {
    (void)v, (void)err;
    return (int64_t)sp_device_get_info(actor->device)->import_alignment;
}

static int64_t device_is_unified(sp_actor *actor, raw v, sp_error *err) {
    (void)v, (void)err;
    return sp_device_get_info(actor->device)->unified;
}

static int64_t region_open(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_region_open(actor, u(v, 0), u(v, 1), err);
}

static int64_t region_close(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_region_close(actor, v[0].i32, err);
}

static int64_t region_sync(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_region_sync(actor, v[0].i32, u(v, 1), u(v, 2), v[3].i32, err);
}

static int64_t program_load(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_program_load(actor, u(v, 0), u(v, 1), err);
}

static int64_t program_close(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_program_close(actor, v[0].i32, err);
}

static int64_t program_bind(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_program_bind(actor, v[0].i32, u(v, 1), v[2].i32, u(v, 3), u(v, 4), err);
}

static int64_t program_run(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_program_run(actor, v[0].i32, u(v, 1), u(v, 2), false, err);
}

static int64_t program_submit(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_program_run(actor, v[0].i32, u(v, 1), u(v, 2), true, err);
}

static int64_t model_count(sp_actor *actor, raw v, sp_error *err) {
    (void)v, (void)err;
    return actor->n_models;
}

static int64_t model_info(sp_actor *actor, raw v, sp_error *err) {
    sp_model *model = model_of(actor, v, err);
    void *out = model ? sp_guest_range(actor, u(v, 1), sizeof(sp_model_info), err) : NULL;
    if (!out) {
        return err->status;
    }
    sp_model_info info;
    sp_model_get_info(model, &info);
    memcpy(out, &info, sizeof info);
    return SP_OK;
}

static int64_t model_meta(sp_actor *actor, raw v, sp_error *err) {
    sp_model *model = model_of(actor, v, err);
    const char *key = model ? sp_guest_range(actor, u(v, 1), u(v, 2), err) : NULL;
    if (!key) {
        return err->status;
    }
    char name[256];
    if (u(v, 2) >= sizeof name) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "no metadata has a name that long");
    }
    memcpy(name, key, u(v, 2));
    name[u(v, 2)] = 0;
    const char *value;
    sp_status status = sp_model_meta(model, name, &value, err);
    return status == SP_OK ? give(actor, value, strlen(value), u(v, 3), u(v, 4), err) : status;
}

static int64_t give_program(sp_actor *actor, raw v, bool embeddings, sp_error *err) {
    sp_model *model = model_of(actor, v, err);
    if (!model) {
        return err->status;
    }
    const sp_program_wish wish = {.type_k = u(v, 1), .type_v = u(v, 2), .embeddings = embeddings};
    const void *bytes;
    uint64_t size;
    sp_status status = sp_model_get_program(model, &wish, &bytes, &size, err);
    return status == SP_OK ? give(actor, bytes, size, u(v, 3), u(v, 4), err) : status;
}

static int64_t model_program(sp_actor *actor, raw v, sp_error *err) {
    return give_program(actor, v, false, err);
}

static int64_t embeddings_program(sp_actor *actor, raw v, sp_error *err) {
    return give_program(actor, v, true, err);
}

/* The services' work grows with the text and can't be stopped in the middle. */
static bool text_fits(sp_actor *actor, uint64_t length, sp_error *err) {
    if (length > actor->limits.text_bytes) {
        sp_limit_reached(&actor->limits, SP_LIMIT_text_bytes, length, err);
        return false;
    }
    return true;
}

static int64_t tokenize(sp_actor *actor, raw v, sp_error *err) {
    sp_model *model = text_fits(actor, u(v, 2), err) ? model_of(actor, v, err) : NULL;
    const char *text = model ? sp_guest_range(actor, u(v, 1), u(v, 2), err) : NULL;
    void *out = text ? sp_guest_range(actor, u(v, 4), (uint64_t)u(v, 5) * sizeof(int32_t), err) : NULL;
    if (!out) {
        return err->status;
    }
    if (u(v, 4) % sizeof(int32_t)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "token ids lie at multiples of 4");
    }
    size_t count = 0;
    sp_status status = sp_model_tokenize(model, text, u(v, 2), u(v, 3), out, u(v, 5), &count, err);
    return status == SP_OK ? (int64_t)count : status;
}

static int64_t detokenize(sp_actor *actor, raw v, sp_error *err) {
    sp_model *model = text_fits(actor, (uint64_t)u(v, 2) * sizeof(int32_t), err) ? model_of(actor, v, err) : NULL;
    const int32_t *tokens = model ? sp_guest_range(actor, u(v, 1), (uint64_t)u(v, 2) * sizeof(int32_t), err) : NULL;
    char *out = tokens ? sp_guest_range(actor, u(v, 4), u(v, 5), err) : NULL;
    if (!out) {
        return err->status;
    }
    if (u(v, 1) % sizeof(int32_t)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "token ids lie at multiples of 4");
    }
    size_t length = 0;
    sp_status status = sp_model_detokenize(model, tokens, u(v, 2), u(v, 3), out, u(v, 5), &length, err);
    return status == SP_OK ? (int64_t)length : status;
}

static int64_t token_is_end(sp_actor *actor, raw v, sp_error *err) {
    sp_model *model = model_of(actor, v, err);
    return model ? sp_model_is_end(model, v[1].i32) : err->status;
}

static int64_t chat_format(sp_actor *actor, raw v, sp_error *err) {
    sp_model *model = text_fits(actor, u(v, 2), err) ? model_of(actor, v, err) : NULL;
    const char *json = model ? sp_guest_range(actor, u(v, 1), u(v, 2), err) : NULL;
    if (!json) {
        return err->status;
    }
    char *text = NULL;
    size_t size = 0;
    sp_status status = sp_model_chat_format(model, json, u(v, 2), u(v, 3), &text, &size, err);
    if (status != SP_OK) {
        return status;
    }
    int64_t length = give(actor, text, size, u(v, 4), u(v, 5), err);
    free(text);
    return length;
}

static int64_t chat_parse(sp_actor *actor, raw v, sp_error *err) {
    sp_model *model = text_fits(actor, (uint64_t)u(v, 2) + u(v, 4), err) ? model_of(actor, v, err) : NULL;
    const char *json = model ? sp_guest_range(actor, u(v, 1), u(v, 2), err) : NULL;
    const char *answer = json ? sp_guest_range(actor, u(v, 3), u(v, 4), err) : NULL;
    if (!answer) {
        return err->status;
    }
    char *text = NULL;
    size_t size = 0;
    sp_status status = sp_model_chat_parse(model, json, u(v, 2), answer, u(v, 4), u(v, 5) & SP_CHAT_PARTIAL, &text, &size, err);
    if (status != SP_OK) {
        return status;
    }
    int64_t length = give(actor, text, size, u(v, 6), u(v, 7), err);
    free(text);
    return length;
}

static int64_t grammar_open(sp_actor *actor, raw v, sp_error *err) {
    sp_model *model = text_fits(actor, u(v, 3), err) ? model_of(actor, v, err) : NULL;
    return model ? sp_abi_grammar_open(actor, model, u(v, 1), u(v, 2), u(v, 3), err) : err->status;
}

static int64_t grammar_close(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_grammar_close(actor, v[0].i32, err);
}

static int64_t grammar_accept(sp_actor *actor, raw v, sp_error *err) {
    bool fits = text_fits(actor, (uint64_t)u(v, 2) * sizeof(int32_t), err);
    return fits ? sp_abi_grammar_accept(actor, v[0].i32, u(v, 1), u(v, 2), err) : SP_ERR_LIMIT;
}

static int64_t grammar_allows(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_grammar_allows(actor, v[0].i32, v[1].i32, err);
}

static int64_t grammar_mask(sp_actor *actor, raw v, sp_error *err) {
    return sp_abi_grammar_mask(actor, v[0].i32, u(v, 1), u(v, 2), err);
}

static int64_t receive(sp_actor *actor, raw v, sp_error *err) {
    sp_message *message = actor->inbox;
    if (!message) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "there is no message");
    }
    int64_t length = give(actor, message->bytes, message->size, u(v, 0), u(v, 1), err);
    if (length >= 0 && (uint64_t)length <= u(v, 1)) {
        actor->inbox = message->next;
        actor->inbox_end = actor->inbox ? actor->inbox_end : &actor->inbox;
        actor->n_inbox--;
        free(message);
    }
    return length;
}

static int64_t send(sp_actor *actor, raw v, sp_error *err) {
    const void *bytes = sp_guest_range(actor, u(v, 0), u(v, 1), err);
    if (!bytes) {
        return err->status;
    }
    if (u(v, 1) > actor->limits.message_bytes) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_message_bytes, u(v, 1), err);
    }
    if (actor->step_sent == actor->limits.sent_messages) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_sent_messages, actor->step_sent + 1, err);
    }
    actor->step_sent++;
    if (actor->on_message) {
        actor->on_message(actor->on_message_user, bytes, u(v, 1));
    }
    return SP_OK;
}

static int64_t last_error(sp_actor *actor, raw v, sp_error *err) {
    sp_error said = actor->last_error;
    return give(actor, said.message, strlen(said.message), u(v, 0), u(v, 1), err);
}

static int64_t seed(sp_actor *actor, raw v, sp_error *err) {
    (void)v, (void)err;
    return (int64_t)actor->seed;
}

static int64_t clock_ns(sp_actor *actor, raw v, sp_error *err) {
    (void)v, (void)err;
    return (int64_t)(sp_now_ns() + actor->clock_offset);
}

typedef struct import {
    const char *name;
    int n_params;
    bool long_result; /* i64 instead of i32; then it can't fail */
    int64_t (*call)(sp_actor *actor, raw values, sp_error *err);
    int long_param; /* which parameter is an i64, the others being i32; 0: none (no call has its first as one) */
} import;

static const import imports[] = {
    {"page_size", 0, false, page_size, 0},
    {"device_is_unified", 0, false, device_is_unified, 0},
    {"region_open", 2, false, region_open, 0},
    {"region_close", 1, false, region_close, 0},
    {"region_sync", 4, false, region_sync, 0},
    {"program_load", 2, false, program_load, 0},
    {"program_close", 1, false, program_close, 0},
    {"program_bind", 5, false, program_bind, 0},
    {"program_run", 3, false, program_run, 0},
    {"program_submit", 3, false, program_submit, 0},
    {"model_count", 0, false, model_count, 0},
    {"model_info", 2, false, model_info, 0},
    {"model_meta", 5, false, model_meta, 0},
    {"model_program", 5, false, model_program, 0},
    {"embeddings_program", 5, false, embeddings_program, 0},
    {"tokenize", 6, false, tokenize, 0},
    {"detokenize", 6, false, detokenize, 0},
    {"token_is_end", 2, false, token_is_end, 0},
    {"chat_format", 6, false, chat_format, 0},
    {"chat_parse", 8, false, chat_parse, 0},
    {"grammar_open", 4, false, grammar_open, 0},
    {"grammar_close", 1, false, grammar_close, 0},
    {"grammar_accept", 3, false, grammar_accept, 0},
    {"grammar_allows", 2, false, grammar_allows, 0},
    {"grammar_mask", 3, false, grammar_mask, 0},
    {"receive", 2, false, receive, 0},
    {"send", 2, false, send, 0},
    {"last_error", 2, false, last_error, 0},
    {"seed", 0, true, seed, 0},
    {"clock", 0, true, clock_ns, 0},
};

static sp_actor *calling_actor(wasmtime_caller_t *caller) {
    sp_actor *actor = wasmtime_context_get_data(wasmtime_caller_context(caller));
    if (!actor->memory) { /* a start section calls before the instance is there */
        actor->memory = sp_memory_creator_take();
    }
    return actor;
}

static wasm_trap_t *dispatch(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *values, size_t count) {
    (void)count;
    const import *it = env;
    sp_actor *actor = calling_actor(caller);
    sp_error err = {0};
    int64_t result = it->call(actor, values, &err);
    if (actor->overran) {
        actor->last_error = err;
        return wasmtime_trap_new("a run took too long", strlen("a run took too long"));
    }
    if (it->long_result) {
        values[0].i64 = result;
        return NULL;
    }
    if (result < 0) {
        actor->last_error = err;
    }
    values[0].i32 = (int32_t)result;
    return NULL;
}

static sp_status define(wasmtime_linker_t *linker, const char *module, const import *it, wasmtime_func_unchecked_callback_t callback, sp_error *err) {
    wasm_valtype_t *params[8], *results[1] = {wasm_valtype_new(it->long_result ? WASM_I64 : WASM_I32)};
    for (int p = 0; p < it->n_params; p++) {
        params[p] = wasm_valtype_new(p > 0 && p == it->long_param ? WASM_I64 : WASM_I32);
    }
    wasm_valtype_vec_t in, out;
    wasm_valtype_vec_new(&in, (size_t)it->n_params, params);
    wasm_valtype_vec_new(&out, 1, results);
    wasm_functype_t *type = wasm_functype_new(&in, &out);
    wasmtime_error_t *error = wasmtime_linker_define_func_unchecked(linker, module, strlen(module), it->name, strlen(it->name), type, callback,
                                                                    (void *)(uintptr_t)it, NULL);
    wasm_functype_delete(type);
    return sp_abi_take_error(error, SP_ERR_STATE, "an import can't be defined", err);
}

static sp_status define_all(wasmtime_linker_t *linker, const char *module, const import *its, size_t n, wasmtime_func_unchecked_callback_t callback,
                            sp_error *err) {
    sp_status status = SP_OK;
    for (size_t i = 0; status == SP_OK && i < n; i++) {
        status = define(linker, module, &its[i], callback, err);
    }
    return status;
}

sp_status sp_imports_define(wasmtime_linker_t *linker, sp_error *err) {
    return define_all(linker, "samepage", imports, sizeof imports / sizeof imports[0], dispatch, err);
}

/* ---- what actors have of WASI in another way than commands ---- */

enum { WASI_OK = 0, WASI_EFAULT = 21, WASI_EINVAL = 28, WASI_ENOTSUP = 58 };

static int64_t poll_oneoff(sp_actor *actor, raw v, sp_error *err) {
    (void)actor, (void)v, (void)err;
    return WASI_ENOTSUP;
}

/* Wasmtime's monotonic clock begins at 0 whenever an instance is made: after a thaw or a fork it would go back. */
static int64_t clock_time_get(sp_actor *actor, raw v, sp_error *err) {
    enum { REALTIME, MONOTONIC };
    struct timespec now;
    uint64_t ns = (uint64_t)clock_ns(actor, v, err);
    if (u(v, 0) == REALTIME) {
        clock_gettime(CLOCK_REALTIME, &now);
        ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    } else if (u(v, 0) != MONOTONIC) {
        return WASI_EINVAL;
    }
    void *out = sp_guest_range(actor, u(v, 2), sizeof ns, err);
    if (!out) {
        return WASI_EFAULT;
    }
    memcpy(out, &ns, sizeof ns);
    return WASI_OK;
}

static wasm_trap_t *dispatch_wasi(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *values, size_t count) {
    (void)count;
    const import *it = env;
    sp_error err;
    values[0].i32 = (int32_t)it->call(calling_actor(caller), values, &err);
    return NULL;
}

sp_status sp_imports_restrict(wasmtime_linker_t *linker, sp_error *err) {
    static const import own[] = {{"poll_oneoff", 4, false, poll_oneoff, 0}, {"clock_time_get", 3, false, clock_time_get, 1}};
    wasmtime_linker_allow_shadowing(linker, true);
    return define_all(linker, "wasi_snapshot_preview1", own, sizeof own / sizeof own[0], dispatch_wasi, err);
}
