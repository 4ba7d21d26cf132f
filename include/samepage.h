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
 *   session  a file of commits; each is an actor as it was at rest, with its memory
 *
 * Conventions
 *   - A function that can fail returns sp_status, SP_OK or negative, and takes an sp_error *err last, which may be NULL. On failure
 *     *err holds one line for a human and out-pointers are NULL or untouched, as documented; on success *err is untouched.
 *   - Sizes and offsets are bytes in uint64_t or size_t. Strings are UTF-8; those that end in NUL are passed as const char * alone.
 *   - Whoever opens, closes. Closing NULL does nothing. An object must outlive what was made from it: a host its devices, models,
 *     modules and actors; a device and a model the actors that use them. Closing in another order is refused by no check: keep it.
 *   - sp_host, sp_device, sp_model and sp_module may be used from several threads at once. An sp_actor and an sp_session belong to one thread at
 *     a time; sp_actor_interrupt alone may be called from any thread and from a signal handler.
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
    /* Bytes of stack that Wasm code may use, 0: 1 MiB. A thread that runs actors has 1 MiB more than that, at least. */
    size_t wasm_stack_bytes;
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
    uint64_t memory_free;      /* when this was asked (cuda), or when the device was opened */
} sp_device_info;

/* Describes up to capacity devices into infos and stores how many there are in *count (may exceed capacity). */
SP_API sp_status sp_device_list(sp_device_info *infos, size_t capacity, size_t *count, sp_error *err);

/*
 * Opens a device by name. threads: CPU threads it may use; 0: as many as the machine has cores, second threads of a core not counted.
 * SP_ERR_NOT_FOUND names the devices that there are. SP_ERR_DEVICE: it is there and does not work, with the driver's words.
 */
SP_API sp_status sp_device_open(const char *name, int threads, sp_device **out, sp_error *err);
SP_API void sp_device_close(sp_device *device);
SP_API sp_status sp_device_describe(const sp_device *device, sp_device_info *out);

/* ---- models ---- */

typedef struct sp_model sp_model;

/* Called now and then while something takes long: what ("tracing llama", "converting weights") and how far, 0 to 1. */
typedef void (*sp_progress)(void *user, const char *what, double fraction);

/* Told what went on otherwise than hoped, though nothing failed: one line. */
typedef void (*sp_notice)(void *user, const char *line);

/* A LoRA adapter: a GGUF as llama.cpp's converter writes it, applied with this scale (1: as it was trained) whenever the model computes. */
typedef struct sp_adapter {
    const char *path;
    float scale;
} sp_adapter;
enum { SP_MAX_ADAPTERS = 16 };

typedef struct sp_model_options {
    sp_progress progress; /* or NULL */
    void *progress_user;
    /* Weights that a device converts into a layout of its own are kept in the host's cache folder, so that the next start maps them: at most so many
     * bytes of all models'; 0: SP_KEPT_WEIGHTS_BYTES; less than this model's are: they are not kept. */
    uint64_t kept_weights_bytes;
    sp_notice notice; /* or NULL */
    void *notice_user;
    const sp_adapter *adapters; /* at most SP_MAX_ADAPTERS; needed during the call alone. They are part of the model and of its fingerprint. */
    size_t n_adapters;
} sp_model_options;
#define SP_KEPT_WEIGHTS_BYTES (UINT64_C(32) << 30)

/*
 * Maps a GGUF file. It is untrusted: everything that its header claims is checked against its size. Its vocabulary and chat
 * template are loaded; its weights are not read. options may be NULL. *out is NULL on failure.
 * SP_ERR_NOT_FOUND, SP_ERR_IO, SP_ERR_FORMAT (no GGUF, truncated, a tensor outside the file), SP_ERR_UNSUPPORTED (architecture). The same of an
 * adapter, and SP_ERR_ARGUMENT: it is of another architecture. One that does not fit the model's tensors is refused when the program is asked for.
 */
SP_API sp_status sp_model_open(sp_host *host, const char *path, const sp_model_options *options, sp_model **out, sp_error *err);

