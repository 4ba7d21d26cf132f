/* From the file into a memory, and checking all of it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/error.h"
#include "memory/os.h"
#include "snapshot/record.h"

#define MAPPINGS_MAX 16384u /* of one memory; Linux gives a process 65,530 by default (vm.max_map_count) */

/* The length from which runs are mapped: 1 page, or as many as it takes for the mappings to stay within the limit. */
static uint64_t least_to_map(sp_log_record *record) {
    const sp_log_entry *entries = sp_log_entries(record);
    for (uint64_t least = 1;; least *= 2) {
        uint64_t n = 0;
        for (uint64_t i = 0; i < record->n_entries; i++) {
            n += entries[i].count >= least;
        }
        if (n <= MAPPINGS_MAX) {
            return least;
        }
    }
}

/* The part of a run that the host can map: [*first, *last), bytes of the memory. False: none. */
static bool mappable(const sp_log_entry *e, uint64_t *first, uint64_t *last) {
    uint64_t host = sp_os_page_size(), at = e->page * SP_LOG_PAGE, from = e->file_page * SP_LOG_PAGE;
    *first = (at + host - 1) & ~(host - 1);
    *last = (at + e->count * (uint64_t)SP_LOG_PAGE) & ~(host - 1);
    return (at - from) % host == 0 && *first < *last;
}

static bool restore_run(const sp_log *log, uint8_t *base, const sp_log_entry *e, uint64_t least) {
    uint64_t at = e->page * SP_LOG_PAGE, from = e->file_page * SP_LOG_PAGE, end = at + e->count * (uint64_t)SP_LOG_PAGE, first, last;
    int fd = sp_log_fd(log, e->file);
    if (e->count < least || !mappable(e, &first, &last)) {
        return sp_log_read_at(fd, base + at, end - at, from);
    }
    /* Where the process has no mapping left to give, reading does. */
    return sp_log_read_at(fd, base + at, first - at, from) &&
           (sp_os_map_file(base + first, last - first, fd, from + (first - at)) ||
            sp_log_read_at(fd, base + first, last - first, from + (first - at))) &&
           sp_log_read_at(fd, base + last, end - last, from + (last - at));
}

/* Zeros for the pages of [from, to) that were touched; NULL: unknown which, so look at each. */
static void clear(uint8_t *base, uint64_t from, uint64_t to, const uint64_t *touched) {
    static const uint8_t zeros[SP_LOG_PAGE];
    uint64_t ratio = sp_os_page_size() / SP_LOG_PAGE;
    for (uint64_t i = from; i < to; i++) {
        uint64_t h = i / ratio;
        if ((!touched || touched[h / 64] >> (h % 64) & 1) && memcmp(base + i * SP_LOG_PAGE, zeros, SP_LOG_PAGE) != 0) {
            memset(base + i * SP_LOG_PAGE, 0, SP_LOG_PAGE);
        }
    }
}

static bool has_length(int fd, uint64_t length) {
    struct stat st;
    return !fstat(fd, &st) && (uint64_t)st.st_size >= length;
}

/* Are all files as long as the record says? A mapping beyond a file's end would fail only when it is touched. */
static sp_status check_lengths(const sp_log *log, const sp_log_record *record, sp_error *err) {
    bool whole = has_length(log->fd, record->end);
    for (uint32_t i = 0; i < log->n_bases; i++) {
        whole &= has_length(log->base_fds[i], log->bases[i].end);
    }
    return whole ? SP_OK
                 : sp_fail(err, SP_ERR_FORMAT, "%s: the file, or one that it shares pages with, is shorter than it was: somebody else truncated it",
                           log->path);
}

/* Which pages of the memory's first `used` bytes were touched. NULL: it can't be told. Freed by the caller. */
static uint64_t *touched_pages(const sp_memory *memory, uint64_t used) {
    uint64_t *touched = calloc(used / sp_os_page_size() / 64 + 1, sizeof *touched);
    if (touched && sp_memory_written_pages(memory, 0, used, touched, NULL)) {
        free(touched);
        return NULL;
    }
    return touched;
}

