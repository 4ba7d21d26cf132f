/* Reading and checking the log's records. Nothing from the file is used before its checksum, and then its bounds, are right. */
#include "snapshot/record.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/checked.h"
#include "base/error.h"
#include "memory/os.h"
#include "snapshot/io.h"

void sp_log_checksum(uint64_t seed, const void *bytes, uint64_t size, uint8_t out[16]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSeed(bytes, size, seed));
    memcpy(out, canonical.digest, 16);
}

void sp_log_record_checksum(uint64_t seed, sp_log_record *record, uint8_t out[16]) {
    uint8_t kept[16];
    memcpy(kept, record->checksum, 16);
    memset(record->checksum, 0, 16);
    sp_log_checksum(seed, record, record->bytes, out);
    memcpy(record->checksum, kept, 16);
}

sp_status sp_log_status_of(int problem) {
    return problem == ENOENT ? SP_ERR_NOT_FOUND : SP_ERR_IO;
}

bool sp_log_same_file(const struct stat *a, const struct stat *b) {
    return ((a->st_ino ^ b->st_ino) | (a->st_dev ^ b->st_dev)) == 0;
}

void sp_log_close_fd(int fd) {
    if (fd >= 0) {
        close(fd);
    }
}

bool sp_log_read_at(int fd, void *bytes, uint64_t size, uint64_t offset) {
    int64_t n = sp_os_read_at(fd, bytes, size, offset);
    errno = n < 0 ? errno : EIO; /* the file's end comes before theirs */
    return n >= 0 && (uint64_t)n == size;
}

bool sp_log_write_at(int fd, const void *bytes, uint64_t size, uint64_t offset) {
    return sp_os_write_by(sp_snapshot_io.write_at, fd, bytes, size, offset);
}

static bool entries_are_valid(const sp_log *log, sp_log_record *record) {
    const sp_log_entry *entry = sp_log_entries(record);
    uint64_t pages = record->memory_bytes / SP_LOG_PAGE, side = record->side_bytes / SP_LOG_PAGE, at = 0;
    for (uint64_t i = 0; i < record->n_entries; i++, entry++) {
        bool in_memory = sp_range_within(entry->page, entry->count, pages);
        bool in_side = entry->page >= SP_LOG_SIDE_FIRST && sp_range_within(entry->page - SP_LOG_SIDE_FIRST, entry->count, side);
        if (entry->page < at || !entry->count || (!in_memory && !in_side) || entry->file > log->n_bases || !entry->file_page) {
            return false;
        }
        uint64_t end = entry->file ? log->bases[entry->file - 1].end : record->end;
        if (!sp_range_within(entry->file_page, entry->count, end / SP_LOG_PAGE)) {
            return false;
        }
        at = entry->page + entry->count;
    }
    return true;
}

static bool name_is_valid(const sp_log_record *r) {
    for (uint32_t i = 0; i <= SP_COMMIT_NAME_MAX; i++) {
        if ((i < r->name_bytes) != (r->name[i] != 0)) {
            return false;
        }
    }
    return r->name_bytes <= SP_COMMIT_NAME_MAX;
}

/* The fixed part; sizes are such that the record fits in the file and in memory. */
static bool head_is_valid(const sp_log_record *r, uint64_t file_size, uint64_t offset) {
    bool mark = !memcmp(r->magic, "SPMARKED", 8), commit = !memcmp(r->magic, "SPCOMMIT", 8);
    if ((!mark && !commit) || r->offset != offset || !name_is_valid(r) || r->memory_bytes % SP_LOG_PAGE || r->side_bytes % SP_LOG_PAGE ||
        r->memory_bytes / SP_LOG_PAGE > SP_LOG_PAGES_MAX || r->side_bytes / SP_LOG_PAGE > SP_LOG_SIDE_MAX ||
        r->n_entries > SP_LOG_PAGES_MAX + SP_LOG_SIDE_MAX || r->meta_bytes > SP_LOG_META_MAX || r->note_bytes > SP_COMMIT_NOTE_MAX) {
        return false;
    }
    if (commit ? r->marks != 0
               : r->marks < SP_LOG_MARK_HEAD || r->marks > SP_LOG_MARK_NAME || r->n_entries || r->meta_bytes || r->note_bytes || r->memory_bytes ||
                     r->side_bytes || r->parent) {
        return false;
    }
    uint64_t bytes = sizeof *r + r->n_entries * sizeof(sp_log_entry) + r->note_bytes + r->meta_bytes;
    sp_align_up_u64(bytes, SP_LOG_PAGE, &bytes);
    return r->bytes == bytes && r->end % SP_LOG_PAGE == 0 && r->end <= file_size && sp_range_within(offset, bytes, r->end);
}

static bool follows(const sp_log *log, const sp_log_record *r) {
    bool number = sp_log_is_mark(r) ? r->number && r->number <= log->count : r->number == log->count + 1 && r->parent <= log->count;
    return number && !memcmp(r->previous, log->previous, 16);
}

static sp_status unreadable(const sp_log *log, uint64_t offset, sp_error *err) {
    return sp_fail(err, SP_ERR_IO, "%s: the record at %llu can't be read: %s", log->path, (unsigned long long)offset, strerror(errno));
}

