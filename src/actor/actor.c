/*
 * actor: lifecycle. Spawn, send, step, freeze, thaw, fork, stop; limits; what the time went to.
 * May call: abi and everything below it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "abi/limits.h"
#include "abi/memory_creator.h"
#include "actor/actor.h"

enum { MAX_TABLES = 16 /* Wasm tables of one actor */, MAX_HANDLES = 65536 };

/* ---- what stops a guest ---- */

static wasmtime_error_t *on_deadline(wasmtime_context_t *context, void *user, uint64_t *delta, wasmtime_update_deadline_kind_t *kind) {
    (void)context;
    sp_actor *actor = user;
    uint64_t took = sp_now_ns() - actor->step_started - actor->step_device_ns;
    actor->stopped = atomic_load(&actor->interrupted) ? SP_ERR_INTERRUPTED : took / 1000000 >= actor->limits.step_ms ? SP_ERR_LIMIT : SP_OK;
    if (actor->stopped != SP_OK) {
        return wasmtime_error_new("stopped");
    }
    *delta = 1;
    *kind = WASMTIME_UPDATE_DEADLINE_CONTINUE;
    return NULL;
}

void sp_actor_interrupt(sp_actor *actor) {
    atomic_store(&actor->interrupted, true);
    wasmtime_engine_increment_epoch(actor->host->engine);
}

/* Wasmtime tells the backtrace first and the cause last. A backtrace may be long; the cause is what the reader needs. */
static void copy_cause_first(char *to, size_t capacity, const wasm_name_t *from) {
    static const char mark[] = "Caused by:";
    size_t cause = from->size, end = sizeof mark - 1;
    for (size_t i = from->size; i >= end && cause == from->size; i--) {
        cause = memcmp(from->data + i - end, mark, end) == 0 ? i : cause;
    }
    size_t backtrace = cause < from->size ? cause - end : from->size;
    while (cause < from->size && (from->data[cause] == ' ' || from->data[cause] == '\n')) {
        cause++;
    }
    snprintf(to, capacity, "%.*s%s%.*s", (int)(from->size - cause), from->data + cause, cause < from->size ? "; " : "", (int)backtrace, from->data);
}

static sp_status guest_failed(sp_actor *actor, wasmtime_error_t *error, wasm_trap_t *trap, int *exit_code, sp_error *err) {
    char text[400] = "";
    int code = 0;
    bool exited = error && wasmtime_error_exit_status(error, &code);
    wasm_name_t message;
    if (error) {
        wasmtime_error_message(error, &message);
        copy_cause_first(text, sizeof text, &message);
        wasm_name_delete(&message);
        wasmtime_error_delete(error);
    } else {
        wasm_trap_message(trap, &message);
        copy_cause_first(text, sizeof text, &message);
        wasm_name_delete(&message);
        wasm_trap_delete(trap);
    }
    actor->dead = true;
    if (exited && exit_code) {
        *exit_code = code;
        return SP_OK;
    }
    if (exited) {
        return sp_fail(err, SP_ERR_GUEST, "the guest called proc_exit(%d): an actor returns SP_DONE instead", code);
    }
    if (actor->stopped == SP_ERR_INTERRUPTED) {
        return sp_fail(err, SP_ERR_INTERRUPTED, "the guest was interrupted");
    }
    if (actor->stopped == SP_ERR_LIMIT) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_step_ms, (sp_now_ns() - actor->step_started - actor->step_device_ns) / 1000000, err);
    }
    return sp_fail(err, SP_ERR_GUEST, "the guest failed: %s", text);
}

/* Guest code runs between these two: the clock of its step goes, and it can be stopped. */
static void enter_guest(sp_actor *actor) {
    actor->step_started = sp_now_ns();
    actor->step_device_ns = 0;
    actor->step_sent = 0;
    actor->stopped = SP_OK;
    wasmtime_context_set_epoch_deadline(actor->context, 1);
    atomic_fetch_add(&actor->host->running, 1);
    actor->in_guest = true;
}

static void leave_guest(sp_actor *actor) {
    actor->in_guest = false;
    atomic_fetch_sub(&actor->host->running, 1);
}

/* What was mapped from a file that is no longer whole became zeros, and whoever computed on it went on. */
static sp_status check_memory(sp_actor *actor, sp_error *err) {
    if (!sp_memory_is_lost(actor->memory)) {
        return SP_OK;
    }
    actor->dead = true;
    return sp_fail(err, SP_ERR_IO, "the actor's memory is lost: the session's file was truncated by somebody else, or its disk failed");
}