/* The same for a GGUF that is in memory already (page-aligned or not; copied into an anonymous file once). */
SP_API sp_status sp_model_open_bytes(sp_host *host, const void *bytes, size_t size, const sp_model_options *options, sp_model **out, sp_error *err);
SP_API void sp_model_close(sp_model *model);

/* 128 bits over the file's header, metadata, tensor table and size, and adapters with their scales, as 32 hex digits. Stable across machines. */
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

/* 256 bits (BLAKE2b) over the module's bytes, as 64 hex digits: what a session names it by. */
SP_API const char *sp_module_hash(const sp_module *module);

/*
 * Can actors of this module be frozen and forked? Decided at load, from its bytes. An actor at rest is its linear memory and its mutable globals,
 * those of C's stack pointer and the like included, which need not be exported. SP_ERR_UNSUPPORTED says what does not fit and where: a command,
 * code that changes a table or drops a segment, a mutable global that holds a reference, a start function, an instruction that is not known.
 */
SP_API sp_status sp_module_check_freeze(const sp_module *module, sp_error *err);

/* ---- actors ---- */

typedef struct sp_actor sp_actor;

/* What a guest may use up. 0 means the default. An error about a limit names it. */
typedef struct sp_limits {
    uint64_t memory_bytes;    /* bytes of linear memory; default 4 GiB; memory.grow beyond it gives -1 */
    uint64_t table_elements;  /* elements of a Wasm table; default 1,048,576; table.grow beyond it gives -1 */
    uint64_t step_ms;         /* milliseconds of guest code in one step; default 10,000; commands have it only when it is given */
    uint64_t regions;         /* regions open at once; default 64 */
    uint64_t shared_bytes;    /* bytes in open regions; default 4 GiB */
    uint64_t programs;        /* programs open at once; default 64 */
    uint64_t program_bytes;   /* bytes of one program; default 16 MiB */
    uint64_t prepared_bytes;  /* bytes that prepared programs hold; default 1 GiB; those not used for longest are dropped first */
    uint64_t temporary_bytes; /* bytes of temporaries of one run; default 4 GiB */
    uint64_t run_flops;       /* estimated operations of one run; default 10^15 */
    uint64_t run_ms;          /* milliseconds of one run on the device; default 60,000 */
    uint64_t device_ms;       /* milliseconds of all runs on the device; default 86,400,000 */
    uint64_t text_bytes;      /* bytes of one text to tokenise, write out or format; default 16 MiB */
    uint64_t message_bytes;   /* bytes of one message; default 16 MiB; either way */
    uint64_t messages;        /* messages unread; default 1,024 */
    uint64_t sent_messages;   /* messages sent in one step; default 65,536 */
    uint64_t output_bytes;    /* bytes of standard output and error; default 1 GiB; together */
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

/* ---- sessions: actors as files ----
 *
 * A session is one file (docs/snapshot.md), an append-only log. A commit in it is an actor at rest: the pages of its memory, its globals, its
 * programs and regions, its unread messages. Nothing in it depends on the device, the machine or the process. Commits form a tree; each stays
 * reachable until sp_session_compact. A folder of sessions is a store: files in one folder can share pages (sp_session_fork). The hidden files
 * named ".base-..." beside them hold pages that forks share: leave them alone, sp_session_remove and sp_session_compact clear them away.
 *
 * A session that is open for writing holds a lock on its file. Actors thawed from it don't need it to stay open: they map the file itself.
 */

enum { SP_COMMIT_NAME_MAX = 63, SP_COMMIT_NOTE_MAX = 4096, SP_SESSION_MODELS_MAX = 16 };

typedef struct sp_session sp_session;

typedef struct sp_commit {
    uint64_t number;                   /* 1, 2, ... in the order in which they were made */
    uint64_t parent;                   /* number of the commit that it continued; 0: none */
    uint64_t time_ns;                  /* when it was made, since 1970, UTC */
    uint64_t memory_bytes;             /* size of the linear memory */
    uint64_t file_bytes;               /* what it added to the file */
    char name[SP_COMMIT_NAME_MAX + 1]; /* "" if it has none */
    const void *note;                  /* what the caller stored with it (sp_freeze_options) */
    size_t note_bytes;
} sp_commit;

typedef struct sp_session_info {
    char id[33];     /* of the file, random: 32 hex digits; another after sp_session_compact */
    char module[65]; /* sp_module_hash of the module */
    uint32_t n_models;
    char models[SP_SESSION_MODELS_MAX][33]; /* sp_model_fingerprint of each */
    uint64_t head;                          /* number of the commit that sp_actor_thaw takes for 0; 0: there is none yet */
    uint64_t own_bytes;                     /* that the file takes on the disk */
    uint64_t shared_bytes;                  /* of pages that its commits use and that lie in files which it shares */
    bool is_shared;                         /* other sessions use pages of this file */
    uint64_t ignored_bytes;                 /* at the end of the file, left by a crash or damaged: no commit */
    bool read_only;
} sp_session_info;

/*
 * Creates the file (mode 0600) for actors of this module and these models, without commits. SP_ERR_STATE: the path exists. SP_ERR_UNSUPPORTED: the
 * module can't be frozen. SP_ERR_IO. *out is NULL on failure, and no file stays behind.
 */
SP_API sp_status sp_session_create(const char *path, const sp_module *module, sp_model *const *models, size_t n_models, sp_session **out,
                                   sp_error *err);

/*
 * Opens a file: its list of commits is read, no pages. For writing, it is locked: SP_ERR_BUSY names the process that holds it. read_only needs no
 * lock and shows the commits that there are now. SP_ERR_NOT_FOUND, also where a file that it shares pages with is gone. SP_ERR_UNSUPPORTED: a
 * newer version of the format. SP_ERR_FORMAT: no session, or damaged; a tail that a crash left behind the last commit is no damage.
 */
SP_API sp_status sp_session_open(const char *path, bool read_only, sp_session **out, sp_error *err);
SP_API void sp_session_close(sp_session *session);

SP_API void sp_session_get_info(const sp_session *session, sp_session_info *out);
/* Called by what takes long: verify, compact, fork, export. progress may be NULL. */
SP_API void sp_session_set_progress(sp_session *session, sp_progress progress, void *user);

/* The commits, in the order in which they were made. What these return is valid until the session is changed or closed. */
SP_API uint64_t sp_session_count(const sp_session *session);
SP_API const sp_commit *sp_session_at(const sp_session *session, uint64_t index);   /* NULL: index is not below the count */
SP_API const sp_commit *sp_session_get(const sp_session *session, uint64_t number); /* 0: the head. NULL: there is none */
SP_API const sp_commit *sp_session_find(const sp_session *session, const char *name);

/*
 * Makes a commit the head: what is frozen from an actor thawed there continues it, and what came after stays reachable by its number. Durable when
 * this returns; takes 4 KiB. SP_ERR_NOT_FOUND, and sp_actor_freeze's.
 */
SP_API sp_status sp_session_set_head(sp_session *session, uint64_t number, sp_error *err);
/* Gives a commit a name, at most 63 bytes, taken from whoever bore it; "" takes its name away. As above. */
SP_API sp_status sp_session_set_name(sp_session *session, uint64_t number, const char *name, sp_error *err);

typedef struct sp_freeze_options {
    const char *name; /* or NULL */
    const void *note; /* small: what a list of commits shall show; or NULL */
    size_t note_bytes;
} sp_freeze_options;

/*
 * Commits an actor at rest: the pages that changed since it was last frozen in, or thawed from, this session; else all of them. The commit is
 * durable, and the session's head, when this returns. options may be NULL, number too. The actor goes on as if nothing had been.
 * What programs wrote on a device with memory of its own is brought back first.
 * SP_ERR_STATE: the actor is dead or in a step; or an earlier sync failed, so that what is on the disk is unknown: close the session and open it.
 * SP_ERR_UNSUPPORTED: the module can't be frozen, or the session is read-only. SP_ERR_ARGUMENT: another module or other models than the session's,
 * with both; a name or note that is too long. SP_ERR_IO: the disk is full, the file was changed by somebody else, ...: the commits before stand.
 * SP_ERR_NO_MEMORY, SP_ERR_LIMIT, SP_ERR_DEVICE. Only a failure of the guest's file (SP_ERR_IO where its memory was lost) kills the actor.
 */
SP_API sp_status sp_actor_freeze(sp_actor *actor, sp_session *session, const sp_freeze_options *options, uint64_t *number, sp_error *err);

/*
 * An actor as it was at a commit; number 0: the head. Its pages are mapped, and read when they are touched: the cost does not depend on the memory's
 * size. options as for sp_actor_spawn: the device may be another than before, the models must be the same, limits hold from now on. The guest's
 * sp_resumed is called with options->seed, or a fresh seed. *out is NULL on failure.
 * SP_ERR_NOT_FOUND: no such commit. SP_ERR_ARGUMENT: another module or model, with what was expected and what was found. SP_ERR_FORMAT: damaged.
 * SP_ERR_LIMIT: it has more than the limits allow. sp_actor_spawn's and, from sp_resumed, sp_actor_step's.
 *
 * The file is never changed in place nor truncated by this library. If somebody else truncates it, or its disk fails, the actor dies (SP_ERR_IO
 * from its next step), not the process.
 */
SP_API sp_status sp_actor_thaw(sp_host *host, sp_module *module, const sp_actor_options *options, sp_session *session, uint64_t number,
                               sp_actor **out, sp_error *err);

/*
 * Another actor that is what this one is, in this process. They share pages until one writes them; the first fork after a change copies the memory
 * once. options may be NULL: then as the parent was spawned, with a fresh seed; else as for sp_actor_thaw. The guest's sp_resumed is called in the
 * child. The child outlives its parent. *out is NULL on failure; the parent goes on.
 */
SP_API sp_status sp_actor_fork(sp_actor *actor, const sp_actor_options *options, sp_actor **out, sp_error *err);

/*
 * A new session at path with one commit of this one (0: the head), without parent. In the same folder the files share pages and nothing is copied,
 * whatever becomes of this session later; elsewhere, or where the file system has no hard links, its pages are copied. Does not need the lock. The
 * file appears whole or not at all. SP_ERR_STATE: the path exists. SP_ERR_NOT_FOUND, SP_ERR_FORMAT, SP_ERR_IO.
 */
SP_API sp_status sp_session_fork(sp_session *session, uint64_t number, const char *path, sp_error *err);

/*
 * Keeps the head and the commits that have a name, in a new file that replaces the old one: a commit's parent becomes its nearest kept ancestor,
 * numbers begin at 1 again. The session stays open, on the new file. Actors that map the old one keep it alive. On failure the old file stands,
 * unless the message says that the folder could not be synced.
 */
SP_API sp_status sp_session_compact(sp_session *session, sp_error *err);

/* Reads everything, shared pages too, and compares every checksum. SP_ERR_FORMAT says which commit is damaged. */
SP_API sp_status sp_session_verify(sp_session *session, sp_error *err);

typedef struct sp_export_options {
    uint64_t number;        /* the commit to export, alone; 0: all of them */
    int compression;        /* zstd's level, 1 to 19; 0: none */
    const char *passphrase; /* encrypts; NULL: no encryption */
} sp_export_options;

/*
 * Writes a file that stands alone. Without compression and encryption it is a session file like any other; compressed it is one in a zstd frame;
 * encrypted it is that in libsodium's secretstream, its key made from the passphrase by Argon2id. The path must not exist (SP_ERR_STATE); the file
 * appears whole or not at all, mode 0600. options may be NULL.
 */
SP_API sp_status sp_session_export(sp_session *session, const char *path, const sp_export_options *options, sp_error *err);

/*
 * Makes a session at path of an exported file, of whichever of the three kinds; everything in it is verified. passphrase may be NULL.
 * SP_ERR_ARGUMENT: encrypted, and no or another passphrase. SP_ERR_STATE: path exists. SP_ERR_FORMAT, SP_ERR_UNSUPPORTED, SP_ERR_IO.
 */
SP_API sp_status sp_session_import(const char *exported, const char *path, const char *passphrase, sp_progress progress, void *progress_user,
                                   sp_error *err);

/* Removes a session's file, and what no other session shares with it. SP_ERR_NOT_FOUND, SP_ERR_BUSY: somebody holds it, SP_ERR_IO. */
SP_API sp_status sp_session_remove(const char *path, sp_error *err);

#ifdef __cplusplus
}
#endif

#endif
