/* The log's bytes (docs/snapshot.md) and what its files share. Inner to the snapshot layer. */
#ifndef SP_SNAPSHOT_RECORD_H
#define SP_SNAPSHOT_RECORD_H

#include <sys/stat.h>
#include <time.h>

#include "snapshot/log.h"

#define SP_LOG_VERSION 1u
#define SP_LOG_ALIGN_PAGES 16u /* 64 KiB: the largest host page that long runs can still be mapped on */
#define SP_LOG_RECORD_MAX (1ull << 30)
#define SP_LOG_BASES_MAX 64u
#define SP_LOG_SIDE_FIRST SP_LOG_PAGES_MAX /* pages from here on are the side's */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is little-endian and read in place");

/* A file whose pages this one uses, as it was when this one began. */
typedef struct sp_log_base {
    uint8_t id[16];
    uint64_t end, records;
    uint8_t checksum[16]; /* of its last record before end */
} sp_log_base;

typedef struct sp_log_header {
    uint8_t magic[8];
    uint32_t version, page, n_models, n_bases;
    uint64_t seed;
    uint8_t module[32];
    uint8_t models[SP_SESSION_MODELS_MAX][16];
    uint8_t id[16];
    sp_log_base bases[SP_LOG_BASES_MAX];
    uint8_t zeros[SP_LOG_PAGE - 64 - 256 - 16 - 48 * SP_LOG_BASES_MAX - 16];
    uint8_t checksum[16];
} sp_log_header;
_Static_assert(sizeof(sp_log_header) == SP_LOG_PAGE, "one page");

/* A commit, or a mark. */
typedef struct sp_log_record {
    uint8_t magic[8];
    uint64_t bytes, offset, number, parent, time_ns, memory_bytes, side_bytes, n_entries, meta_bytes, end, marks;
    uint32_t name_bytes, note_bytes;
    uint8_t previous[16], data_checksum[16], checksum[16];
    char name[SP_COMMIT_NAME_MAX + 1];
} sp_log_record;
_Static_assert(sizeof(sp_log_record) == 216, "no padding");

enum { SP_LOG_MARK_HEAD = 1, SP_LOG_MARK_NAME = 2 };

/* count pages from page on are the pages of the file from file_page on; file 0 is this one, file n the base n - 1. */
typedef struct sp_log_entry {
    uint64_t page, file_page;
    uint32_t count, file;
} sp_log_entry;
_Static_assert(sizeof(sp_log_entry) == 24, "no padding");

typedef struct sp_log_commit_at {
    sp_commit info;
    uint8_t *note; /* what info.note points to */
    uint64_t offset, bytes;
    uint8_t checksum[16];
} sp_log_commit_at;

typedef struct sp_session sp_log;

struct sp_session {
    int fd;
    char *path;
    bool read_only;
    sp_log_identity identity;
    uint8_t id[16];
    uint64_t seed;        /* of all checksums of this file, random: a guest can't make up records in its memory */
    uint8_t previous[16]; /* checksum of the last record, or of the header */
    uint64_t end, ignored, records;
    sp_log_commit_at *commits;
    uint64_t count, room, head;
    sp_log_base bases[SP_LOG_BASES_MAX];
    int base_fds[SP_LOG_BASES_MAX];
    uint32_t n_bases;
    bool failed; /* a sync failed: what is on the disk is unknown */
    off_t size;  /* of the file, and when it was modified, after our last write: whoever else writes is noticed */
    struct timespec modified;
    uint8_t old_id[16]; /* before the last compaction, and what became of each commit */
    uint64_t *renumbered, old_count;
    sp_progress progress;
    void *progress_user;
};

/* ---- record.c ---- */
/* XXH3-128, in its canonical (big-endian) form. */
void sp_log_checksum(uint64_t seed, const void *bytes, uint64_t size, uint8_t out[16]);
/* The checksum of a record, its own field taken as zeros; the record is as it was afterwards. */
void sp_log_record_checksum(uint64_t seed, sp_log_record *record, uint8_t out[16]);
/* What errno says about a file that can't be opened. */
sp_status sp_log_status_of(int problem);
bool sp_log_same_file(const struct stat *a, const struct stat *b);
/* fd may be -1. */
void sp_log_close_fd(int fd);
/* All of the bytes. False, with errno. */
bool sp_log_read_at(int fd, void *bytes, uint64_t size, uint64_t offset);
bool sp_log_write_at(int fd, const void *bytes, uint64_t size, uint64_t offset);
/*
 * Reads and checks the record at an offset; *out is NULL where there is none that is whole. in_place: it follows what log knows. Freed by the caller.
 * SP_ERR_IO, SP_ERR_NO_MEMORY: it can't be told. That is no end of the log, which the next commit would cut off.
 */
