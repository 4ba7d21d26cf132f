/* Appending a commit: the pages that differ, a sync, the record in front of them, a sync. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/checked.h"
#include "base/error.h"
#include "memory/os.h"
#include "snapshot/io.h"
#include "snapshot/record.h"

enum { CHUNK_PAGES = 64 };

static bool is_zero(const uint8_t *page) {
    return !page[0] && !memcmp(page, page + 1, SP_LOG_PAGE - 1);
}

uint64_t *sp_log_table(sp_log_record *record, uint64_t n_pages, uint64_t n_side) {
    uint64_t *table = calloc(n_pages + n_side + 1, sizeof *table);
    const sp_log_entry *e = record ? sp_log_entries(record) : NULL;
    for (uint64_t i = 0; table && record && i < record->n_entries; i++, e++) {
        bool side = e->page >= SP_LOG_SIDE_FIRST;
        uint64_t first = side ? e->page - SP_LOG_SIDE_FIRST : e->page, most = side ? n_side : n_pages;
        for (uint64_t k = 0; k < e->count && first + k < most; k++) {
            table[(side ? n_pages : 0) + first + k] = sp_log_place(e->file, e->file_page + k);
        }
    }
    return table;
}

/* ---- the file as we left it ---- */

void sp_log_note_written(sp_log *log) {
    struct stat st;
    if (!fstat(log->fd, &st)) {
        log->size = st.st_size;
#ifdef __APPLE__
        log->modified = st.st_mtimespec;
#else
        log->modified = st.st_mtim;
#endif
    }
}

sp_status sp_log_check_untouched(const sp_log *log, sp_error *err) {
    sp_log now = *log;
    sp_log_note_written(&now);
    struct stat st;
    if (fstat(log->fd, &st) || (uint64_t)st.st_size < log->end) {
        return sp_fail(err, SP_ERR_IO, "%s: the file is shorter than its commits: somebody else truncated it; restore it from a copy", log->path);
    }
    bool same = ((now.size ^ log->size) | (now.modified.tv_sec ^ log->modified.tv_sec) | (now.modified.tv_nsec ^ log->modified.tv_nsec)) == 0;
    if (!log->read_only && !same) {
        return sp_fail(err, SP_ERR_IO, "%s: somebody else changed the file while it was open; verify it, and open it again", log->path);
    }
    return SP_OK;
}

/* ---- what changed ---- */

/* How many pages from i on are known to be as they were; 0: this one may differ. per_host: of ours in a page of the host. */
static uint64_t known_same(const sp_log_draft *d, uint64_t i, uint64_t per_host) {
    uint64_t host = i / per_host;
    if (i >= d->n_pages || !d->input->written) {
        return 0;
    }
    uint64_t left = d->input->written[host / 64] >> (host % 64);
    uint64_t same = left ? (uint64_t)__builtin_ctzll(left) : 64 - host % 64;
    uint64_t end = (host + same) * per_host;
    return same ? (end < d->n_pages ? end : d->n_pages) - i : 0;
}

static const uint8_t *page_of(const sp_log_draft *d, uint64_t i) {
    return i < d->n_pages ? d->input->base + i * SP_LOG_PAGE : d->input->side + (i - d->n_pages) * SP_LOG_PAGE;
}

/* How many pages from i on follow each other in file and memory alike, at most most. */
static uint64_t run_length(const sp_log_draft *d, uint64_t i, uint64_t most) {
    uint64_t n = 1, end = i < d->n_pages ? d->n_pages : d->n_pages + d->n_side;
    while (n < most && i + n < end && d->table[i + n] == d->table[i] + n) {
        n++;
    }
    return n;
}

