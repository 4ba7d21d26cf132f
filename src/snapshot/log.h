/*
 * snapshot: the file that a frozen actor is, a log of page runs and commits. May call: memory, base.
 * The bytes are in docs/snapshot.md. Nothing here knows what an actor is: a commit is a memory's pages, pages beside it ("side": programs), and a
 * small blob ("meta"). sp_session_* of samepage.h that need no actor are this layer's; what follows is what the actor layer needs besides.
 */
#ifndef SP_SNAPSHOT_LOG_H
#define SP_SNAPSHOT_LOG_H

#include <stdbool.h>

#include "memory/memory.h"
#include "samepage.h"

#define SP_LOG_PAGE 4096u           /* the unit of extents, whatever the host's page size is */
#define SP_LOG_PAGES_MAX (1u << 24) /* pages of a memory: 64 GiB */
#define SP_LOG_SIDE_MAX (1u << 18)  /* pages beside it: 1 GiB */
#define SP_LOG_META_MAX (256u << 20)

/* What the actor that was frozen is made of. The log stores it; whoever thaws compares it. */
typedef struct sp_log_identity {
    uint8_t module[32];
    uint32_t n_models;
    uint8_t models[SP_SESSION_MODELS_MAX][16];
} sp_log_identity;

/* sp_session_create for those who have no module. */
sp_status sp_log_create(const char *path, const sp_log_identity *identity, sp_session **out, sp_error *err);
const sp_log_identity *sp_log_get_identity(const sp_session *log);

/* Which commit of which file something was taken from. Zeros: of none. */
typedef struct sp_log_anchor {
    uint8_t file[16];
    uint64_t number;
} sp_log_anchor;
sp_log_anchor sp_log_get_anchor(const sp_session *log, uint64_t number);
/* The number that an anchor's commit has in this file now (a compaction gives new ones); 0: it is not of this file, or not kept. */
uint64_t sp_log_find_anchor(const sp_session *log, const sp_log_anchor *anchor);

typedef struct sp_log_commit_input {
    uint64_t parent;         /* 0: none */
    const uint8_t *base;     /* the memory */
    uint64_t size;           /* bytes, a multiple of SP_LOG_PAGE */
    const uint64_t *written; /* bit i: the host's page i may differ from the parent (from zeros beyond it); NULL: any may */
    const uint8_t *side;     /* pages beside the memory */
    uint64_t side_size;      /* bytes, a multiple of SP_LOG_PAGE */
    const void *meta;
    uint64_t meta_size;
    const char *name; /* NULL or "": none */
    const void *note;
    uint64_t note_size;
    const sp_memory *memory; /* that base belongs to, or NULL: its loss while it is read fails the commit */
} sp_log_commit_input;

/*
 * Appends the pages that differ from the parent and a commit, durable when this returns. Pages are compared, so more bits in written are harmless.
 * The outcomes are sp_actor_freeze's.
 */
sp_status sp_log_commit(sp_session *log, const sp_log_commit_input *input, uint64_t *number, sp_error *err);

/*
 * Makes the first memory_bytes of a memory what they were at a commit: pages are mapped copy-on-write, and read by nobody until they
 * are touched; runs that can't be mapped (smaller than the host's page, or beyond a limit on mappings) are read. The memory must be at
 * least as large; all but its first `used` bytes (whole pages) is zeros, and what the commit names no page for becomes zeros. On failure the memory
 * is a mixture and must be thrown away. SP_ERR_NOT_FOUND, SP_ERR_ARGUMENT, SP_ERR_FORMAT (the file is shorter than it was), SP_ERR_IO.
 */
sp_status sp_log_map(sp_session *log, uint64_t number, sp_memory *memory, uint64_t used, sp_error *err);

/*
 * Maps what a commit wrote over the memory that it was made of and that has not changed since, so that its pages count as not written, as far as it
 * can: pages that still count as written are compared at the next commit, and cost time alone. Not for memory whose pages a device holds.
 */
void sp_log_remap(sp_session *log, uint64_t number, sp_memory *memory);

typedef struct sp_log_blobs {
    uint8_t *meta, *side; /* malloc'ed; NULL where the size is 0 */
    uint64_t meta_size, side_size;
} sp_log_blobs;
/* Reads a commit's meta and side. SP_ERR_NOT_FOUND, SP_ERR_FORMAT, SP_ERR_IO, SP_ERR_NO_MEMORY; *out is then empty. */
sp_status sp_log_read_blobs(sp_session *log, uint64_t number, sp_log_blobs *out, sp_error *err);

#endif
