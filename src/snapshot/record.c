/* Reading and checking the log's records. Nothing from the file is used before its checksum, and then its bounds, are right. */
#include "snapshot/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/checked.h"
#include "base/error.h"
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

bool sp_log_read_at(int fd, void *bytes, uint64_t size, uint64_t offset) {
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(fd, (uint8_t *)bytes + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errno = n ? errno : EIO;
            return false;
        }
        done += (uint64_t)n;
    }
    return true;
}

bool sp_log_write_at(int fd, const void *bytes, uint64_t size, uint64_t offset) {
    for (uint64_t done = 0; done < size;) {
        ssize_t n = sp_snapshot_io.write_at(fd, (const uint8_t *)bytes + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errno = n ? errno : EIO;
            return false;
        }
        done += (uint64_t)n;
    }
    return true;
}

static bool entries_are_valid(sp_log_record *record) {
    const sp_log_entry *entry = sp_log_entries(record);
    uint64_t pages = record->memory_bytes / SP_LOG_PAGE, at = 0;
    for (uint64_t i = 0; i < record->n_entries; i++, entry++) {
        if (entry->page < at || !entry->count || !sp_range_within(entry->page, entry->count, pages) || !entry->file_page ||
            !sp_range_within(entry->file_page, entry->count, record->end / SP_LOG_PAGE)) {
            return false;
        }
        at = entry->page + entry->count;
    }
    return true;
}

/* The fixed part; sizes are such that the record fits in the file and in memory. */
static bool head_is_valid(const sp_log_record *r, uint64_t file_size, uint64_t offset) {
    if (memcmp(r->magic, "SPCOMMIT", 8) || r->offset != offset || r->zero || r->name_bytes > SP_LOG_NAME_MAX || r->memory_bytes % SP_LOG_PAGE ||
        r->memory_bytes / SP_LOG_PAGE > SP_LOG_PAGES_MAX || r->n_entries > SP_LOG_PAGES_MAX || r->meta_bytes > SP_LOG_META_MAX) {
        return false;
    }
    for (uint32_t i = 0; i <= SP_LOG_NAME_MAX; i++) {
        if ((i < r->name_bytes) != (r->name[i] != 0)) {
            return false;
        }
    }
    uint64_t bytes = sizeof *r + r->n_entries * sizeof(sp_log_entry) + r->meta_bytes;
    sp_align_up_u64(bytes, SP_LOG_PAGE, &bytes);
    return r->bytes == bytes && bytes <= SP_LOG_RECORD_MAX && r->end % SP_LOG_PAGE == 0 && r->end <= file_size &&
           sp_range_within(offset, bytes, r->end);
}

sp_log_record *sp_log_record_next(const sp_log *log, uint64_t file_size, uint64_t offset, bool in_place) {
    sp_log_record head;
    uint8_t checksum[16];
    if (!sp_range_within(offset, sizeof head, file_size) || !sp_log_read_at(log->fd, &head, sizeof head, offset) ||
        !head_is_valid(&head, file_size, offset)) {
        return NULL;
    }
    sp_log_record *record = malloc(head.bytes);
    if (!record) {
        return NULL;
    }
    /* Read anew as a whole: what is checked is what is used, whatever happens to the file meanwhile. */
    bool whole = sp_log_read_at(log->fd, record, head.bytes, offset) && !memcmp(record, &head, sizeof head);
    if (whole) {
        sp_log_record_checksum(log->seed, record, checksum);
        whole = !memcmp(checksum, record->checksum, 16) && entries_are_valid(record);
    }
    if (whole && in_place) {
        whole = record->number == log->count + 1 && record->parent <= log->count && !memcmp(record->previous, log->previous, 16);
    }
    if (!whole) {
        free(record);
        return NULL;
    }
    return record;
}

bool sp_log_remember(sp_log *log, const sp_log_record *r) {
    sp_log_commit_at *commits = realloc(log->commits, (log->count + 1) * sizeof *commits);
    if (!commits) {
        return false;
    }
    log->commits = commits;
    sp_log_commit_at *c = &commits[log->count++];
    *c = (sp_log_commit_at){{r->number, r->parent, r->time_ns, r->memory_bytes, r->end - r->offset, r->meta_bytes, ""}, r->offset, r->bytes, {0}};
    memcpy(c->info.name, r->name, sizeof c->info.name);
    memcpy(c->checksum, r->checksum, 16);
    memcpy(log->previous, r->checksum, 16);
    log->end = r->end;
    return true;
}

sp_status sp_log_record_load(const sp_log *log, uint64_t number, sp_log_record **out, sp_error *err) {
    *out = NULL;
    if (!number || number > log->count) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "%s: there is no commit %llu, the last is %llu", log->path, (unsigned long long)number,
                       (unsigned long long)log->count);
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
        same = !memcmp(checksum, c->checksum, 16) && !memcmp(checksum, record->checksum, 16);
    }
    if (!same) {
        free(record);
        return sp_fail(err, SP_ERR_FORMAT, "%s: the record of commit %llu was changed since the file was opened; restore it from a copy", log->path,
                       (unsigned long long)number);
    }
    *out = record;
    return SP_OK;
}

uint64_t *sp_log_table(sp_log_record *record, uint64_t n_pages) {
    uint64_t *table = calloc(n_pages ? n_pages : 1, sizeof *table);
    const sp_log_entry *entry = record ? sp_log_entries(record) : NULL;
    for (uint64_t i = 0; table && record && i < record->n_entries; i++, entry++) {
        for (uint64_t k = 0; k < entry->count && entry->page + k < n_pages; k++) {
            table[entry->page + k] = entry->file_page + k;
        }
    }
    return table;
}