/* Turns the parent's table into the commit's: pages that differ become new ones. Reading, not mapping, the file: it may fail without a signal. */
static sp_status find_changes(const sp_log *log, const sp_log_draft *d, sp_error *err) {
    uint8_t *old = malloc(CHUNK_PAGES * SP_LOG_PAGE);
    if (!old) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    uint64_t total = d->n_pages + d->n_side, per_host = sp_os_page_size() / SP_LOG_PAGE;
    for (uint64_t i = 0, n; i < total; i += n) {
        n = known_same(d, i, per_host);
        if (n) {
            continue;
        }
        n = 1;
        uint64_t place = d->table[i];
        if (!place) {
            d->table[i] = is_zero(page_of(d, i)) ? 0 : SP_LOG_NEW_PAGE;
            continue;
        }
        n = run_length(d, i, CHUNK_PAGES);
        for (uint64_t k = 1; k < n; k++) {
            n = known_same(d, i + k, per_host) ? k : n;
        }
        if (!sp_log_read_at(sp_log_fd(log, sp_log_place_file(place)), old, n * SP_LOG_PAGE, sp_log_place_page(place) * SP_LOG_PAGE)) {
            free(old);
            return sp_fail(err, SP_ERR_IO, "%s: pages of the commit before can't be read: %s", log->path, strerror(errno));
        }
        for (uint64_t k = 0; k < n; k++) {
            if (memcmp(page_of(d, i + k), old + k * SP_LOG_PAGE, SP_LOG_PAGE) != 0) {
                d->table[i + k] = is_zero(page_of(d, i + k)) ? 0 : SP_LOG_NEW_PAGE;
            }
        }
    }
    free(old);
    return SP_OK;
}

/* Gives each new page its place among the data. Long runs lie as in the memory modulo 64 KiB, so that any host can map them. */
static void place(sp_log_draft *d) {
    uint64_t at = 0, total = d->n_pages + d->n_side;
    for (uint64_t i = 0, end; i < total; i = end) {
        uint64_t stop = i < d->n_pages ? d->n_pages : total;
        for (end = i; end < stop && d->table[end] == SP_LOG_NEW_PAGE; end++) {
        }
        if (end - i >= SP_LOG_ALIGN_PAGES) {
            at += (i - at) % SP_LOG_ALIGN_PAGES;
        }
        for (uint64_t k = i; k < end; k++) {
            d->table[k] = SP_LOG_NEW_PAGE | at++;
        }
        end += end == i;
    }
    d->n_data_pages = at;
}

/* ---- writing ---- */

static void fill_entries(const sp_log_draft *d, uint64_t data_at, sp_log_entry *entry) {
    uint64_t total = d->n_pages + d->n_side;
    for (uint64_t i = 0, n; i < total; i += n) {
        uint64_t at = d->table[i];
        n = at ? run_length(d, i, UINT32_MAX) : 1;
        if (at) {
            bool fresh = at & SP_LOG_NEW_PAGE;
            uint64_t file_page = fresh ? (at & ~SP_LOG_NEW_PAGE) + data_at / SP_LOG_PAGE : sp_log_place_page(at);
            *entry++ = (sp_log_entry){.page = i < d->n_pages ? i : i - d->n_pages + SP_LOG_SIDE_FIRST,
                                      .file_page = file_page,
                                      .count = (uint32_t)n,
                                      .file = fresh ? 0 : sp_log_place_file(at)};
        }
    }
}

_Static_assert(sizeof(sp_log_record) + (SP_LOG_PAGES_MAX + SP_LOG_SIDE_MAX) * sizeof(sp_log_entry) + SP_COMMIT_NOTE_MAX + SP_LOG_META_MAX <
                   SP_LOG_RECORD_MAX,
               "what check_write lets in, and head_is_valid, makes no record that is too long");

static sp_status make_record(const sp_log *log, const sp_log_draft *d, sp_log_record **out, uint64_t *data_at, sp_error *err) {
    uint64_t n_entries = 0, total = d->n_pages + d->n_side;
    for (uint64_t i = 0; i < total; i += d->table[i] ? run_length(d, i, UINT32_MAX) : 1) {
        n_entries += d->table[i] != 0;
    }
    uint64_t bytes = sizeof(sp_log_record) + n_entries * sizeof(sp_log_entry) + d->input->note_size + d->input->meta_size;
    sp_align_up_u64(bytes, SP_LOG_PAGE, &bytes);
    sp_log_record *r = *out = calloc(1, bytes);
    if (!r) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a record of %llu bytes", (unsigned long long)bytes);
    }
    memcpy(r->magic, "SPCOMMIT", 8);
    *data_at = r->end = log->end + bytes;
    if (d->n_data_pages) {
        sp_align_up_u64(*data_at, SP_LOG_ALIGN_PAGES * SP_LOG_PAGE, data_at);
        r->end = *data_at + d->n_data_pages * SP_LOG_PAGE;
    }
    r->bytes = bytes, r->offset = log->end, r->number = log->count + 1, r->parent = d->input->parent;
    r->time_ns = d->time_ns, r->memory_bytes = d->input->size, r->side_bytes = d->input->side_size;
    r->n_entries = n_entries, r->meta_bytes = d->input->meta_size, r->note_bytes = (uint32_t)d->input->note_size;
    r->name_bytes = d->input->name ? (uint32_t)strlen(d->input->name) : 0;
    memcpy(r->name, d->input->name ? d->input->name : "", r->name_bytes);
    memcpy(r->previous, log->previous, 16);
    fill_entries(d, *data_at, sp_log_entries(r));
    if (d->input->note_size) {
        memcpy(sp_log_note(r), d->input->note, d->input->note_size);
    }
    if (d->input->meta_size) {
        memcpy(sp_log_meta(r), d->input->meta, d->input->meta_size);
    }
    return SP_OK;
}