typedef struct guest_call {
    const wasmtime_func_t *function;
    const wasmtime_val_t *args;
    size_t n_args;
    wasmtime_val_t *results;
    size_t n_results;
    int *exit_code; /* NULL: proc_exit is a failure */
} guest_call;

/* Calls an exported function, under the limits. */
static sp_status call_guest(sp_actor *actor, const guest_call *call, sp_error *err) {
    wasm_trap_t *trap = NULL;
    uint64_t prepared = actor->stats.prepare_ns, computed = actor->stats.device_ns;
    enter_guest(actor);
    wasmtime_error_t *error = wasmtime_func_call(actor->context, call->function, call->args, call->n_args, call->results, call->n_results, &trap);
    leave_guest(actor);
    uint64_t inside = (actor->stats.prepare_ns - prepared) + (actor->stats.device_ns - computed);
    actor->stats.guest_ns += sp_now_ns() - actor->step_started - inside;
    sp_status status = error || trap ? guest_failed(actor, error, trap, call->exit_code, err) : SP_OK;
    /* A guest that failed on memory that was lost is not to blame. */
    return check_memory(actor, err) ? SP_ERR_IO : status;
}

/* ---- output of WASI ---- */

/* Both streams of an actor. Wasmtime writes from threads of its own and decides when to let go: so it is counted who holds it. */
typedef struct output {
    atomic_uint users;
    atomic_uint_fast64_t bytes;
    uint64_t limit;
} output;

static ptrdiff_t write_counted(output *o, int fd, const unsigned char *bytes, size_t size) {
    if (atomic_fetch_add(&o->bytes, size) + size > o->limit) {
        return -ENOSPC;
    }
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, bytes + done, size - done);
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return (ptrdiff_t)size;
}

static ptrdiff_t write_stdout(void *user, const unsigned char *bytes, size_t size) {
    return write_counted(user, STDOUT_FILENO, bytes, size);
}

static ptrdiff_t write_stderr(void *user, const unsigned char *bytes, size_t size) {
    return write_counted(user, STDERR_FILENO, bytes, size);
}

static void release_output(void *user) {
    output *o = user;
    if (atomic_fetch_sub(&o->users, 1) == 1) {
        free(o);
    }
}

static sp_status set_up_output(sp_actor *actor, wasi_config_t *wasi, const sp_actor_options *options, sp_error *err) {
    output *o = calloc(1, sizeof *o);
    if (!o) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *o = (output){.users = 1, .limit = actor->limits.output_bytes};
    if (options->inherit_stdout) {
        atomic_fetch_add(&o->users, 1);
        wasi_config_set_stdout_custom(wasi, write_stdout, o, release_output);
    }
    if (options->inherit_stderr) {
        atomic_fetch_add(&o->users, 1);
        wasi_config_set_stderr_custom(wasi, write_stderr, o, release_output);
    }
    release_output(o);
    return SP_OK;
}

static sp_status set_up_wasi(sp_actor *actor, const sp_actor_options *options, sp_error *err) {
    wasi_config_t *wasi = wasi_config_new();
    sp_status status = set_up_output(actor, wasi, options, err);
    if (options->inherit_stdin) {
        wasi_config_inherit_stdin(wasi);
    }
    bool command = actor->module->kind == SP_MODULE_COMMAND;
    if (status == SP_OK && command && options->n_args && !wasi_config_set_argv(wasi, options->n_args, (const char **)(uintptr_t)options->args)) {
        status = sp_fail(err, SP_ERR_ARGUMENT, "an argument is not UTF-8");
    }
    for (size_t i = 0; status == SP_OK && command && i < options->n_preopens; i++) {
        const sp_preopen *p = &options->preopens[i];
        if (!wasi_config_preopen_dir(wasi, p->host_path, p->guest_path, true)) {
            status = sp_fail(err, SP_ERR_NOT_FOUND, "can't open the folder %s for the guest", p->host_path);
        }
    }
    if (status != SP_OK) {
        wasi_config_delete(wasi);
        return status;
    }
    wasmtime_error_t *error = wasmtime_context_set_wasi(actor->context, wasi);
    if (error) {
        wasmtime_error_delete(error);
        return sp_fail(err, SP_ERR_NO_MEMORY, "can't set up WASI");
    }
    return SP_OK;
}

/* ---- spawning ---- */