sp_status sp_log_record_next(const sp_log *log, uint64_t file_size, uint64_t offset, bool in_place, sp_log_record **out, sp_error *err) {
    *out = NULL;
    sp_log_record head;
    uint8_t checksum[16];
    if (!sp_range_within(offset, sizeof head, file_size)) {
        return SP_OK;
    }
    if (!sp_log_read_at(log->fd, &head, sizeof head, offset)) {
        return unreadable(log, offset, err);
    }
    if (!head_is_valid(&head, file_size, offset)) {
        return SP_OK;
    }
    sp_log_record *record = malloc(head.bytes);
    if (!record) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "%s: no memory for a record of %llu bytes", log->path, (unsigned long long)head.bytes);
    }
    if (!sp_log_read_at(log->fd, record, head.bytes, offset)) {
        free(record);
        return unreadable(log, offset, err);
    }
    /* Read anew as a whole: what is checked is what is used, whatever happens to the file meanwhile. */
    bool whole = !memcmp(record, &head, sizeof head);
    if (whole) {
        sp_log_record_checksum(log->seed, record, checksum);
        whole = !memcmp(checksum, record->checksum, 16) && entries_are_valid(log, record) && (!in_place || follows(log, record));
    }
    if (whole) {
        *out = record;
    } else {
        free(record);
    }
    return SP_OK;
}

uint64_t sp_log_next_data(int fd, uint64_t offset, uint64_t file_size) {
#ifdef SEEK_DATA
    off_t at = lseek(fd, (off_t)offset, SEEK_DATA);
    if (at < 0) {
        return errno == ENXIO ? file_size : offset;
    }
    return (uint64_t)at / SP_LOG_PAGE * SP_LOG_PAGE;
#else
    (void)fd, (void)file_size;
    return offset;
#endif
}

/* What the record added to the file: itself and the pages that it wrote. */
static uint64_t added_bytes(sp_log_record *r) {
    uint64_t bytes = r->bytes;
    const sp_log_entry *e = sp_log_entries(r);
    for (uint64_t i = 0; i < r->n_entries; i++, e++) {
        bytes += !e->file && e->file_page >= r->offset / SP_LOG_PAGE ? (uint64_t)e->count * SP_LOG_PAGE : 0;
    }
    return bytes;
}

static void give_name(sp_log *log, uint64_t number, const char *name) {
    for (uint64_t i = 0; *name && i < log->count; i++) {
        if (!strcmp(log->commits[i].info.name, name)) {
            log->commits[i].info.name[0] = 0;
        }
    }
    snprintf(log->commits[number - 1].info.name, sizeof log->commits->info.name, "%s", name);
}

static bool remember_commit(sp_log *log, sp_log_record *r) {
    if (log->count == log->room) {
        uint64_t room = log->room ? 2 * log->room : 16;
        sp_log_commit_at *commits = realloc(log->commits, room * sizeof *commits);
        if (!commits) {
            return false;
        }
        log->commits = commits;
        log->room = room;
    }
    uint8_t *note = malloc(r->note_bytes + 1);
    if (!note) {
        return false;
    }
    memcpy(note, sp_log_note(r), r->note_bytes);
    note[r->note_bytes] = 0;
    sp_log_commit_at *c = &log->commits[log->count++];
    *c = (sp_log_commit_at){.info = {.number = r->number,
                                     .parent = r->parent,
                                     .time_ns = r->time_ns,
                                     .memory_bytes = r->memory_bytes,
                                     .file_bytes = added_bytes(r),
                                     .note = r->note_bytes ? note : NULL,
                                     .note_bytes = r->note_bytes},
                            .note = note,
                            .offset = r->offset,
                            .bytes = r->bytes};
    memcpy(c->checksum, r->checksum, 16);
    give_name(log, r->number, r->name);
    log->head = r->number;
    return true;
}

bool sp_log_remember(sp_log *log, sp_log_record *r) {
    if (r->marks == SP_LOG_MARK_HEAD) {
        log->head = r->number;
    } else if (r->marks == SP_LOG_MARK_NAME) {
        give_name(log, r->number, r->name);
    } else if (!remember_commit(log, r)) {
        return false;
    }
    memcpy(log->previous, r->checksum, 16);
    log->end = r->end;
    log->records++;
    return true;
}

sp_status sp_log_record_load(const sp_log *log, uint64_t number, sp_log_record **out, sp_error *err) {
    *out = NULL;
    number = number ? number : log->head;
    if (!number || number > log->count) {
        return number ? sp_fail(err, SP_ERR_NOT_FOUND, "%s: there is no commit %llu, the last is %llu", log->path, (unsigned long long)number,
                                (unsigned long long)log->count)
                      : sp_fail(err, SP_ERR_NOT_FOUND, "%s: there is no commit yet", log->path);
    }
    const sp_log_commit_at *c = &log->commits[number - 1];
    sp_log_record *record = malloc(c->bytes);
    if (!record) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "%s: no memory for a record of %llu bytes", log->path, (unsigned long long)c->bytes);
    }
    uint8_t checksum[16];
    bool same = sp_log_read_at(log->fd, record, c->bytes, c->offset) && record->bytes == c->bytes;
    if (same) {
        sp_log_record_checksum(log->seed, record, checksum);
        same = !memcmp(checksum, c->checksum, 16);
    }
    if (!same) {
        free(record);
        return sp_fail(err, SP_ERR_FORMAT, "%s: commit %llu was changed since the file was opened", log->path, (unsigned long long)number);
    }
    *out = record;
    return SP_OK;
}