/* The run's bytes: in the memory, or read into buffer from the log that is copied. *n is cut to what the buffer holds. NULL: errno. */
static const uint8_t *run_bytes(const sp_log_draft *d, uint64_t i, uint64_t *n, uint8_t *buffer) {
    if (!d->from) {
        return page_of(d, i);
    }
    uint64_t at = d->from_table[i], same = 1;
    *n = *n < CHUNK_PAGES ? *n : CHUNK_PAGES;
    while (same < *n && d->from_table[i + same] == at + same) {
        same++;
    }
    *n = same;
    bool ok = sp_log_read_at(sp_log_fd(d->from, sp_log_place_file(at)), buffer, same * SP_LOG_PAGE, sp_log_place_page(at) * SP_LOG_PAGE);
    return ok ? buffer : NULL;
}

static bool write_data(const sp_log *log, const sp_log_draft *d, uint64_t data_at, uint8_t checksum[16]) {
    XXH3_state_t *hash = XXH3_createState();
    uint8_t *buffer = d->from ? malloc(CHUNK_PAGES * SP_LOG_PAGE) : NULL;
    bool ok = hash && (buffer || !d->from);
    errno = ENOMEM;
    if (ok) {
        XXH3_128bits_reset_withSeed(hash, log->seed);
    }
    uint64_t total = d->n_pages + d->n_side;
    for (uint64_t i = 0, n; ok && i < total; i += n) {
        n = 1;
        if (!(d->table[i] & SP_LOG_NEW_PAGE)) {
            continue;
        }
        n = run_length(d, i, UINT32_MAX);
        const uint8_t *bytes = run_bytes(d, i, &n, buffer);
        ok = bytes && sp_log_write_at(log->fd, bytes, n * SP_LOG_PAGE, data_at + (d->table[i] & ~SP_LOG_NEW_PAGE) * SP_LOG_PAGE);
        if (ok) {
            XXH3_128bits_update(hash, bytes, n * SP_LOG_PAGE);
        }
    }
    if (ok) {
        XXH128_canonical_t canonical;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hash));
        memcpy(checksum, canonical.digest, 16);
    }
    XXH3_freeState(hash);
    free(buffer);
    return ok;
}

