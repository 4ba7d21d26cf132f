/* Appending a commit: the pages that differ, a sync, the record in front of them, a sync. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <xxhash.h>

#include "base/checked.h"
#include "base/error.h"
#include "memory/os.h"
#include "snapshot/io.h"
#include "snapshot/record.h"

#define NEW_PAGE (1ull << 63) /* in a table: not a page of the file yet, but of the commit's data */

/* A commit on its way. */
typedef struct draft {
    const sp_log_commit_input *input;
    const uint8_t *const *source;
    uint64_t n_pages, n_data_pages, *table;
    const uint8_t *file; /* the log, mapped, for comparing */
} draft;

static const uint8_t *page_of(const draft *d, uint64_t i) {
    return d->input->base ? d->input->base + i * SP_LOG_PAGE : d->source[i];
}

static bool is_zero(const uint8_t *page) {
    return !page[0] && !memcmp(page, page + 1, SP_LOG_PAGE - 1);
}

/* Turns the parent's table into the commit's: pages that differ become NEW_PAGE. */
static void find_changes(draft *d) {
    uint64_t ratio = sp_os_page_size() / SP_LOG_PAGE;
    for (uint64_t i = 0; i < d->n_pages; i++) {
        if (d->input->written && !(d->input->written[i / ratio / 64] >> (i / ratio % 64) & 1)) {
            continue;
        }
        const uint8_t *page = page_of(d, i);
        if (d->table[i] && page && !memcmp(page, d->file + d->table[i] * SP_LOG_PAGE, SP_LOG_PAGE)) {
            continue;
        }
        d->table[i] = !page || is_zero(page) ? 0 : NEW_PAGE;
    }
}

/* Gives each new page its place among the data. Long runs lie as in the memory modulo 64 KiB, so that any host can map them. */
static void place(draft *d) {
    uint64_t at = 0;
    for (uint64_t i = 0, end; i < d->n_pages; i = end) {
        for (end = i; end < d->n_pages && d->table[end] == NEW_PAGE; end++) {
        }
        if (end - i >= SP_LOG_ALIGN_PAGES) {
            at += (i - at) % SP_LOG_ALIGN_PAGES;
        }
        for (uint64_t k = i; k < end; k++) {
            d->table[k] = NEW_PAGE | at++;
        }
        end += end == i;
    }
    d->n_data_pages = at;
}

static uint64_t run_length(const draft *d, uint64_t i) {
    uint64_t n = 1;
    while (i + n < d->n_pages && d->table[i + n] == d->table[i] + n) {
        n++;
    }
    return n;
}

static sp_log_record *make_record(const sp_log *log, const draft *d, uint64_t time_ns, uint64_t *data_at, sp_error *err) {
    uint64_t n_entries = 0;
    for (uint64_t i = 0; i < d->n_pages; i += d->table[i] ? run_length(d, i) : 1) {
        n_entries += d->table[i] != 0;
    }
    uint64_t bytes = sizeof(sp_log_record) + n_entries * sizeof(sp_log_entry) + d->input->meta_size;
    sp_align_up_u64(bytes, SP_LOG_PAGE, &bytes);
    if (bytes > SP_LOG_RECORD_MAX) {
        sp_fail(err, SP_ERR_LIMIT, "%s: a record of %llu bytes is longer than the %llu that the format has", log->path, (unsigned long long)bytes,
                SP_LOG_RECORD_MAX);
        return NULL;
    }
    sp_log_record *r = calloc(1, bytes);
    if (!r) {
        sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a record of %llu bytes", (unsigned long long)bytes);
        return NULL;
    }
    memcpy(r->magic, "SPCOMMIT", 8);
    *data_at = r->end = log->end + bytes;
    if (d->n_data_pages) {
        sp_align_up_u64(*data_at, SP_LOG_ALIGN_PAGES * SP_LOG_PAGE, data_at);
        r->end = *data_at + d->n_data_pages * SP_LOG_PAGE;
    }
    r->bytes = bytes, r->offset = log->end, r->number = log->count + 1, r->parent = d->input->parent;
    r->time_ns = time_ns, r->memory_bytes = d->input->size, r->n_entries = n_entries, r->meta_bytes = d->input->meta_size;
    r->name_bytes = d->input->name ? (uint32_t)strlen(d->input->name) : 0;
    memcpy(r->name, d->input->name ? d->input->name : "", r->name_bytes);
    memcpy(r->previous, log->previous, 16);
    sp_log_entry *entry = sp_log_entries(r);
    for (uint64_t i = 0, n; i < d->n_pages; i += n) {
        n = d->table[i] ? run_length(d, i) : 1;
        if (d->table[i]) {
            uint64_t file_page = d->table[i] & NEW_PAGE ? (d->table[i] & ~NEW_PAGE) + *data_at / SP_LOG_PAGE : d->table[i];
            *entry++ = (sp_log_entry){i, file_page, n};
        }
    }
    if (d->input->meta_size) {
        memcpy(entry, d->input->meta, d->input->meta_size);
    }
    return r;
}

static bool write_data(const sp_log *log, const draft *d, uint64_t data_at, sp_log_record *r) {
    XXH3_state_t *hash = XXH3_createState();
    if (!hash) {
        errno = ENOMEM;
        return false;
    }
    XXH3_128bits_reset_withSeed(hash, log->seed);
    bool ok = true;
    for (uint64_t i = 0, n; ok && i < d->n_pages; i += n) {
        n = 1;
        if (!(d->table[i] & NEW_PAGE)) {
            continue;
        }
        n = d->input->base ? run_length(d, i) : 1;
        ok = sp_log_write_at(log->fd, page_of(d, i), n * SP_LOG_PAGE, data_at + (d->table[i] & ~NEW_PAGE) * SP_LOG_PAGE);
        XXH3_128bits_update(hash, page_of(d, i), n * SP_LOG_PAGE);
    }
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hash));
    memcpy(r->data_checksum, canonical.digest, 16);
    XXH3_freeState(hash);
    return ok;
}

