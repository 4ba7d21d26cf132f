/*
 * samepage: a WebAssembly guest and a compute device that work on the same pages.
 *
 * This header is the whole public API of libsamepage.
 *
 *   host     the process that embeds the library, and its sp_host: the Wasm engine, caches, settings
 *   device   something that computes: "cpu", "vulkan:0", "metal", "discrete"
 *   model    a GGUF file, mapped once and shared by all actors, read-only
 *   module   compiled Wasm code
 *   actor    an instance of a module that is driven by messages, one step at a time, and is at rest between steps
 *
 * Conventions
 *   - A function that can fail returns sp_status, SP_OK or negative, and takes an sp_error *err last, which may be NULL. On failure
 *     *err holds one line for a human and out-pointers are NULL or untouched, as documented; on success *err is untouched.
 *   - Sizes and offsets are bytes in uint64_t or size_t. Strings are UTF-8; those that end in NUL are passed as const char * alone.
 *   - Whoever opens, closes. Closing NULL does nothing. An object must outlive what was made from it: a host its devices, models,
 *     modules and actors; a device and a model the actors that use them. Closing in another order is refused by no check: keep it.
 *   - sp_host, sp_device, sp_model and sp_module may be used from several threads at once. An sp_actor belongs to one thread at a time;
 *     sp_actor_interrupt alone may be called from any thread and from a signal handler.
 */
#ifndef SAMEPAGE_H
#define SAMEPAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SP_API __attribute__((visibility("default")))

#define SP_VERSION_MAJOR 0
#define SP_VERSION_MINOR 1
#define SP_VERSION_PATCH 0

/* ---- errors ---- */

typedef enum sp_status {
    SP_OK = 0,
    SP_ERR_ARGUMENT = -1,     /* the caller's argument can't be meant */
    SP_ERR_NO_MEMORY = -2,    /* host or device memory is exhausted */
    SP_ERR_IO = -3,           /* a system call on a file failed */
    SP_ERR_FORMAT = -4,       /* a module, program, model or snapshot is malformed */
    SP_ERR_UNSUPPORTED = -5,  /* well-formed, but not something this build, device or version can do */
    SP_ERR_NOT_FOUND = -6,    /* no such file, device, handle or name */
    SP_ERR_LIMIT = -7,        /* a limit of the actor or of the format was reached */
    SP_ERR_DEVICE = -8,       /* the device failed */
    SP_ERR_GUEST = -9,        /* the guest trapped, exited or broke its contract; the actor is dead */
    SP_ERR_BUSY = -10,        /* somebody else holds it */
    SP_ERR_INTERRUPTED = -11, /* sp_actor_interrupt was called */
    SP_ERR_RANGE = -12,       /* a pointer, window or index lies outside of what it may reach */
    SP_ERR_STATE = -13,       /* a call that is not allowed now */
} sp_status;

typedef struct sp_error {
    sp_status status;
    char message[500]; /* one line, no newline at the end */
} sp_error;

/* A short constant name of a status ("malformed data"). Never NULL. */
SP_API const char *sp_status_name(sp_status status);

/* "0.1.0"; the version of the library that runs. */
SP_API const char *sp_version(void);

/* What the library was built with: "wasmtime 48.0.8, ggml 0.26.0, devices cpu vulkan discrete". Constant. */
SP_API const char *sp_build_info(void);

/* ---- host ---- */

typedef struct sp_host sp_host;

typedef struct sp_host_options {
    /* Folder for compiled modules and traced programs, made with mode 0700 when missing; NULL: XDG_CACHE_HOME/samepage
     * (or ~/.cache/samepage); "": no cache. */
    const char *cache_dir;
} sp_host_options;

/* options may be NULL. *out is NULL on failure. SP_ERR_UNSUPPORTED if the linked Wasmtime does not fit its headers. */
SP_API sp_status sp_host_open(const sp_host_options *options, sp_host **out, sp_error *err);
SP_API void sp_host_close(sp_host *host);

/* ---- devices ---- */

typedef struct sp_device sp_device;