static sp_status allocate(sp_actor *actor, const sp_actor_options *options, sp_error *err) {
    actor->regions = calloc(actor->limits.regions, sizeof *actor->regions);
    actor->programs = calloc(actor->limits.programs, sizeof *actor->programs);
    actor->models = calloc(options->n_models + 1, sizeof *actor->models);
    actor->weights = calloc(options->n_models + 1, sizeof *actor->weights);
    if (!actor->regions || !actor->programs || !actor->models || !actor->weights) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < options->n_models; i++) {
        actor->models[i] = options->models[i];
    }
    actor->n_models = (uint32_t)options->n_models;
    if (!actor->seed && getentropy(&actor->seed, sizeof actor->seed) != 0) {
        return sp_fail(err, SP_ERR_IO, "the system gives no random numbers");
    }
    return SP_OK;
}

static bool get_function(sp_actor *actor, const char *name, wasmtime_func_t *out) {
    wasmtime_extern_t item;
    if (!wasmtime_instance_export_get(actor->context, &actor->instance, name, strlen(name), &item)) {
        return false;
    }
    bool function = item.kind == WASMTIME_EXTERN_FUNC;
    *out = item.of.func;
    return function;
}

/* A start section and _initialize are under the limit of a step, a command's too: nobody holds the actor yet who could interrupt it. */
static sp_status instantiate(sp_actor *actor, bool fresh, sp_error *err) {
    if (actor->module->memory_bytes > actor->limits.memory_bytes) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_memory_bytes, actor->module->memory_bytes, err);
    }
    wasm_trap_t *trap = NULL;
    sp_memory_creator_take();
    enter_guest(actor);
    wasmtime_error_t *error = wasmtime_instance_pre_instantiate(actor->module->pre, actor->context, &actor->instance, &trap);
    leave_guest(actor);
    if (error || trap) {
        return guest_failed(actor, error, trap, NULL, err);
    }
    actor->memory = actor->memory ? actor->memory : sp_memory_creator_take();
    bool command = actor->module->kind == SP_MODULE_COMMAND;
    wasmtime_func_t initialize;
    sp_status status = SP_OK;
    if (!get_function(actor, command ? "_start" : "sp_step", &actor->step)) {
        status = sp_fail(err, SP_ERR_UNSUPPORTED, "the module exports neither sp_step nor _start as a function");
    } else if (fresh && !command && get_function(actor, "_initialize", &initialize)) {
        status = call_guest(actor, &(guest_call){.function = &initialize}, err);
    }
    return status == SP_OK ? sp_abi_complete(actor, err) : status;
}

static void take_options(sp_actor *actor, const sp_actor_options *options) {
    actor->device = options->device;
    actor->limits = options->limits;
    actor->seed = options->seed;
    actor->on_message = options->on_message;
    actor->on_message_user = options->on_message_user;
    actor->inherit_stdin = options->inherit_stdin;
    actor->inherit_stdout = options->inherit_stdout;
    actor->inherit_stderr = options->inherit_stderr;
    sp_limits_fill(&actor->limits);
}

sp_status sp_actor_create(sp_host *host, sp_module *module, const sp_actor_options *options, bool fresh, sp_actor **out, sp_error *err) {
    *out = NULL;
    if (!options->device) {
        return sp_fail(err, SP_ERR_ARGUMENT, "an actor needs a device");
    }
    sp_actor *actor = calloc(1, sizeof *actor);
    if (!actor) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    actor->host = host;
    actor->module = module;
    actor->inbox_end = &actor->inbox;
    actor->clock_offset = -sp_now_ns();
    take_options(actor, options);
    if (actor->limits.regions > MAX_HANDLES || actor->limits.programs > MAX_HANDLES) {
        sp_actor_close(actor);
        return sp_fail(err, SP_ERR_ARGUMENT, "an actor can have %d regions and programs at most", MAX_HANDLES);
    }
    sp_status status = allocate(actor, options, err);
    if (status == SP_OK) {
        actor->store = wasmtime_store_new(host->engine, actor, NULL);
        actor->context = wasmtime_store_context(actor->store);
        wasmtime_store_limiter(actor->store, (int64_t)actor->limits.memory_bytes, (int64_t)actor->limits.table_elements, 1, MAX_TABLES, 1);
        wasmtime_store_epoch_deadline_callback(actor->store, on_deadline, actor, NULL);
        status = set_up_wasi(actor, options, err);
    }
    if (status == SP_OK) {
        status = instantiate(actor, fresh, err);
    }
    if (module->kind == SP_MODULE_COMMAND && !options->limits.step_ms) {
        actor->limits.step_ms = UINT64_MAX; /* a command runs until it ends or is interrupted */
    }
    if (status != SP_OK) {
        sp_actor_close(actor);
        return status;
    }
    *out = actor;
    return SP_OK;
}