sp_status sp_log_map(sp_log *log, uint64_t number, sp_memory *memory, uint64_t used, sp_error *err) {
    sp_log_record *record;
    sp_status status = sp_log_record_load(log, number, &record, err);
    if (status) {
        return status;
    }
    uint64_t size = sp_memory_size(memory), at = 0, n_used = used / SP_LOG_PAGE;
    status = size < record->memory_bytes || size < used ? sp_fail(err, SP_ERR_ARGUMENT, "a memory of %llu bytes for a commit of %llu",
                                                                  (unsigned long long)size, (unsigned long long)record->memory_bytes)
                                                        : check_lengths(log, record, err);
    status = status ? status : sp_log_check_untouched(log, err);
    uint8_t *base = sp_memory_base(memory);
    uint64_t *touched = status ? NULL : touched_pages(memory, used);
    const sp_log_entry *e = sp_log_entries(record);
    uint64_t least = least_to_map(record);
    for (uint64_t i = 0; !status && i < record->n_entries && e->page < SP_LOG_SIDE_FIRST; i++, e++) {
        clear(base, at, e->page < n_used ? e->page : n_used, touched);
        at = e->page + e->count;
        if (!restore_run(log, base, e, least)) {
            status = sp_fail(err, SP_ERR_IO, "%s: page %llu of commit %llu can't be mapped: %s", log->path, (unsigned long long)e->page,
                             (unsigned long long)number, strerror(errno));
        }
    }
    if (!status) {
        clear(base, at, n_used, touched);
    }
    free(touched);
    free(record);
    return status;
}

void sp_log_remap(sp_log *log, uint64_t number, sp_memory *memory) {
    sp_log_record *record;
    if (sp_log_record_load(log, number, &record, NULL)) {
        return;
    }
    const sp_log_entry *e = sp_log_entries(record);
    uint64_t least = least_to_map(record), first, last;
    bool mapped = true; /* once one fails, the process has no mapping left to give; what isn't mapped stays as it is */
    for (uint64_t i = 0; mapped && i < record->n_entries && e->page < SP_LOG_SIDE_FIRST; i++, e++) {
        bool fresh = !e->file && e->file_page * SP_LOG_PAGE >= record->offset;
        mapped = !fresh || e->count < least || !mappable(e, &first, &last) ||
                 sp_os_map_file(sp_memory_base(memory) + first, last - first, log->fd, e->file_page * SP_LOG_PAGE + (first - e->page * SP_LOG_PAGE));
    }
    free(record);
}

static sp_status read_side(const sp_log *log, sp_log_record *record, uint8_t *side, sp_error *err) {
    const sp_log_entry *e = sp_log_entries(record);
    for (uint64_t i = 0; i < record->n_entries; i++, e++) {
        if (e->page >= SP_LOG_SIDE_FIRST && !sp_log_read_at(sp_log_fd(log, e->file), side + (e->page - SP_LOG_SIDE_FIRST) * SP_LOG_PAGE,
                                                            e->count * (uint64_t)SP_LOG_PAGE, e->file_page * SP_LOG_PAGE)) {
            return sp_fail(err, SP_ERR_IO, "%s: programs of commit %llu can't be read: %s", log->path, (unsigned long long)record->number,
                           strerror(errno));
        }
    }
    return SP_OK;
}

sp_status sp_log_read_blobs(sp_log *log, uint64_t number, sp_log_blobs *out, sp_error *err) {
    *out = (sp_log_blobs){0};
    sp_log_record *record;
    sp_status status = sp_log_record_load(log, number, &record, err);
    if (status) {
        return status;
    }
    sp_log_blobs blobs = {.meta_size = record->meta_bytes, .side_size = record->side_bytes};
    blobs.meta = blobs.meta_size ? malloc(blobs.meta_size) : NULL;
    blobs.side = blobs.side_size ? calloc(1, blobs.side_size) : NULL;
    if ((blobs.meta_size && !blobs.meta) || (blobs.side_size && !blobs.side)) {
        status = sp_fail(err, SP_ERR_NO_MEMORY, "%s: no memory for commit %llu", log->path, (unsigned long long)record->number);
    } else {
        if (blobs.meta_size) {
            memcpy(blobs.meta, sp_log_meta(record), blobs.meta_size);
        }
        status = read_side(log, record, blobs.side, err);
    }
    free(record);
    if (status) {
        free(blobs.meta);
        free(blobs.side);
        return status;
    }
    *out = blobs;
    return SP_OK;
}

