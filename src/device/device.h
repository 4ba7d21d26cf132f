/*
 * device: runs specialised programs. One small interface; the ggml devices (cpu, vulkan, metal, discrete) share one lowering behind it.
 * It speaks of programs, not of ggml graphs: a device that interprets programs itself fits in beside them.
 * May call: program, memory, base.
 */
#ifndef SP_DEVICE_DEVICE_H
#define SP_DEVICE_DEVICE_H

#include "program/program.h"
#include "samepage.h"

/* The kinds of device that this build has: "cpu discrete vulkan". */
const char *sp_device_kinds(void);

/* What a device said of itself when it was opened; sp_device_describe asks it anew. */
const sp_device_info *sp_device_get_info(const sp_device *device);

/* ---- weights: a model's tensors as the device has them ---- */

/* A model's tensors in a mapping that outlives the device's weights. */
typedef struct sp_weight_table {
    const void *base; /* the mapping; page-aligned, may be longer than any tensor */
    uint64_t size;
    uint32_t n;
    const struct sp_weight_entry {
        const char *name;
        uint32_t type;
        int64_t ne[4];
        uint64_t offset; /* from base; offset + size lies inside, checked by the caller */
        bool as_it_is;   /* not to be converted into another layout: libllama does not do so with adapters */
    } *entries;
    /* Where a device keeps converted weights as a file for the next start: the beginning of a path that names these weights; NULL: nowhere. */
    const char *kept;
    uint64_t kept_bytes; /* of all such files in the folder, at most */
    sp_notice notice;    /* told why they are not kept; or NULL */
    void *notice_user;
} sp_weight_table;

typedef struct sp_device_weights sp_device_weights;
/* Imports the mapping where the device can work on it, else uploads each weight at its first use. table is copied; names are not, and kept is.
 * Thread-safe. */
sp_status sp_device_weights_open(sp_device *device, const sp_weight_table *table, sp_progress progress, void *progress_user, sp_device_weights **out,
                                 sp_error *err);
void sp_device_weights_close(sp_device_weights *weights);

/* ---- regions ---- */

typedef struct sp_device_memory sp_device_memory;

/* Shares [base, base + length) with the device; both multiples of the import alignment. Separate memory: a buffer beside it, not yet filled. */
sp_status sp_device_memory_open(sp_device *device, void *base, uint64_t length, sp_device_memory **out, sp_error *err);
/* Another region as long as this one, at other pages of the host: a device with memory of its own has the same bytes in it, and shares with the first
 * what neither writes. SP_ERR_UNSUPPORTED: the device has nothing to share. */
sp_status sp_device_memory_fork(sp_device_memory *from, void *base, sp_device_memory **out, sp_error *err);
void sp_device_memory_close(sp_device_memory *memory);

/* The device's own address of the region's first byte, for showing; equals base where memory is unified. */
uint64_t sp_device_memory_address(const sp_device_memory *memory);

/* Does the device hold the pages of an open region, so that a write to one that is shared copy-on-write would not reach it? Then they stay mapped. */
bool sp_device_pins_pages(const sp_device *device);
/* Other pages are about to be mapped in place of the region's: a device that has registered some of them, to move bytes faster, gives them up. */
void sp_device_memory_let_go(sp_device_memory *memory);

typedef enum sp_sync_direction { SP_SYNC_TO_DEVICE = 0, SP_SYNC_FROM_DEVICE = 1 } sp_sync_direction;
/* Moves exactly those bytes; does nothing where memory is unified. SP_ERR_RANGE outside of the region. */
sp_status sp_device_memory_sync(sp_device_memory *memory, uint64_t offset, uint64_t length, sp_sync_direction direction, sp_error *err);

/* ---- programs ---- */

/* Where a slot lies. */
typedef struct sp_slot_binding {
    sp_device_memory *memory;
    uint64_t offset, length; /* inside the region */
} sp_slot_binding;

/* Temporaries, shared by the executables of one actor: one run at a time. */
typedef struct sp_workspace sp_workspace;
sp_status sp_workspace_open(sp_device *device, uint64_t limit_bytes, sp_workspace **out, sp_error *err);
void sp_workspace_close(sp_workspace *workspace);
/* The longest that a run may take, waiting for its turn left out; 0: any time. What sp_device_execute does about it, it says. */
void sp_workspace_limit_time(sp_workspace *workspace, uint64_t milliseconds);
uint64_t sp_workspace_bytes(const sp_workspace *workspace);

typedef struct sp_executable sp_executable;

/*
 * Makes a specialised program ready to run with these bindings (one per slot of spec, lengths at least what it needs, ranges checked here) and these
 * weights (one per model handle). spec may be freed afterwards; workspace, memories and weights must outlive the executable.
 * SP_ERR_UNSUPPORTED names an operation that the device lacks. SP_ERR_RANGE: a binding is too short or ranges overlap.
 */
sp_status sp_device_prepare(sp_workspace *workspace, const sp_spec *spec, const sp_slot_binding *bindings, sp_device_weights *const *weights,
                            uint32_t n_weights, sp_executable **out, sp_error *err);

/*
 * Copies index tensors out of the host's pages and checks them (SP_ERR_RANGE: nothing ran), computes, returns when done. Index tensors are always
 * read from the host's pages: they need no sync.
 * SP_ERR_LIMIT: it took longer than the workspace allows. A CPU stops between two operations; other devices can't be stopped and have run to the end.
 * Either way nothing is known of what it writes.
 */
sp_status sp_device_execute(sp_executable *executable, sp_error *err);
/*
 * The same; `meanwhile` is called once, by this thread, for what is to be done in any case and needs none of the results: while a device that is
 * waited for computes, or before. Its row ids were checked then. Not called where nothing ran.
 */
typedef void (*sp_meanwhile)(void *user);
sp_status sp_device_execute_and(sp_executable *executable, sp_meanwhile meanwhile, void *user, sp_error *err);
/* What it holds on host and device, temporaries left out. */
uint64_t sp_executable_bytes(const sp_executable *executable);
void sp_executable_close(sp_executable *executable);

#endif