sp_status sp_log_record_next(const sp_log *log, uint64_t file_size, uint64_t offset, bool in_place, sp_log_record **out, sp_error *err);
/* The first page from offset on that a file has; holes have no records. offset where the system can't tell, file_size: there is none. */
uint64_t sp_log_next_data(int fd, uint64_t offset, uint64_t file_size);
/* Reads a known commit's record again; number 0: the head. SP_ERR_NOT_FOUND, SP_ERR_FORMAT: changed since, SP_ERR_NO_MEMORY. Freed by the caller. */
sp_status sp_log_record_load(const sp_log *log, uint64_t number, sp_log_record **out, sp_error *err);
static inline bool sp_log_is_mark(const sp_log_record *record) {
    return record->marks != 0;
}
static inline sp_log_entry *sp_log_entries(sp_log_record *record) {
    return (sp_log_entry *)(record + 1);
}
static inline uint8_t *sp_log_note(sp_log_record *record) {
    return (uint8_t *)(sp_log_entries(record) + record->n_entries);
}
static inline uint8_t *sp_log_meta(sp_log_record *record) {
    return sp_log_note(record) + record->note_bytes;
}
/* Takes a record in: into the list of commits, or what it marks; moves the end behind it. False: no memory. */
bool sp_log_remember(sp_log *log, sp_log_record *record);
static inline int sp_log_fd(const sp_log *log, uint32_t file) {
    return file ? log->base_fds[file - 1] : log->fd;
}

/* ---- commit.c ---- */
/* A table has for each page of a memory, and then of a side, where it is: 0 for zeros, a page of a file, or one of the data to be written. */
#define SP_LOG_NEW_PAGE (1ull << 63)
static inline uint64_t sp_log_place(uint32_t file, uint64_t page) {
    return (uint64_t)file << 40 | page;
}
static inline uint32_t sp_log_place_file(uint64_t place) {
    return (uint32_t)(place >> 40 & 0xff);
}
static inline uint64_t sp_log_place_page(uint64_t place) {
    return place & ((1ull << 40) - 1);
}

/* A commit on its way. */
typedef struct sp_log_draft {
    const sp_log_commit_input *input;
    uint64_t n_pages, n_side; /* of the memory, of the side */
    uint64_t *table, n_data_pages;
    const sp_log *from; /* copies: where new pages come from, and where they are there */
    const uint64_t *from_table;
    uint64_t time_ns;
} sp_log_draft;
/* For each page of memory and side its place, of which the record may have fewer (or be NULL). Freed by the caller; NULL: no memory. */
uint64_t *sp_log_table(sp_log_record *record, uint64_t n_pages, uint64_t n_side);
/* May this log be written? And input's limits, where input isn't NULL. */
sp_status sp_log_check_write(const sp_log *log, const sp_log_commit_input *input, sp_error *err);
/* Places the draft's new pages, writes them and the commit. Each new page's final place is in the table afterwards. */
sp_status sp_log_append(sp_log *log, sp_log_draft *draft, sp_error *err);
/* Writes the record at the log's end, syncs, and takes it in. */
sp_status sp_log_write_record(sp_log *log, sp_log_record *record, sp_error *err);
/* Notes the file's size and time after a write of ours; compares them before. */
void sp_log_note_written(sp_log *log);
sp_status sp_log_check_untouched(const sp_log *log, sp_error *err);

/* ---- log.c ---- */
/* A log under the name path at once, with bases, whose files the new log opens for itself. The folder is not synced. */
sp_status sp_log_create_on(const char *path, const sp_log_identity *identity, const sp_log_base *bases, uint32_t n_bases, sp_log **out,
                           sp_error *err);
/* Closes, and removes the file at path; NULL does nothing. */
void sp_log_discard(sp_log *log);
sp_status sp_log_sync_folder(const char *path, sp_error *err);
/* Checks a header's bytes. SP_ERR_FORMAT, SP_ERR_UNSUPPORTED. */
sp_status sp_log_check_header(const char *path, const sp_log_header *header, sp_error *err);
void sp_log_tell(const sp_log *log, const char *what, uint64_t done, uint64_t total);

/* ---- store.c: files that share pages ---- */
/* Opens the files of log->bases. */
sp_status sp_log_open_bases(sp_log *log, sp_error *err);
/* Makes sure that a log's file keeps a name in its folder for those who use its pages. SP_ERR_UNSUPPORTED: the file system has no links. */
sp_status sp_log_publish(const sp_log *log, sp_error *err);
/* Locks the folder of a path against others who make or clear away shared files; -1 on failure. Closing the descriptor unlocks. */
int sp_log_lock_folder(const char *path, sp_error *err);
/* Removes shared files of the folder that nobody uses. The folder is locked by the caller. */
void sp_log_sweep(const char *path);
/* How many files of the folder use the file with this id. */
uint32_t sp_log_users(const char *path, const uint8_t id[16]);
bool sp_log_same_folder(const char *a, const char *b);
/* Temporary files are named PATH SP_LOG_TEMPORARY PID, and that with "-2" behind it. */
#define SP_LOG_TEMPORARY ".new-"
/* Removes the temporary files in the folder of path whose processes died. */
void sp_log_clear_temporaries(const char *path);

/* ---- copy.c ---- */
char *sp_log_temporary_path(const char *path);
/* Gives the file at temporary the name path, which must not exist, and removes the temporary name. */
sp_status sp_log_appear(const char *temporary, const char *path, sp_error *err);
/* A log at path that stands alone: commit number alone, or all (number 0), marks too. The log is left open in *out. */
sp_status sp_log_copy_alone(sp_log *log, uint64_t number, const char *path, sp_log **out, sp_error *err);

#endif
