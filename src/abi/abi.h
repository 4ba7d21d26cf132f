/*
 * abi: the functions that a guest can import, and Wasmtime behind them. The only place that touches guest pointers.
 * May call: model, device, program, snapshot (its types), memory, base. The actor layer drives what is declared here.
 */
#ifndef SP_ABI_ABI_H
#define SP_ABI_ABI_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <wasm.h>
#include <wasmtime.h>

#include "base/error.h"
#include "device/device.h"
#include "memory/memory.h"
#include "model/model.h"
#include "program/program.h"
#include "samepage.h"
#include "snapshot/log.h"

enum { SP_MAX_SUBMITTED = 16, SP_CACHED_EXECUTABLES = 16, SP_MAX_GRAMMARS = 16 };

struct sp_host {
    wasm_engine_t *engine;
    wasmtime_linker_t *linker, *actor_linker; /* imports of commands; of actors */
    char *cache_dir;                          /* NULL: no cache */
    pthread_t ticker;                         /* advances the epoch while guest code runs, so that limits and interruption take effect */
    atomic_bool stop;
    atomic_int running;
    pthread_mutex_t lock; /* weights */
    struct sp_shared_weights *weights;
};

/* Weights of a model as a device has them, shared by all actors that use both. */
typedef struct sp_shared_weights {
    struct sp_shared_weights *next;
    sp_device *device;
    sp_model *model;
    sp_device_weights *weights;
    unsigned users;
} sp_shared_weights;

sp_status sp_host_acquire_weights(sp_host *host, sp_device *device, sp_model *model, sp_shared_weights **out, sp_error *err);
void sp_host_release_weights(sp_host *host, sp_shared_weights *weights);

struct sp_module {
    sp_host *host;
    wasmtime_module_t *module;
    wasmtime_instance_pre_t *pre;
    sp_module_kind kind;
    uint8_t id[32];        /* BLAKE2b of the bytes that were given */
    char id_text[65];      /* the same in hex */
    uint8_t hash[32];      /* BLAKE2b of the bytes that were compiled: the name of compiled code must not be open to collisions */
    uint64_t memory_bytes; /* size of the memory at the start */
    bool freezable;        /* its code allows it; sp_module_check_freeze asks for more */
    uint32_t n_globals;    /* mutable ones, exported as SP_GLOBAL_EXPORT and a number (rewrite.h) */
    char not_freezable[200];
};

/* A folder for the host's caches, below cache_dir; NULL, without an error, if there is no cache or it can't be trusted. Malloc'ed. */
char *sp_host_cache_folder(const sp_host *host, const char *name);
/* Is it of that kind (S_IFDIR, S_IFREG), the user's, and can nobody else write to it? */
bool sp_host_is_ours_alone(const struct stat *info, mode_t kind);

/* ---- an actor as its imports see it ---- */

typedef struct sp_span {
    uint32_t from, to;
} sp_span;

typedef struct sp_region {
    bool open;                /* false: a closed handle */
    sp_device_memory *memory; /* NULL: thawed or forked, and not needed yet: a device with memory of its own gets all of it then */
    uint32_t start, length;
    /* Devices with memory of their own: where programs wrote and nothing was synced since, ascending, disjoint. */
    sp_span *ahead;
    uint32_t n_ahead, room;
} sp_region;

typedef struct sp_bound_slot {
    int32_t region; /* -1: not bound */
    uint32_t offset, length;
} sp_bound_slot;

typedef struct sp_prepared {
    sp_executable *executable; /* NULL: free */
    uint64_t symbols[SP_PROGRAM_MAX_SYMBOLS];
    uint64_t last_use;
    uint64_t bytes; /* what it holds */
    /* Devices with memory of their own: what a run may write. */
    sp_spec_write *writes;
    uint32_t n_writes;
} sp_prepared;

typedef struct sp_loaded {
    sp_program *program; /* NULL: a closed handle */
    atomic_uint *users;  /* of program: forks share it */
    sp_bound_slot *slots;
    sp_prepared *prepared; /* SP_CACHED_EXECUTABLES of them, from the first run on */
} sp_loaded;

typedef struct sp_open_grammar {
    sp_grammar *grammar; /* NULL: a closed handle */
    sp_model *model;
} sp_open_grammar;

typedef struct sp_message {
    struct sp_message *next;
    uint32_t size;
    uint8_t bytes[];
} sp_message;