sp_status sp_actor_spawn(sp_host *host, sp_module *module, const sp_actor_options *options, sp_actor **out, sp_error *err) {
    return sp_actor_create(host, module, options, true, out, err);
}

sp_status sp_actor_resume(sp_actor *actor, int32_t reason, sp_error *err) {
    wasmtime_func_t resumed;
    if (actor->done || !get_function(actor, "sp_resumed", &resumed)) {
        return SP_OK;
    }
    const wasmtime_val_t args[2] = {{.kind = WASMTIME_I64, .of.i64 = (int64_t)actor->seed}, {.kind = WASMTIME_I32, .of.i32 = reason}};
    sp_status status = call_guest(actor, &(guest_call){.function = &resumed, .args = args, .n_args = 2}, err);
    status = status ? status : sp_abi_complete(actor, err);
    return status ? sp_fail_in(err, "sp_resumed") : SP_OK;
}

void sp_actor_close(sp_actor *actor) {
    if (!actor) {
        return;
    }
    sp_abi_release(actor); /* before the store: regions lie in its memory */
    if (actor->store) {
        wasmtime_store_delete(actor->store);
    }
    for (sp_message *m = actor->inbox, *next; m; m = next) {
        next = m->next;
        free(m);
    }
    sp_image_release(actor->image);
    free(actor->changed);
    free(actor->models);
    free(actor);
}

/* ---- driving ---- */

sp_status sp_actor_send(sp_actor *actor, const void *bytes, size_t size, sp_error *err) {
    if (size > actor->limits.message_bytes) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_message_bytes, size, err);
    }
    if (actor->n_inbox >= actor->limits.messages) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_messages, actor->n_inbox + 1, err);
    }
    sp_message *message = malloc(sizeof *message + size);
    if (!message) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *message = (sp_message){.size = (uint32_t)size};
    memcpy(message->bytes, bytes, size);
    *actor->inbox_end = message;
    actor->inbox_end = &message->next;
    actor->n_inbox++;
    return SP_OK;
}

sp_status sp_actor_step(sp_actor *actor, sp_step_result *result, sp_error *err) {
    if (actor->dead || actor->done || actor->in_guest) {
        return sp_fail(err, SP_ERR_STATE,
                       actor->dead   ? "the actor is dead"
                       : actor->done ? "the actor is done"
                                     : "the actor is in the middle of a step");
    }
    wasmtime_val_t returned = {0};
    actor->stats.steps++;
    sp_status status = call_guest(actor, &(guest_call){.function = &actor->step, .results = &returned, .n_results = 1}, err);
    if (status != SP_OK) {
        return status;
    }
    if (returned.kind != WASMTIME_I32 || returned.of.i32 < SP_STEP_IDLE || returned.of.i32 > SP_STEP_DONE) {
        actor->dead = true;
        return sp_fail(err, SP_ERR_GUEST, "sp_step returned %d; it must be 0 (idle), 1 (again) or 2 (done)", returned.of.i32);
    }
    *result = (sp_step_result)returned.of.i32;
    actor->done = *result == SP_STEP_DONE;
    status = sp_abi_complete(actor, err);
    status = check_memory(actor, err) ? SP_ERR_IO : status;
    actor->dead = status != SP_OK;
    return status;
}

sp_status sp_actor_run(sp_actor *actor, sp_step_result *result, sp_error *err) {
    sp_status status;
    do {
        status = sp_actor_step(actor, result, err);
    } while (status == SP_OK && *result == SP_STEP_AGAIN);
    return status;
}

sp_status sp_actor_run_command(sp_actor *actor, int *exit_code, sp_error *err) {
    if (actor->module->kind != SP_MODULE_COMMAND || actor->dead || actor->done) {
        return sp_fail(err, SP_ERR_STATE, "only a command that did not run yet can be run");
    }
    *exit_code = 0;
    actor->done = true;
    return call_guest(actor, &(guest_call){.function = &actor->step, .exit_code = exit_code}, err);
}

void *sp_actor_memory(sp_actor *actor, uint64_t *size) {
    *size = sp_memory_size(actor->memory);
    return sp_memory_base(actor->memory);
}

void sp_actor_get_stats(const sp_actor *actor, sp_actor_stats *out) {
    *out = actor->stats;
    out->memory_bytes = sp_memory_size(actor->memory);
    out->device_bytes = actor->workspace ? sp_workspace_bytes(actor->workspace) : 0;
}