typedef struct sp_device_info {
    char name[32];             /* what sp_device_open takes: "cpu", "vulkan:0" */
    char description[128];     /* what the driver calls it */
    bool unified;              /* works on the guest's pages; false: has memory of its own, and sync moves bytes */
    uint64_t import_alignment; /* bytes; a region starts and ends on multiples of it */
    uint64_t memory_total;     /* bytes the device can use; 0 if it can't be told */
    uint64_t memory_free;
} sp_device_info;

/* Describes up to capacity devices into infos and stores how many there are in *count (may exceed capacity). */
SP_API sp_status sp_device_list(sp_device_info *infos, size_t capacity, size_t *count, sp_error *err);

/*
 * Opens a device by name. threads: CPU threads it may use; 0: as many as the machine has cores.
 * SP_ERR_NOT_FOUND names the devices that there are. SP_ERR_DEVICE: it is there and does not work, with the driver's words.
 */
SP_API sp_status sp_device_open(const char *name, int threads, sp_device **out, sp_error *err);
SP_API void sp_device_close(sp_device *device);
SP_API sp_status sp_device_describe(const sp_device *device, sp_device_info *out);

/* ---- models ---- */

typedef struct sp_model sp_model;

/* Called now and then while something takes long: what ("tracing llama", "converting weights") and how far, 0 to 1. */
typedef void (*sp_progress)(void *user, const char *what, double fraction);

typedef struct sp_model_options {
    sp_progress progress; /* or NULL */
    void *progress_user;
} sp_model_options;

/*
 * Maps a GGUF file. It is untrusted: everything that its header claims is checked against its size. Its vocabulary and chat
 * template are loaded; its weights are not read. options may be NULL. *out is NULL on failure.
 * SP_ERR_NOT_FOUND, SP_ERR_IO, SP_ERR_FORMAT (no GGUF, truncated, a tensor outside the file), SP_ERR_UNSUPPORTED (architecture).
 */
SP_API sp_status sp_model_open(sp_host *host, const char *path, const sp_model_options *options, sp_model **out, sp_error *err);

/* The same for a GGUF that is in memory already (page-aligned or not; copied into an anonymous file once). */
SP_API sp_status sp_model_open_bytes(sp_host *host, const void *bytes, size_t size, const sp_model_options *options, sp_model **out, sp_error *err);
SP_API void sp_model_close(sp_model *model);

/* 128 bits over the file's header, metadata, tensor table and size, as 32 hex digits. Stable across machines. */
SP_API const char *sp_model_fingerprint(const sp_model *model);

/* ---- modules ---- */

typedef struct sp_module sp_module;

/*
 * Compiles Wasm bytes (or takes the compilation from the host's cache). *out is NULL on failure.
 * SP_ERR_FORMAT: no Wasm. SP_ERR_UNSUPPORTED: imports its memory, imports a function that the host does not have (named), ...
 */
SP_API sp_status sp_module_load(sp_host *host, const void *bytes, size_t size, sp_module **out, sp_error *err);
SP_API void sp_module_close(sp_module *module);

typedef enum sp_module_kind {
    SP_MODULE_ACTOR,   /* exports sp_step: driven by messages */
    SP_MODULE_COMMAND, /* exports _start: runs once, as a WASI command */
} sp_module_kind;
SP_API sp_module_kind sp_module_get_kind(const sp_module *module);

/* ---- actors ---- */

typedef struct sp_actor sp_actor;

/* What a guest may use up. 0 means the default. Every limit is reported by name when it is hit. */
typedef struct sp_limits {
    uint64_t memory_bytes;    /* linear memory; default 4 GiB */
    uint64_t step_ms;         /* guest code in one step; default 10,000 */
    uint32_t regions;         /* open at once; default 64 */
    uint32_t programs;        /* open at once; default 64 */
    uint64_t program_bytes;   /* size of one program; default 16 MiB */
    uint64_t temporary_bytes; /* of one run on the device; default 4 GiB */
    uint64_t run_flops;       /* estimated work of one run; default 10^15 */
    uint64_t message_bytes;   /* one message, either way; default 16 MiB */
    uint32_t messages;        /* unread, in each direction; default 1,024 */
    uint64_t output_bytes;    /* of standard output and error together; default 1 GiB */
} sp_limits;