static sp_status write_all(sp_log *log, const draft *d, uint64_t data_at, sp_log_record *r, sp_error *err) {
    struct stat st;
    if (fstat(log->fd, &st) || (uint64_t)st.st_size < log->end) {
        return sp_fail(err, SP_ERR_IO, "%s: the file is shorter than its commits; it was truncated by somebody else", log->path);
    }
    /* What a crash or a failure left behind the last commit was never acknowledged and is mapped by nobody. */
    if (((uint64_t)st.st_size > log->end && sp_snapshot_io.truncate(log->fd, (off_t)log->end)) || !write_data(log, d, data_at, r)) {
        return sp_fail(err, SP_ERR_IO, "%s: pages can't be written: %s; the commits before stand", log->path, strerror(errno));
    }
    /* The record must not reach the disk before what it names, as opening a file does not read pages to see whether they are there. */
    if (d->n_data_pages && sp_snapshot_io.sync(log->fd)) {
        log->failed = true;
        return sp_fail(err, SP_ERR_IO, "%s: pages can't be synced: %s; open the file again, the commits before stand", log->path, strerror(errno));
    }
    uint8_t checksum[16];
    sp_log_record_checksum(log->seed, r, checksum);
    memcpy(r->checksum, checksum, 16);
    if (!sp_log_write_at(log->fd, r, r->bytes, r->offset)) {
        return sp_fail(err, SP_ERR_IO, "%s: the commit can't be written: %s; the commits before stand", log->path, strerror(errno));
    }
    if (sp_snapshot_io.sync(log->fd)) {
        log->failed = true;
        return sp_fail(err, SP_ERR_IO, "%s: the commit can't be synced: %s; open the file again, the commits before stand", log->path,
                       strerror(errno));
    }
    if (!sp_log_remember(log, r)) {
        log->failed = true;
        return sp_fail(err, SP_ERR_NO_MEMORY, "%s: the commit is written, but no memory is left for the list; open the file again", log->path);
    }
    return SP_OK;
}

static sp_status check_input(const sp_log *log, const sp_log_commit_input *input, sp_error *err) {
    if (log->failed) {
        return sp_fail(err, SP_ERR_STATE, "%s: a sync failed before, so what is on the disk is unknown; close and open the file", log->path);
    }
    if (input->parent > log->count) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "%s: there is no commit %llu, the last is %llu", log->path, (unsigned long long)input->parent,
                       (unsigned long long)log->count);
    }
    if (input->size % sp_os_page_size() || (input->name && strlen(input->name) > SP_LOG_NAME_MAX)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "a memory has whole pages, not %llu bytes, and a commit's name at most %u bytes",
                       (unsigned long long)input->size, SP_LOG_NAME_MAX);
    }
    if (input->size / SP_LOG_PAGE > SP_LOG_PAGES_MAX || input->meta_size > SP_LOG_META_MAX) {
        return sp_fail(err, SP_ERR_LIMIT, "a memory of %llu bytes or meta of %llu is more than the format has", (unsigned long long)input->size,
                       (unsigned long long)input->meta_size);
    }
    return SP_OK;
}

sp_status sp_log_append(sp_log *log, const sp_log_commit_input *input, const uint8_t *const *source, uint64_t time_ns, uint64_t *number,
                        sp_error *err) {
    sp_log_record *parent = NULL, *record = NULL;
    sp_status status = check_input(log, input, err);
    if (!status && input->parent) {
        status = sp_log_record_load(log, input->parent, &parent, err);
    }
    if (status) {
        return status;
    }
    sp_log_commit_input known = *input;
    /* Without a parent, or where the memory grew, there is nothing that unmarked pages could be equal to. */
    if (!parent || parent->memory_bytes != input->size) {
        known.written = NULL;
    }
    draft d = {&known, source, input->size / SP_LOG_PAGE, 0, NULL, NULL};
    struct stat st;
    uint64_t data_at, mapped = log->end;
    d.table = sp_log_table(parent, d.n_pages);
    if (!fstat(log->fd, &st) && (uint64_t)st.st_size >= mapped) {
        d.file = sp_os_map_readonly(log->fd, mapped);
    }
    if (!d.table || !d.file) {
        status = sp_fail(err, d.file ? SP_ERR_NO_MEMORY : SP_ERR_IO, "%s: no memory, or the file can't be mapped or was truncated", log->path);
    } else {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        time_ns = time_ns ? time_ns : (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
        find_changes(&d);
        place(&d);
        record = make_record(log, &d, time_ns, &data_at, err);
        status = record ? write_all(log, &d, data_at, record, err) : SP_ERR_NO_MEMORY;
    }
    if (!status && number) {
        *number = log->count;
    }
    if (d.file) {
        sp_os_unmap(d.file, mapped);
    }
    free(d.table);
    free(record);
    free(parent);
    return status;
}

sp_status sp_log_commit(sp_log *log, const sp_log_commit_input *input, uint64_t *number, sp_error *err) {
    if (!input->base && input->size) {
        return sp_fail(err, SP_ERR_ARGUMENT, "a commit of %llu bytes without a memory", (unsigned long long)input->size);
    }
    return sp_log_append(log, input, NULL, 0, number, err);
}
