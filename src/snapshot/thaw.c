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

static bool restore_run(const sp_log *log, uint8_t *base, const sp_log_entry *e, uint64_t least) {
    uint64_t host = sp_os_page_size(), at = e->page * SP_LOG_PAGE, from = e->file_page * SP_LOG_PAGE, end = at + e->count * SP_LOG_PAGE;
    uint64_t first = (at + host - 1) & ~(host - 1), last = end & ~(host - 1);
    if (e->count < least || (at - from) % host || first >= last) {
        return sp_log_read_at(log->fd, base + at, end - at, from);
    }
    return sp_log_read_at(log->fd, base + at, first - at, from) && sp_os_map_file(base + first, last - first, log->fd, from + (first - at)) &&
           sp_log_read_at(log->fd, base + last, end - last, from + (last - at));
}

/* Zeros for the pages of [from, to) that were touched; NULL: unknown which, so look at each. */
static void clear(uint8_t *base, uint64_t from, uint64_t to, const uint64_t *touched) {
    static const uint8_t zeros[SP_LOG_PAGE];
    uint64_t ratio = sp_os_page_size() / SP_LOG_PAGE;
    for (uint64_t i = from; i < to; i++) {
        uint64_t h = i / ratio;
        if ((!touched || touched[h / 64] >> (h % 64) & 1) && memcmp(base + i * SP_LOG_PAGE, zeros, SP_LOG_PAGE)) {
            memset(base + i * SP_LOG_PAGE, 0, SP_LOG_PAGE);
        }
    }
}

sp_status sp_log_map(sp_log *log, uint64_t number, sp_memory *memory, sp_error *err) {
    sp_log_record *record;
    sp_status status = sp_log_record_load(log, number, &record, err);
    if (status) {
        return status;
    }
    struct stat st;
    uint64_t size = sp_memory_size(memory), at = 0;
    if (size < record->memory_bytes || fstat(log->fd, &st) || (uint64_t)st.st_size < record->end) {
        status = size < record->memory_bytes
                     ? sp_fail(err, SP_ERR_ARGUMENT, "a memory of %llu bytes for a commit of %llu", (unsigned long long)size,
                               (unsigned long long)record->memory_bytes)
                     : sp_fail(err, SP_ERR_FORMAT, "%s: the file is shorter than its commits; it was truncated by somebody else", log->path);
        free(record);
        return status;
    }
    uint8_t *base = sp_memory_base(memory);
    uint64_t *touched = calloc(size / sp_os_page_size() / 64 + 1, sizeof *touched);
    if (touched && sp_memory_written_pages(memory, 0, size, touched, NULL)) {
        free(touched);
        touched = NULL;
    }
    const sp_log_entry *e = sp_log_entries(record);
    uint64_t least = least_to_map(record);
    for (uint64_t i = 0; !status && i < record->n_entries; i++, e++) {
        clear(base, at, e->page, touched);
        at = e->page + e->count;
        if (!restore_run(log, base, e, least)) {
            status = sp_fail(err, SP_ERR_IO, "%s: page %llu of commit %llu can't be mapped: %s", log->path, (unsigned long long)e->page,
                             (unsigned long long)number, strerror(errno));
        }
    }
    if (!status) {
        clear(base, at, size / SP_LOG_PAGE, touched);
    }
    free(touched);
    free(record);
    return status;
}

sp_status sp_log_meta(sp_log *log, uint64_t number, void *bytes, uint64_t size, sp_error *err) {
    sp_log_record *record;
    sp_status status = sp_log_record_load(log, number, &record, err);
    if (!status && record->meta_bytes != size) {
        status = sp_fail(err, SP_ERR_ARGUMENT, "room for %llu bytes of meta, which has %llu", (unsigned long long)size,
                         (unsigned long long)record->meta_bytes);
    }
    if (!status && size) {
        memcpy(bytes, sp_log_entries(record) + record->n_entries, size);
    }
    free(record);
    return status;
}

/* Compares the pages that this commit wrote with their checksum. */
static sp_status verify_commit(const sp_log *log, sp_log_record *record, XXH3_state_t *hash, sp_error *err) {
    uint8_t page[SP_LOG_PAGE];
    XXH128_canonical_t canonical;
    XXH3_128bits_reset_withSeed(hash, log->seed);
    const sp_log_entry *e = sp_log_entries(record);
    for (uint64_t i = 0; i < record->n_entries; i++, e++) {
        if (e->file_page * SP_LOG_PAGE < record->offset) {
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
    return memcmp(canonical.digest, record->data_checksum, 16)
               ? sp_fail(err, SP_ERR_FORMAT, "%s: the pages of commit %llu are damaged; restore the file from a copy", log->path,
                         (unsigned long long)record->number)
               : SP_OK;
}

sp_status sp_log_verify(sp_log *log, sp_error *err) {
    XXH3_state_t *hash = XXH3_createState();
    sp_status status = hash ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a checksum");
    for (uint64_t i = 1; !status && i <= log->count; i++) {
        sp_log_record *record;
        status = sp_log_record_load(log, i, &record, err);
        if (!status) {
            status = verify_commit(log, record, hash, err);
            free(record);
        }
    }
    XXH3_freeState(hash);
    return status;
}