struct sp_actor {
    sp_host *host;
    sp_module *module;
    sp_device *device;
    wasmtime_store_t *store;
    wasmtime_context_t *context;
    wasmtime_instance_t instance;
    wasmtime_func_t step;
    sp_memory *memory; /* the guest's linear memory; owned by the store */
    sp_limits limits;
    uint64_t seed;
    sp_on_message on_message;
    void *on_message_user;
    sp_model **models;
    sp_shared_weights **weights; /* by model; acquired when a program first needs them */
    uint32_t n_models;
    sp_workspace *workspace; /* opened with the first program */
    sp_region *regions;
    sp_loaded *programs;
    sp_open_grammar grammars[SP_MAX_GRAMMARS];
    uint64_t prepared_bytes; /* what all prepared programs hold */
    uint64_t uses;           /* counts runs, for the age of prepared programs */
    struct {
        sp_loaded *program;
        sp_prepared *prepared;
    } submitted[SP_MAX_SUBMITTED];
    uint32_t n_submitted;
    sp_message *inbox, **inbox_end;
    uint32_t n_inbox;
    sp_error last_error; /* what the guest's last failing call said */
    bool in_guest, dead, done;
    atomic_int interrupted; /* set by other threads; no neighbour of what the compiler reads at once */
    bool overran;           /* a run took more than twice the time it may: the guest is ended */
    sp_status stopped;      /* why guest code was stopped from outside: SP_ERR_INTERRUPTED, SP_ERR_LIMIT; else SP_OK */
    uint64_t step_started, step_device_ns, step_sent;
    uint64_t clock_offset; /* added to the host's clock: the guest's starts at 0, and goes on after a thaw where it was */
    bool inherit_stdin, inherit_stdout, inherit_stderr;
    sp_actor_stats stats;
    /* What the memory's pages are copies of, and which differ from it although they do not count as written (bit per host page; NULL: none). */
    sp_log_anchor anchor;
    uint64_t *changed, changed_pages;
    bool mapped;         /* pages were mapped from a file or an image: those that were not written are not zeros */
    sp_image *image;     /* what forks share; NULL: none yet */
    uint64_t image_step; /* the number of steps when it was made */
};

uint64_t sp_now_ns(void);

/* Checks [pointer, pointer + size) against the linear memory; NULL, with *err, when it lies outside. */
void *sp_guest_range(sp_actor *actor, uint32_t pointer, uint64_t size, sp_error *err);

/* NULL: SP_OK. Otherwise its text is told after what, and it is deleted. */
sp_status sp_abi_take_error(wasmtime_error_t *error, sp_status code, const char *what, sp_error *err);

/*
 * Defines every import of samepage/abi.h; for actors, takes away what WASI has to wait with: nothing would stop a guest that sleeps.
 */
sp_status sp_imports_define(wasmtime_linker_t *linker, sp_error *err);
sp_status sp_imports_restrict(wasmtime_linker_t *linker, sp_error *err);

/* The subjects of the imports; each returns what the guest gets: a count or handle, or a negative status with *err filled. */
int64_t sp_abi_region_open(sp_actor *actor, uint32_t start, uint32_t length, sp_error *err);
int64_t sp_abi_region_close(sp_actor *actor, int32_t region, sp_error *err);
int64_t sp_abi_region_sync(sp_actor *actor, int32_t region, uint32_t offset, uint32_t length, int32_t direction, sp_error *err);
int64_t sp_abi_program_load(sp_actor *actor, uint32_t bytes, uint32_t size, sp_error *err);
int64_t sp_abi_program_close(sp_actor *actor, int32_t program, sp_error *err);
int64_t sp_abi_program_bind(sp_actor *actor, int32_t program, uint32_t slot, int32_t region, uint32_t offset, uint32_t length, sp_error *err);
int64_t sp_abi_program_run(sp_actor *actor, int32_t program, uint32_t symbols, uint32_t n_symbols, bool submit, sp_error *err);

int64_t sp_abi_grammar_open(sp_actor *actor, sp_model *model, uint32_t kind, uint32_t text, uint32_t length, sp_error *err);
int64_t sp_abi_grammar_close(sp_actor *actor, int32_t handle, sp_error *err);
int64_t sp_abi_grammar_accept(sp_actor *actor, int32_t handle, uint32_t tokens, uint32_t count, sp_error *err);
int64_t sp_abi_grammar_allows(sp_actor *actor, int32_t handle, int32_t token, sp_error *err);
int64_t sp_abi_grammar_mask(sp_actor *actor, int32_t handle, uint32_t logits, uint32_t count, sp_error *err);
void sp_abi_release_grammars(sp_actor *actor);

/* ---- freezing: what the actor layer asks of regions and programs ---- */

/* The region's device memory, opened now if it was not needed before. */
sp_status sp_abi_region_need(sp_actor *actor, uint32_t region, sp_error *err);
/* Notes that a program wrote bytes [from, to) of a region of a device with memory of its own. */
sp_status sp_abi_mark_ahead(sp_region *region, uint32_t from, uint32_t to, sp_error *err);
/* Copies to the guest's pages what programs wrote on a device with memory of its own. */
sp_status sp_abi_bring_back(sp_actor *actor, sp_error *err);
/* Other pages are about to be mapped in place of the actor's. */
void sp_abi_let_go(sp_actor *actor);
/* Opens a region under a given handle, without touching the device. */
sp_status sp_abi_region_restore(sp_actor *actor, uint32_t handle, uint32_t start, uint32_t length, sp_error *err);
/* The same as another actor's, whose device then shares with this one's what it has, if it can. */
sp_status sp_abi_region_share(sp_actor *actor, uint32_t handle, const sp_actor *from, sp_error *err);
/* Loads a program under a given handle. slots are copied, and checked; they are as many as the program has. */
sp_status sp_abi_program_restore(sp_actor *actor, uint32_t handle, const void *bytes, uint64_t size, const sp_bound_slot *slots, uint32_t n_slots,
                                 sp_error *err);
/* The same from another actor, which shares its program. */
sp_status sp_abi_program_share(sp_actor *actor, uint32_t handle, const sp_loaded *from, sp_error *err);

/* Executes what was submitted, in order, and forgets it. */
sp_status sp_abi_complete(sp_actor *actor, sp_error *err);
/* Releases regions, programs and weights. */
void sp_abi_release(sp_actor *actor);

#endif