/* ---- verifying ---- */

/* Compares the pages that this commit wrote with their checksum. */
static sp_status verify_commit(const sp_log *log, sp_log_record *record, XXH3_state_t *hash, sp_error *err) {
    uint8_t page[SP_LOG_PAGE];
    XXH128_canonical_t canonical;
    XXH3_128bits_reset_withSeed(hash, log->seed);
    const sp_log_entry *e = sp_log_entries(record);
    for (uint64_t i = 0; i < record->n_entries; i++, e++) {
        if (e->file || e->file_page * SP_LOG_PAGE < record->offset) {
            continue; /* an earlier commit's, checked there */
        }
        for (uint64_t k = 0; k < e->count; k++) {
            if (!sp_log_read_at(log->fd, page, sizeof page, (e->file_page + k) * SP_LOG_PAGE)) {
                return sp_fail(err, SP_ERR_IO, "%s: a page of commit %llu can't be read: %s", log->path, (unsigned long long)record->number,
                               strerror(errno));
            }
            XXH3_128bits_update(hash, page, sizeof page);
        }
    }
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hash));
    return memcmp(canonical.digest, record->data_checksum, 16) != 0
               ? sp_fail(err, SP_ERR_FORMAT, "%s: the pages of commit %llu are damaged; restore the file from a copy", log->path,
                         (unsigned long long)record->number)
               : SP_OK;
}

static sp_status verify_own(sp_log *log, XXH3_state_t *hash, sp_error *err) {
    sp_status status = SP_OK;
    for (uint64_t i = 1; !status && i <= log->count; i++) {
        sp_log_record *record;
        sp_log_tell(log, "verifying", i - 1, log->count);
        status = sp_log_record_load(log, i, &record, err);
        if (!status) {
            status = verify_commit(log, record, hash, err);
            free(record);
        }
    }
    return status;
}

/* A shared file, read as a log of its own up to where this one began to use it. */
static sp_status verify_base(const sp_log *log, uint32_t index, XXH3_state_t *hash, sp_error *err) {
    const sp_log_base *known = &log->bases[index];
    sp_log base = {.fd = log->base_fds[index], .path = log->path};
    sp_log_header h;
    if (!sp_log_read_at(base.fd, &h, sizeof h, 0)) {
        return sp_fail(err, SP_ERR_IO, "%s: a file that it shares pages with can't be read: %s", log->path, strerror(errno));
    }
    sp_status status = sp_log_check_header(log->path, &h, err);
    base.seed = h.seed, base.end = sizeof h, base.n_bases = h.n_bases;
    memcpy(base.previous, h.checksum, 16);
    memcpy(base.bases, h.bases, sizeof h.bases);
    while (!status && base.end < known->end) {
        sp_log_record *record;
        status = sp_log_record_next(&base, known->end, base.end, true, &record, err);
        if (status) {
            break;
        }
        if (!record) {
            status = sp_fail(err, SP_ERR_FORMAT, "%s: commit %llu of a file that it shares pages with is damaged; restore that file from a copy",
                             log->path, (unsigned long long)base.count + 1);
        } else if (!sp_log_is_mark(record)) {
            status = verify_commit(&base, record, hash, err);
        }
        if (!status && !sp_log_remember(&base, record)) {
            status = sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
        }
        free(record);
    }
    if (!status && (base.records != known->records || memcmp(base.previous, known->checksum, 16) != 0)) {
        status = sp_fail(err, SP_ERR_FORMAT, "%s: a file that it shares pages with is not what it was", log->path);
    }
    for (uint64_t i = 0; i < base.count; i++) {
        free(base.commits[i].note);
    }
    free(base.commits);
    return status;
}

sp_status sp_session_verify(sp_session *log, sp_error *err) {
    XXH3_state_t *hash = XXH3_createState();
    sp_status status = hash ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a checksum");
    for (uint32_t i = 0; !status && i < log->n_bases; i++) {
        status = verify_base(log, i, hash, err);
    }
    status = status ? status : verify_own(log, hash, err);
    XXH3_freeState(hash);
    return status;
}