/* A folder that a command may see under another name. */
typedef struct sp_preopen {
    const char *host_path;
    const char *guest_path;
} sp_preopen;

/* A message from the actor. bytes are valid during the call. */
typedef void (*sp_on_message)(void *user, const void *bytes, size_t size);

typedef struct sp_actor_options {
    sp_device *device;       /* required */
    sp_model *const *models; /* what the guest may use: its model handle 0 is models[0]; may be NULL if n_models is 0 */
    size_t n_models;
    sp_limits limits;
    uint64_t seed;            /* what sp_seed returns; 0: taken from the system */
    sp_on_message on_message; /* or NULL: messages are dropped */
    void *on_message_user;
    /* WASI: standard streams are inherited when true, closed otherwise. */
    bool inherit_stdin, inherit_stdout, inherit_stderr;
    const char *const *args; /* arguments of a command, args[0] its name; may be NULL */
    size_t n_args;
    const sp_preopen *preopens; /* folders a command may use; actors get none */
    size_t n_preopens;
} sp_actor_options;

/* Instantiates a module. *out is NULL on failure. */
SP_API sp_status sp_actor_spawn(sp_host *host, sp_module *module, const sp_actor_options *options, sp_actor **out, sp_error *err);
SP_API void sp_actor_close(sp_actor *actor);

/* Queues a message (copied). SP_ERR_LIMIT when the queue is full or the message too long. */
SP_API sp_status sp_actor_send(sp_actor *actor, const void *bytes, size_t size, sp_error *err);

typedef enum sp_step_result {
    SP_STEP_IDLE,  /* waits for a message */
    SP_STEP_AGAIN, /* has submitted work and wants to be called when it is done */
    SP_STEP_DONE,  /* finished; further steps are SP_ERR_STATE */
} sp_step_result;

/*
 * Runs one step and completes what it submitted: the actor is at rest when this returns.
 * SP_ERR_GUEST: it trapped (the message has the trap and a backtrace); the actor is dead and can only be closed.
 * SP_ERR_INTERRUPTED: stopped in the middle of guest code; dead as well. SP_ERR_LIMIT: its step took too long; dead.
 * SP_ERR_DEVICE, SP_ERR_RANGE, SP_ERR_NO_MEMORY: the submitted run failed; dead. SP_ERR_STATE: dead or done before.
 */
SP_API sp_status sp_actor_step(sp_actor *actor, sp_step_result *result, sp_error *err);

/* Steps until the actor is idle or done. */
SP_API sp_status sp_actor_run(sp_actor *actor, sp_step_result *result, sp_error *err);

/* Runs a module of kind SP_MODULE_COMMAND to its end; *exit_code is what it passed to proc_exit, or 0. */
SP_API sp_status sp_actor_run_command(sp_actor *actor, int *exit_code, sp_error *err);

/* Makes guest code that is running, or will next run, stop with SP_ERR_INTERRUPTED. Any thread; async-signal-safe. */
SP_API void sp_actor_interrupt(sp_actor *actor);

/* Base and current size of the guest's linear memory. The base never moves; the content belongs to the guest while it runs. */
SP_API void *sp_actor_memory(sp_actor *actor, uint64_t *size);

typedef struct sp_actor_stats {
    uint64_t steps;
    uint64_t runs;         /* programs executed */
    uint64_t guest_ns;     /* inside guest code and host functions, device computation excluded */
    uint64_t device_ns;    /* inside the device's computation */
    uint64_t prepare_ns;   /* specialising and preparing programs */
    uint64_t memory_bytes; /* size of the linear memory */
    uint64_t device_bytes; /* temporaries held on the device */
} sp_actor_stats;
SP_API void sp_actor_get_stats(const sp_actor *actor, sp_actor_stats *out);

#ifdef __cplusplus
}
#endif

#endif
