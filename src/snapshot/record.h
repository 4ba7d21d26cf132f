/* The log's bytes (docs/snapshot.md) and what its files share. Inner to the snapshot layer. */
#ifndef SP_SNAPSHOT_RECORD_H
#define SP_SNAPSHOT_RECORD_H

#include "snapshot/log.h"

#define SP_LOG_VERSION 1u
#define SP_LOG_ALIGN_PAGES 16u /* 64 KiB: the largest host page that long runs can still be mapped on */
#define SP_LOG_RECORD_MAX (1ull << 30)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is little-endian and read in place");

typedef struct sp_log_header {
    uint8_t magic[8];
    uint32_t version, page, n_models, zero;
    uint64_t seed;
    uint8_t module[32];
    uint8_t models[SP_LOG_MODELS_MAX][16];
    uint8_t zeros[SP_LOG_PAGE - 64 - 256 - 16];
    uint8_t checksum[16];
} sp_log_header;
_Static_assert(sizeof(sp_log_header) == SP_LOG_PAGE, "one page");

typedef struct sp_log_record {
    uint8_t magic[8];
    uint64_t bytes, offset, number, parent, time_ns, memory_bytes, n_entries, meta_bytes, end;
    uint32_t name_bytes, zero;
    uint8_t previous[16], data_checksum[16], checksum[16];
    char name[SP_LOG_NAME_MAX + 1];
} sp_log_record;
_Static_assert(sizeof(sp_log_record) == 200, "no padding");

/* count pages of the memory from page on are the pages of the file from file_page on. */
typedef struct sp_log_entry {
    uint64_t page, file_page, count;
} sp_log_entry;

typedef struct sp_log_commit_at {
    sp_log_commit_info info;
    uint64_t offset, bytes;
    uint8_t checksum[16];
} sp_log_commit_at;

struct sp_log {
    int fd;
    char *path;
    sp_log_identity identity;
    uint64_t seed;        /* of all checksums of this file, random: a guest can't make up records in its memory */
    uint8_t previous[16]; /* checksum of the last record, or of the header */
    uint64_t end, ignored;
    sp_log_commit_at *commits;
    uint64_t count;
    bool failed; /* a sync failed: what is on the disk is unknown */
};

/* XXH3-128, in its canonical (big-endian) form. */
void sp_log_checksum(uint64_t seed, const void *bytes, uint64_t size, uint8_t out[16]);
/* The checksum of a record, its own field taken as zeros; the record is as it was afterwards. */
void sp_log_record_checksum(uint64_t seed, sp_log_record *record, uint8_t out[16]);
bool sp_log_read_at(int fd, void *bytes, uint64_t size, uint64_t offset);
bool sp_log_write_at(int fd, const void *bytes, uint64_t size, uint64_t offset);
/* Reads and checks the record at log->end of a file of file_size bytes; NULL: there is none that is whole. Freed by the caller. */
sp_log_record *sp_log_record_next(const sp_log *log, uint64_t file_size, uint64_t offset, bool in_place);
/* Reads a known commit's record again. SP_ERR_NOT_FOUND, SP_ERR_FORMAT: changed since, SP_ERR_NO_MEMORY. Freed by the caller. */
sp_status sp_log_record_load(const sp_log *log, uint64_t number, sp_log_record **out, sp_error *err);
static inline sp_log_entry *sp_log_entries(sp_log_record *record) {
    return (sp_log_entry *)(record + 1);
}
/* Adds a record to the list of commits and moves the end behind it. False: no memory. */
bool sp_log_remember(sp_log *log, const sp_log_record *record);
/* For each page of the memory its page in the file, 0 for zeros; n_pages of them, of which the record may have fewer. Freed by the caller. */
uint64_t *sp_log_table(sp_log_record *record, uint64_t n_pages);
/* Like sp_log_commit; the pages are source[i], NULL for zeros, where input->base is NULL. time_ns 0: now. */
sp_status sp_log_append(sp_log *log, const sp_log_commit_input *input, const uint8_t *const *source, uint64_t time_ns, uint64_t *number,
                        sp_error *err);
/* Closes, and removes the file at path. */
void sp_log_discard(sp_log *log);
sp_status sp_log_sync_folder(const char *path, sp_error *err);

#endif
