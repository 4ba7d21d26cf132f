/*
 * snapshot: the file that a frozen actor is, a log of page runs and commits. May call: memory, base.
 * The bytes are in docs/snapshot.md. Nothing here knows what an actor is: a commit is a memory's pages and a blob ("meta").
 */
#ifndef SP_SNAPSHOT_LOG_H
#define SP_SNAPSHOT_LOG_H

#include <stdbool.h>

#include "memory/memory.h"
#include "samepage.h"

#define SP_LOG_PAGE 4096u           /* the unit of extents, whatever the host's page size is */
#define SP_LOG_MODELS_MAX 16u       /* fingerprints in a header */
#define SP_LOG_NAME_MAX 63u         /* bytes in a commit's name, less its zero */
#define SP_LOG_PAGES_MAX (1u << 24) /* pages of a memory: 64 GiB */
#define SP_LOG_META_MAX (256u << 20)

/* What the actor that was frozen is made of. The log stores it; whoever thaws compares it. */
typedef struct sp_log_identity {
    uint8_t module[32];
    uint32_t n_models;
    uint8_t models[SP_LOG_MODELS_MAX][16];
} sp_log_identity;

typedef struct sp_log_commit_info {
    uint64_t number;       /* 1, 2, ... in the order of the file */
    uint64_t parent;       /* 0: none */
    uint64_t time_ns;      /* since 1970, UTC */
    uint64_t memory_bytes; /* size of the linear memory */
    uint64_t file_bytes;   /* what this commit added to the file */
    uint64_t meta_bytes;
    char name[SP_LOG_NAME_MAX + 1]; /* "" if it has none */
} sp_log_commit_info;

/* An open log; it holds an exclusive lock on its file. Not thread-safe. */
typedef struct sp_log sp_log;

/*
 * Creates a file (0600) with a header and no commit. SP_ERR_STATE: the path exists. SP_ERR_IO. *out is NULL on failure,
 * and no file stays behind.
 */
sp_status sp_log_create(const char *path, const sp_log_identity *identity, sp_log **out, sp_error *err);

/*
 * Opens a file: reads the header and the commit records, no pages. A torn tail is ignored (sp_log_ignored_bytes) and overwritten by
 * the next commit. SP_ERR_NOT_FOUND. SP_ERR_BUSY names the process that holds it, where the system tells. SP_ERR_UNSUPPORTED: a newer
 * version. SP_ERR_FORMAT: damaged, also where a damaged record stands before a whole one. SP_ERR_IO. *out is NULL on failure.
 */
sp_status sp_log_open(const char *path, sp_log **out, sp_error *err);
void sp_log_close(sp_log *log);

const sp_log_identity *sp_log_get_identity(const sp_log *log);
uint64_t sp_log_ignored_bytes(const sp_log *log);
uint64_t sp_log_count(const sp_log *log);
/* index < sp_log_count, in the order of the file: the last is the head. Valid until the next commit or close. */
const sp_log_commit_info *sp_log_at(const sp_log *log, uint64_t index);
/* By number; by name the newest that bears it. NULL: none. Valid as above. */
const sp_log_commit_info *sp_log_by_number(const sp_log *log, uint64_t number);
const sp_log_commit_info *sp_log_by_name(const sp_log *log, const char *name);

typedef struct sp_log_commit_input {
    uint64_t parent;         /* 0: none; all pages are then written */
    const uint8_t *base;     /* the memory */
    uint64_t size;           /* bytes, a multiple of SP_LOG_PAGE */
    const uint64_t *written; /* bit i: the host's page i may differ from the parent; NULL: any may. Pages are compared, so more bits are harmless */
    const void *meta;
    uint64_t meta_size;
    const char *name; /* NULL or "": none */
} sp_log_commit_input;

/*
 * Appends the pages that differ from the parent and a commit, durable when this returns. The memory stays as it is: nothing is mapped, so
 * pages that a device holds are safe. SP_ERR_ARGUMENT, SP_ERR_NOT_FOUND (parent), SP_ERR_LIMIT, SP_ERR_NO_MEMORY; SP_ERR_IO: the commits
 * before stand. After a failed sync every further commit is SP_ERR_STATE: close and open again.
 */
sp_status sp_log_commit(sp_log *log, const sp_log_commit_input *input, uint64_t *number, sp_error *err);

/*
 * Makes the first memory_bytes of a memory what they were at a commit: pages are mapped copy-on-write, and read by nobody until they
 * are touched; runs that can't be mapped (smaller than the host's page, or beyond a limit on mappings) are read. The memory must be at
 * least as large. Bytes beyond become zeros. On failure the memory is a mixture and must be thrown away. SP_ERR_NOT_FOUND, SP_ERR_ARGUMENT,
 * SP_ERR_FORMAT (the file is shorter than it was), SP_ERR_IO.
 */
sp_status sp_log_map(sp_log *log, uint64_t number, sp_memory *memory, sp_error *err);

/* Writes a commit's meta blob into bytes[0, size), size being its meta_bytes. SP_ERR_NOT_FOUND, SP_ERR_ARGUMENT, SP_ERR_FORMAT, SP_ERR_IO. */
sp_status sp_log_meta(sp_log *log, uint64_t number, void *bytes, uint64_t size, sp_error *err);

/* Reads everything and compares every checksum. SP_ERR_FORMAT says which commit is damaged. */
sp_status sp_log_verify(sp_log *log, sp_error *err);

/*
 * Writes one commit, without parent, as a new log that stands alone. The path must not exist (SP_ERR_STATE); it appears whole or not at
 * all. A fork copies its live pages, zero pages cost nothing.
 */
sp_status sp_log_fork(sp_log *log, uint64_t number, const char *path, sp_error *err);

/*
 * Keeps the commits that have a name, and the last one, in a new file that replaces the old one: a commit's parent becomes its nearest kept
 * ancestor, numbers begin at 1 again. The log stays open, on the new file. Memories that map the old one keep it alive. On failure the old
 * file stands and stays open, unless the message says that the folder could not be synced.
 */
sp_status sp_log_compact(sp_log *log, sp_error *err);

#endif