sp_status sp_log_write_record(sp_log *log, sp_log_record *r, sp_error *err) {
    uint8_t checksum[16];
    sp_log_record_checksum(log->seed, r, checksum);
    memcpy(r->checksum, checksum, 16);
    bool written = sp_log_write_at(log->fd, r, r->bytes, r->offset);
    int problem = errno;
    sp_log_note_written(log);
    if (!written) {
        return sp_fail(err, SP_ERR_IO, "%s: the commit can't be written: %s; the commits before stand", log->path, strerror(problem));
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
    log->ignored = 0;
    return SP_OK;
}

static sp_status write_all(sp_log *log, const sp_log_draft *d, uint64_t data_at, sp_log_record *r, sp_error *err) {
    /* The record takes its place on the disk with the pages, not whole yet: its checksum is missing. Then the second sync has nothing to note but its
     * bytes, and costs half. */
    bool written = write_data(log, d, data_at, r->data_checksum) && (!d->n_data_pages || sp_log_write_at(log->fd, r, r->bytes, r->offset));
    int problem = errno;
    sp_log_note_written(log);
    if (!written) {
        return sp_fail(err, SP_ERR_IO, "%s: pages can't be written: %s; the commits before stand", log->path, strerror(problem));
    }
    if (d->input->memory && sp_memory_is_lost(d->input->memory)) {
        return sp_fail(err, SP_ERR_IO, "pages of the actor's memory are lost: the file that they came from was truncated, or its disk failed");
    }
    /* The record must not reach the disk before what it names, as opening a file does not read pages to see whether they are there. */
    if (d->n_data_pages && sp_snapshot_io.sync(log->fd)) {
        log->failed = true;
        return sp_fail(err, SP_ERR_IO, "%s: pages can't be synced: %s; open the file again, the commits before stand", log->path, strerror(errno));
    }
    return sp_log_write_record(log, r, err);
}

sp_status sp_log_check_write(const sp_log *log, const sp_log_commit_input *input, sp_error *err) {
    if (log->failed) {
        return sp_fail(err, SP_ERR_STATE, "%s: a sync failed before, so what is on the disk is unknown; close and open the file", log->path);
    }
    if (log->read_only) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "%s: the session was opened for reading alone", log->path);
    }
    sp_status status = sp_log_check_untouched(log, err);
    if (status || !input) {
        return status;
    }
    if (input->parent > log->count) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "%s: there is no commit %llu, the last is %llu", log->path, (unsigned long long)input->parent,
                       (unsigned long long)log->count);
    }
    if (input->size % sp_os_page_size() || input->side_size % SP_LOG_PAGE || (input->name && strlen(input->name) > SP_COMMIT_NAME_MAX) ||
        input->note_size > SP_COMMIT_NOTE_MAX) {
        return sp_fail(err, SP_ERR_ARGUMENT,
                       "a memory has whole pages, not %llu bytes; a commit's name at most %d bytes, and its note at most %d, not %llu",
                       (unsigned long long)input->size, SP_COMMIT_NAME_MAX, SP_COMMIT_NOTE_MAX, (unsigned long long)input->note_size);
    }
    if (input->size / SP_LOG_PAGE > SP_LOG_PAGES_MAX || input->meta_size > SP_LOG_META_MAX || input->side_size / SP_LOG_PAGE > SP_LOG_SIDE_MAX) {
        return sp_fail(err, SP_ERR_LIMIT, "a memory of %llu bytes, %llu of programs or %llu of messages are more than the format has",
                       (unsigned long long)input->size, (unsigned long long)input->side_size, (unsigned long long)input->meta_size);
    }
    return SP_OK;
}

sp_status sp_log_append(sp_log *log, sp_log_draft *d, sp_error *err) {
    struct stat st;
    /* What a crash or a failure left behind the last commit was never acknowledged and is mapped by nobody. */
    if (fstat(log->fd, &st) || ((uint64_t)st.st_size > log->end && sp_snapshot_io.truncate(log->fd, (off_t)log->end))) {
        return sp_fail(err, SP_ERR_IO, "%s: the tail behind the last commit can't be cut off: %s", log->path, strerror(errno));
    }
    uint64_t data_at = 0;
    place(d);
    sp_log_record *record;
    sp_status status = make_record(log, d, &record, &data_at, err);
    status = status ? status : write_all(log, d, data_at, record, err);
    uint64_t total = d->n_pages + d->n_side;
    for (uint64_t i = 0; !status && i < total; i++) {
        d->table[i] = d->table[i] & SP_LOG_NEW_PAGE ? sp_log_place(0, (d->table[i] & ~SP_LOG_NEW_PAGE) + data_at / SP_LOG_PAGE) : d->table[i];
    }
    free(record);
    return status;
}

sp_status sp_log_commit(sp_session *log, const sp_log_commit_input *input, uint64_t *number, sp_error *err) {
    if ((!input->base && input->size) || (!input->side && input->side_size)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "a commit of %llu bytes without a memory", (unsigned long long)input->size);
    }
    sp_log_record *parent = NULL;
    sp_status status = sp_log_check_write(log, input, err);
    if (!status && input->parent) {
        status = sp_log_record_load(log, input->parent, &parent, err);
    }
    if (status) {
        return status;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    sp_log_draft d = {.input = input,
                      .n_pages = input->size / SP_LOG_PAGE,
                      .n_side = input->side_size / SP_LOG_PAGE,
                      .time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec};
    d.table = sp_log_table(parent, d.n_pages, d.n_side);
    status =
        d.table ? find_changes(log, &d, err) : sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a table of %llu pages", (unsigned long long)d.n_pages);
    status = status ? status : sp_log_append(log, &d, err);
    if (!status && number) {
        *number = log->count;
    }
    free(d.table);
    free(parent);
    return status;
}
